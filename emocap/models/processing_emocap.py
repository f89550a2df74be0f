"""From photos and captions to what teacher and student read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from .configuration_bottom_up import BottomUpConfig
from .modeling_bottom_up import BottomUpDetector
from .modeling_emocap_regions import EmocapRegionExtractor
from .photo_emocap import resize_to_array, to_rgb

__all__ = ["EmocapProcessor", "load_region_extractor", "pad_tokens"]


class EmocapProcessor(ProcessorMixin):
    """Turns captions into WordPiece tokens and photos into pixels (student) or region features (teacher).

    Args:
        tokenizer: a fast BERT tokenizer.
        max_length: tokens kept of a caption, `[CLS]` and `[SEP]` included; the study's 32.
        image_size: side in pixels of the student's photos, or None.
        region_extractor: the teacher's region extractor as `load_region_extractor` takes it, loaded when the first
            photo comes, or None.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self, tokenizer, max_length: int = 32, image_size: int | None = None, region_extractor: str | None = None
    ):
        self.max_length = max_length
        self.image_size = image_size
        self.region_extractor = region_extractor
        self._extractor = None
        super().__init__(tokenizer)

    def __call__(
        self,
        images: Image.Image | str | Path | Sequence | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Model inputs of a batch of pairs.

        Args:
            images: one or several PIL images or paths; None in a list, or altogether, where there is no photo.
            text: one or several captions; None or "" where there is no caption.

        Returns:
            `input_ids`, `attention_mask` int64 `(batch, words)` padded to the longest caption; with photos, for a
            student `pixel_values` uint8 `(batch, 3, image_size, image_size)` and `pixel_mask` int64 `(batch,)`, for a
            teacher `visual_embeds` float32 and `visual_attention_mask` int64 `(batch, regions[, dim])`.

        Raises:
            ValueError: numbers of photos and captions differ, a pair has neither, or photos came without a way to
                read them.
        """
        photos = None if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
        captions = [text] if text is None or isinstance(text, str) else list(text)
        if text is None and photos is not None:
            captions = [None] * len(photos)
        if photos is not None and len(photos) != len(captions):
            raise ValueError(f"{len(photos)} photos came with {len(captions)} captions; give one caption a photo.")
        photos = photos or [None] * len(captions)
        if not photos:
            raise ValueError("There is no pair in the batch; give at least one photo or caption.")
        if any(photo is None and not caption for photo, caption in zip(photos, captions, strict=True)):
            raise ValueError("A pair has neither a photo nor a caption; give at least one of them.")
        token_ids = self.encode_captions([caption or "" for caption in captions])
        lengths = np.array([len(own) for own in token_ids])
        flat = np.concatenate(token_ids)
        inputs = pad_tokens(flat, lengths.cumsum() - lengths, lengths, self.tokenizer.pad_token_id)
        if any(photo is not None for photo in photos):
            inputs |= self.encode_photos([open_photo(photo) for photo in photos])
        return BatchFeature(inputs, tensor_type=return_tensors)

    def encode_captions(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of each caption, unpadded; an empty caption gives `[CLS] [SEP]`."""
        return self.tokenizer(
            list(captions), truncation=True, max_length=self.max_length, return_attention_mask=False
        )["input_ids"]

    def encode_photos(self, photos: Sequence[Image.Image | None]) -> dict[str, np.ndarray | torch.Tensor]:
        """Pixels for a student, region features for a teacher; rows without a photo are masked."""
        present = np.array([photo is not None for photo in photos])
        if self.image_size is not None:
            pixels = np.zeros((len(photos), 3, self.image_size, self.image_size), dtype=np.uint8)
            for row in np.flatnonzero(present):
                pixels[row] = resize_to_array(photos[row], self.image_size)
            return {"pixel_values": pixels, "pixel_mask": present.astype(np.int64)}
        regions = self.load_extractor().extract([to_rgb(photo) for photo in photos if photo is not None])
        features = regions.region_features.cpu()
        visual_embeds = features.new_zeros((len(photos), *features.shape[1:]))
        visual_embeds[torch.from_numpy(present)] = features
        num_regions = torch.zeros(len(photos), dtype=torch.long)
        num_regions[torch.from_numpy(present)] = regions.num_regions.cpu()
        mask = torch.arange(features.shape[1]) < num_regions[:, None]
        return {"visual_embeds": visual_embeds, "visual_attention_mask": mask.long()}

    def load_extractor(self) -> PreTrainedModel:
        """The region extractor, loaded once."""
        if self._extractor is None:
            if self.region_extractor is None:
                raise ValueError(
                    "This processor has neither image_size (student) nor region_extractor (teacher), so it reads no "
                    "photos. Its model was trained on captions, or on imported features without an extractor."
                )
            self._extractor = load_region_extractor(self.region_extractor)
        return self._extractor

    @property
    def model_input_names(self) -> list[str]:
        photo = (
            ["visual_embeds", "visual_attention_mask"] if self.image_size is None else ["pixel_values", "pixel_mask"]
        )
        return ["input_ids", "attention_mask", *photo]


EmocapProcessor.register_for_auto_class()


def load_region_extractor(name_or_path: str) -> PreTrainedModel:
    """A region extractor in evaluation mode: the published bottom-up detector, as published or saved again, or an
    [`EmocapRegionExtractor`].

    Args:
        name_or_path: folder or Hub id, or `torchvision:` and a detector's name, such as
            `torchvision:fasterrcnn_resnet50_fpn_v2`, for torchvision's own weights, downloaded once.

    Raises:
        ValueError: the checkpoint is of another family.
    """
    family, _, architecture = name_or_path.partition(":")
    if family == "torchvision" and architecture:
        return EmocapRegionExtractor.from_torchvision(architecture, weights="DEFAULT")
    kind = BottomUpConfig.get_config_dict(name_or_path)[0].get("model_type")
    for model_class in (BottomUpDetector, EmocapRegionExtractor):
        if model_class.config_class.model_type == kind:
            return model_class.from_pretrained(name_or_path).eval()
    raise ValueError(f"'{name_or_path}' is a '{kind}' checkpoint, which extracts no region features.")


def pad_tokens(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray, pad_token_id: int) -> dict[str, np.ndarray]:
    """Rows `flat[start : start + length]` as `input_ids` and `attention_mask`, int64, padded to the longest row.

    An empty caption (`[CLS] [SEP]`) is masked whole.
    """
    columns = np.arange(lengths.max(initial=0))
    inside = columns < lengths[:, None]
    input_ids = np.where(inside, flat[np.where(inside, starts[:, None] + columns, 0)], pad_token_id)
    mask = inside & (lengths > 2)[:, None]
    return {"input_ids": input_ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}


def open_photo(photo: Image.Image | str | Path | None) -> Image.Image | None:
    return Image.open(photo) if isinstance(photo, (str, Path)) else photo
