"""Bootstrap figures against measuring the drawn rows themselves."""

import numpy as np
import pytest

from emocap.metrics import (
    METRIC_KEYS,
    Bootstrap,
    compute_metrics,
    intervals,
    resampled_metrics,
)
from emocap.metrics import bootstrap as module
from tests.conftest import fresh_rng


def random_case(kind: str = "plain", rows: int = 40, labels: int = 6):
    rng = fresh_rng()
    truth = (rng.random((rows, labels)) < 0.3).astype(np.float32)
    probabilities = np.clip(0.3 * truth + 0.7 * rng.random(truth.shape), 0, 1)
    votes = rng.binomial(5, 0.3, truth.shape)
    if kind == "ties":
        probabilities = np.round(probabilities * 4) / 4
    if kind == "rare labels and empty rows":
        truth[:, 0] = 0
        truth[1:, 1] = 0
        truth[::3] = 0
        votes[::4] = 0
    if kind == "soft labels":
        truth = rng.integers(0, 6, truth.shape) / 5
    return probabilities, truth, votes


@pytest.mark.parametrize("chunk", [2**22, 100])
@pytest.mark.parametrize("kind", ["plain", "ties", "rare labels and empty rows", "soft labels"])
def test_a_resample_is_measured_as_its_rows_would_be(kind, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    probabilities, labels, votes = random_case(kind)
    thresholds = np.linspace(0.2, 0.6, labels.shape[1])
    measured = resampled_metrics(probabilities, labels, votes, thresholds, bootstrap=Bootstrap(7, 3), centred=False)
    assert tuple(measured) == METRIC_KEYS
    rng = np.random.default_rng(3)
    for draw in range(7):
        rows = rng.integers(len(labels), size=len(labels))
        expected = compute_metrics(probabilities[rows], labels[rows], votes[rows], thresholds)
        for key in METRIC_KEYS:
            assert measured[key][draw] == pytest.approx(expected[key], abs=1e-9, nan_ok=True), (draw, key)


@pytest.mark.parametrize("chunk", [2**22, 100])
def test_groups_are_drawn_whole_as_their_rows_would_be(chunk, monkeypatch, rng):
    monkeypatch.setattr(module, "CHUNK", chunk)
    probabilities, labels, votes = random_case("groups")
    groups = rng.choice([3, 5, 8, 13, 21, 34, 55], len(labels))
    number = rng.integers(1, 7, len(labels))
    how = {"num_annotators": number, "bootstrap": Bootstrap(7, 3, groups)}
    measured = resampled_metrics(probabilities, labels, votes, **how, centred=False)
    names, rng = np.unique(groups), np.random.default_rng(3)
    for draw in range(7):
        drawn = rng.integers(len(names), size=len(names))
        rows = np.concatenate([np.flatnonzero(groups == names[own]) for own in drawn])
        expected = compute_metrics(probabilities[rows], labels[rows], votes[rows], num_annotators=number[rows])
        for key in METRIC_KEYS:
            assert measured[key][draw] == pytest.approx(expected[key], abs=1e-9, nan_ok=True), (draw, key)


def test_copies_of_an_image_widen_intervals_only_where_they_are_a_group():
    """Each image four times: as rows of their own they pass for four times as much evidence."""
    probabilities, labels, _ = random_case("copies", rows=60)
    copies = [np.repeat(own, 4, axis=0) for own in (probabilities, labels)]
    widths = {}
    for name, arrays, groups in (("once", (probabilities, labels), None), ("rows", copies, None),
                                 ("groups", copies, np.repeat(np.arange(60), 4))):  # fmt: skip
        bounds = intervals(resampled_metrics(*arrays, bootstrap=Bootstrap(600, groups=groups), keys=("bce", "lrap")))
        widths[name] = np.array([bounds[f"{key}_high"] - bounds[f"{key}_low"] for key in ("bce", "lrap")])
    np.testing.assert_allclose(widths["groups"], widths["once"], rtol=1e-9)
    assert (widths["rows"] < 0.65 * widths["groups"]).all()


def test_weights_are_whole_groups_and_numbers_of_rows():
    groups = np.array([7, 7, 2, 9, 9, 9])
    weights = np.concatenate(list(Bootstrap(50, 0, groups).weights(6)), axis=1)
    assert weights.shape == (6, 50) and (weights[0] == weights[1]).all() and (weights[3:] == weights[3]).all()
    assert (weights[[0, 2, 3]].sum(axis=0) == 3).all()


@pytest.mark.parametrize("rows", [2, 5, 13])
@pytest.mark.parametrize("kind", ["plain", "ties", "constant", "rare labels and empty rows"])
def test_an_interval_holds_its_estimate(kind, rows):
    probabilities, labels, votes = random_case(kind, rows=rows)
    if kind == "constant":
        probabilities = np.full_like(probabilities, 0.3)
    how = {"num_annotators": np.full(rows, 5), "bootstrap": Bootstrap(60)}
    measured = compute_metrics(probabilities, labels, votes, num_annotators=how["num_annotators"])
    drawn = resampled_metrics(probabilities, labels, votes, **how)
    bounds = intervals(drawn, measured)
    for key in METRIC_KEYS:
        if not np.isnan(bounds[f"{key}_low"]):
            assert bounds[f"{key}_low"] <= measured[key] <= bounds[f"{key}_high"], key
    constants = np.full_like(probabilities, 0.5)
    other = resampled_metrics(constants, labels, votes, bootstrap=how["bootstrap"], keys=("lrap",))
    low, high = intervals({"lrap": drawn["lrap"] - other["lrap"]}).values()
    constant = compute_metrics(np.full_like(probabilities, 0.5), labels)["lrap"]
    assert low - 1e-12 <= measured["lrap"] - constant <= high + 1e-12


def test_draws_that_are_nearly_all_alike_do_not_leave_the_estimate_out():
    values = np.concatenate([np.zeros(990), np.full(10, 0.9)])
    assert intervals({"bce": values}) == {"bce_low": 0.0, "bce_high": pytest.approx(0.009)}
    assert intervals({"bce": values}, {"bce": -0.1})["bce_low"] == -0.1


def test_intervals_hold_the_middle_of_the_resamples_and_skip_undefined_ones():
    values = np.concatenate([np.linspace(0, 1, 1001), [np.nan] * 9])
    assert intervals({"bce": values}) == pytest.approx({"bce_low": 0.025, "bce_high": 0.975})
    assert all(np.isnan(value) for value in intervals({"jsd": np.full(3, np.nan)}).values())


def test_intervals_cover_the_truth_about_as_often_as_they_say(rng):
    """95 % intervals of a metric whose expectation is known: the share of rows hit by the best guess."""
    covered = 0
    for _ in range(200):
        labels = np.zeros((150, 3))
        labels[np.arange(150), rng.choice(3, 150, p=[0.4, 0.35, 0.25])] = 1
        constant = np.tile([0.9, 0.5, 0.1], (150, 1))
        bounds = intervals(resampled_metrics(constant, labels, bootstrap=Bootstrap(200), keys=("top1_accuracy",)))
        covered += bounds["top1_accuracy_low"] <= 0.4 <= bounds["top1_accuracy_high"]
    assert 172 <= covered <= 200  # binomial(200, 0.94) lies there with probability 1 - 1e-5


def test_a_paired_gain_is_sharper_than_two_intervals():
    probabilities, labels, _ = random_case(rows=300)
    better = np.clip(probabilities + 0.03 * labels, 0, 1)
    a, b = (resampled_metrics(own, labels, keys=("map_macro", "lrap")) for own in (better, probabilities))
    low, high = intervals({"gain": a["map_macro"] - b["map_macro"]}).values()
    plain = intervals(a)
    assert 0 < low < high < plain["map_macro_high"] - plain["map_macro_low"]


def test_one_seed_gives_one_answer_and_only_the_keys_asked_for():
    probabilities, labels, votes = random_case()
    one, two = (
        resampled_metrics(probabilities, labels, votes, keys=("bce", "jsd"), bootstrap=Bootstrap(seed=5))
        for _ in range(2)
    )
    other = resampled_metrics(probabilities, labels, keys=("bce", "jsd"), bootstrap=Bootstrap(seed=6))
    assert list(one) == ["jsd", "bce"] and list(other) == ["bce"]
    assert all((one[key] == two[key]).all() for key in one) and (one["bce"] != other["bce"]).any()


def test_draws_are_centred_on_the_measured_figure():
    probabilities, labels, votes = random_case("rare labels and empty rows")
    drawn = resampled_metrics(probabilities, labels, votes, bootstrap=Bootstrap(300))
    plain = resampled_metrics(probabilities, labels, votes, bootstrap=Bootstrap(300), centred=False)
    measured = compute_metrics(probabilities, labels, votes)
    for key, values in drawn.items():
        assert np.nanmean(values) == pytest.approx(measured[key]), key
        assert np.nanstd(values) == pytest.approx(np.nanstd(plain[key])), key
    assert np.nanmean(plain["map_macro"]) > measured["map_macro"]  # an image drawn twice ranks beside itself


def test_intervals_of_average_precision_cover_its_expectation(rng):
    """Over 150 samples of one process the interval holds the mean over the samples nearly as often as it says."""
    samples = []
    for _ in range(150):
        labels = (rng.random((120, 4)) < [0.05, 0.1, 0.2, 0.4]).astype(float)
        samples.append((np.clip(0.25 * labels + 0.75 * rng.random(labels.shape), 0, 1), labels))
    center = np.mean([compute_metrics(*sample)["map_macro"] for sample in samples])
    bounds = [intervals(resampled_metrics(*own, bootstrap=Bootstrap(200), keys=("map_macro",))) for own in samples]
    covered = sum(own["map_macro_low"] <= center <= own["map_macro_high"] for own in bounds)
    assert covered >= 120
    print(f"covered {covered} of 150")
