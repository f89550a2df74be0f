"""Which parameters have weight decay, and a learning rate of their own, in every training."""

from collections.abc import Collection
from typing import Any

from torch import nn

__all__ = ["decayed_parameter_names", "parameter_groups"]


def decayed_parameter_names(model: nn.Module) -> list[str]:
    """Names of the weights: matrices, convolutions and embeddings. What has one dimension, biases and the scales of
    norms of any kind, has no decay."""
    return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]


def parameter_groups(
    model: nn.Module, weight_decay: float, rates: tuple[float, float], fresh: Collection[str] = ()
) -> list[dict[str, Any]]:
    """What trains, as an optimizer takes it.

    Args:
        model: whose parameters train where they require a gradient.
        weight_decay: of `decayed_parameter_names`.
        rates: learning rates of the others and of the `fresh`.
        fresh: names of new parameters.
    """
    decayed, groups = set(decayed_parameter_names(model)), {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in fresh, name in decayed), []).append(parameter)
    return [
        {"params": parameters, "lr": rates[is_fresh], "weight_decay": weight_decay * is_decayed}
        for (is_fresh, is_decayed), parameters in groups.items()
    ]
