"""Every metric against scikit-learn, scipy or a slow loop, with fresh random inputs."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, pearsonr
from sklearn import metrics as sk

import emocap.metrics
from emocap.metrics import (
    GREATER_IS_BETTER,
    METRIC_KEYS,
    VOTE_KEYS,
    break_ties,
    chance_map_macro,
    compute_metrics,
    compute_with_prior,
    one_reaction,
    prior_probabilities,
    prior_threshold,
)
from tests.conftest import fresh_rng

RANKING_KEYS = ["top1_accuracy", "top2_accuracy", "top3_accuracy", "precision_at_3", "recall_at_3"]


def random_case(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, labels and votes; fresh at each call."""
    rng = fresh_rng()
    num_labels = 4 if kind == "four labels" else 29
    shape = (200, num_labels)
    probabilities = rng.random(shape).astype(np.float32)
    labels = (rng.random(shape) < 0.15).astype(np.float32)
    votes = rng.multinomial(5, np.full(num_labels, 1 / num_labels), size=200)
    if kind == "ties":
        probabilities = rng.integers(0, 4, shape) / 4
    elif kind == "label without positives":
        labels[:, [0, 7]] = 0
    elif kind == "rows without labels":
        labels[::3] = 0
        votes[::4] = 0
    elif kind == "all labels true":
        labels[::2] = 1
    elif kind == "soft labels":
        labels = rng.integers(0, 6, shape) / 5
    elif kind == "zeros and ones":
        probabilities = rng.integers(0, 2, shape).astype(np.float32)
        probabilities[:, 0] = np.maximum(probabilities[:, 0], 0.01)
    return probabilities, labels, votes


@pytest.fixture(
    params=[
        "plain",
        "four labels",
        "ties",
        "label without positives",
        "rows without labels",
        "all labels true",
        "soft labels",
        "zeros and ones",
    ]
)
def case(request):
    return random_case(request.param)


def slow_top_k(probabilities: np.ndarray, true: np.ndarray) -> dict[str, float]:
    found = {key: [] for key in RANKING_KEYS}
    for row, row_true in zip(probabilities, true, strict=True):
        wanted = {label for label, is_true in enumerate(row_true) if is_true}
        if not wanted:
            continue
        best = sorted(range(len(row)), key=lambda label: (-row[label], label))
        for k in (1, 2, 3):
            found[f"top{k}_accuracy"].append(bool(wanted & set(best[:k])))
        hits = len(wanted & set(best[:3]))
        found["precision_at_3"].append(hits / len(best[:3]))
        found["recall_at_3"].append(hits / len(wanted))
    return {key: sum(values) / len(values) for key, values in found.items()}


def slow_ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    bins = [[] for _ in range(15)]
    for probability, label in zip(probabilities.ravel().tolist(), labels.ravel().tolist(), strict=True):
        inside = [b for b in range(15) if b / 15 < probability <= (b + 1) / 15]
        bins[inside[0] if inside else 0].append((probability, label))
    total = 0.0
    for entries in filter(None, bins):
        confidence, share = np.mean(entries, axis=0)
        total += len(entries) / probabilities.size * abs(confidence - share)
    return total


def test_the_keys_are_those_of_the_contract_in_order():
    probabilities, labels, votes = random_case("plain")
    with_votes = compute_metrics(probabilities, labels, votes)
    assert tuple(with_votes) == (*METRIC_KEYS, "num_examples")
    assert all(isinstance(value, float) for key, value in with_votes.items() if key != "num_examples")
    assert with_votes["num_examples"] == 200
    without = compute_metrics(probabilities, labels)
    assert set(with_votes) - set(without) == set(VOTE_KEYS)
    assert without == {key: value for key, value in with_votes.items() if key not in VOTE_KEYS}


def test_top_k_precision_and_recall_equal_a_slow_loop(case):
    probabilities, labels, _ = case
    measured = compute_metrics(probabilities, labels)
    expected = slow_top_k(probabilities, labels >= 0.5)
    assert {key: measured[key] for key in RANKING_KEYS} == pytest.approx(expected)


def test_average_precision_and_lrap_equal_scikit_learn(case):
    probabilities, labels, _ = case
    true = labels >= 0.5
    measured = compute_metrics(probabilities, labels)
    some = true.any(axis=0)
    expected = {
        "map_macro": sk.average_precision_score(true[:, some], probabilities[:, some], average="macro"),
        "map_micro": sk.average_precision_score(true, probabilities, average="micro"),
        "lrap": sk.label_ranking_average_precision_score(true, probabilities),
    }
    assert {key: measured[key] for key in expected} == pytest.approx(expected)


def test_f1_and_jaccard_equal_scikit_learn(case):
    probabilities, labels, _ = case
    true, predicted = labels >= 0.5, probabilities >= 0.5
    measured = compute_metrics(probabilities, labels)
    expected = {
        "f1_micro": sk.f1_score(true, predicted, average="micro", zero_division=0),
        "f1_macro": sk.f1_score(true, predicted, average="macro", zero_division=0),
        "jaccard": sk.jaccard_score(true, predicted, average="samples", zero_division=0),
    }
    assert {key: measured[key] for key in expected} == pytest.approx(expected)


def test_f1_and_jaccard_count_nothing_true_and_nothing_predicted_as_0():
    labels = np.array([[1.0, 0, 0], [0, 0, 0]])
    measured = compute_metrics(np.array([[0.9, 0.1, 0.1], [0.1, 0.1, 0.1]]), labels)
    assert measured["f1_macro"] == pytest.approx(1 / 3)
    assert measured["jaccard"] == pytest.approx(1 / 2)
    assert measured["f1_micro"] == 1.0


def test_brier_bce_and_ece_take_soft_labels_as_they_are(case):
    probabilities, labels, _ = case
    measured = compute_metrics(probabilities, labels)
    squares, entropies = [], []
    for p, y in zip(probabilities.ravel().tolist(), labels.ravel().tolist(), strict=True):
        squares.append((p - y) ** 2)
        p = min(max(p, 1e-7), 1 - 1e-7)
        entropies.append(-y * np.log(p) - (1 - y) * np.log(1 - p))
    assert measured["brier"] == pytest.approx(np.mean(squares))
    assert measured["bce"] == pytest.approx(np.mean(entropies))
    assert measured["ece"] == pytest.approx(slow_ece(probabilities, labels), abs=1e-12)


def test_bce_equals_log_loss():
    probabilities, labels, _ = random_case("plain")
    expected = sk.log_loss(labels.ravel(), probabilities.ravel().astype(np.float64))
    assert compute_metrics(probabilities, labels)["bce"] == pytest.approx(expected, rel=1e-6)


def test_jsd_equals_scipy(case):
    probabilities, labels, votes = case
    voted = votes.any(axis=1)
    expected = np.mean(jensenshannon(votes[voted], probabilities[voted].astype(np.float64), axis=1) ** 2)
    assert compute_metrics(probabilities, labels, votes)["jsd"] == pytest.approx(expected)


def test_jsd_is_0_for_the_votes_themselves_and_log_2_for_disjoint_answers():
    votes = np.array([[3, 1, 0, 0], [0, 0, 0, 0]])
    labels = np.array([[1.0, 1, 0, 0], [0, 0, 0, 0]])
    same = np.array([[0.6, 0.2, 0, 0], [0.3, 0.3, 0.3, 0.3]])
    disjoint = np.array([[0, 0, 0.6, 0.2], [0.3, 0.3, 0.3, 0.3]])
    assert compute_metrics(same, labels, votes)["jsd"] == pytest.approx(0, abs=1e-12)
    assert compute_metrics(disjoint, labels, votes)["jsd"] == pytest.approx(np.log(2))
    nothing = compute_metrics(np.zeros((2, 4)), labels, votes)["jsd"]
    assert nothing == pytest.approx(compute_metrics(np.full((2, 4), 0.1), labels, votes)["jsd"])


def test_soft_f1_and_entropy_correlation_equal_scipy_and_a_loop(case):
    probabilities, labels, votes = case
    measured = compute_metrics(probabilities, labels, votes)
    overlaps, people, model = [], [], []
    for row, row_votes in zip(probabilities.astype(np.float64), votes, strict=True):
        if row_votes.any():
            p, q = row_votes / row_votes.sum(), row / row.sum()
            overlaps.append(sum(min(a, b) for a, b in zip(p, q, strict=True)))
            people.append(entropy(p))
            model.append(entropy(q))
    assert measured["soft_f1"] == pytest.approx(np.mean(overlaps))
    assert measured["entropy_correlation"] == pytest.approx(pearsonr(people, model).statistic, abs=1e-9)


def test_decisions_follow_the_thresholds_and_nothing_else_does(case, rng):
    probabilities, labels, votes = case
    thresholds = rng.random(labels.shape[1])
    true, predicted = labels >= 0.5, probabilities >= thresholds
    measured = compute_metrics(probabilities, labels, votes, thresholds)
    changed = {
        "f1_micro": sk.f1_score(true, predicted, average="micro", zero_division=0),
        "f1_macro": sk.f1_score(true, predicted, average="macro", zero_division=0),
        "jaccard": sk.jaccard_score(true, predicted, average="samples", zero_division=0),
    }
    assert measured == pytest.approx(compute_metrics(probabilities, labels, votes) | changed, nan_ok=True)
    with pytest.raises(ValueError, match=r"thresholds have shape \(2,\).*expected one number or"):
        compute_metrics(probabilities, labels, thresholds=[0.5, 0.5])
    with pytest.raises(ValueError, match="within 0..1"):
        compute_metrics(probabilities, labels, thresholds=1.5)


def test_the_prior_decides_at_its_own_best_threshold_where_the_model_has_one(rng):
    _, labels, _ = random_case("plain")
    labels[:, :3] = rng.random((200, 3)) < 0.6
    prior = prior_probabilities(labels)
    constant = np.tile(prior, (200, 1))
    by_threshold = {cut: compute_metrics(constant, labels, thresholds=cut)["f1_micro"] for cut in prior}
    best = prior_threshold(prior)
    assert by_threshold[best] == pytest.approx(max(by_threshold.values()))
    measured = compute_with_prior(constant, labels, prior, thresholds=np.full(29, 0.9))
    assert measured["f1_micro"] == 0 and measured["prior/f1_micro"] == pytest.approx(by_threshold[best])
    assert (
        compute_with_prior(constant, labels, prior)["prior/f1_micro"] == compute_metrics(constant, labels)["f1_micro"]
    )


def test_fewer_than_three_labels():
    measured = compute_metrics(np.array([[0.2, 0.9], [0.3, 0.1]]), np.array([[1.0, 0], [1, 1]]))
    assert [measured[key] for key in RANKING_KEYS] == [0.5, 1.0, 1.0, 0.75, 1.0]


def test_means_over_nothing_are_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured = compute_metrics(np.full((2, 3), 0.2), np.zeros((2, 3)), np.zeros((2, 3), dtype=int))
    undefined = {key for key, value in measured.items() if np.isnan(value)}
    assert undefined == {*RANKING_KEYS, "map_macro", "map_micro", *VOTE_KEYS}


def test_inputs_are_left_as_they_were():
    arrays = random_case("plain")
    copies = [array.copy() for array in arrays]
    compute_metrics(*arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_prior_is_the_mean_of_the_training_labels():
    _, labels, _ = random_case("soft labels")
    prior = prior_probabilities(labels.astype(np.float32))
    assert prior.dtype == np.float64
    np.testing.assert_allclose(prior, labels.mean(axis=0), rtol=1e-6)


def test_every_key_comes_again_for_the_constant_predictor():
    probabilities, labels, votes = random_case("plain")
    prior = prior_probabilities(random_case("plain")[1])
    measured = compute_with_prior(probabilities, labels, prior, votes)
    plain = compute_metrics(probabilities, labels, votes)
    constant = compute_metrics(np.tile(prior, (200, 1)), labels, votes)
    assert np.isnan(constant["entropy_correlation"])  # one answer for all has one entropy
    expected = plain | {f"prior/{key}": value for key, value in constant.items()}
    expected["chance/map_macro"] = chance_map_macro(labels)
    assert measured == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert measured["prior/bce"] < measured["bce"]  # random answers are worse than the prior


@pytest.mark.parametrize(("rows", "share"), [(13, 0.2), (13, 0.9), (120, 0.03)])
def test_chance_is_the_mean_over_many_random_rankings(rows, share, rng):
    labels = (rng.random((rows, 5)) < share).astype(float)
    labels[0, 0], labels[:, 1], labels[:, 2] = 1, 0, 1  # one positive at least, none, all
    drawn = []
    for _ in range(1500):
        scores = rng.random(labels.shape)
        drawn.append(np.mean([sk.average_precision_score(y, p) for y, p in zip(labels.T, scores.T, strict=True)
                              if y.any()]))  # fmt: skip
    error = np.std(drawn, ddof=1) / len(drawn) ** 0.5
    assert abs(chance_map_macro(labels) - np.mean(drawn)) < 4.5 * error + 1e-12
    prevalence = labels.mean(axis=0)
    assert chance_map_macro(labels) > prevalence[prevalence > 0].mean()  # which is what the constant answer has


def test_chance_of_few_rows():
    assert chance_map_macro(np.array([[1.0], [0.0]])) == pytest.approx(0.75)  # first: 1, second: 1/2
    assert chance_map_macro(np.ones((1, 2))) == 1 and chance_map_macro(np.array([[0.6, 0.4]])) == 1
    assert np.isnan(chance_map_macro(np.zeros((3, 2))))
    with pytest.raises(ValueError, match="labels must lie within"):
        chance_map_macro(np.full((3, 2), np.nan))


def test_one_reaction_undoes_that_any_of_several_names_a_label(rng):
    shares, number = rng.random((40, 6)) * 0.6, rng.integers(1, 9, 40)
    any_of = np.array([[1 - (1 - share) ** n for share in row] for row, n in zip(shares, number, strict=True)])
    np.testing.assert_allclose(one_reaction(any_of, number), shares, atol=1e-9)
    tiny = np.full((1, 1), 1e-15)
    np.testing.assert_allclose(one_reaction(tiny, np.array([4])), tiny / 4, rtol=1e-6)
    assert np.isfinite(one_reaction(np.ones((2, 2)), np.array([3, 0]))).all()
    assert one_reaction(np.full((1, 2), 0.3), np.array([0])) == pytest.approx(0.3)


def test_only_vote_metrics_take_one_reaction(rng):
    probabilities, labels, votes = random_case("plain")
    number = rng.integers(1, 9, len(labels))
    measured = compute_metrics(probabilities, labels, votes, num_annotators=number)
    plain = compute_metrics(probabilities, labels)
    shares = compute_metrics(one_reaction(probabilities, number), labels, votes)
    assert measured == pytest.approx(plain | {key: shares[key] for key in VOTE_KEYS}, nan_ok=True)
    assert measured["jsd"] != compute_metrics(probabilities, labels, votes)["jsd"]
    both = compute_with_prior(probabilities, labels, labels.mean(0), votes, num_annotators=number)
    constant = compute_metrics(one_reaction(np.tile(labels.mean(0), (200, 1)), number), labels, votes)
    assert both["prior/jsd"] == pytest.approx(constant["jsd"])


def test_the_table_of_directions_is_what_nearer_to_the_truth_means(rng):
    assert tuple(GREATER_IS_BETTER) == METRIC_KEYS
    shares = rng.beta(0.4, 1.6, (500, 6))
    labels = (rng.random(shares.shape) < shares).astype(float)
    votes = rng.binomial(40, shares)
    good, bad = compute_metrics(shares, labels, votes), compute_metrics(1 - shares, labels, votes)
    for key, greater in GREATER_IS_BETTER.items():
        if key != "entropy_correlation":
            assert (good[key] > bad[key]) == greater, key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, y, v: (p[:5], y, v), r"labels has shape \(200, 29\), but probabilities has \(5, 29\)"),
        (lambda p, y, v: (p, y, v[:, :3]), r"votes has shape \(200, 3\), but probabilities has \(200, 29\)"),
        (lambda p, y, v: (p[0], y[0], None), r"probabilities has shape \(29,\), expected \(N, L\)"),
        (lambda p, y, v: (p[:0], y[:0], None), r"probabilities has shape \(0, 29\)"),
        (lambda p, y, v: (np.where(p == p[3, 2], np.nan, p), y, v), r"first nan in row 3, column 2.*sigmoid"),
        (lambda p, y, v: (p * 3 - 1, y, v), r"probabilities must lie within 0\.\.1.*sigmoid\(logits\)"),
        (lambda p, y, v: (p, y * 2, v), r"labels must lie within 0\.\.1"),
        (lambda p, y, v: (p, y * np.nan, v), r"labels must lie within 0\.\.1, but 5800 entries in 200 rows"),
        (lambda p, y, v: (p, y, v - 1), r"votes must lie within 0\.\..* first -1\.0"),
    ],
)
def test_bad_inputs_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        compute_metrics(*change(*random_case("plain")))


def test_a_bad_prior_is_named():
    probabilities, labels, _ = random_case("plain")
    with pytest.raises(ValueError, match=r"prior has shape \(4,\), but probabilities has \(200, 29\)"):
        compute_with_prior(probabilities, labels, np.full(4, 0.1))
    with pytest.raises(ValueError, match=r"prior must lie within 0\.\.1"):
        compute_with_prior(probabilities, labels, np.full(29, 1.1))


LOAD_AND_COMPUTE = """
import json, sys
import numpy as np
sys.modules["emocap"] = None  # the module must load where emocap is not installed
import evaluate
metric = evaluate.load(sys.argv[1])
case = np.load(sys.argv[2])
lists = {"predictions": case["probabilities"].tolist(), "references": case["labels"].tolist()}
plain = metric.compute(**lists)
for start in (0, 120):
    metric.add_batch(
        predictions=case["probabilities"][start : start + 120], references=case["labels"][start : start + 120]
    )
full = metric.compute(votes=case["votes"], prior=case["prior"])
json.dump({"plain": plain, "full": full}, open(sys.argv[3], "w"))
"""


@pytest.mark.parametrize("copied", [False, True], ids=["in the package", "copied elsewhere"])
def test_evaluate_loads_the_folder_offline(copied, tmp_path):
    folder = Path(emocap.metrics.__file__).parent
    if copied:
        (tmp_path / "metrics").mkdir()
        shutil.copy(folder / "metrics.py", tmp_path / "metrics")
        folder = tmp_path / "metrics"
    probabilities, labels, votes = random_case("soft labels")
    prior = prior_probabilities(labels)
    np.savez(tmp_path / "case.npz", probabilities=probabilities, labels=labels, votes=votes, prior=prior)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf_home")}
    arguments = [str(folder), str(tmp_path / "case.npz"), str(tmp_path / "out.json")]
    run = subprocess.run(
        [sys.executable, "-c", LOAD_AND_COMPUTE, *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["plain"] == pytest.approx(compute_metrics(probabilities, labels))
    assert out["full"] == pytest.approx(compute_with_prior(probabilities, labels, prior, votes), nan_ok=True)


def test_broken_ties_keep_every_other_order(rng):
    values = np.concatenate([rng.random(40), [0, 1e-7, 1, np.nextafter(np.float32(1), np.float32(0))]])
    tied = rng.choice(values.astype(np.float32), (300, 5))
    broken = break_ties(tied)
    assert broken.min() >= 0 and broken.max() <= 1 and np.abs(broken - tied).max() <= 2**-23
    for own, other in zip(tied.T, broken.T, strict=True):
        assert np.array_equal(own[np.argsort(other)], np.sort(own))
        inside = other[own < 1]
        assert len(np.unique(inside)) == len(inside)
    np.testing.assert_array_equal(break_ties(tied, seed=3), break_ties(tied, seed=3))


def test_broken_ties_are_worth_what_chance_makes_of_them():
    """Mean over the seeds against the mean over every order of the tied scores."""
    scores = np.repeat([0.7, 0.2], 4)[:, None]
    labels = np.array([1, 0, 0, 1, 0, 0, 1, 0])[:, None]
    ranked = [
        sk.average_precision_score(labels[[*first, *second]], -np.arange(8))
        for first in permutations(range(4))
        for second in permutations(range(4, 8))
    ]
    over_seeds = [compute_metrics(break_ties(scores, seed), labels)["map_macro"] for seed in range(1000)]
    assert np.mean(over_seeds) == pytest.approx(np.mean(ranked), abs=0.02)
    assert np.mean(ranked) > compute_metrics(scores, labels)["map_macro"] + 0.05
