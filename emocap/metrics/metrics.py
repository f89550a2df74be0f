"""Metrics of multi-label emotion prediction, each comparable with the constant predictor.

Self-contained, so that `evaluate.load("<folder of this file>")` works offline and without emocap installed.
"""

import datasets
import evaluate
import numpy as np

__all__ = ["METRIC_KEYS", "EmocapMetrics", "compute_metrics", "compute_with_prior", "prior_probabilities"]

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
    "bce",
)
"""Keys of `compute_metrics`, in the order of its result; `jsd` only where votes are known."""

THRESHOLD = 0.5
"""A label is true, and a prediction positive, at or above this value."""

ECE_BINS = 15

BCE_CLIP = 1e-7
"""Distance of probabilities from 0 and 1 in `bce`: one sure mistake costs 16 nats, not infinitely many."""


def compute_metrics(
    probabilities: np.ndarray, labels: np.ndarray, votes: np.ndarray | None = None
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
    - `f1_micro`, `f1_macro`, `jaccard` (mean over examples): at threshold 0.5, as in scikit-learn with
      `zero_division=0`: a label, or an example, with nothing true and nothing predicted counts 0.
    - `brier`: mean squared error over all entries. `bce`: mean binary cross-entropy over all entries, in nats, with
      probabilities clipped to [1e-7, 1 - 1e-7].
    - `ece`: expected calibration error (Guo et al. 2017) over all entries, 15 bins of equal width, closed at
      the right.
    - `jsd`: Jensen-Shannon divergence in nats between an image's votes and its probabilities, both normalised to sum 1
      (probabilities that are all zero: uniform), mean over the images with a vote; absent without `votes`.

    A mean over nothing (no example with a true label, no image with a vote) is NaN.

    Args:
        probabilities: float, shape (N, L), within 0..1.
        labels: float, shape (N, L), multi-hot or soft, within 0..1.
        votes: number of annotators who chose each label, int, shape (N, L), or None where unknown.

    Returns:
        `METRIC_KEYS` (without `jsd` if `votes` is None) and `num_examples`.

    Raises:
        ValueError: no examples, shapes that differ, NaN, values outside 0..1 or negative votes.
    """
    probabilities = _checked(probabilities, "probabilities", upper=1.0)
    labels = _checked(labels, "labels", upper=1.0, shape=probabilities.shape)
    true = labels >= THRESHOLD
    metrics = {
        **_top_k(probabilities, true),
        **_average_precisions(probabilities, true),
        "lrap": _label_ranking_average_precision(probabilities, true),
        **_threshold_metrics(probabilities >= THRESHOLD, true),
        "brier": float(np.mean((probabilities - labels) ** 2)),
        "ece": _expected_calibration_error(probabilities, labels),
    }
    if votes is not None:
        votes = _checked(votes, "votes", upper=np.iinfo(np.int32).max, shape=probabilities.shape)
        metrics["jsd"] = _jensen_shannon_divergence(votes, probabilities)
    metrics["bce"] = _binary_cross_entropy(probabilities, labels)
    metrics["num_examples"] = len(probabilities)
    return metrics


def compute_with_prior(
    probabilities: np.ndarray, labels: np.ndarray, prior: np.ndarray, votes: np.ndarray | None = None
) -> dict[str, float]:
    """`compute_metrics`, and every key again under `prior/` for the constant predictor.

    Args:
        probabilities: float, shape (N, L), within 0..1.
        labels: float, shape (N, L), multi-hot or soft, within 0..1.
        prior: float, shape (L,): `prior_probabilities` of the training labels.
        votes: int, shape (N, L), or None where unknown.

    Raises:
        ValueError: as in `compute_metrics`, or a prior that is not one probability a label.
    """
    shape = np.shape(probabilities)
    if np.shape(prior) != shape[1:]:
        raise ValueError(
            f"prior has shape {np.shape(prior)}, but probabilities has {shape}: give one probability a label, as "
            "prior_probabilities(training labels) does."
        )
    metrics = compute_metrics(probabilities, labels, votes)
    constant = np.broadcast_to(_checked(np.asarray(prior)[None], "prior", upper=1.0), shape)
    return metrics | {f"prior/{key}": value for key, value in compute_metrics(constant, labels, votes).items()}


def prior_probabilities(labels: np.ndarray) -> np.ndarray:
    """The constant predictor: how often each label is true in the training labels.

    Args:
        labels: float, shape (N, L), multi-hot or soft, within 0..1.

    Returns:
        float64, shape (L,).

    Raises:
        ValueError: no examples, NaN or values outside 0..1.
    """
    return _checked(labels, "labels", upper=1.0).mean(axis=0)


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
                "    votes (optional): number of annotators who chose each label; adds 'jsd'.\n"
                "    prior (optional): L floats, mean of the training labels; adds each key again as 'prior/...'.\n"
            ),
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(self, predictions, references, votes=None, prior=None) -> dict[str, float]:
        if prior is None:
            return compute_metrics(predictions, references, votes)
        return compute_with_prior(predictions, references, prior, votes)


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


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _top_k(probabilities: np.ndarray, true: np.ndarray) -> dict[str, float]:
    has_label = true.any(axis=1)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    hits = np.take_along_axis(true, best, axis=1)[has_label]
    num_hits, num_true = hits.sum(axis=1), true.sum(axis=1)[has_label]
    return {
        **{f"top{k}_accuracy": _mean(hits[:, :k].any(axis=1)) for k in (1, 2, 3)},
        "precision_at_3": _mean(num_hits / hits.shape[1]),
        "recall_at_3": _mean(num_hits / num_true),
    }


def _average_precisions(probabilities: np.ndarray, true: np.ndarray) -> dict[str, float]:
    by_label = [
        _average_precision(column, column_true)
        for column, column_true in zip(probabilities.T, true.T, strict=True)
        if column_true.any()
    ]
    return {"map_macro": _mean(np.array(by_label)), "map_micro": _average_precision(probabilities, true)}


def _average_precision(scores: np.ndarray, true: np.ndarray) -> float:
    """Mean over the positives of the precision among all entries that score at least as high.

    Counting by binary search in sorted scores needs no argsort, and equal scores count together by themselves.
    """
    ranked = np.sort(scores, axis=None)
    positives = np.sort(scores[true])
    at_least = ranked.size - np.searchsorted(ranked, positives)
    positives_at_least = positives.size - np.searchsorted(positives, positives)
    return _mean(positives_at_least / at_least)


def _label_ranking_average_precision(probabilities: np.ndarray, true: np.ndarray) -> float:
    num_true = true.sum(axis=1)
    precisions = np.zeros(len(true))
    for label in range(true.shape[1]):  # one label at a time bounds the memory to that of one (N, L) array
        rows = np.flatnonzero(true[:, label])
        scores = probabilities[rows]
        at_least = scores >= scores[:, label, None]
        precisions[rows] += (at_least & true[rows]).sum(axis=1) / at_least.sum(axis=1)
    return float(np.where(num_true > 0, precisions / np.maximum(num_true, 1), 1.0).mean())


def _threshold_metrics(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    both, either = predicted & true, predicted | true
    by_label, total_by_label = both.sum(axis=0), predicted.sum(axis=0) + true.sum(axis=0)
    return {
        "f1_micro": float(2 * by_label.sum() / max(total_by_label.sum(), 1)),
        "f1_macro": float(np.mean(2 * by_label / np.maximum(total_by_label, 1))),
        "jaccard": float(np.mean(both.sum(axis=1) / np.maximum(either.sum(axis=1), 1))),
    }


def _expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Sum over bins of |sum of probabilities - sum of labels|, over all entries: the bins' weights cancel out."""
    bins = np.maximum(np.ceil(probabilities * ECE_BINS).astype(np.intp) - 1, 0)
    gaps = np.bincount(bins.ravel(), weights=(probabilities - labels).ravel(), minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / probabilities.size)


def _jensen_shannon_divergence(votes: np.ndarray, probabilities: np.ndarray) -> float:
    voted = votes.any(axis=1)
    votes, probabilities = votes[voted], probabilities[voted]
    probabilities = np.where(probabilities.any(axis=1, keepdims=True), probabilities, 1.0)
    p = votes / votes.sum(axis=1, keepdims=True)
    q = probabilities / probabilities.sum(axis=1, keepdims=True)
    middle = (p + q) / 2
    return _mean(((_p_log_ratio(p, middle) + _p_log_ratio(q, middle)) / 2).sum(axis=1))


def _p_log_ratio(p: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """p * log(p / middle), 0 where p is 0 (or too small to be halved)."""
    ratio = np.divide(p, middle, out=np.ones_like(p), where=p > np.finfo(p.dtype).tiny)
    return p * np.log(ratio)


def _binary_cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    clipped = np.clip(probabilities, BCE_CLIP, 1 - BCE_CLIP)
    return float(-np.mean(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped)))
