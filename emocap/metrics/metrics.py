"""Metrics of multi-label emotion prediction, each comparable with the constant predictor.

Self-contained, so that `evaluate.load("<folder of this file>")` works offline and without emocap installed.
"""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

__all__ = [
    "METRIC_KEYS",
    "VOTE_KEYS",
    "EmocapMetrics",
    "chance_map_macro",
    "compute_metrics",
    "compute_with_prior",
    "one_reaction",
    "prior_probabilities",
    "prior_threshold",
]

METRIC_KEYS = (
    "top1_accuracy",
    "top2_accuracy",
    "top3_accuracy",
    "precision_at_3",
    "recall_at_3",
    "map_macro",
    "map_micro",
    "lrap",
    "f1_micro",
    "f1_macro",
    "jaccard",
    "brier",
    "ece",
    "jsd",
    "soft_f1",
    "entropy_correlation",
    "bce",
)
"""Keys of `compute_metrics`, in the order of its result; those of `VOTE_KEYS` only where votes are known."""

VOTE_KEYS = ("jsd", "soft_f1", "entropy_correlation")
"""Those of the keys that need votes."""

LABELLED_KEYS = ("top1_accuracy", "top2_accuracy", "top3_accuracy", "precision_at_3", "recall_at_3")
"""Means over the examples that have a true label."""

THRESHOLD = 0.5
"""A label is true at or above this value, and so is a prediction where no other threshold is given."""

ECE_BINS = 15

BCE_CLIP = 1e-7
"""Distance of probabilities from 0 and 1 in `bce`: one sure mistake costs 16 nats, not infinitely many."""


def compute_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    votes: np.ndarray | None = None,
    thresholds: np.ndarray | Sequence[float] | float | None = None,
    num_annotators: np.ndarray | None = None,
) -> dict[str, float]:
    """Every metric of one set of predictions.

    Ranking and threshold metrics take `labels >= 0.5` as true; `brier`, `ece` and `bce` use soft labels as they are.

    - `top1_accuracy`, `top2_accuracy`, `top3_accuracy`: share of examples with a true label among the k most probable;
      `precision_at_3`, `recall_at_3`: true labels among the three most probable, over three and over the example's
      true labels. Equal probabilities rank in label order; k is at most L; examples without a true label are left
      out of these five means.
    - `map_macro`: average precision, mean over the labels with at least one positive; `map_micro`: over all entries at
      once. Equal probabilities share one threshold, as in scikit-learn.
    - `lrap`: label ranking average precision (Tsoumakas et al. 2010), as in scikit-learn: an example without a true
      label counts 1.
    - `f1_micro`, `f1_macro`, `jaccard` (mean over examples): predicted at or above `thresholds`, 0.5 by default; as
      in scikit-learn with `zero_division=0`: a label, or an example, with nothing true and nothing predicted counts 0.
    - `brier`: mean squared error over all entries. `bce`: mean binary cross-entropy over all entries, in nats, with
      probabilities clipped to [1e-7, 1 - 1e-7].
    - `ece`: expected calibration error (Guo et al. 2017) over all entries, 15 bins of equal width, closed at
      the right.
    - `jsd`: Jensen-Shannon divergence in nats between an image's votes and its probabilities, both normalised to sum 1
      (probabilities that are all zero: uniform), mean over the images with a vote. `soft_f1`: F1 of the same two
      distributions with min as their intersection (Harju & Mesaros 2023), mean over the images with a vote: 1 minus
      their total variation. `entropy_correlation`: Pearson correlation over the images with a vote between the
      entropies of the two (Uma et al. 2021): does the model waver where people differ? NaN where either is constant.
      All three are absent without `votes`. Votes are counts of single reactions: where the probabilities are those
      that any of several annotators names a label, `num_annotators` turns them into one reaction's first, see
      `one_reaction`.

    A mean over nothing (no example with a true label, no image with a vote) is NaN.

    Args:
        probabilities: float, shape (N, L), within 0..1.
        labels: float, shape (N, L), multi-hot or soft, within 0..1.
        votes: number of annotators who chose each label, int, shape (N, L), or None where unknown.
        thresholds: float, one or shape (L,), within 0..1.
        num_annotators: int, shape (N,): how many reactions the labels of each example stand for; None: the
            probabilities are compared with the votes as they are.

    Returns:
        `METRIC_KEYS` (without `VOTE_KEYS` if `votes` is None) and `num_examples`.

    Raises:
        ValueError: no examples, shapes that differ, NaN, values outside 0..1 or negative votes.
    """
    probabilities, labels, votes = checked_arrays(probabilities, labels, votes)
    true, rows = labels >= THRESHOLD, row_values(probabilities, labels, votes, thresholds, num_annotators)
    hits, total = rows["f1_hits"].sum(axis=0), rows["f1_total"].sum(axis=0)
    by_label = [average_precision(probabilities[:, own], true[:, own]) for own in np.flatnonzero(true.any(axis=0))]
    metrics = {
        **{key: _mean(rows[key][rows["has_label"]]) for key in LABELLED_KEYS},
        "map_macro": _mean(np.array(by_label)),
        "map_micro": average_precision(probabilities, true),
        "lrap": float(rows["lrap"].mean()),
        "f1_micro": float(2 * hits.sum() / max(total.sum(), 1)),
        "f1_macro": float(np.mean(2 * hits / np.maximum(total, 1))),
        "jaccard": float(rows["jaccard"].mean()),
        "brier": float(np.mean((probabilities - labels) ** 2)),
        "ece": float(np.abs(bin_gaps(probabilities, labels)).sum() / probabilities.size),
    }
    if votes is not None:
        voted = rows["voted"]
        metrics |= {key: _mean(rows[key][voted]) for key in ("jsd", "soft_f1")}
        metrics["entropy_correlation"] = _correlation(*(rows[f"{who}_entropy"][voted] for who in ("crowd", "model")))
    metrics["bce"] = float(np.mean(cross_entropies(probabilities, labels)))
    metrics["num_examples"] = len(probabilities)
    return metrics


def row_values(
    probabilities: np.ndarray,
    labels: np.ndarray,
    votes: np.ndarray | None = None,
    thresholds: np.ndarray | Sequence[float] | float | None = None,
    num_annotators: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What each example adds to the metrics that are made of sums over examples; arguments as `checked_arrays` gives
    them.

    Returns:
        `(N,)` under the metrics' own keys (0 where an example does not count), `has_label` and, with votes, `voted`,
        whether it counts, `crowd_entropy` and `model_entropy`; `(N, L)` of `f1_hits` and `f1_total`.
    """
    true = labels >= THRESHOLD
    predicted = probabilities >= _checked_thresholds(thresholds, true.shape[1])
    has_label, num_true = true.any(axis=1), true.sum(axis=1)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    hits = np.take_along_axis(true, best, axis=1)
    both, either = predicted & true, predicted | true
    rows = {
        "has_label": has_label,
        **{f"top{k}_accuracy": hits[:, :k].any(axis=1) for k in (1, 2, 3)},
        "precision_at_3": hits.sum(axis=1) / hits.shape[1],
        "recall_at_3": hits.sum(axis=1) / np.maximum(num_true, 1),
        "lrap": row_ranking_precisions(probabilities, true),
        "jaccard": both.sum(axis=1) / np.maximum(either.sum(axis=1), 1),
        "f1_hits": both,
        "f1_total": predicted.astype(np.int64) + true,
    }
    if votes is not None:
        voted = votes.any(axis=1)
        shares = probabilities if num_annotators is None else one_reaction(probabilities, num_annotators)
        p, q = _distributions(votes), _distributions(shares)
        crowd, model = _entropy(p), _entropy(q)
        rows |= {
            "voted": voted,
            "jsd": np.maximum(_entropy((p + q) / 2) - (crowd + model) / 2, 0.0) * voted,
            "soft_f1": np.minimum(p, q).sum(axis=1) * voted,
            "crowd_entropy": crowd,
            "model_entropy": model,
        }
    return rows


def checked_arrays(
    probabilities: np.ndarray, labels: np.ndarray, votes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The three as float64 `(N, L)`, checked as `compute_metrics` says."""
    probabilities = _checked(probabilities, "probabilities", upper=1.0)
    labels = _checked(labels, "labels", upper=1.0, shape=probabilities.shape)
    if votes is not None:
        votes = _checked(votes, "votes", upper=np.iinfo(np.int32).max, shape=probabilities.shape)
    return probabilities, labels, votes


def cross_entropies(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Binary cross-entropy of each entry in nats, `(N, L)`."""
    clipped = np.clip(probabilities, BCE_CLIP, 1 - BCE_CLIP)
    return -(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped))


def bin_gaps(probabilities: np.ndarray, labels: np.ndarray, by_example: bool = False) -> np.ndarray:
    """Sum of probability minus label over the entries of each bin, `(1, ECE_BINS)`, or of each example and bin,
    `(N, ECE_BINS)`: in `ece` the bins' weights cancel out."""
    bins, number = np.maximum(np.ceil(probabilities * ECE_BINS).astype(np.intp) - 1, 0), 1
    if by_example:
        number = len(bins)
        bins = bins + ECE_BINS * np.arange(number)[:, None]
    weights = (probabilities - labels).ravel()
    return np.bincount(bins.ravel(), weights=weights, minlength=number * ECE_BINS).reshape(number, ECE_BINS)


def compute_with_prior(
    probabilities: np.ndarray,
    labels: np.ndarray,
    prior: np.ndarray,
    votes: np.ndarray | None = None,
    thresholds: np.ndarray | Sequence[float] | float | None = None,
    num_annotators: np.ndarray | None = None,
) -> dict[str, float]:
    """`compute_metrics`, every key again under `prior/` for the constant predictor, and `chance/map_macro`.

    A constant answer ranks nothing: its average precision is the prevalence. A model that ranks by noise alone has
    more than that on a few rows, see `chance_map_macro`.

    Args:
        probabilities, labels, votes, num_annotators: as in `compute_metrics`.
        prior: float, shape (L,): `prior_probabilities` of the training labels.
        thresholds: of the model's decisions. Where they are given, the prior decides at its own best,
            `prior_threshold`, and not at 0.5.

    Raises:
        ValueError: as in `compute_metrics`, or a prior that is not one probability a label.
    """
    shape = np.shape(probabilities)
    if np.shape(prior) != shape[1:]:
        raise ValueError(
            f"prior has shape {np.shape(prior)}, but probabilities has {shape}: give one probability a label, as "
            "prior_probabilities(training labels) does."
        )
    metrics = compute_metrics(probabilities, labels, votes, thresholds, num_annotators)
    constant = np.broadcast_to(_checked(np.asarray(prior)[None], "prior", upper=1.0), shape)
    decision = None if thresholds is None else prior_threshold(prior)
    reference = compute_metrics(constant, labels, votes, decision, num_annotators)
    metrics |= {f"prior/{key}": value for key, value in reference.items()}
    return metrics | {"chance/map_macro": chance_map_macro(labels)}


def chance_map_macro(labels: np.ndarray) -> float:
    """`map_macro` that scores drawn at random are expected to have, in closed form.

    Of N examples in random order of which P are positive, the one at rank k is positive and has the precision
    `(1 + (k - 1) (P - 1) / (N - 1)) / k` with probability P / N, so that average precision is expected to be
    `(H + (P - 1) / (N - 1) (N - H)) / N` with H the N-th harmonic number. Of labels of shape (N, L), true from 0.5, it
    is the mean over those with at least one positive; NaN where there is none.
    """
    positives = (_checked(labels, "labels", upper=1.0) >= THRESHOLD).sum(axis=0)
    number, positives = len(labels), positives[positives > 0]
    harmonic = float(np.sum(1 / np.arange(1, number + 1)))
    later = (positives - 1) / max(number - 1, 1)
    return _mean((harmonic + later * (number - harmonic)) / number)


def one_reaction(probabilities: np.ndarray, num_annotators: np.ndarray) -> np.ndarray:
    """Chance that one person names a label, from the chance that any of n does: `1 - (1 - p) ** (1 / n)`, the n taken
    as independent given the example: float64 of shape (N, L). `num_annotators` has shape (N,); rows with 0 of them
    stay as they are."""
    number = np.maximum(np.asarray(num_annotators, dtype=np.float64), 1)[:, None]
    return -np.expm1(np.log1p(-np.minimum(probabilities, 1 - 1e-12)) / number)


def prior_probabilities(labels: np.ndarray) -> np.ndarray:
    """The constant predictor, float64 of shape (L,): how often each label is true in training labels of shape (N, L).

    Raises:
        ValueError: no examples, NaN or values outside 0..1.
    """
    return _checked(labels, "labels", upper=1.0).mean(axis=0)


def prior_threshold(prior: np.ndarray) -> float:
    """The threshold at which the constant predictor's `f1_micro` is best, were its probabilities, of shape (L,), the
    truth."""
    ordered = np.sort(np.asarray(prior, dtype=np.float64))[::-1]
    scores = 2 * np.cumsum(ordered) / np.maximum(np.arange(1, len(ordered) + 1) + ordered.sum(), 1e-12)
    return float(ordered[np.argmax(scores)])


class EmocapMetrics(evaluate.Metric):
    """`compute_metrics` as an `evaluate.Metric`; with `prior`, `compute_with_prior`."""

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description="Ranking, threshold, calibration and disagreement metrics of multi-label emotion prediction.",
            citation="",
            inputs_description=(
                "\n    predictions: probabilities, one list of L floats an example.\n"
                "    references: labels, multi-hot or soft, one list of L floats an example.\n"
                "    votes (optional): number of annotators who chose each label; adds 'jsd', 'soft_f1' and "
                "'entropy_correlation'.\n"
                "    prior (optional): L floats, mean of the training labels; adds each key again as 'prior/...'.\n"
                "    thresholds (optional): one float or L, from which a label counts as predicted (0.5).\n"
                "    num_annotators (optional): reactions behind each example's labels; votes are then compared with "
                "one reaction's probabilities.\n"
            ),
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(
        self, predictions, references, votes=None, prior=None, thresholds=None, num_annotators=None
    ) -> dict[str, float]:
        if prior is None:
            return compute_metrics(predictions, references, votes, thresholds, num_annotators)
        return compute_with_prior(predictions, references, prior, votes, thresholds, num_annotators)


def _checked(values: np.ndarray, name: str, upper: float, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """`values` as float64 (N, L) with N and L at least 1, within 0..`upper`, of the given shape."""
    values = np.asarray(values)
    if shape is not None and values.shape != shape:
        raise ValueError(f"{name} has shape {values.shape}, but probabilities has {shape}: both must be (N, L).")
    if values.ndim != 2 or values.size == 0:
        raise ValueError(
            f"{name} has shape {values.shape}, expected (N, L): one row an example, one column a label, neither 0."
        )
    values = values.astype(np.float64, copy=False)
    if not (values.min() >= 0 and values.max() <= upper):  # NaN fails the comparison too
        bad = ~((values >= 0) & (values <= upper))
        row, column = np.argwhere(bad)[0]
        mend = " Are these logits? Pass sigmoid(logits)." if name == "probabilities" else ""
        raise ValueError(
            f"{name} must lie within 0..{upper:g}, but {bad.sum()} entries in {bad.any(axis=1).sum()} rows do not, "
            f"first {values[row, column]} in row {row}, column {column}.{mend}"
        )
    return values


def _checked_thresholds(thresholds: np.ndarray | Sequence[float] | float | None, num_labels: int) -> np.ndarray:
    thresholds = np.asarray(THRESHOLD if thresholds is None else thresholds, dtype=np.float64)
    if thresholds.shape not in ((), (num_labels,)) or not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise ValueError(
            f"thresholds have shape {thresholds.shape} and run from {thresholds.min():g} to {thresholds.max():g}; "
            f"expected one number or {num_labels}, within 0..1."
        )
    return thresholds


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def average_precision(scores: np.ndarray, true: np.ndarray) -> float:
    """Mean over the positives of the precision among all entries that score at least as high.

    Counting by binary search in sorted scores needs no argsort, and equal scores count together by themselves.
    """
    ranked = np.sort(scores, axis=None)
    positives = np.sort(scores[true])
    at_least = ranked.size - np.searchsorted(ranked, positives)
    positives_at_least = positives.size - np.searchsorted(positives, positives)
    return _mean(positives_at_least / at_least)


def row_ranking_precisions(probabilities: np.ndarray, true: np.ndarray) -> np.ndarray:
    """What each row adds to `lrap`, `(N,)`."""
    num_true = true.sum(axis=1)
    precisions = np.zeros(len(true))
    for label in range(true.shape[1]):  # one label at a time bounds the memory to that of one (N, L) array
        rows = np.flatnonzero(true[:, label])
        scores = probabilities[rows]
        at_least = scores >= scores[:, label, None]
        precisions[rows] += (at_least & true[rows]).sum(axis=1) / at_least.sum(axis=1)
    return np.where(num_true > 0, precisions / np.maximum(num_true, 1), 1.0)


def _distributions(values: np.ndarray) -> np.ndarray:
    """Rows that sum to 1; a row that is all zero becomes uniform."""
    totals = values.sum(axis=1, keepdims=True)
    if not totals.all():
        values = np.where(totals > 0, values, 1.0)
        totals = values.sum(axis=1, keepdims=True)
    return values / totals


def _entropy(p: np.ndarray) -> np.ndarray:
    """Of each row, in nats."""
    logs = np.log(np.maximum(p, np.finfo(p.dtype).tiny))
    return -np.einsum("nl,nl->n", p, logs)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; NaN where there are fewer than two values or either does not vary."""
    if len(a) < 2 or np.ptp(a) < 1e-12 or np.ptp(b) < 1e-12:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
