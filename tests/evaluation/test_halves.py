"""One half: a soft label of exactly 0.5 is true, and a probability of exactly 0.5 says yes."""

import numpy as np
import pytest
from datasets import Dataset

from emocap.evaluation.calibration import fit_thresholds
from emocap.metrics import chance_map_macro, compute_metrics, compute_with_prior

JUST_BELOW = np.nextafter(0.5, 0)


@pytest.mark.parametrize(("prior", "says_yes"), [(0.5, True), (JUST_BELOW, False), (0.51, True), (0.49, False)])
def test_a_prior_of_one_half_says_yes(prior, says_yes):
    labels = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    metrics = compute_with_prior(np.full((4, 2), 0.9), labels, np.array([prior, 0.0]))
    assert metrics["prior/f1_micro"] == pytest.approx(2 * 2 / (4 + 4) if says_yes else 0)
    assert metrics["prior/jaccard"] == pytest.approx(2 / 4 if says_yes else 0)


@pytest.mark.parametrize(("soft", "is_true"), [(0.5, True), (JUST_BELOW, False), (0.55, True), (0.45, False)])
def test_a_soft_label_of_one_half_is_true(rng, soft, is_true):
    probabilities = rng.random((40, 3))
    hard = (rng.random((40, 3)) < 0.4).astype(float)
    chosen = rng.random((40, 3)) < 0.3
    labels, expected = np.where(chosen, soft, hard), np.where(chosen, float(is_true), hard)
    found, wanted = (compute_metrics(probabilities, own) for own in (labels, expected))
    for key in ("map_macro", "lrap", "f1_micro", "top1_accuracy"):
        assert found[key] == wanted[key], key
    assert chance_map_macro(labels) == chance_map_macro(expected)
    assert np.array_equal(fit_thresholds(probabilities, labels), fit_thresholds(probabilities, expected))


@pytest.mark.parametrize(("soft", "is_true"), [(0.5, True), (0.55, True), (0.45, False)])
def test_the_regression_on_words_learns_a_soft_label_of_one_half_as_true(rng, soft, is_true):
    pytest.importorskip("sklearn")
    from emocap.evaluation.baselines import tfidf_regression

    words = np.array(["rain", "sun", "dog", "party", "house"])
    captions = [[" ".join(rng.choice(words, 3))] for _ in range(40)]
    chosen = np.array(["rain" in own[0] for own in captions])
    answers = {}
    for name, value in (("soft", soft), ("hard", float(is_true))):
        labels = np.stack([np.where(chosen, value, 0), np.where(chosen, 0, 1)], axis=1).astype(np.float32)
        labels[0] = 1  # so that each label holds somewhere
        table = Dataset.from_dict({"captions": captions, "labels": list(labels)})
        (answers[name],) = tfidf_regression(table, [table])
    assert np.array_equal(answers["soft"], answers["hard"])
    assert (answers["soft"][chosen, 0].mean() > 0.5) == is_true
