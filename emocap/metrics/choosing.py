"""Choosing by a metric: which there are, and which way each runs."""

from emocap.metrics.metrics import METRIC_KEYS, VOTE_KEYS

__all__ = ["GREATER_IS_BETTER", "check_metric"]

GREATER_IS_BETTER = {key: key not in ("brier", "ece", "jsd", "bce") for key in METRIC_KEYS}
"""Which way each metric runs."""


def check_metric(name: str, flag: str, has_votes: bool = True) -> None:
    """Refuses what is no metric, or one of `VOTE_KEYS` where there are no votes.

    Raises:
        ValueError: names the flag and the metrics.
    """
    known = [key for key in METRIC_KEYS if has_votes or key not in VOTE_KEYS]
    if name not in known:
        why = "needs votes, which are not known here" if name in VOTE_KEYS else "is no metric"
        raise ValueError(f"{flag} '{name}' {why}; choose among {', '.join(known)}.")
