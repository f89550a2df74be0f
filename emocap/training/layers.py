"""The layers that words pass one after the other, found in any encoder."""

from collections.abc import Iterator

from torch import nn

__all__ = ["layers_of", "parts_beside"]


def layers_of(body: nn.Module) -> nn.ModuleList:
    """The encoder's layers, first to last: its list of `num_hidden_layers` modules, the largest if there are several.

    Raises:
        ValueError: it has no such list, as where layers share their weights.
    """
    number = body.config.num_hidden_layers
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module) == number]
    if not lists:
        raise ValueError(
            f"A '{body.config.model_type}' has no list of its {number} layers, so none can be counted, frozen or "
            "passed by itself."
        )
    return max(lists, key=lambda own: sum(values.numel() for values in own.parameters()))


def parts_beside(body: nn.Module) -> Iterator[nn.Module]:
    """What the encoder has beside its layers and its pooler: embeddings, and what all layers share, such as relative
    positions. A norm that follows the layers is among it."""
    yield from parts_without(body, layers_of(body), getattr(body, "pooler", None))


def parts_without(module: nn.Module, *left_out: nn.Module | None) -> Iterator[nn.Module]:
    for child in module.children():
        if any(child is own for own in left_out):
            continue
        if any(part is own for own in left_out for part in child.modules()):
            yield from parts_without(child, *left_out)
        else:
            yield child
