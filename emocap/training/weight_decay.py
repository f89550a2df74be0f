"""Which parameters have weight decay, in every training."""

from torch import nn

__all__ = ["decayed_parameter_names"]


def decayed_parameter_names(model: nn.Module) -> list[str]:
    """Names of the weights: matrices, convolutions and embeddings. What has one dimension, biases and the scales of
    norms of any kind, has no decay."""
    return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
