"""Which parameters have weight decay, and a learning rate of their own, in every training."""

from collections.abc import Collection
from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(
    model: nn.Module, weight_decay: float, rates: tuple[float, float], fresh: Collection[str] = ()
) -> list[dict[str, Any]]:
    """What trains, as an optimizer takes it.

    Args:
        model: whose parameters train where they require a gradient.
        weight_decay: of weights: matrices, convolutions and embeddings. What has one dimension, biases and the scales
            of norms of any kind, has none.
        rates: learning rates of the others and of the `fresh`.
        fresh: names of new parameters.
    """
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in fresh, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rates[is_fresh], "weight_decay": weight_decay * is_decayed}
        for (is_fresh, is_decayed), parameters in groups.items()
    ]
