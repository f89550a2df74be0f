"""The bottom-up detector of the published VisualBERT and LXMERT features (Anderson et al. 2018).

Faster R-CNN over the fourth stage of a Caffe-style ResNet, trained on Visual Genome's 1,600 objects and 400
attributes. Parameter names are those of `unc-nlp/frcnn-vg-finetuned`, which `from_pretrained` reads as published.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_weights
from torchvision.ops import clip_boxes_to_image, nms, roi_pool
from transformers import initialization as init
from transformers.image_processing_utils import BaseImageProcessor

from .configuration_bottom_up import BottomUpConfig
from .image_processing_bottom_up import BottomUpImageProcessor
from .region_output_emocap import RegionExtractor, RegionOutput, as_output, pad_rows

__all__ = ["BottomUpDetector"]

STRIDE = 16
"""Pixels of the resized photo a cell of res4."""

CPU_CHUNK_SIZE = 16
"""Proposals through res5 together on a CPU: few enough for its caches. With fewer than 16, torch's 1x1 convolutions
take a path that is half as fast on one thread."""

MAX_LOG_SCALE = math.log(1000 / 16)


class BottomUpDetector(RegionExtractor):
    """Finds a photo's most salient objects: boxes, classes, attributes and the features that VisualBERT reads.

    Only for inference: batch norms always use their running statistics, and no gradients are kept. Of the network only
    res5, where the time goes, runs in the model's `dtype` or in that of `torch.autocast`. Backbone, proposals and
    heads, and all batch norms, are float32 whatever dtype the model is loaded in or cast to: rounded, they find other
    boxes.
    """

    config: BottomUpConfig
    config_class = BottomUpConfig
    base_model_prefix = "detector"
    main_input_name = "pixel_values"
    _keep_in_fp32_modules_strict = [  # transformers would cast the norms' integer counters too, were they to match
        "backbone.*weight", "proposal_generator", "box_predictor",
        "norm.weight", "norm.bias", "running_mean", "running_var",
    ]  # fmt: skip

    def __init__(self, config: BottomUpConfig):
        super().__init__(config)
        self.backbone = Backbone(config)
        self.proposal_generator = ProposalGenerator(config)
        self.roi_heads = RoIHeads(config)
        for module in self.modules():
            if isinstance(module, Float32Module):
                module.float()  # whatever dtype the rest is built in
        self.post_init()

    @property
    def dtype(self) -> torch.dtype:
        """That of res5; the parts before and after it are float32."""
        return self.roi_heads.res5[0].conv1.weight.dtype

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, CellAnchors):
            init.copy_(module.get_buffer("0"), make_cell_anchors(self.config))
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        else:
            super()._init_weights(module)

    def look(self, processor: BaseImageProcessor, photos: list[Image.Image]) -> RegionOutput:
        return self(**processor(photos, device=self.device))

    def image_processor(self) -> BottomUpImageProcessor:
        """What makes this detector's inputs of photos; saved with it."""
        return BottomUpImageProcessor(
            size={"shortest_edge": self.config.shortest_edge, "longest_edge": self.config.longest_edge},
            image_mean=self.config.image_mean,
            image_std=self.config.image_std,
        )

    def get_input_embeddings(self) -> nn.Module:
        """What reads the pixels: the first convolution."""
        return self.backbone.stem.conv1

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.stem.conv1 = value

    @torch.no_grad()
    def forward(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.LongTensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RegionOutput | tuple[torch.Tensor, ...]:
        """Regions of normalised photos. Photos of one size run as one batch and padding is cut off.

        Args:
            pixel_values: float32 `(batch, 3, height, width)` of [`BottomUpImageProcessor`].
            image_sizes: int64 `(batch, 2)`, height and width before padding; without it nothing is padding.
            output_hidden_states: return the map that the regions are cut from, see [`RegionOutput`].
            return_dict: as everywhere in transformers.
        """
        device, batch = pixel_values.device.type, len(pixel_values)
        sizes = (
            [tuple(pixel_values.shape[2:])] * batch if image_sizes is None else list(map(tuple, image_sizes.tolist()))
        )
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dtype
        picking_dtype = getattr(torch, self.config.selection_dtype) if self.config.selection_dtype else dtype
        photos: list[tuple[torch.Tensor, ...]] = [()] * batch
        hidden_states: list[tuple[torch.Tensor, ...]] = [()] * batch
        with torch.autocast(device, enabled=False):
            backbone = folded(self.backbone, torch.float32)
            rpn_head = folded(self.proposal_generator.rpn_head, torch.float32)
            res5 = folded(self.roi_heads.res5, dtype)
            picking_res5 = res5 if picking_dtype == dtype else folded(self.roi_heads.res5, picking_dtype)
            for size in dict.fromkeys(sizes):
                rows = [row for row in range(batch) if sizes[row] == size]
                pixels = pixel_values[rows, :, : size[0], : size[1]]
                maps = backbone(pixels.to(torch.float32, memory_format=torch.channels_last))
                proposals = self.proposal_generator(maps, rpn_head, size)
                maps = maps.contiguous()
                for index, row in enumerate(rows):
                    photos[row] = self.roi_heads(maps[index : index + 1], proposals[index], size, picking_res5, res5)
                    hidden_states[row] = (maps[index],)
        return as_output(self.config, photos, hidden_states, output_hidden_states, return_dict)


class Float32Module(nn.Module):
    """Base of modules that stay float32 in a model that is built in or cast to another dtype."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Float32Module":
        def move(values: torch.Tensor) -> torch.Tensor:
            moved = fn(values)
            narrowed = moved.is_floating_point() and moved.dtype != torch.float32
            return values.to(moved.device, torch.float32) if narrowed else moved

        return super()._apply(move, recurse)


class Backbone(Float32Module):
    """ResNet up to res4: `(batch, 3, height, width)` to `(batch, 4 * res2_channels, height / 16, width / 16)`."""

    def __init__(self, config: BottomUpConfig):
        super().__init__()
        self.stem = Stem(config.stem_channels)
        in_channels = config.stem_channels
        for stage, stride in enumerate((1, 2, 2)):
            setattr(self, f"res{stage + 2}", make_stage(config, stage, in_channels, stride))
            in_channels = config.res2_channels * 2**stage

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.res4(self.res3(self.res2(self.stem(pixels))))


class Stem(nn.Module):
    """7x7 convolution and max-pooling, each of stride 2; the pooling has Caffe's border."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 7, stride=2, padding=3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.relu_(self.conv1(pixels)), 3, stride=2, padding=0, ceil_mode=True)


def make_stage(config: BottomUpConfig, stage: int, in_channels: int, stride: int = 1, dilation: int = 1):
    """The blocks of stage `res{stage + 2}`."""
    width, channels = config.bottleneck_channels * 2**stage, config.res2_channels * 2**stage
    first = Bottleneck(in_channels, width, channels, stride, dilation)
    others = (Bottleneck(channels, width, channels, 1, dilation) for _ in range(config.depths[stage] - 1))
    return nn.Sequential(first, *others)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution beside a shortcut; the first 1x1 has the stride."""

    def __init__(self, in_channels: int, width: int, channels: int, stride: int, dilation: int):
        super().__init__()
        changed = in_channels != channels or stride != 1
        self.shortcut = ConvNorm(in_channels, channels, 1, stride=stride) if changed else nn.Identity()
        self.conv1 = ConvNorm(in_channels, width, 1, stride=stride)
        self.conv2 = ConvNorm(width, width, 3, padding=dilation, dilation=dilation)
        self.conv3 = ConvNorm(width, channels, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        inner = F.relu_(self.conv2(F.relu_(self.conv1(maps))))
        return F.relu_(self.conv3(inner).add_(self.shortcut(maps)))


class ConvNorm(nn.Conv2d):
    """Convolution without bias, then batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **kwargs):
        super().__init__(in_channels, out_channels, kernel_size, bias=False, **kwargs)
        self.norm = Float32BatchNorm2d(out_channels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(maps))


class Float32BatchNorm2d(Float32Module, nn.BatchNorm2d):
    """Batch norm whose statistics do not round: they scale every cell alike, so that no mean would even it out."""


class ProposalGenerator(Float32Module):
    """The region proposal network over res4."""

    def __init__(self, config: BottomUpConfig):
        super().__init__()
        self.config = config
        self.anchor_generator = AnchorGenerator(config)
        self.rpn_head = RPNHead(config)

    def forward(self, maps: torch.Tensor, rpn_head: "RPNHead", size: tuple[int, int]) -> list[torch.Tensor]:
        """Proposals of each photo, best first, float32 `(proposals, 4)` in pixels of the resized photo.

        Args:
            maps: float32 `(batch, channels, height, width)` of photos of one size.
            rpn_head: the head with its weights laid out for speed.
            size: height and width of the photos in pixels.
        """
        config = self.config
        logits, deltas = rpn_head(maps)
        logits, best = logits.topk(min(logits.shape[1], config.rpn_num_candidates), dim=1)
        deltas = deltas.gather(1, best[..., None].expand(-1, -1, 4))
        boxes = decode_boxes(deltas, self.anchor_generator(*maps.shape[2:])[best], config.rpn_box_weights)
        boxes = clip_boxes_to_image(boxes, size)
        filled = (boxes[..., 2:] - boxes[..., :2] > config.rpn_min_size).all(-1)
        proposals = []
        for own_boxes, own_logits, own_filled in zip(boxes, logits, filled, strict=True):
            own_boxes, own_logits = own_boxes[own_filled], own_logits[own_filled]
            proposals.append(own_boxes[nms(own_boxes, own_logits, config.rpn_nms_threshold)[: config.num_proposals]])
        return proposals


class RPNHead(nn.Module):
    """Objectness logits float32 `(batch, anchors)` and deltas `(batch, anchors, 4)`, in the anchors' order."""

    def __init__(self, config: BottomUpConfig):
        super().__init__()
        num_anchors, in_channels = len(config.anchor_sizes) * len(config.anchor_ratios), 4 * config.res2_channels
        self.conv = nn.Conv2d(in_channels, config.rpn_channels, 3, padding=1)
        self.objectness_logits = nn.Conv2d(config.rpn_channels, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(config.rpn_channels, num_anchors * 4, 1)

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = F.relu_(self.conv(maps))
        logits, deltas = (head(hidden).permute(0, 2, 3, 1) for head in (self.objectness_logits, self.anchor_deltas))
        return logits.flatten(1), deltas.reshape(len(maps), -1, 4)


class AnchorGenerator(nn.Module):
    """Anchors of every cell, centred on its top-left corner; those of one cell are part of the checkpoint."""

    def __init__(self, config: BottomUpConfig):
        super().__init__()
        self.cell_anchors = CellAnchors(config)

    def forward(self, height: int, width: int) -> torch.Tensor:
        """Float32 `(height * width * anchors of a cell, 4)`: row by row, cell by cell, anchor by anchor."""
        cell_anchors = self.cell_anchors.get_buffer("0")
        y, x = (torch.arange(0, side * STRIDE, STRIDE, device=cell_anchors.device) for side in (height, width))
        y, x = torch.meshgrid(y, x, indexing="ij")
        corners = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
        return (corners + cell_anchors).reshape(-1, 4)


class CellAnchors(nn.Module):
    """Holds the anchors of one cell under their published name."""

    def __init__(self, config: BottomUpConfig):
        super().__init__()
        self.register_buffer("0", make_cell_anchors(config))


def make_cell_anchors(config: BottomUpConfig) -> torch.Tensor:
    """Anchors around the origin, float32 `(sizes * ratios, 4)`; every ratio of the first size comes first."""
    corners = []
    for size in config.anchor_sizes:
        for ratio in config.anchor_ratios:
            width = math.sqrt(size**2 / ratio)
            height = ratio * width
            corners.append((-width / 2, -height / 2, width / 2, height / 2))
    return torch.tensor(corners, dtype=torch.float32)


class RoIHeads(nn.Module):
    """res5 over every proposal, its classes, boxes and attributes, and the choice of the regions."""

    def __init__(self, config: BottomUpConfig):
        super().__init__()
        self.config = config
        self.res5 = make_stage(config, 3, 4 * config.res2_channels, dilation=2)  # stride 1: the grid keeps its size
        self.box_predictor = BoxPredictor(config)

    def forward(
        self,
        maps: torch.Tensor,
        proposals: torch.Tensor,
        size: tuple[int, int],
        picking_res5: nn.Module,
        res5: nn.Module,
    ) -> tuple[torch.Tensor, ...]:
        """The fields of [`RegionOutput`] of one photo.

        Args:
            maps: float32 `(1, channels, height, width)`, res4.
            proposals: float32 `(proposals, 4)` in pixels.
            size: height and width of the photo in pixels.
            picking_res5: res5 as it picks the regions.
            res5: res5 as it computes what is returned; the same module where both are to be one pass.
        """
        features = self.pool_features(maps, proposals, picking_res5)
        boxes, *rest = self.read_features(features, proposals, size)
        kept = self.pick(boxes, rest[0])
        if picking_res5 is not res5:
            proposals = proposals[kept]
            features = self.pool_features(maps, proposals, res5)
            boxes, *rest = self.read_features(features, proposals, size)
            kept = rest[0].argsort(descending=True, stable=True)
        boxes = boxes / boxes.new_tensor(size).flip(0).repeat(2)
        features, boxes, scores, class_ids, attribute_ids, attribute_scores = (
            pad_rows(values[kept], self.config.num_regions) for values in (features, boxes, *rest)
        )
        num_regions = torch.tensor(len(kept), device=boxes.device)
        class_ids[len(kept) :] = attribute_ids[len(kept) :] = -1
        return features, boxes, num_regions, scores, class_ids, attribute_ids, attribute_scores

    def pool_features(self, maps: torch.Tensor, proposals: torch.Tensor, res5: nn.Module) -> torch.Tensor:
        """Features of the proposals, float32 `(proposals, feature_dim)`: res5 over RoIPool, averaged over the grid."""
        default = CPU_CHUNK_SIZE if maps.device.type == "cpu" else max(1, len(proposals))
        num_chunks = max(1, len(proposals) // (self.config.roi_chunk_size or default))
        dtype = next(res5.parameters()).dtype
        rois = F.pad(proposals, (1, 0))  # the photo's index, always 0
        parts = []
        for chunk in rois.tensor_split(num_chunks):
            grid = roi_pool(maps, chunk, self.config.pool_size, 1 / STRIDE)
            grid = res5(grid.to(dtype, memory_format=torch.channels_last))
            parts.append(grid.mean((2, 3), dtype=torch.float32))
        return torch.cat(parts)

    def read_features(
        self, features: torch.Tensor, proposals: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, ...]:
        """Box (pixels), probability and id of each proposal's best class, id and probability of its best attribute."""
        logits, deltas, attribute_logits = self.box_predictor(features)
        scores, class_ids = logits.softmax(-1)[:, :-1].max(-1)
        own_deltas = deltas[torch.arange(len(deltas), device=deltas.device), class_ids]
        boxes = clip_boxes_to_image(decode_boxes(own_deltas, proposals, self.config.box_weights), size)
        attribute_scores, attribute_ids = attribute_logits[:, :-1].softmax(-1).max(-1)
        return boxes, scores, class_ids, attribute_ids, attribute_scores

    def pick(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Indices of the regions, best first: the first NMS threshold that leaves `min_regions`, else the last."""
        for threshold in self.config.nms_thresholds:
            kept = nms(boxes, scores, threshold)[: self.config.num_regions]
            if len(kept) >= self.config.min_regions:
                break
        return kept


class BoxPredictor(Float32Module):
    """Logits of classes (background last) and of attributes ("none" last), and the deltas of every class's box."""

    def __init__(self, config: BottomUpConfig):
        super().__init__()
        dim, embedding_dim = config.feature_dim, config.feature_dim // 8
        self.cls_score = nn.Linear(dim, config.num_classes + 1)
        self.bbox_pred = nn.Linear(dim, config.num_classes * 4)
        self.cls_embedding = nn.Embedding(config.num_classes + 1, embedding_dim)
        self.fc_attr = nn.Linear(dim + embedding_dim, dim // 4)
        self.attr_score = nn.Linear(dim // 4, config.num_attributes + 1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Float32 `(regions, classes + 1)`, `(regions, classes, 4)` and `(regions, attributes + 1)`."""
        logits = self.cls_score(features)
        deltas = self.bbox_pred(features).unflatten(1, (-1, 4))
        embedded = self.cls_embedding(logits.argmax(-1))  # background included
        hidden = F.relu(self.fc_attr(torch.cat((features, embedded), dim=1)))
        return logits, deltas, self.attr_score(hidden)


def decode_boxes(deltas: torch.Tensor, boxes: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Boxes `(..., 4)` moved and scaled by their deltas `(..., 4)` (Girshick et al. 2014)."""
    deltas = deltas / deltas.new_tensor(weights)
    sides = boxes[..., 2:] - boxes[..., :2]
    centres = boxes[..., :2] + 0.5 * sides
    centres = deltas[..., :2] * sides + centres
    sides = deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * sides
    return torch.cat((centres - 0.5 * sides, centres + 0.5 * sides), dim=-1)


def folded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy of a module tree for inference in `dtype` whose convolutions have taken up their batch norms.

    Made anew in every forward pass: it costs about a hundredth of one, and always has the weights of the moment.
    """
    module = copy.copy(module)
    if not isinstance(module, nn.Conv2d):
        module._modules = {name: folded(child, dtype) for name, child in module._modules.items()}
        return module
    weight, bias = module.weight, module.bias
    if isinstance(module, ConvNorm):
        norm = module.norm
        statistics = (norm.running_mean, norm.running_var)
        weight, bias = fuse_conv_bn_weights(weight, None, *statistics, norm.eps, norm.weight, norm.bias)
        module._modules = {"norm": nn.Identity()}
    module._parameters = {
        "weight": nn.Parameter(weight.to(dtype, memory_format=torch.channels_last), requires_grad=False),
        "bias": nn.Parameter(bias.to(dtype), requires_grad=False),
    }
    return module
