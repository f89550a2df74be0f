"""People as a yardstick, and what the report draws, against loops over rows."""

import json

import numpy as np
import pytest
from datasets import Dataset

from emocap.data.pairs import label_matrix
from emocap.data.truth import read_truth
from emocap.evaluation.details import describe, human_metrics
from emocap.evaluation.evaluate import measure
from emocap.metrics import VOTE_KEYS, chance_map_macro, compute_metrics, one_reaction
from emocap.records import details_path
from emocap.scenes import corpus as scenes


def test_human_metrics_are_those_of_real_annotators_emotion_by_emotion(rng):
    """Whole people are simulated, then only their counts are shown."""
    chance = rng.beta(0.6, 1.4, (800, 1, 6))
    people = rng.random((800, 5, 6)) < chance
    people[:, :, 1] = people[:, :, 0] ^ (rng.random((800, 5)) < 0.1)  # two emotions that one person names together
    model = np.clip(people.mean(1) + 0.3 * rng.normal(size=(800, 6)), 0, 1)
    measured = human_metrics(people.sum(1), np.full(800, 5), model)
    left_out, as_human = [], []
    for index in range(5):
        rest = np.delete(people, index, axis=1).sum(1)
        left_out.append(compute_metrics(people[:, index].astype(float), (rest > 0).astype(float), rest))
        answer = np.zeros((800, 6))
        for row, (scores, named) in enumerate(zip(model, people[:, index].sum(1), strict=True)):
            answer[row, np.argsort(-scores)[:named]] = 1  # as many emotions as that annotator named
        as_human.append(compute_metrics(answer, (rest > 0).astype(float), rest))
    for key in ("f1_micro", "f1_macro"):
        assert measured[f"human/{key}"] == pytest.approx(np.mean([own[key] for own in left_out]), abs=0.006), key
        assert measured[f"as_human/{key}"] == pytest.approx(np.mean([own[key] for own in as_human]), abs=0.02), key
    yes_or_no = ("f1_micro", "f1_macro", "jaccard", "jsd")
    assert set(measured) == {f"{who}/{key}" for who in ("human", "as_human") for key in yes_or_no} | {
        "human/num_examples"
    }
    assert measured["human/num_examples"] == 800


def test_a_model_that_knows_the_crowd_beats_one_annotator_and_noise_does_not(rng):
    """Scored on the same answers of the rest, the frequencies of all others are a better guess than one person's."""
    chance = rng.beta(0.5, 1.5, (600, 8))
    votes = rng.binomial(6, chance)
    for scores, ahead in ((chance, True), (rng.random(chance.shape), False)):
        measured = human_metrics(votes, np.full(600, 6), scores)
        assert (measured["as_human/jaccard"] > measured["human/jaccard"]) == ahead
        assert (measured["as_human/jsd"] < measured["human/jsd"]) == ahead


def test_human_metrics_need_two_annotators():
    votes = np.array([[1, 0], [2, 1], [0, 1]])
    assert human_metrics(votes, np.array([1, 3, 1]), np.full((3, 2), 0.5))["human/num_examples"] == 1
    assert human_metrics(votes, np.ones(3, dtype=int), np.full((3, 2), 0.5)) == {}
    unanimous = human_metrics(np.array([[4, 0], [0, 4]]), np.array([4, 4]), np.eye(2))
    assert unanimous["human/f1_micro"] == unanimous["human/jaccard"] == 1.0
    assert unanimous["human/jsd"] == pytest.approx(0)


def test_details_equal_a_loop(tiny_table, rng):
    table = tiny_table["test"]
    labels, names = label_matrix(table, "labels"), table.features["emotions"].feature.names
    probabilities, thresholds = rng.random(labels.shape), rng.uniform(0.2, 0.8, labels.shape[1])
    details = describe(probabilities, table, labels, thresholds)
    json.dumps(details)
    confusion = np.zeros((5, 5), dtype=int)
    missed = np.zeros(5, dtype=int)
    for row, row_labels in zip(probabilities, labels, strict=True):
        for a in range(5):
            if row_labels[a] and row[a] < thresholds[a]:
                missed[a] += 1
                for b in range(5):
                    confusion[a, b] += row[b] >= thresholds[b] and not row_labels[b]
    assert details["confusion"] == confusion.tolist() and details["missed"] == missed.tolist()
    assert details["emotions"] == names
    np.testing.assert_allclose(details["prevalence"], labels.mean(0), atol=1e-6)
    assert np.mean(details["average_precision"]) == pytest.approx(
        compute_metrics(probabilities, labels)["map_macro"], abs=1e-5
    )
    counts = sum(count for _, _, count in details["reliability"])
    gap = sum(abs(p - y) * count for p, y, count in details["reliability"]) / counts
    assert counts == labels.size and gap == pytest.approx(compute_metrics(probabilities, labels)["ece"], abs=1e-5)
    ids = table["image_id"][:]
    scores = {
        image_id: compute_metrics(probabilities[[row]], labels[[row]])["lrap"]
        for row, image_id in enumerate(ids)
        if labels[row].any()
    }
    shown = {
        kind: [own["image_id"] for own in details["examples"] if own["kind"] == kind] for kind in ("best", "worst")
    }
    assert min(scores[name] for name in shown["best"]) >= max(scores[name] for name in shown["worst"])
    assert scores[shown["best"][0]] == max(scores.values()) and scores[shown["worst"][0]] == min(scores.values())
    example = details["examples"][0]
    row = ids.index(example["image_id"])
    assert example["predicted"] == [names[label] for label in np.argsort(-probabilities[row])[:4]]
    assert example["truth"] == [names[label] for label in np.flatnonzero(labels[row])]


def own_measure(probabilities: np.ndarray, table: Dataset, column: str = "labels", **how) -> dict:
    """Beside the constant answer of the very rows."""
    truth = read_truth(table, column)
    return measure(probabilities, table, truth, truth.labels.mean(0), **how)


def test_evaluate_has_intervals_people_and_flat_keys(tiny_table, rng):
    probabilities = rng.random((21, 5))
    metrics = own_measure(probabilities, tiny_table["test"], thresholds=[0.3] * 5)
    assert all(value is None or isinstance(value, (int, float, str)) for value in metrics.values())
    assert metrics["map_macro_low"] < metrics["map_macro"] < metrics["map_macro_high"]
    assert 0 < metrics["human/f1_micro"] < 1 and 0 < metrics["as_human/f1_micro"] < 1
    assert not {"human/map_macro", "human/lrap", "human/bce"} & set(metrics) and metrics["decisions"] == "fitted"
    assert metrics["chance/map_macro"] == chance_map_macro(label_matrix(tiny_table["test"], "labels"))
    without = own_measure(probabilities, tiny_table["test"], num_resamples=0)
    assert "map_macro_low" not in without and without["decisions"] == "0.5"
    assert str(details_path("a/metrics.json")) == "a/metrics_details.json"


def test_a_model_s_probabilities_of_any_reaction_are_compared_with_votes_as_one_reaction_s(tiny_table, rng):
    table = tiny_table["test"]
    labels, votes, asked = (np.array(table[name][:]) for name in ("labels", "votes", "num_annotators"))
    probabilities = rng.random(labels.shape)
    metrics = own_measure(probabilities, table, num_resamples=20)
    expected = compute_metrics(one_reaction(probabilities, asked), labels, votes)
    for key in VOTE_KEYS:
        assert metrics[key] == pytest.approx(expected[key])
        assert metrics[f"{key}_low"] <= metrics[key] <= metrics[f"{key}_high"]
    assert metrics["jsd"] != pytest.approx(compute_metrics(probabilities, labels, votes)["jsd"], abs=1e-4)
    shares = own_measure(probabilities, table, "soft_labels", num_resamples=0)
    soft = np.array(table["soft_labels"][:])  # are one reaction's already
    assert shares["jsd"] == pytest.approx(compute_metrics(probabilities, soft, votes)["jsd"])


def test_ceilings_of_vote_metrics_are_those_of_many_drawn_reactions(rng):
    """The crowd of the built-in corpus is simulated: its reactions to each picture are drawn 20,000 times."""
    tables = scenes.load_scenes(num_target=240, num_source=0)
    table, (both, text, _) = tables["test"], scenes.label_probabilities()
    labels, votes = label_matrix(table, "labels"), np.array(table["votes"][:])
    metrics = own_measure(np.full(labels.shape, 0.2), table, num_resamples=0)
    words = [((own - text) ** 2).sum(-1).argmin() for own in np.array(table["bayes_probabilities_text"][:])]
    pictures = [((own - both[:, w]) ** 2).sum(-1).argmin()
                for own, w in zip(np.array(table["bayes_probabilities"][:]), words, strict=True)]  # fmt: skip
    states = [(scenes.PICTURE_STATES[v], scenes.WORD_STATES[w]) for v, w in zip(pictures, words, strict=True)]
    drawn = np.array([scenes.simulate_votes(*own, rng, 20_000).mean(0) / scenes.NUM_REACTIONS for own in states])
    expected = compute_metrics(drawn, labels, votes)
    for key in VOTE_KEYS:
        error = 0.008 if key == "entropy_correlation" else 0.001  # six standard deviations over drawn crowds
        assert metrics[f"ceiling/{key}"] == pytest.approx(expected[key], abs=error), key
    exact = one_reaction(label_matrix(table, "bayes_probabilities").astype(float), np.full(len(table), 6))
    sure = exact > 0.7  # float32 cannot tell those chances of any of six from 1
    np.testing.assert_allclose(label_matrix(table, "bayes_shares")[~sure], exact[~sure], atol=1e-5)
    any_of_six = compute_metrics(label_matrix(table, "bayes_probabilities"), labels, votes)
    assert metrics["ceiling/jsd"] < any_of_six["jsd"] - 0.005  # chances of any of six are no shares of votes
    assert metrics["ceiling/jsd"] < min(metrics["ceiling_text/jsd"], metrics["ceiling_image/jsd"])
    assert not any(key.startswith("ceiling") and key.endswith(("/ece", "/num_examples")) for key in metrics)
    own = own_measure(label_matrix(table, "bayes_probabilities"), table, num_resamples=0)
    assert own["jsd"] == pytest.approx(own["ceiling/jsd"], abs=1e-3)  # a model that knows all reaches the ceiling
