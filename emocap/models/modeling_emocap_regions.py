"""The region extractor of torchvision's parts: its own Faster R-CNNs, and a small one for the built-in corpus."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.models import WeightsEnum
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, nms
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_utils import load_state_dict

from .configuration_emocap_regions import ARCHITECTURES, EmocapRegionConfig
from .photo_emocap import EmocapImageProcessor
from .region_output_emocap import RegionExtractor, RegionOutput, as_output, pad_rows

__all__ = ["EmocapRegionExtractor"]

CLASS_LOGITS = "roi_heads.box_predictor.cls_score.weight"
"""The tensor that every torchvision checkpoint with a box head has: `(classes + 1, feature_dim)`."""

OTHER_HEADS = ("roi_heads.mask_", "roi_heads.keypoint_")
"""What Mask R-CNN and Keypoint R-CNN add to the same detector."""

EPS_OF_PUBLISHED = {"fasterrcnn_resnet50_fpn_coco-258fb6c6.pth": 0.0}
"""torchvision runs this checkpoint with another epsilon than the rest; nothing in the file says so."""

WHOLE_PHOTO_SCORE = 2.0
"""Above every probability: the whole photo comes first in the NMS."""


class EmocapRegionExtractor(RegionExtractor):
    """Faster R-CNN whose box head's hidden layer gives the region features.

    Region 0 is always the whole photo, so that every photo has one. The others are the boxes of each proposal's best
    class, best first, thinned by one class-agnostic NMS as in bottom-up attention (Anderson et al. 2018); no score is
    too low. A photo has `config.num_regions` of them where the detector finds so many, fewer where it does not:
    `num_regions` of the output tells, and zeros follow.

    Runs in the weights' own dtype or in that of `torch.autocast`; boxes, RoIAlign and scores stay in float32.
    """

    config: EmocapRegionConfig
    config_class = EmocapRegionConfig
    base_model_prefix = "detector"
    main_input_name = "pixel_values"
    _keep_in_fp32_modules_strict = ["box_predictor"]

    def __init__(self, config: EmocapRegionConfig):
        super().__init__(config)
        self.detector = build_small(config) if config.architecture == "small" else build_torchvision(config)
        anchors = self.detector.rpn.anchor_generator
        self.detector.rpn.anchor_generator = RebuiltAnchorGenerator(anchors.sizes, anchors.aspect_ratios)
        self.detector.rpn.head.register_forward_hook(in_float32)
        self.detector.roi_heads.box_predictor.float()  # whatever dtype the rest is built in
        self.post_init()

    @classmethod
    def from_torchvision(
        cls, architecture: str, weights: str | os.PathLike | None = None, **fields
    ) -> "EmocapRegionExtractor":
        """An extractor, in evaluation mode, with the weights of a torchvision detector.

        Args:
            architecture: torchvision's name of the network, such as `fasterrcnn_resnet50_fpn_v2`.
            weights: a state dict in a .safetensors, .pth or .pt file, which Mask R-CNN and Keypoint R-CNN of the same
                backbone may have written; "DEFAULT" downloads torchvision's own; None leaves the weights random.
            fields: of [`EmocapRegionConfig`]. Without `id2label`, 90 classes get COCO's names.

        Raises:
            ValueError: an unknown architecture, or weights of another network.
            OSError: torchvision's own weights cannot be downloaded.
        """
        known = [name for name in ARCHITECTURES if name != "small"]
        if architecture not in known:
            raise ValueError(f"'{architecture}' is no known torchvision detector; expected one of {', '.join(known)}.")
        published = torchvision.models.get_model_weights(architecture).DEFAULT
        names = published.meta["categories"][1:]  # the first is the background
        if weights is None:
            state_dict = None
        else:
            state_dict = download(published) if weights == "DEFAULT" else read_state_dict(weights)
        if state_dict is not None and len(state_dict[CLASS_LOGITS]) != len(names) + 1:
            names = [f"LABEL_{index}" for index in range(len(state_dict[CLASS_LOGITS]) - 1)]
        file_name = Path(published.url).name
        if file_name in EPS_OF_PUBLISHED and weights is not None and Path(weights).name in ("DEFAULT", file_name):
            fields = {"backbone_norm_eps": EPS_OF_PUBLISHED[file_name], **fields}
        fields = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}, **fields}
        model = cls(EmocapRegionConfig(architecture=architecture, **fields))
        if state_dict is not None:
            fill(model.detector, state_dict, f"'{weights}' is no checkpoint of {architecture}")
        return model.eval()

    def look(self, processor: BaseImageProcessor, photos: list[Image.Image]) -> RegionOutput:
        return self([photo.to(self.device) for photo in processor(photos)["pixel_values"]])

    def image_processor(self) -> EmocapImageProcessor:
        """What makes this extractor's inputs of photos; saved with it."""
        return EmocapImageProcessor(size=self.config.image_size if self.config.architecture == "small" else None)

    def get_input_embeddings(self) -> nn.Module:
        """What reads the pixels: the first convolution."""
        return self.detector.backbone.get_submodule(self.first_convolution())

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.detector.backbone.set_submodule(self.first_convolution(), value)

    def first_convolution(self) -> str:
        """Its name within the backbone."""
        small = self.config.architecture == "small"
        return "0.0" if small else "body.conv1" if hasattr(self.detector.backbone.body, "conv1") else "body.0.0"

    @torch.no_grad()
    def forward(
        self,
        pixel_values: Sequence[torch.Tensor] | torch.Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RegionOutput | tuple[torch.Tensor, ...]:
        """Regions of photos. Those that are padded to one shape anyway run as one batch, so that none depends on the
        others.

        Args:
            pixel_values: one photo an entry, uint8 0..255 or float 0..1, `(3, height, width)`, RGB, on the model's
                device.
            output_hidden_states: return the maps that the regions are cut from, see [`RegionOutput`].
            return_dict: as everywhere in transformers.
        """
        images = [self.resize(photo) for photo in pixel_values]
        divisor = self.detector.transform.size_divisible
        shapes = [tuple(-(-side // divisor) for side in image.shape[1:]) for image in images]
        photos: list[tuple[torch.Tensor, ...]] = [()] * len(images)
        hidden_states: list[tuple[torch.Tensor, ...]] = [()] * len(images)
        for shape in dict.fromkeys(shapes):
            rows = [row for row, own in enumerate(shapes) if own == shape]
            found, maps = self.find_regions([images[row] for row in rows])
            for index, row in enumerate(rows):
                photos[row], hidden_states[row] = found[index], tuple(level[index] for level in maps)
        return as_output(self.config, photos, hidden_states, output_hidden_states, return_dict)

    def resize(self, photo: torch.Tensor) -> torch.Tensor:
        """Normalised float32 `(3, new height, new width)`, torchvision's rule; no side vanishes."""
        transform = self.detector.transform
        height, width = photo.shape[1:]
        scale = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
        size = max(1, int(height * scale)), max(1, int(width * scale))
        pixels = transform.normalize(photo.float() / (1 if photo.is_floating_point() else 255))
        return F.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0]

    def find_regions(self, images: list[torch.Tensor]) -> tuple[list[tuple[torch.Tensor, ...]], list[torch.Tensor]]:
        """The fields of [`RegionOutput`] of each photo, and the maps of all, float32.

        Args:
            images: float32 `(3, height, width)` of [`resize`], of one shape when padded.
        """
        rpn, heads, device = self.detector.rpn, self.detector.roi_heads, images[0].device.type
        sizes = [tuple(image.shape[1:]) for image in images]
        padded = self.detector.transform.batch_images(images, self.detector.transform.size_divisible)
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else next(self.parameters()).dtype
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            maps = self.detector.backbone(padded.contiguous(memory_format=torch.channels_last))
            maps = {name: level.float() for name, level in (maps if isinstance(maps, dict) else {"0": maps}).items()}
            proposals, _ = rpn(ImageList(padded, sizes), maps)
            whole = [padded.new_tensor([[0, 0, width, height]]) for height, width in sizes]
            proposals = [torch.cat(boxes) for boxes in zip(whole, proposals, strict=True)]
            # RoIAlign would guess the maps' scales from the first photo that it ever sees, and keep them.
            heads.box_roi_pool.scales = heads.box_roi_pool.map_levels = None
            features = heads.box_head(heads.box_roi_pool(maps, proposals, [tuple(padded.shape[2:])]))
        with torch.autocast(device, enabled=False):
            logits, deltas = heads.box_predictor(features.to(heads.box_predictor.cls_score.weight.dtype))
        scores, class_ids = logits.float().softmax(-1)[:, 1:].max(-1)
        own_deltas = deltas.float().unflatten(1, (-1, 4))[
            torch.arange(len(deltas), device=deltas.device), class_ids + 1
        ]
        boxes = heads.box_coder.decode_single(own_deltas, torch.cat(proposals))
        counts = list(map(len, proposals))
        parts = zip(*(values.split(counts) for values in (features.float(), boxes, scores, class_ids)), strict=True)
        return [self.pick(size, *part) for part, size in zip(parts, sizes, strict=True)], list(maps.values())

    def pick(
        self,
        size: tuple[int, int],
        features: torch.Tensor,
        boxes: torch.Tensor,
        scores: torch.Tensor,
        class_ids: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """The regions of one photo among its candidates, the first of which is the whole photo."""
        limit = self.config.num_regions
        boxes = (boxes / boxes.new_tensor(size).flip(0).repeat(2)).clamp(0, 1)
        boxes[0] = boxes.new_tensor([0, 0, 1, 1])
        ranks = scores.clone()
        ranks[0] = WHOLE_PHOTO_SCORE
        filled = (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero()[:, 0]
        kept = filled[nms(boxes[filled], ranks[filled], self.config.box_nms_threshold)[:limit]]
        features, boxes, scores, class_ids = (
            pad_rows(values[kept], limit) for values in (features, boxes, scores, class_ids)
        )
        class_ids[len(kept) :] = -1
        return features, boxes, torch.tensor(len(kept), device=boxes.device), scores, class_ids


def build_small(config: EmocapRegionConfig) -> FasterRCNN:
    """Faster R-CNN over one map of a few strided convolutions."""
    channels = [3, *config.backbone_channels]
    backbone = nn.Sequential(*map(backbone_stage, channels[:-1], channels[1:]))
    backbone.out_channels = channels[-1]
    assert config.num_candidates is not None and config.num_proposals is not None  # the configuration fills them in
    return FasterRCNN(
        backbone,
        min_size=config.image_size,
        max_size=config.image_size,
        rpn_anchor_generator=AnchorGenerator((tuple(config.anchor_sizes),), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_test=config.num_candidates,
        rpn_post_nms_top_n_test=config.num_proposals,
        rpn_pre_nms_top_n_train=2 * config.num_candidates,
        rpn_post_nms_top_n_train=2 * config.num_proposals,
        rpn_score_thresh=config.rpn_score_threshold,
        box_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(["0"], config.pool_size, sampling_ratio=2),
        box_head=TwoMLPHead(channels[-1] * config.pool_size**2, config.feature_dim),
        box_predictor=FastRCNNPredictor(config.feature_dim, len(config.id2label) + 1),
    )


def build_torchvision(config: EmocapRegionConfig) -> FasterRCNN:
    """torchvision's network of that name, without weights."""
    detector = torchvision.models.get_model(
        config.architecture,
        weights=None,
        weights_backbone=None,
        num_classes=len(config.id2label) + 1,
        min_size=config.shortest_edge,
        max_size=config.longest_edge,
        rpn_pre_nms_top_n_test=config.num_candidates,
        rpn_post_nms_top_n_test=config.num_proposals,
        rpn_score_thresh=config.rpn_score_threshold,
    )
    for module in detector.backbone.body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = config.backbone_norm_eps
    return detector


def download(published: WeightsEnum) -> Mapping[str, torch.Tensor]:
    """torchvision's own tensors, from its cache after the first time."""
    try:
        return published.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # the latter where the checksum is wrong
        raise OSError(
            f"torchvision's weights cannot be had from {published.url} ({error}). Make an extractor of the file with "
            "EmocapRegionExtractor.from_torchvision(..., weights=FILE).save_pretrained(...)."
        ) from error


def read_state_dict(path: str | os.PathLike) -> Mapping[str, torch.Tensor]:
    """Tensors of a .safetensors, .pth or .pt file; a training run's checkpoint keeps them under "model".

    Raises:
        ValueError: no such file, or not the tensors of a detector with a box head.
    """
    path = Path(path)
    if not path.is_file() or path.suffix not in (".safetensors", ".pth", ".pt"):
        raise ValueError(f"weights is '{path}'; expected an existing .safetensors, .pth or .pt file, or 'DEFAULT'.")
    content = load_state_dict(path, weights_only=True)
    content = content.get("model", content) if isinstance(content, Mapping) else {}
    if CLASS_LOGITS not in content:
        raise ValueError(
            f"'{path}' has no '{CLASS_LOGITS}'; expected the state dict of a torchvision detector with a box head: "
            "Faster, Mask or Keypoint R-CNN."
        )
    return content


def fill(detector: FasterRCNN, state_dict: Mapping[str, torch.Tensor], complaint: str) -> None:
    """Loads a checkpoint of torchvision's, old names included; frozen batch norms come without a counter."""
    state_dict = {name: value for name, value in state_dict.items() if not name.startswith(OTHER_HEADS)}
    try:
        missing, unexpected = detector.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:  # tensors of other shapes
        raise ValueError(f"{complaint}: {error}") from error
    wrong = [name for name in missing if not name.endswith(".num_batches_tracked")] + unexpected
    if wrong:
        raise ValueError(f"{complaint}: {len(wrong)} tensors are missing or too many, such as {', '.join(wrong[:4])}.")


def in_float32(head: nn.Module, inputs: tuple, output: tuple) -> tuple[list[torch.Tensor], ...]:
    """Objectness and deltas of every map in float32: boxes are not to be computed in fewer bits."""
    return tuple([level.float() for level in levels] for levels in output)


class RebuiltAnchorGenerator(AnchorGenerator):
    """Anchors that are no buffers: `from_pretrained` builds them on the meta device, so they are made at first use."""

    cell_anchors: list[torch.Tensor]

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        if any(anchors.is_meta for anchors in self.cell_anchors):
            self.cell_anchors = [
                self.generate_anchors(sizes, ratios)
                for sizes, ratios in zip(self.sizes, self.aspect_ratios, strict=True)
            ]
        super().set_cell_anchors(dtype, device)


def backbone_stage(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution of stride 2, then one of stride 1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
