"""Adapters of low rank in a language model while it trains (Hu et al. 2021)."""

import importlib.util

from torch import nn

__all__ = ["add_adapters", "check_lora", "merge_adapters"]


def check_lora() -> None:
    """Refuses adapters where PEFT is not installed.

    Raises:
        ImportError: names the extra.
    """
    if importlib.util.find_spec("peft") is None:
        raise ImportError("Adapters need PEFT: pip install 'emocap[lora]', or choose another --language_model.")


def add_adapters(language_model: nn.Module, rank: int) -> None:
    """Puts adapters beside all linear layers of a language model but its head, in place; nothing else of it trains."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    inject_adapter_in_model(config, language_model)


def merge_adapters(language_model: nn.Module) -> None:
    """Adds the adapters to the weights that they stand beside, in place, and takes them out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(language_model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            parent, _, own = name.rpartition(".")
            setattr(language_model.get_submodule(parent), own, layer.get_base_layer())
    language_model.requires_grad_(True)
