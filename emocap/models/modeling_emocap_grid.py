"""The region extractor that any vision encoder makes: its patch or grid features, pooled to a grid of cells."""

import math
import os
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    ViTImageProcessor,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import logging

from .configuration_emocap_grid import EmocapGridConfig
from .photo_emocap import to_rgb
from .region_output_emocap import RegionExtractor, RegionOutput, as_output

__all__ = ["EmocapGridExtractor"]

EXPECTED = "expected a vision encoder such as ViT, CLIP, SigLIP, DINOv2, ResNet, ConvNeXt or Swin"

MOST_GLOBAL_TOKENS = 2
"""That come before the patches, registers aside: one for the class, and DeiT's for distillation."""


class EmocapGridExtractor(RegionExtractor):
    """A vision encoder whose last patch or grid features are the regions (grid features: Jiang et al. 2020).

    The features are averaged over 6 x 6 cells, row by row from the top left; class and register tokens are dropped. A
    photo is squeezed to the encoder's size, not cropped, so the cells cover all of it. Where the encoder's grid has no
    multiple of six rows or columns, neighbouring cells share some, as in adaptive average pooling; their boxes overlap
    accordingly.

    Only for inference. Runs in the weights' own dtype or in that of `torch.autocast`; averages and boxes are float32.
    """

    config: EmocapGridConfig
    config_class = EmocapGridConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EmocapGridConfig):
        super().__init__(config)
        self.backbone = without_pooler(AutoModel.from_config(config.vision_config, trust_remote_code=False))
        self.post_init()

    @classmethod
    def from_encoder(cls, name_or_path: str | os.PathLike, **fields) -> "EmocapGridExtractor":
        """An extractor, in evaluation mode, with the weights and the image processor's settings of an encoder.

        Args:
            name_or_path: folder or Hub id of a checkpoint of transformers' own classes; of CLIP, SigLIP and the like
                the vision tower is read alone.
            fields: of [`EmocapGridConfig`], such as `num_regions`.

        Raises:
            ValueError: it is no vision encoder, needs code of its own, prepares photos in a way of its own, lacks
                weights, or has no spatial features.
            OSError: there is no such checkpoint, or no image processor beside it.
        """
        name = str(name_or_path)
        if not os.path.isdir(name) and (os.path.isabs(name) or name.startswith(".")):
            raise FileNotFoundError(f"There is no vision encoder at '{name}'; expected a folder, or a Hub id.")
        source = AutoConfig.from_pretrained(name, trust_remote_code=False)
        vision_config = getattr(source, "vision_config", source)
        known = isinstance(vision_config, PreTrainedConfig) and type(vision_config) in MODEL_MAPPING
        if not known or getattr(MODEL_MAPPING[type(vision_config)], "main_input_name", "") != "pixel_values":
            raise ValueError(f"'{name}' is a '{source.model_type}' checkpoint; {EXPECTED}.")
        photos = photo_fields(AutoImageProcessor.from_pretrained(name, trust_remote_code=False), name)
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # a tower alone leaves much unread, and says so at length
        try:
            backbone, loading = AutoModel.from_pretrained(name, config=vision_config, output_loading_info=True)
        finally:
            logging.set_verbosity(verbosity)
        backbone = without_pooler(backbone).eval()
        if missing := sorted(set(loading["missing_keys"]) & set(backbone.state_dict())):
            raise ValueError(f"'{name}' lacks {len(missing)} weights of its encoder, such as {missing[0]}.")
        black = torch.zeros(1, 3, *photos["image_size"], dtype=backbone.dtype)
        try:
            with torch.inference_mode():
                feature_dim = feature_map(backbone, black)[0].shape[1]
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"'{name}' makes no regions of a photo ({error}); {EXPECTED}.") from error
        hub_id = None if os.path.isdir(name) else name
        vision_config.name_or_path = ""
        with torch.device("meta"):
            model = cls(
                EmocapGridConfig(
                    vision_config=vision_config, encoder=hub_id, feature_dim=feature_dim, **{**photos, **fields}
                )
            )
        model.backbone = backbone
        return model.eval()

    def look(self, processor: BaseImageProcessor, photos: list[Image.Image]) -> RegionOutput:
        pixels = processor(list(map(to_rgb, photos)), return_tensors="pt", device=self.device)["pixel_values"]
        return self(pixels, output_hidden_states=False, return_dict=True)

    def image_processor(self) -> ViTImageProcessor:
        """What makes this extractor's inputs of photos; saved with it."""
        return squeezing_processor(self.config)

    @torch.no_grad()
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RegionOutput | tuple[torch.Tensor, ...]:
        """Regions of photos of one size.

        Args:
            pixel_values: float `(batch, 3, height, width)`, as the image processor gives them.
            output_hidden_states: return the map that the cells are cut from, see [`RegionOutput`].
            return_dict: as everywhere in transformers.
        """
        maps, covered = feature_map(self.backbone, pixel_values.to(self.dtype))
        side = math.isqrt(self.config.num_regions)
        features = F.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2)
        boxes = cell_boxes(tuple(maps.shape[2:]), side, covered).to(maps.device).expand(len(maps), -1, -1)
        counts = torch.full((len(maps),), side**2, device=maps.device)
        photos = list(zip(features, boxes, counts, strict=True))
        return as_output(self.config, photos, [(own,) for own in maps], output_hidden_states, return_dict)


def without_pooler(backbone: PreTrainedModel) -> PreTrainedModel:
    """The encoder without what makes one vector of its tokens, whose weights many checkpoints lack."""
    if isinstance(pooler := getattr(backbone, "pooler", None), nn.Module) and any(True for _ in pooler.parameters()):
        backbone.pooler = None
    return backbone


def feature_map(backbone: PreTrainedModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[float, float]]:
    """The encoder's last features, float32 `(batch, channels, rows, columns)`, and the shares of the photo's height
    and width that they cover: patches that a side does not hold whole are not looked at.

    Raises:
        ValueError: they are neither a grid nor patches in rows.
    """
    states = getattr(backbone(pixel_values, return_dict=True), "last_hidden_state", None)
    if states is not None and states.ndim == 4 and states.shape[2] * states.shape[3] > 1:
        return states.float(), (1.0, 1.0)
    patch = getattr(backbone.config, "patch_size", None)
    patch = (patch, patch) if isinstance(patch, int) else patch
    if states is not None and states.ndim == 3 and patch is not None:
        size = tuple(pixel_values.shape[2:])
        rows, columns = (side // own for side, own in zip(size, patch, strict=True))
        covered = rows * patch[0] / size[0], columns * patch[1] / size[1]
        global_tokens = states.shape[1] - rows * columns
        if not 0 <= global_tokens <= MOST_GLOBAL_TOKENS + getattr(backbone.config, "num_register_tokens", 0):
            rows, columns = (-(-side // own) for side, own in zip(size, patch, strict=True))
            global_tokens, covered = 0, (1.0, 1.0)
            while rows * columns > states.shape[1]:  # each stage of Swin and its like halves both
                rows, columns = -(-rows // 2), -(-columns // 2)
        if rows * columns == states.shape[1] - global_tokens and rows * columns > 1:
            return states[:, global_tokens:].float().transpose(1, 2).unflatten(2, (rows, columns)), covered
    raise ValueError(f"a '{backbone.config.model_type}' gives no spatial features, neither patches nor a grid")


def cell_boxes(shape: tuple[int, int], side: int, covered: tuple[float, float]) -> torch.Tensor:
    """What each cell averages, float32 `(side * side, 4)`, x1 y1 x2 y2 relative to the photo, row by row."""
    cells = torch.arange(side)
    (top, bottom), (left, right) = (
        ((cells * length // side) / length * share, -(-(cells + 1) * length // side) / length * share)
        for length, share in zip(shape, covered, strict=True)
    )
    corners = (left.repeat(side), top.repeat_interleave(side), right.repeat(side), bottom.repeat_interleave(side))
    return torch.stack(corners, 1)


def photo_fields(own: BaseImageProcessor, name: str) -> dict[str, Any]:
    """The fields of [`EmocapGridConfig`] that say how photos are prepared, of the encoder's own image processor: its
    size after any crop, and what it does to the pixels.

    Raises:
        ValueError: it does anything else to them.
    """
    size = dict(own.crop_size if getattr(own, "do_center_crop", False) else own.size)
    edge = size.get("shortest_edge") or size.get("longest_edge")
    fields: dict[str, Any] = {
        "image_size": [size.get("height") or edge, size.get("width") or edge],
        "resample": int(own.resample),
        "rescale_factor": float(own.rescale_factor) if own.do_rescale else 1.0,
        "image_mean": list(own.image_mean) if own.do_normalize else [0.0] * 3,
        "image_std": list(own.image_std) if own.do_normalize else [1.0] * 3,
    }
    height, width = fields["image_size"]
    photo = Image.fromarray((np.arange(height * width * 3) % 251).astype(np.uint8).reshape(height, width, 3))
    expected = own(photo, do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
    found = squeezing_processor(EmocapGridConfig(**fields))(photo, return_tensors="pt")["pixel_values"]
    if expected.shape != found.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
        raise ValueError(
            f"The {type(own).__name__} of '{name}' does more to photos than to resize, crop, rescale and normalise "
            "them, which an extractor of its features would have to do as well."
        )
    return fields


def squeezing_processor(config: EmocapGridConfig) -> ViTImageProcessor:
    height, width = config.image_size
    return ViTImageProcessor(
        size={"height": height, "width": width},
        resample=config.resample,
        rescale_factor=config.rescale_factor,
        image_mean=config.image_mean,
        image_std=config.image_std,
        do_convert_rgb=True,
    )
