"""What may stand in place of the student's own parts: torchvision's ResNets for its convolutions."""

import os

from torch import nn
from transformers.modeling_utils import load_state_dict

__all__ = ["resnet_stages"]


def resnet_stages(name: str, weights: str | os.PathLike | None = None) -> tuple[nn.Sequential, int]:
    """A torchvision ResNet without its classifier, as five stages (stem and four groups of blocks), and its width.

    Args:
        name: torchvision's, such as `resnet50`.
        weights: None: random; the path of a .safetensors file that holds the network's state dict, with or without
            the classifier; or torchvision's name of trained weights, such as `DEFAULT`, which it downloads once.

    Raises:
        ImportError: torchvision is not installed.
        ValueError: no such weights, or those of another network.
    """
    try:  # code that travels with a checkpoint: torchvision is asked for where it is used alone
        import torchvision
    except ImportError as error:
        raise ImportError(f"The student reads photos with torchvision's {name}: pip install torchvision.") from error
    is_file = weights is not None and str(weights).endswith(".safetensors")
    if weights is not None and not is_file:
        known = [own.name for own in torchvision.models.get_model_weights(name)]
        if weights not in ("DEFAULT", *known):
            raise ValueError(
                f"torchvision has no weights '{weights}' of {name}; expected DEFAULT, {', '.join(known)}, or the path "
                "of a .safetensors file."
            )
    network = torchvision.models.get_model(name, weights=None if is_file else weights)
    if is_file:
        found = network.load_state_dict(load_state_dict(weights), strict=False)
        missing = [own for own in found.missing_keys if not own.startswith("fc.")]
        if missing or found.unexpected_keys:
            raise ValueError(
                f"'{weights}' is no state dict of {name}: missing {missing[:3]}, unexpected "
                f"{found.unexpected_keys[:3]}."
            )
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    return nn.Sequential(stem, network.layer1, network.layer2, network.layer3, network.layer4), network.fc.in_features
