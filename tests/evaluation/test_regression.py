"""Logistic regression of every label at once against scikit-learn, and what is chosen by validation rows."""

import numpy as np
import pytest
from datasets import Dataset
from sklearn.linear_model import LogisticRegression

from emocap.data.pairs import label_matrix
from emocap.evaluation import baselines, regression
from emocap.evaluation.baselines import encoder_regression, layer_sets, regression_baselines
from emocap.evaluation.regression import STRENGTHS, best_regression, fit_regressions, regression_probabilities


def scikit_learn(features: np.ndarray, labels: np.ndarray, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, tol=1e-9, max_iter=10_000).fit(features, labels)


@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("width", [8, 90])
def test_it_equals_scikit_learn_label_by_label(rng, strength, width):
    features = rng.normal(size=(70, width))
    labels = (features @ rng.normal(size=(width, 4)) + rng.normal(size=(70, 4)) > [0, 1, -1, 2]).astype(np.float32)
    labels[0], labels[1] = 1, 0  # each label holds somewhere and not everywhere
    fitted = fit_regressions(features, labels, [0.01, strength])[1]
    probabilities = regression_probabilities(features, fitted)
    for label in range(4):
        model = scikit_learn(features, labels[:, label], strength)
        np.testing.assert_allclose(fitted[0][label], model.coef_[0], atol=2e-3 * max(1, np.abs(model.coef_).max()))
        assert fitted[1][label] == pytest.approx(model.intercept_[0], abs=2e-3 * max(1, abs(model.intercept_[0])))
        np.testing.assert_allclose(probabilities[:, label], model.predict_proba(features)[:, 1], atol=5e-4)


def test_layers_side_by_side_that_say_the_same_equal_scikit_learn(rng):
    layer = rng.normal(size=(60, 6)) @ rng.normal(size=(6, 40))  # of rank 6
    features = np.concatenate([layer, layer + 1e-3 * rng.normal(size=layer.shape), np.ones((60, 5))], axis=1)
    labels = (layer[:, :3] + rng.normal(size=(60, 3)) > 0.5).astype(np.float32)
    for strength, fitted in zip(STRENGTHS, fit_regressions(features, labels, STRENGTHS), strict=True):
        probabilities = regression_probabilities(features, fitted)
        for label in range(3):
            model = scikit_learn(features, labels[:, label], strength)
            np.testing.assert_allclose(probabilities[:, label], model.predict_proba(features)[:, 1], atol=1e-3)
            assert np.linalg.norm(fitted[0][label]) <= np.linalg.norm(model.coef_[0]) * (1 + 1e-3)


def test_it_takes_few_steps(rng, monkeypatch):
    """Some 20 a strength where labels are rare and rows many, of unit length and far from 0, as embeddings are."""
    counted = []
    losses = regression.F.binary_cross_entropy_with_logits
    monkeypatch.setattr(
        regression.F, "binary_cross_entropy_with_logits", lambda *a, **k: counted.append(1) or losses(*a, **k)
    )
    features = rng.normal(size=(400, 60)) + 2
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    fit_regressions(features, (rng.random((400, 8)) < rng.uniform(0.02, 0.7, 8)).astype(float), STRENGTHS)
    assert len(counted) < 60 * len(STRENGTHS)


def test_soft_labels_are_weighted_rows_of_both_answers(rng):
    features, shares = rng.normal(size=(60, 5)), rng.integers(0, 6, (60, 2)) / 5
    probabilities = regression_probabilities(features, fit_regressions(features, shares, [2.0])[0])
    for label in range(2):
        share = shares[:, label]
        model = LogisticRegression(C=2.0, tol=1e-9, max_iter=10_000)
        model.fit(np.tile(features, (2, 1)), np.repeat([1, 0], 60), sample_weight=np.concatenate([share, 1 - share]))
        np.testing.assert_allclose(probabilities[:, label], model.predict_proba(features)[:, 1], atol=5e-4)


def test_the_choice_is_the_least_cross_entropy_on_validation_rows(rng):
    labels = (rng.random((2, 80, 3)) < 0.4).astype(float)
    candidates = [[own + spread * rng.normal(size=own.shape) for own in labels] for spread in (3.0, 0.8, 1.5)]
    losses = {}
    for place, (train, validation) in enumerate(candidates):
        for strength in STRENGTHS:
            found = []
            for label in range(3):
                guess = scikit_learn(train, labels[0][:, label], strength).predict_proba(validation)[:, 1]
                found.append(-np.mean(np.log(np.where(labels[1][:, label] > 0, guess, 1 - guess))))
            losses[place, strength] = np.mean(found)
    place, strength, fitted = best_regression(candidates, *labels)
    assert (place, strength) == min(losses, key=losses.get)
    weight, _ = fit_regressions(candidates[place][0], labels[0], [strength])[0]
    np.testing.assert_allclose(fitted[0], weight, atol=2e-3)


def test_layers_stand_alone_by_two_by_four_and_all_together():
    assert [(own.start, own.stop) for own in layer_sets(5)] == [
        (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 2), (1, 3), (2, 4), (3, 5), (0, 4), (1, 5), (0, 5),
    ]  # fmt: skip
    assert len(list(layer_sets(1))) == 1 and len(list(layer_sets(2))) == 3 and len(list(layer_sets(4))) == 8


def spied(monkeypatch) -> list[tuple[int, float]]:
    """What best_regression chooses: place and strength."""
    chosen = []

    def choose(*args):
        chosen.append(best_regression(*args))
        return chosen[-1]

    monkeypatch.setattr(baselines, "best_regression", choose)
    return chosen


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_the_layer_that_carries_the_labels_is_chosen(rng, tiny_table, monkeypatch, layer):
    def embeddings(encoder, tables, known):
        found = []
        for table in tables:
            states = rng.normal(size=(len(table), 5, 8))
            states[:, layer, :5] += 6 * label_matrix(table, "labels")
            found.append((states / np.linalg.norm(states, axis=-1, keepdims=True)).astype(np.float32))
        return found

    monkeypatch.setattr(baselines, "caption_embeddings", embeddings)
    chosen = spied(monkeypatch)
    encoder_regression("none", tiny_table["train"], tiny_table["validation"], [tiny_table["test"]], photos=False)
    assert list(layer_sets(5))[chosen[0][0]] == slice(layer, layer + 1)


def flipped(table: Dataset) -> Dataset:
    return table.map(lambda row: {"labels": [1 - value for value in row["labels"]]})


def test_labels_of_the_measured_rows_change_nothing(tiny_table, tiny_teacher, monkeypatch):
    chosen = spied(monkeypatch)
    train, validation, test = (tiny_table[name] for name in ("train", "validation", "test"))
    one = regression_baselines(train, validation, test, tiny_teacher)
    two = regression_baselines(train, validation, flipped(test), tiny_teacher)
    half = len(chosen) // 2
    assert half and [own[:2] for own in chosen[:half]] == [own[:2] for own in chosen[half:]]
    for name in one:
        for own, other in zip(one[name], two[name], strict=True):
            np.testing.assert_array_equal(own, other, err_msg=name)
    other = regression_baselines(train, flipped(validation), test, tiny_teacher)
    assert (other["encoder"][1] != one["encoder"][1]).any()  # those of validation rows do
    assert (other["encoder"][0] != one["encoder"][0]).any()


def test_without_validation_rows_a_tenth_of_the_training_rows_chooses(tiny_table, tiny_bert):
    train, test = tiny_table["train"], tiny_table["test"]
    kept, held_out = baselines.held_out_rows(train)
    assert len(held_out) and len(kept) + len(held_out) == 60
    found = regression_baselines(train, None, test, tiny_bert)
    expected = regression_baselines(kept, held_out, test, tiny_bert)
    for name in expected:
        np.testing.assert_array_equal(found[name][0], expected[name][0])
    few = train.select([0, 1])
    with pytest.raises(ValueError, match="give a validation split"):
        regression_baselines(few, None, test, tiny_bert)
