"""Real captions and emotions: what a teacher has to beat, on the images of one fold of cross-validation."""

import numpy as np
import pytest
from datasets import Dataset

from emocap.data.pairs import label_matrix
from emocap.data.socratis import load_socratis
from emocap.evaluation.baselines import regression_baselines
from emocap.metrics import (
    chance_map_macro,
    compute_metrics,
    intervals,
    prior_probabilities,
    prior_threshold,
    resampled_metrics,
)
from emocap.studies.cross_validation import fold_of, is_validation, labelled_rows

pytestmark = pytest.mark.real_data

KEYS = ("map_macro", "lrap", "f1_micro", "jaccard")


def parts(table: Dataset) -> list[Dataset]:
    ids = table["image_id"][:]
    test = np.array([fold_of(image_id, 5) == 0 for image_id in ids])
    validation = ~test & np.array([is_validation(image_id) for image_id in ids])
    return [table.select(np.flatnonzero(chosen)) for chosen in (~test & ~validation, validation, test)]


def gain_low(drawn: dict, other: dict) -> float:
    return intervals({"gain": drawn["map_macro"] - other["map_macro"]})["gain_low"]


def test_a_frozen_encoder_beats_counted_words_and_both_the_prior(real_data, minilm):
    train, validation, test = parts(labelled_rows(load_socratis(real_data / "socratis" / "cleaned.csv")))
    assert len(test) == 341
    truth = label_matrix(test, "labels")
    prior = prior_probabilities(label_matrix(train, "labels"))
    scores = {"prior": (np.tile(prior, (len(test), 1)), prior_threshold(prior))}
    scores |= regression_baselines(train, validation, test, minilm)
    drawn = {name: resampled_metrics(own, truth, thresholds=cut, keys=KEYS) for name, (own, cut) in scores.items()}
    for name, (own, cut) in scores.items():
        found, bounds = compute_metrics(own, truth, thresholds=cut), intervals(drawn[name])
        print(
            name, {key: f"{found[key]:.3f} ({bounds[f'{key}_low']:.3f}-{bounds[f'{key}_high']:.3f})" for key in KEYS}
        )
    assert gain_low(drawn["encoder"], drawn["tfidf"]) > 0
    chance = chance_map_macro(truth)
    print(f"chance {chance:.3f}")
    for name in set(scores) - {"prior"}:
        assert compute_metrics(scores[name][0], truth)["map_macro"] > chance + 0.02, name
        assert gain_low(drawn[name], drawn["prior"]) > 0, name
    assert compute_metrics(scores["encoder"][0], truth)["bce"] < compute_metrics(scores["tfidf"][0], truth)["bce"]
