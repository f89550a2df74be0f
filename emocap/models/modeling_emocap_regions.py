"""The small region extractor: torchvision's Faster R-CNN over a few convolutions, for the built-in corpus."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign, batched_nms
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_emocap_regions import EmocapRegionConfig
from .image_processing_emocap_regions import EmocapRegionImageProcessor

__all__ = ["EmocapRegionExtractor", "RegionOutput"]


@dataclass
class RegionOutput(ModelOutput):
    """Regions of a batch of photos, best first, zeros after the last.

    Args:
        region_features: float `(batch, num_regions, feature_dim)`.
        region_boxes: float `(batch, num_regions, 4)`, x1 y1 x2 y2 relative to the photo's width and height.
        num_regions: int64 `(batch,)`, regions that were found.
        scores: float `(batch, num_regions)`, probability of the best class.
        class_ids: int64 `(batch, num_regions)`, the best class, -1 after the last region.
        attribute_ids: int64 `(batch, num_regions)`, the best attribute, -1 after the last region; None where the
            detector knows none.
        attribute_scores: float `(batch, num_regions)`, its probability.
    """

    region_features: torch.FloatTensor | None = None
    region_boxes: torch.FloatTensor | None = None
    num_regions: torch.LongTensor | None = None
    scores: torch.FloatTensor | None = None
    class_ids: torch.LongTensor | None = None
    attribute_ids: torch.LongTensor | None = None
    attribute_scores: torch.FloatTensor | None = None


class EmocapRegionExtractor(PreTrainedModel):
    """Faster R-CNN whose box head's hidden layer gives the region features. The whole photo is always region 0."""

    config: EmocapRegionConfig
    config_class = EmocapRegionConfig
    base_model_prefix = "detector"
    main_input_name = "pixel_values"

    def __init__(self, config: EmocapRegionConfig):
        super().__init__(config)
        channels = [3, *config.backbone_channels]
        backbone = nn.Sequential(*map(backbone_stage, channels[:-1], channels[1:]))
        backbone.out_channels = channels[-1]
        self.detector = FasterRCNN(
            backbone,
            min_size=config.image_size,
            max_size=config.image_size,
            rpn_anchor_generator=RebuiltAnchorGenerator((tuple(config.anchor_sizes),), ((0.5, 1.0, 2.0),)),
            rpn_pre_nms_top_n_test=4 * config.num_proposals,
            rpn_post_nms_top_n_test=config.num_proposals,
            rpn_pre_nms_top_n_train=8 * config.num_proposals,
            rpn_post_nms_top_n_train=2 * config.num_proposals,
            box_batch_size_per_image=64,
            box_roi_pool=MultiScaleRoIAlign(["0"], config.pool_size, sampling_ratio=2),
            box_head=TwoMLPHead(channels[-1] * config.pool_size**2, config.feature_dim),
            box_predictor=FastRCNNPredictor(config.feature_dim, len(config.id2label) + 1),
        )
        self.post_init()

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> RegionOutput:
        """Regions of photos of one shape.

        Args:
            pixel_values: uint8 `(batch, 3, image_size, image_size)`.
        """
        images, _ = self.detector.transform(list(pixel_values.to(self.dtype) / 255))
        features = self.detector.backbone(images.tensors)
        proposals, _ = self.detector.rpn(images, {"0": features})
        whole = features.new_tensor([[0, 0, pixel_values.shape[3], pixel_values.shape[2]]])
        proposals = [torch.cat((whole, boxes)) for boxes in proposals]
        heads = self.detector.roi_heads
        hidden = heads.box_head(heads.box_roi_pool({"0": features}, proposals, images.image_sizes))
        logits, deltas = heads.box_predictor(hidden)
        scores, classes = logits.softmax(-1)[:, 1:].max(-1)
        boxes = heads.box_coder.decode(deltas, proposals)[torch.arange(len(classes)), classes + 1]
        counts = torch.tensor([len(part) for part in proposals], device=boxes.device)
        starts = counts.cumsum(0) - counts
        boxes[starts] = whole
        size = torch.tensor(pixel_values.shape[:1:-1], device=boxes.device).repeat(2)
        boxes = (boxes / size).clamp(0, 1)
        image_ids = torch.arange(len(counts), device=boxes.device).repeat_interleave(counts)
        order = scores.clone()
        order[starts] = 2.0  # the whole photo comes first
        kept = batched_nms(boxes, order, image_ids, self.config.box_nms_threshold)
        kept = kept[image_ids[kept].argsort(stable=True)]  # by photo, best first within each
        return self._pad(hidden[kept], boxes[kept], scores[kept], classes[kept], image_ids[kept], len(counts))

    def _pad(self, features, boxes, scores, classes, image_ids, batch: int) -> RegionOutput:
        """The first `num_regions` kept regions of each photo, laid out with zeros after the last."""
        limit = self.config.num_regions
        counts = image_ids.bincount(minlength=batch)
        rank = torch.arange(len(image_ids), device=image_ids.device) - (counts.cumsum(0) - counts)[image_ids]
        first = rank < limit
        where = (image_ids[first], rank[first])

        def lay_out(values: torch.Tensor, empty: float = 0) -> torch.Tensor:
            laid = values.new_full((batch, limit, *values.shape[1:]), empty)
            laid[where] = values[first]
            return laid

        return RegionOutput(
            lay_out(features), lay_out(boxes), counts.clamp_max(limit), lay_out(scores), lay_out(classes, -1)
        )

    def extract(self, photos: Sequence[Image.Image]) -> RegionOutput:
        """Regions of PIL photos of any size and mode."""
        return self(self.image_processor()(photos)["pixel_values"].to(self.device))

    def image_processor(self) -> EmocapRegionImageProcessor:
        """What makes this extractor's inputs of photos; saved with it."""
        return EmocapRegionImageProcessor(size=self.config.image_size)

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """As everywhere in transformers, and the image processor beside it."""
        super().save_pretrained(save_directory, **kwargs)
        self.image_processor().save_pretrained(save_directory)


class RebuiltAnchorGenerator(AnchorGenerator):
    """Anchors that are no buffers: `from_pretrained` builds them on the meta device, so they are made at first use."""

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
