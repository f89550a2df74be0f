"""Losses of a multi-label head, by the fields of the model's configuration."""

import torch
from torch.nn import functional as F

__all__ = ["LOSSES", "check_loss", "multi_label_loss"]

LOSSES = ("bce", "asl", "db")

ASL_FOCUSING, ASL_MARGIN = 4, 0.05
"""gamma- and m of Ridnik et al. 2021, section 3.1; their gamma+ is 0."""

DB_ALPHA, DB_BETA, DB_MU = 0.1, 10.0, 0.2
"""Smoothing of the re-balancing weights (Wu et al. 2020, equation 5), as its authors set it for COCO."""

DB_LAMBDA, DB_KAPPA = 2.0, 0.05
"""Scale and bias of the negative-tolerant regularisation (Wu et al. 2020, equation 9), as set for COCO. The authors'
code, to which the numbers belong, divides the bias by the scale, unlike the paper."""

DB_FOCUSING, DB_BALANCE = 2, 2.0
"""gamma of the focal term (Lin et al. 2017, equation 4) and the factor before it, as Wu et al. set them for COCO."""

PRIOR_BOUND = 1e-4
"""Priors stay this far from 0 and 1: an emotion without positives has a finite weight."""


def multi_label_loss(
    logits: torch.Tensor, labels: torch.Tensor, config, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean loss over batch and labels, in float32 or wider.

    `config.loss` is `"bce"`: binary cross-entropy; `"asl"`: asymmetric loss (Ridnik et al. 2021), which counts easy
    negatives less; `"db"`: distribution-balanced loss (Wu et al. 2020) with its focal term, which counts frequent
    emotions and easy entries less. Its weights even out what class-balanced sampling does to images of several
    emotions, so it goes with that sampling; the prior stays that of the table. Its probabilities are no longer
    calibrated to the prevalence: a temperature and thresholds fitted on validation rows mend their scale only. Soft
    labels weigh the positive and the negative term of each. `config.label_smoothing` moves the labels toward the prior
    first: `(1 - s) * labels + s * label_prevalence`.

    Args:
        logits: float `(..., L)`.
        labels: float `(..., L)`, multi-hot or shares in 0..1, broadcast over `logits`.
        config: holds `loss`, `pos_weight`, `label_smoothing` and `label_prevalence`.
        weight: float, broadcast over `logits`: how much each entry counts in the mean.

    Returns:
        A scalar.

    Raises:
        ValueError: `db`, `pos_weight` or `label_smoothing` without the prior of every label.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits.dtype).expand_as(logits)
    prior = bounded_prior(logits, config)
    if config.label_smoothing:
        labels = torch.lerp(labels, prior.expand_as(labels), config.label_smoothing)
    if config.loss == "asl":
        entries = asymmetric_loss(logits, labels)
    elif config.loss == "db":
        entries = distribution_balanced_loss(logits, labels, prior)
    else:
        pos_weight = None if config.pos_weight is None else ((1 - prior) / prior).clamp_max(config.pos_weight)
        return F.binary_cross_entropy_with_logits(logits, labels, weight, pos_weight=pos_weight)
    return (entries if weight is None else entries * weight).mean()


def asymmetric_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """ASL of every entry (Ridnik et al. 2021, equation 7): negatives below the margin do not count at all."""
    shifted = (logits.sigmoid() - ASL_MARGIN).clamp_min(0)
    negative = -torch.log1p(-shifted) * shifted**ASL_FOCUSING
    return labels * F.softplus(-logits) + (1 - labels) * negative


def distribution_balanced_loss(logits: torch.Tensor, labels: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """DB-focal loss of every entry (Wu et al. 2020, equation 10): re-balanced weights, negative-tolerant logits, and a
    focal term of the probability that these logits give to the entry's truth."""
    drawn = (labels / prior).sum(-1, keepdim=True).clamp_min(1e-6)  # how often class-balanced drawing meets the row
    weights = DB_ALPHA + torch.sigmoid(DB_BETA * (1 / (prior * drawn) - DB_MU))
    biased = logits + DB_KAPPA / DB_LAMBDA * torch.logit(prior)
    scaled = DB_LAMBDA * biased
    positive = torch.sigmoid(-biased) ** DB_FOCUSING * F.softplus(-biased)
    negative = torch.sigmoid(scaled) ** DB_FOCUSING * F.softplus(scaled) / DB_LAMBDA
    return DB_BALANCE * weights * (labels * positive + (1 - labels) * negative)


def bounded_prior(logits: torch.Tensor, config) -> torch.Tensor | None:
    """The configuration's prior, float `(L,)`, away from 0 and 1; None where the loss needs none."""
    if not (config.loss == "db" or config.pos_weight is not None or config.label_smoothing):
        return None
    if config.label_prevalence is None or len(config.label_prevalence) != logits.shape[-1]:
        found = "absent" if config.label_prevalence is None else f"{len(config.label_prevalence)} numbers"
        raise ValueError(
            f"label_prevalence is {found}; db, pos_weight and label_smoothing need the share of the "
            f"training rows of each of the {logits.shape[-1]} labels in the configuration."
        )
    return logits.new_tensor(config.label_prevalence).clamp(PRIOR_BOUND, 1 - PRIOR_BOUND)


def check_loss(loss: str, pos_weight: float | None, label_smoothing: float) -> None:
    """Refuses loss settings that do not go together.

    Raises:
        ValueError: an unknown loss, `pos_weight` beside another loss than `bce`, or a number out of range.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss is '{loss}'; it must be one of {', '.join(LOSSES)}.")
    if pos_weight is not None and (loss != "bce" or pos_weight <= 0):
        raise ValueError(
            f"pos_weight is {pos_weight} with loss '{loss}'; it must be positive, and goes with 'bce' alone: asl and "
            "db weigh positives and negatives by themselves."
        )
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"Label smoothing is {label_smoothing}; it must be at least 0 and below 1.")
