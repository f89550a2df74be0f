"""Metrics of multi-label emotion prediction."""

from emocap.metrics.metrics import METRIC_KEYS, compute_metrics, compute_with_prior, prior_probabilities

__all__ = ["METRIC_KEYS", "compute_metrics", "compute_with_prior", "prior_probabilities"]
