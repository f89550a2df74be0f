"""Frozen parts of a model behave as in evaluation while the rest trains."""

from torch import nn

__all__ = ["keep_frozen_in_eval"]


def keep_frozen_in_eval(module: nn.Module) -> None:
    """Puts every part whose parameters are all frozen into evaluation mode: its dropout and norms stand still."""
    for child in module.children():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()
        else:
            keep_frozen_in_eval(child)
