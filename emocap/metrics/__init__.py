"""Metrics of multi-label emotion prediction."""

from emocap.metrics.bootstrap import FEW_UNITS, intervals, paired_gain, resample_weights, resampled_metrics
from emocap.metrics.metrics import (
    GREATER_IS_BETTER,
    METRIC_KEYS,
    VOTE_KEYS,
    break_ties,
    chance_map_macro,
    check_metric,
    compute_metrics,
    compute_with_prior,
    one_reaction,
    prior_probabilities,
    prior_threshold,
)
from emocap.metrics.seeds import t_interval

__all__ = [
    "FEW_UNITS",
    "GREATER_IS_BETTER",
    "METRIC_KEYS",
    "VOTE_KEYS",
    "break_ties",
    "chance_map_macro",
    "check_metric",
    "compute_metrics",
    "compute_with_prior",
    "intervals",
    "one_reaction",
    "paired_gain",
    "prior_probabilities",
    "prior_threshold",
    "resample_weights",
    "resampled_metrics",
    "t_interval",
]
