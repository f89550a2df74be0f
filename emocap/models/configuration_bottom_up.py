"""Configuration of the bottom-up detector, read from its published `config.yaml` or from `config.json`."""

import os
from typing import Any, ClassVar, Literal

import yaml
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import cached_file

from .common_emocap import CodeCarryingConfig

__all__ = ["BottomUpConfig"]


@strict
class BottomUpConfig(CodeCarryingConfig, PreTrainedConfig):
    """Configuration of [`BottomUpDetector`]; the defaults are those of `unc-nlp/frcnn-vg-finetuned`.

    `from_pretrained` reads `config.json`, and where a folder or repository has none, the published `config.yaml`.

    Args:
        shortest_edge: short side in pixels to which photos are resized.
        longest_edge: long side in pixels at most.
        image_mean: means of the blue, green and red channel, 0..255.
        image_std: divisors of the blue, green and red channel, or one of all.
        depths: bottleneck blocks of the stages res2, res3, res4 and res5.
        stem_channels: channels of the first convolution.
        bottleneck_channels: width of the 3x3 convolutions in res2, doubled from stage to stage.
        res2_channels: output channels of res2, doubled from stage to stage.
        rpn_channels: hidden channels of the region proposal network.
        anchor_sizes: square roots of the anchors' areas in pixels of the resized photo.
        anchor_ratios: heights of the anchors over their widths.
        rpn_box_weights: divisors of the proposals' dx, dy, dw and dh.
        rpn_min_size: proposals whose width or height is not above it are dropped.
        rpn_num_candidates: best anchors that enter the proposals' NMS.
        rpn_nms_threshold: IoU of the proposals' NMS.
        num_proposals: proposals that the RPN hands on.
        pool_size: side of the RoIPool grid.
        box_weights: divisors of the regions' dx, dy, dw and dh.
        num_classes: object classes, background not among them.
        num_attributes: attributes, "no attribute" not among them.
        nms_thresholds: IoUs of the class-agnostic NMS that picks the regions, tried in order until `min_regions` stay.
        min_regions: regions that have to stay for a threshold to be taken; the last one is taken in any case.
        num_regions: regions an image at most.
        roi_chunk_size: proposals that go through res5 together, at least, as long as there are so many; None means 16
            on a CPU and all of a photo elsewhere.
        selection_dtype: arithmetic of res5 while the regions are picked ("bfloat16" is the fast one); features,
            boxes and scores of the picked ones are then computed anew in the model's own. None picks and computes in
            one pass.
    """

    model_type = "emocap_bottom_up"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_bottom_up.BottomUpConfig",
        "AutoModel": "modeling_bottom_up.BottomUpDetector",
        "AutoImageProcessor": "image_processing_bottom_up.BottomUpImageProcessor",
    }

    shortest_edge: int = 800
    longest_edge: int = 1333
    image_mean: list[float] | tuple[float, ...] = (102.9801, 115.9465, 122.7717)
    image_std: list[float] | tuple[float, ...] | float = (1.0, 1.0, 1.0)
    depths: list[int] | tuple[int, ...] = (3, 4, 23, 3)
    stem_channels: int = 64
    bottleneck_channels: int = 64
    res2_channels: int = 256
    rpn_channels: int = 512
    anchor_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    anchor_ratios: list[float] | tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_box_weights: list[float] | tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    rpn_min_size: float = 0.0
    rpn_num_candidates: int = 6000
    rpn_nms_threshold: float = 0.7
    num_proposals: int = 300
    pool_size: int = 14
    box_weights: list[float] | tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    num_classes: int = 1600
    num_attributes: int = 400
    nms_thresholds: list[float] | tuple[float, ...] = (0.5, 0.6, 0.7)
    min_regions: int = 36
    num_regions: int = 36
    roi_chunk_size: int | None = None
    selection_dtype: Literal["float32", "bfloat16", "float16"] | None = None

    @property
    def feature_dim(self) -> int:
        """Width of the region features, the output channels of res5."""
        return 8 * self.res2_channels

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As everywhere in transformers; reads `config.yaml` where there is no `config.json`."""
        hub_kwargs = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        path = published_file(pretrained_model_name_or_path, hub_kwargs)
        if path is None:
            return super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        try:
            with open(path, encoding="utf-8") as file:
                published = yaml.safe_load(file)
        except (yaml.YAMLError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"'{path}' cannot be read: {reason}; expected plain YAML.") from error
        fields = fields_of_published(published, path)
        return fields, {name: value for name, value in kwargs.items() if name not in HUB_ARGUMENTS}


HUB_ARGUMENTS = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "revision", "subfolder")

PUBLISHED_NAMES = {
    "shortest_edge": "input.min_size_test",
    "longest_edge": "input.max_size_test",
    "image_mean": "model.pixel_mean",
    "image_std": "model.pixel_std",
    "stem_channels": "resnets.stem_out_channels",
    "bottleneck_channels": "resnets.width_per_group",
    "res2_channels": "resnets.res2_out_channels",
    "rpn_channels": "proposal_generator.hidden_channels",
    "rpn_box_weights": "rpn.bbox_reg_weights",
    "rpn_min_size": "proposal_generator.min_size",
    "rpn_num_candidates": "rpn.pre_nms_topk_test",
    "rpn_nms_threshold": "rpn.nms_thresh",
    "num_proposals": "rpn.post_nms_topk_test",
    "pool_size": "roi_box_head.pooler_resolution",
    "box_weights": "roi_box_head.bbox_reg_weights",
    "num_classes": "roi_heads.num_classes",
    "num_attributes": "roi_box_head.num_attrs",
    "min_regions": "min_detections",
    "num_regions": "max_detections",
}
"""Where the published file holds what needs no conversion."""

PUBLISHED_ARCHITECTURE = {
    "input.format": "BGR",
    "model.max_pool": True,
    "anchor_generator.offset": 0,
    "resnets.norm": "BN",
    "resnets.num_groups": 1,
    "resnets.stride_in_1x1": True,
    "resnets.res5_dilation": 1,  # read but never used: res5halve decides
    "roi_box_head.res5halve": False,
    "roi_box_head.attr": True,
    "roi_box_head.cls_agnostic_bbox_reg": False,
    "size_divisibility": 0,
    "pad_value": 0.0,
}
"""The one network that [`BottomUpDetector`] is."""

RESNET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def published_file(source: str | os.PathLike, hub_kwargs: dict[str, Any]) -> str | None:
    """Path of the `config.yaml` of a folder or repository without a `config.json`, else None.

    Raises:
        OSError: there is neither.
    """
    if os.path.isfile(source):
        return None
    for name in ("config.json", "config.yaml"):
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub_kwargs)
        if path is not None:
            return path if name == "config.yaml" else None
    raise OSError(f"'{source}' has neither config.json nor the published config.yaml.")


def fields_of_published(published: dict[str, Any], path: str) -> dict[str, Any]:
    """Fields of [`BottomUpConfig`] from the published file's sections.

    Raises:
        ValueError: a value is missing, or asks for another network than [`BottomUpDetector`].
    """

    def value(name: str):
        found = published
        for part in name.split("."):
            if not isinstance(found, dict) or part not in found:
                raise ValueError(f"'{path}' has no '{name}'; expected the layout of unc-nlp/frcnn-vg-finetuned.")
            found = found[part]
        return found

    for name, expected in PUBLISHED_ARCHITECTURE.items():
        if value(name) != expected:
            raise ValueError(f"'{path}' sets {name} to {value(name)!r}; this detector knows only {expected!r}.")
    depth, sizes, ratios = (
        value(name) for name in ("resnets.depth", "anchor_generator.sizes", "anchor_generator.aspect_ratios")
    )
    if depth not in RESNET_DEPTHS:
        raise ValueError(f"'{path}' sets resnets.depth to {depth!r}; expected one of {list(RESNET_DEPTHS)}.")
    if len(sizes) != 1 or len(ratios) != 1:
        raise ValueError(f"'{path}' has anchors for several feature maps; expected one list, for res4.")
    thresholds = value("roi_heads.nms_thresh_test")
    fields = {
        "depths": RESNET_DEPTHS[depth],
        "anchor_sizes": sizes[0],
        "anchor_ratios": ratios[0],
        "nms_thresholds": thresholds if isinstance(thresholds, list) else [thresholds],
        **{field: value(name) for field, name in PUBLISHED_NAMES.items()},
    }
    return {"model_type": BottomUpConfig.model_type, **{name: as_declared(name, own) for name, own in fields.items()}}


def as_declared(field: str, value: Any) -> Any:
    """`value` with floats where the field has floats: YAML may hold 1 for 1.0."""
    default = getattr(BottomUpConfig, field)
    if isinstance(default, float):
        return float(value)
    return list(map(float, value)) if isinstance(default, tuple) and isinstance(default[0], float) else value
