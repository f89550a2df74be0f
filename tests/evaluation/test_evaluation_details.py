"""People as a yardstick, and what the report draws, against loops over rows."""

import json

import numpy as np
import pytest

from emocap.data.pairs import label_matrix
from emocap.evaluation.details import describe, details_path, human_metrics
from emocap.evaluation.inference import evaluate
from emocap.metrics import compute_metrics


def test_human_metrics_are_those_of_real_annotators_emotion_by_emotion():
    """Whole people are simulated, then only their counts are shown."""
    rng = np.random.default_rng(int(np.random.SeedSequence().generate_state(1)[0]))
    chance = rng.beta(0.6, 1.4, (800, 1, 6))
    people = rng.random((800, 5, 6)) < chance
    people[:, :, 1] = people[:, :, 0] ^ (rng.random((800, 5)) < 0.1)  # two emotions that one person names together
    measured = human_metrics(people.sum(1), np.full(800, 5))
    left_out = []
    for index in range(5):
        rest = np.delete(people, index, axis=1).sum(1)
        left_out.append(compute_metrics(people[:, index].astype(float), (rest > 0).astype(float), rest))
    for key in ("map_macro", "f1_micro", "f1_macro"):
        assert measured[key] == pytest.approx(np.mean([own[key] for own in left_out]), abs=0.006), key
    assert not {"bce", "brier", "ece"} & set(measured) and measured["num_examples"] == 800


def test_human_metrics_need_two_annotators():
    votes = np.array([[1, 0], [2, 1], [0, 1]])
    assert human_metrics(votes, np.array([1, 3, 1]))["num_examples"] == 1
    assert human_metrics(votes, np.ones(3, dtype=int)) == {}
    unanimous = human_metrics(np.array([[4, 0], [0, 4]]), np.array([4, 4]))
    assert unanimous["f1_micro"] == unanimous["jaccard"] == unanimous["map_macro"] == 1.0
    assert unanimous["jsd"] == pytest.approx(0)


def test_details_equal_a_loop(tiny_table):
    table = tiny_table["test"]
    labels, names = label_matrix(table, "labels"), table.features["emotions"].feature.names
    rng = np.random.default_rng()
    probabilities, thresholds = rng.random(labels.shape), rng.uniform(0.2, 0.8, labels.shape[1])
    details = describe(probabilities, table, "labels", thresholds)
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


def test_evaluate_has_intervals_people_and_flat_keys(tiny_table):
    probabilities = np.random.default_rng().random((21, 5))
    metrics = evaluate(probabilities, tiny_table["test"], tiny_table["train"], thresholds=[0.3] * 5)
    assert all(value is None or isinstance(value, (int, float, str)) for value in metrics.values())
    assert metrics["map_macro_low"] < metrics["map_macro"] < metrics["map_macro_high"]
    assert 0 < metrics["human/f1_micro"] < 1 and metrics["decisions"] == "fitted"
    without = evaluate(probabilities, tiny_table["test"], tiny_table["train"], num_resamples=0)
    assert "map_macro_low" not in without and without["decisions"] == "0.5"
    assert str(details_path("a/metrics.json")) == "a/metrics_details.json"
