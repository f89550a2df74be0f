"""The layers that words pass one after the other, found in any encoder."""

from collections.abc import Iterator

from torch import nn

__all__ = ["layers_of", "parts_beside"]


def layers_of(body: nn.Module) -> nn.ModuleList:
    """The encoder's layers, first to last: its one list of `num_hidden_layers` modules.

    Raises:
        ValueError: it has none, as where layers share their weights, or several, each of a part of the layers.
    """
    number = body.config.num_hidden_layers
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module) == number]
    inner = {id(module) for own in lists for layer in own for module in layer.modules()}
    lists = [own for own in lists if id(own) not in inner and any(True for _ in own.parameters())]
    if len(lists) != 1:
        raise ValueError(
            f"A '{body.config.model_type}' has no one list of its {number} layers, so none can be counted, frozen or "
            "passed by itself."
        )
    return lists[0]


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
