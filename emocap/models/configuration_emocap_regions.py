"""Configuration of the region extractor."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .remote_code_emocap import CodeCarryingConfig

__all__ = ["EmocapRegionConfig"]


@strict
class EmocapRegionConfig(CodeCarryingConfig, PreTrainedConfig):
    """Configuration of [`EmocapRegionExtractor`], a Faster R-CNN (Ren et al. 2015) with a small backbone.

    Args:
        backbone_channels: output channels of the strided 3x3 convolutions, in order; the last map feeds the RPN.
        anchor_sizes: sides of the anchors in pixels, each at ratios h/w 0.5, 1 and 2.
        pool_size: side of the RoIAlign grid.
        feature_dim: width of the region features, the box head's hidden layer.
        image_size: side in pixels to which photos are resized.
        num_proposals: proposals that the RPN hands on.
        num_regions: regions an image at most.
        box_nms_threshold: IoU of the class-agnostic NMS that picks the regions.
        id2label: the classes that the detector knows, background not among them.
    """

    model_type = "emocap_regions"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_emocap_regions.EmocapRegionConfig",
        "AutoModel": "modeling_emocap_regions.EmocapRegionExtractor",
        "AutoImageProcessor": "image_processing_emocap_regions.EmocapRegionImageProcessor",
    }

    backbone_channels: list[int] | tuple[int, ...] = (24, 48, 64)
    anchor_sizes: list[int] | tuple[int, ...] = (12, 24, 48)
    pool_size: int = 5
    feature_dim: int = 128
    image_size: int = 96
    num_proposals: int = 100
    num_regions: int = 36
    box_nms_threshold: float = 0.7
