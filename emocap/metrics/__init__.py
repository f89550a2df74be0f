"""Metrics of multi-label emotion prediction."""

from emocap.metrics.bootstrap import intervals, paired_gain, resampled_metrics
from emocap.metrics.metrics import (
    METRIC_KEYS,
    VOTE_KEYS,
    break_ties,
    compute_metrics,
    compute_with_prior,
    prior_probabilities,
    prior_threshold,
)
from emocap.metrics.seeds import t_interval

__all__ = [
    "METRIC_KEYS",
    "VOTE_KEYS",
    "break_ties",
    "compute_metrics",
    "compute_with_prior",
    "intervals",
    "paired_gain",
    "prior_probabilities",
    "prior_threshold",
    "resampled_metrics",
    "t_interval",
]
