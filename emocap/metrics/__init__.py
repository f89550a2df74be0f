"""Metrics of multi-label emotion prediction."""

from emocap.metrics.bootstrap import FEW_UNITS, Bootstrap, intervals, resampled_metrics
from emocap.metrics.choosing import GREATER_IS_BETTER, check_metric
from emocap.metrics.metrics import (
    METRIC_KEYS,
    VOTE_KEYS,
    chance_map_macro,
    compute_metrics,
    compute_with_prior,
    one_reaction,
    prior_probabilities,
    prior_threshold,
)
from emocap.metrics.seeds import t_interval
from emocap.metrics.ties import break_ties

__all__ = [
    "FEW_UNITS",
    "GREATER_IS_BETTER",
    "METRIC_KEYS",
    "VOTE_KEYS",
    "Bootstrap",
    "break_ties",
    "chance_map_macro",
    "check_metric",
    "compute_metrics",
    "compute_with_prior",
    "intervals",
    "one_reaction",
    "prior_probabilities",
    "prior_threshold",
    "resampled_metrics",
    "t_interval",
]
