"""Configuration of the region extractor."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .common_emocap import CodeCarryingConfig

__all__ = ["ARCHITECTURES", "EmocapRegionConfig"]

LARGE = {
    "feature_dim": 1024,
    "shortest_edge": 800,
    "longest_edge": 1333,
    "num_candidates": 1000,
    "num_proposals": 1000,
    "rpn_score_threshold": 0.0,
}

ARCHITECTURES = {
    "small": {"feature_dim": 128, "num_candidates": 400, "num_proposals": 100, "rpn_score_threshold": 0.0},
    "fasterrcnn_resnet50_fpn": LARGE,
    "fasterrcnn_resnet50_fpn_v2": LARGE,
    "fasterrcnn_mobilenet_v3_large_fpn": {**LARGE, "rpn_score_threshold": 0.05},
    "fasterrcnn_mobilenet_v3_large_320_fpn": {
        "feature_dim": 1024,
        "shortest_edge": 320,
        "longest_edge": 640,
        "num_candidates": 150,
        "num_proposals": 150,
        "rpn_score_threshold": 0.05,
    },
}
"""The networks, each with the settings that it has where a configuration leaves them out: torchvision's own."""


@strict
class EmocapRegionConfig(CodeCarryingConfig, PreTrainedConfig):
    """Configuration of [`EmocapRegionExtractor`], a Faster R-CNN (Ren et al. 2015) of torchvision.

    Args:
        architecture: one of torchvision's networks by its name, or "small", a few convolutions.
        backbone_channels: small: output channels of the strided 3x3 convolutions, in order; the last map feeds the
            RPN.
        anchor_sizes: small: sides of the anchors in pixels, each at ratios h/w 0.5, 1 and 2.
        pool_size: small: side of the RoIAlign grid.
        image_size: small: side in pixels to which photos are resized, without keeping their aspect.
        feature_dim: width of the region features, the box head's hidden layer; torchvision's networks have 1024.
        shortest_edge: torchvision's networks: short side in pixels to which photos are resized.
        longest_edge: torchvision's networks: long side in pixels at most.
        backbone_norm_eps: epsilon of the backbone's batch norms. torchvision's own checkpoint of
            fasterrcnn_resnet50_fpn was trained with 0.
        num_candidates: best anchors of each feature map that enter the proposals' NMS.
        num_proposals: proposals that the RPN hands on.
        rpn_score_threshold: objectness that a proposal must have.
        num_regions: regions an image at most, the whole photo among them.
        box_nms_threshold: IoU of the class-agnostic NMS that picks the regions.
        id2label: the classes that the detector knows, background not among them.
    """

    model_type = "emocap_regions"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_emocap_regions.EmocapRegionConfig",
        "AutoModel": "modeling_emocap_regions.EmocapRegionExtractor",
        "AutoImageProcessor": "photo_emocap.EmocapImageProcessor",
    }

    architecture: Literal[tuple(ARCHITECTURES)] = "small"  # type: ignore[valid-type] # the same names once, read by strict
    backbone_channels: list[int] | tuple[int, ...] = (24, 48, 64)
    anchor_sizes: list[int] | tuple[int, ...] = (12, 24, 48)
    pool_size: int = 5
    image_size: int = 96
    feature_dim: int | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None
    backbone_norm_eps: float = 1e-5
    num_candidates: int | None = None
    num_proposals: int | None = None
    rpn_score_threshold: float | None = None
    num_regions: int = 36
    box_nms_threshold: float = 0.7

    def __post_init__(self, **kwargs):
        if self.architecture == "small" and self.num_proposals is not None and self.num_candidates is None:
            self.num_candidates = 4 * self.num_proposals
        for name, value in ARCHITECTURES[self.architecture].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.architecture != "small" and self.feature_dim != LARGE["feature_dim"]:
            raise ValueError(f"feature_dim is {self.feature_dim}; that of '{self.architecture}' is 1024.")
        super().__post_init__(**kwargs)
