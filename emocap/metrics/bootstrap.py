"""Bootstrap over images, or over groups of them (Efron & Tibshirani 1993; Davison & Hinkley 1997, section 3.8): how
far each metric would move with others.

A resample is a vector of multiplicities, so nothing is measured again: every metric is a function of weighted sums,
and scores are sorted once. Two models scored with one `Bootstrap` meet the same resamples: subtract what they
give, and the differences are paired.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emocap.metrics import metrics as single

__all__ = ["FEW_UNITS", "Bootstrap", "intervals", "resampled_metrics"]

CHUNK = 2**22
"""Numbers in flight: entries that share a label (or all of them, for `map_micro`) times resamples."""

CONFIDENCE = 0.95

FEW_UNITS = 50
"""Images, or groups of them, below which an interval by resampling them is too narrow to be taken at its word."""


@dataclass(frozen=True)
class Bootstrap:
    """What is drawn anew: `num_resamples` times as many images, or groups, as there are.

    Attributes:
        num_resamples: draws.
        seed: of the draws; equal seeds and groups (or numbers of images) give equal draws.
        groups: int `(N,)`, the group of each image, drawn whole; None: each image is its own.
    """

    num_resamples: int = 1000
    seed: int = 0
    groups: np.ndarray | None = None

    def weights(self, num_rows: int) -> Iterator[np.ndarray]:
        """Multiplicities of the rows, float64 `(num_rows, resamples)`, a chunk of resamples at a time; rows of one
        group have one multiplicity."""
        rng = np.random.default_rng(self.seed)
        member = np.arange(num_rows) if self.groups is None else np.unique(self.groups, return_inverse=True)[1]
        units = member.max() + 1
        size = max(1, min(self.num_resamples, CHUNK // num_rows))
        for start in range(0, self.num_resamples, size):
            number = min(size, self.num_resamples - start)
            weights = np.empty((num_rows, number))
            for column in range(number):
                weights[:, column] = np.bincount(rng.integers(units, size=units), minlength=units)[member]
            yield weights


def resampled_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    votes: np.ndarray | None = None,
    thresholds: np.ndarray | Sequence[float] | float | None = None,
    num_annotators: np.ndarray | None = None,
    *,
    bootstrap: Bootstrap = Bootstrap(),
    keys: tuple[str, ...] | None = None,
    centred: bool = True,
) -> dict[str, np.ndarray]:
    """Every metric of `compute_metrics` on images drawn with replacement.

    A resample repeats images, and an image that comes twice ranks beside itself: that flatters average precision, of
    rare labels most. So the draws are shifted to have the measured value as their mean, and an interval says how far
    the metric would move with as many other images.

    Args:
        probabilities, labels, votes, thresholds, num_annotators: as in `compute_metrics`.
        bootstrap: the draws.
        keys: the metrics wanted, all by default. `map_micro` sorts all N * L entries and takes most of the time.
        centred: False leaves the draws as they fell.

    Returns:
        float64 `(bootstrap.num_resamples,)` for each key, NaN in resamples that leave it undefined.
    """
    probabilities, labels, votes = single.checked_arrays(probabilities, labels, votes)
    true = labels >= single.THRESHOLD
    wanted = [key for key in single.METRIC_KEYS if keys is None or key in keys]
    if votes is None:
        wanted = [key for key in wanted if key not in single.VOTE_KEYS]
    rows = single.row_values(probabilities, labels, votes, thresholds, num_annotators)
    needed = {"rows", "has_label", "voted", *wanted}
    needed |= {"f1_hits", "f1_total"} if needed & {"f1_micro", "f1_macro"} else set()
    sums = {name: values for name, values in _summands(rows, probabilities, labels).items() if name in needed}
    ranked = np.flatnonzero(true.any(axis=0)) if "map_macro" in wanted else []
    rankings = [_Ranking(probabilities[:, label], true[:, label], 1) for label in ranked]
    micro = _Ranking(probabilities.reshape(-1), true.reshape(-1), true.shape[1]) if "map_micro" in wanted else None
    parts = []
    for weights in bootstrap.weights(len(true)):
        weighted = {name: np.tensordot(weights, values, axes=(0, 0)) for name, values in sums.items()}
        part = _ratios(weighted, true.shape[1])
        if rankings:
            by_label = np.stack([ranking.average_precision(weights) for ranking in rankings])
            known = ~np.isnan(by_label)
            part["map_macro"] = _divide(np.where(known, by_label, 0).sum(0), known.sum(0))
        if micro is not None:
            part["map_micro"] = micro.average_precision(weights)
        parts.append(part)
    nothing = np.full(bootstrap.num_resamples, np.nan)  # map_macro where no label has a positive at all
    drawn = {key: np.concatenate([part[key] for part in parts]) if key in parts[0] else nothing for key in wanted}
    if not centred:
        return drawn
    measured = single.compute_metrics(probabilities, labels, votes, thresholds, num_annotators)
    return {key: values + (measured[key] - _mean(values)) for key, values in drawn.items()}


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined, NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def intervals(resampled: Mapping[str, np.ndarray], measured: Mapping[str, float] | None = None) -> dict[str, float]:
    """95 % percentile intervals: `KEY_low` and `KEY_high` of each key; NaN where no resample defines it.

    An interval holds its estimate: with few images most draws may be alike, and a few others hold the estimate, the
    mean of draws that are centred, away from them.

    Args:
        resampled: draws of each key, `(resamples,)`.
        measured: the estimates; by default the means of the draws.
    """
    bounds = {}
    for key, values in resampled.items():
        known = values[~np.isnan(values)]
        low = high = np.nan
        if known.size:
            estimate = known.mean() if measured is None else measured[key]
            low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            low, high = np.fmin(low, estimate), np.fmax(high, estimate)
        bounds |= {f"{key}_low": float(low), f"{key}_high": float(high)}
    return bounds


def _summands(rows: dict[str, np.ndarray], probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What each row adds to the sums that the metrics are made of, float64 `(N,)` or `(N, k)`."""
    sums = {name: values.astype(np.float64) for name, values in rows.items() if not name.endswith("_entropy")}
    for key in single.LABELLED_KEYS:
        sums[key] *= sums["has_label"]
    sums |= {
        "rows": np.ones(len(labels)),
        "brier": ((probabilities - labels) ** 2).mean(axis=1),
        "bce": single.cross_entropies(probabilities, labels).mean(axis=1),
        "ece": single.bin_gaps(probabilities, labels, by_example=True),
    }
    if "voted" in rows:
        some, (a, b) = rows["voted"], (rows["crowd_entropy"], rows["model_entropy"])
        # centred first: differences of large sums would lose the small variances
        a, b = a - (a[some].mean() if some.any() else 0), b - (b[some].mean() if some.any() else 0)
        sums["entropy_correlation"] = np.stack([a, b, a * a, b * b, a * b], axis=1) * sums["voted"][:, None]
    return sums


def _ratios(sums: dict[str, np.ndarray], num_labels: int) -> dict[str, np.ndarray]:
    """Metrics of each resample from its weighted sums, `(resamples,)` each."""
    part = {}
    for key in single.LABELLED_KEYS:
        if key in sums:
            part[key] = _divide(sums[key], sums["has_label"])
    for key in ("lrap", "jaccard", "brier", "bce"):
        if key in sums:
            part[key] = sums[key] / sums["rows"]
    if "f1_hits" in sums:
        hits, total = sums["f1_hits"], sums["f1_total"]
        part["f1_micro"] = 2 * hits.sum(1) / np.maximum(total.sum(1), 1)
        part["f1_macro"] = (2 * hits / np.maximum(total, 1)).mean(1)
    if "ece" in sums:
        part["ece"] = np.abs(sums["ece"]).sum(1) / (sums["rows"] * num_labels)
    for key in ("jsd", "soft_f1"):
        if key in sums:
            part[key] = _divide(sums[key], sums["voted"])
    if "entropy_correlation" in sums:
        a, b, aa, bb, ab = _divide(sums["entropy_correlation"].T, sums["voted"])
        spread = (aa - a * a).clip(0) * (bb - b * b).clip(0)
        part["entropy_correlation"] = _divide(ab - a * b, np.sqrt(np.where(spread > 1e-24, spread, 0)))
    return part


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, NaN where nothing is counted."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)


class _Ranking:
    """Entries by falling score, cut at the last entry of every score that some positive has.

    Args:
        scores: float `(M,)`, entry i of row `i // labels_a_row`.
        true: bool `(M,)`.
    """

    def __init__(self, scores: np.ndarray, true: np.ndarray, labels_a_row: int):
        order = np.argsort(-scores, kind="stable")
        ordered, positive = scores[order], true[order]
        last = np.flatnonzero(np.diff(ordered, append=-np.inf))  # the last entry of every distinct score
        ends = np.unique(last[np.searchsorted(last, np.flatnonzero(positive))])
        self.rows = order[: ends[-1] + 1 if len(ends) else 0] // labels_a_row
        self.starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        places = np.flatnonzero(positive)
        self.positive_rows = order[places] // labels_a_row
        self.positive_starts = np.searchsorted(places, self.starts)

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Of each resample, `(resamples,)`; equal scores share one threshold; NaN without a positive."""
        if not len(self.starts):
            return np.full(weights.shape[1], np.nan)
        size = max(1, CHUNK // len(self.rows))
        parts = [self._part(weights[:, start : start + size]) for start in range(0, weights.shape[1], size)]
        return np.concatenate(parts)

    def _part(self, weights: np.ndarray) -> np.ndarray:
        positives = np.add.reduceat(weights[self.positive_rows], self.positive_starts, axis=0)
        at_least = np.add.reduceat(weights[self.rows], self.starts, axis=0).cumsum(axis=0)
        precisions = _divide(positives.cumsum(axis=0), at_least)
        return _divide((np.where(positives > 0, precisions, 0) * positives).sum(axis=0), positives.sum(axis=0))
