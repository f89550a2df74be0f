"""Configuration of the region extractor that any vision encoder makes."""

import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .common_emocap import CodeCarryingConfig

__all__ = ["EmocapGridConfig"]


@strict
class EmocapGridConfig(CodeCarryingConfig, PreTrainedConfig):
    """Configuration of [`EmocapGridExtractor`]; `EmocapGridExtractor.from_encoder` reads it off an encoder.

    Args:
        vision_config: of the encoder, one of transformers' own; by default a ViT's.
        encoder: Hub id that its weights came from, or None where they came from a folder.
        feature_dim: width of its patch or grid features.
        num_regions: cells that they are pooled to, a square number.
        image_size: height and width in pixels to which photos are squeezed.
        resample: PIL's number of the interpolation.
        rescale_factor: by which pixels 0..255 are multiplied before `image_mean` is taken off.
        image_mean, image_std: of the red, green and blue channel.
    """

    model_type = "emocap_grid"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_emocap_grid.EmocapGridConfig",
        "AutoModel": "modeling_emocap_grid.EmocapGridExtractor",
    }
    sub_configs: ClassVar[dict[str, type]] = {"vision_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    encoder: str | None = None
    feature_dim: int = 768
    num_regions: int = 36
    image_size: list[int] | tuple[int, ...] = (224, 224)
    resample: int = 2
    rescale_factor: float = 1 / 255
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] | float = (0.5, 0.5, 0.5)

    def __post_init__(self, **kwargs):
        given = {"model_type": "vit"} if self.vision_config is None else self.vision_config
        self.vision_config = AutoConfig.for_model(**given) if isinstance(given, dict) else given
        super().__post_init__(**kwargs)
        if self.num_regions < 1 or math.isqrt(self.num_regions) ** 2 != self.num_regions:
            raise ValueError(f"num_regions is {self.num_regions}; it must be a square number of cells, such as 36.")
