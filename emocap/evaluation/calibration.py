"""Probabilities that keep their promises, and where they become decisions: fitted on validation rows, kept in the
configuration, used wherever the model scores."""

import numpy as np
from transformers import PreTrainedConfig

from emocap.data.pairs import PairDataset

__all__ = ["fit_decisions", "fit_temperature", "fit_thresholds", "temper"]

TEMPERATURES = (0.05, 20.0)
"""Bounds: a model that ranks every validation row right would be asked for temperature 0."""

SHRINKAGE = 50
"""Positives at which an emotion's own threshold and the common one weigh the same."""


def temper(logits: np.ndarray, temperature: float | None) -> np.ndarray:
    """Probabilities float64 of logits, `sigmoid(logits / temperature)`; None is 1."""
    scaled = np.asarray(logits, dtype=np.float64) / (temperature or 1.0)
    return np.exp(-np.logaddexp(0.0, -scaled))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature (Guo et al. 2017) at which binary cross-entropy is least.

    The loss is convex in 1 / temperature, so halving the interval in which its slope changes sign finds the minimum.

    Args:
        logits: float, shape (N, L).
        labels: float, shape (N, L), multi-hot or soft, within 0..1.

    Returns:
        Within `TEMPERATURES`; 1.0 where all logits are 0.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if not logits.any():
        return 1.0

    def slope(temperature: float) -> float:  # of the loss, in 1 / temperature
        return float(((temper(logits, temperature) - labels) * logits).sum())

    low, high = TEMPERATURES
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if slope(middle) < 0 else (middle, high)
    return float(np.sqrt(low * high))


def fit_thresholds(probabilities: np.ndarray, labels: np.ndarray, shrinkage: float = SHRINKAGE) -> np.ndarray:
    """Thresholds that decide well: for each label that of its best F1, drawn towards the one of the best micro F1.

    A label's own optimum is noise where few positives speak for it, so it weighs n / (n + shrinkage), n being its
    positives (Lewis 1995 and Lipton et al. 2014 on thresholds and F1).

    Args:
        probabilities: float, shape (N, L), within 0..1.
        labels: float, shape (N, L); true from 0.5.
        shrinkage: positives at which both weigh the same; 0: labels with positives keep their own.

    Returns:
        float64, shape (L,), within 0..1; 0.5 throughout where nothing is true.
    """
    probabilities, true = np.asarray(probabilities, dtype=np.float64), np.asarray(labels) >= 0.5
    if not true.any():
        return np.full(true.shape[1], 0.5)
    common = _best_threshold(probabilities.reshape(-1), true.reshape(-1))
    positives = true.sum(axis=0)
    own = np.array([
        _best_threshold(column, column_true) if column_true.any() else common
        for column, column_true in zip(probabilities.T, true.T, strict=True)
    ])  # fmt: skip
    weight = positives / np.maximum(positives + shrinkage, 1)
    return weight * own + (1 - weight) * common


def _best_threshold(scores: np.ndarray, true: np.ndarray) -> float:
    """The threshold of the best F1, half-way between the scores that it parts; at least one score lies above it."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    f1 = 2 * np.cumsum(true[order]) / (np.arange(1, len(order) + 1) + true.sum())
    f1[:-1][ordered[:-1] == ordered[1:]] = -1.0  # equal scores cannot be parted
    best = int(np.argmax(f1))
    below = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + below) / 2)


def fit_decisions(config: PreTrainedConfig, pairs: PairDataset, logits: np.ndarray, labels: np.ndarray) -> None:
    """Sets `config.temperature` and `config.thresholds` from a model's logits on validation pairs.

    Args:
        config: of a teacher or student.
        pairs: the validation pairs.
        logits: float `(pairs, L)`, before any temperature.
        labels: float `(rows, L)`, the truth.

    Raises:
        ValueError: logits that are NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise ValueError("The model's logits hold NaN or infinite values; train it again, at a lower learning rate.")
    config.temperature = round(fit_temperature(logits, labels[pairs.row_of_pair]), 6)
    probabilities = pairs.mean_over_captions(temper(logits, config.temperature))
    config.thresholds = [round(value, 6) for value in fit_thresholds(probabilities, labels).tolist()]
