"""From photos and captions to what teacher and student read."""

import os
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from .configuration_bottom_up import BottomUpConfig
from .modeling_bottom_up import BottomUpDetector
from .modeling_emocap_regions import EmocapRegionExtractor
from .photo_emocap import open_photo, resize_to_array, to_rgb

__all__ = ["EmocapProcessor", "load_region_extractor", "pad_tokens"]

EXTRACTORS = weakref.WeakKeyDictionary()
"""The loaded extractor of each processor. Outside of it, a copy, a pickle or a hash of the processor is the same
before and after its first photo."""


class EmocapProcessor(ProcessorMixin):
    """Turns captions into WordPiece tokens and photos into pixels (student) or region features (teacher).

    Args:
        tokenizer: a fast BERT tokenizer.
        max_length: tokens kept of a caption, `[CLS]` and `[SEP]` included; the study's 32.
        image_size: side in pixels of the student's photos, or None.
        region_extractor: the teacher's region extractor, loaded when the first photo comes, or None. In this order:
            a folder inside the checkpoint that the processor was loaded from, which on the Hub has to start with
            `./`; a folder; what `load_region_extractor` takes.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self, tokenizer, max_length: int = 32, image_size: int | None = None, region_extractor: str | None = None
    ):
        self.max_length = max_length
        self.image_size = image_size
        self.region_extractor = None if region_extractor is None else str(region_extractor)
        self.name_or_path = ""
        super().__init__(tokenizer)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "EmocapProcessor":
        """As everywhere in transformers; `max_length` and `region_extractor` may be given anew."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        processor.name_or_path = str(pretrained_model_name_or_path)
        return processor

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> list[str]:
        """As everywhere in transformers; an extractor that lies inside the checkpoint comes along."""
        files = super().save_pretrained(save_directory, **kwargs)
        if self.region_extractor and self.locate_extractor()[0] != self.region_extractor:
            target = os.path.join(save_directory, self.region_extractor)
            if not os.path.isdir(target):
                self.load_extractor().save_pretrained(target)
        return files

    def __call__(
        self,
        images: Image.Image | str | os.PathLike | np.ndarray | torch.Tensor | Sequence | None = None,
        text: str | Sequence[str | None] | None = None,
        return_tensors: str | None = "pt",
        *,
        max_length: int | None = None,
        device: str | torch.device | None = None,
    ) -> BatchFeature:
        """Model inputs of a batch of pairs.

        Args:
            images: one or several photos: PIL images, paths, http(s) URLs, arrays or tensors (see `open_photo`); None
                in a list, or altogether, where there is no photo.
            text: one or several captions; None or "" where there is no caption.
            return_tensors: "pt", "np", or None for numpy arrays.
            max_length: tokens kept of a caption; by default the processor's.
            device: where the region extractor runs; by default where it is, at first the CPU.

        Returns:
            `input_ids`, `attention_mask` int64 `(batch, words)` padded to the longest caption; with photos, for a
            student `pixel_values` uint8 `(batch, 3, image_size, image_size)` and `pixel_mask` int64 `(batch,)`, for a
            teacher `visual_embeds` float32 and `visual_attention_mask` int64 `(batch, regions[, dim])`.

        Raises:
            FileNotFoundError: there is no photo at a path.
            ValueError: numbers of photos and captions differ, a pair has neither, a photo cannot be read, a caption
                is no string, or photos came without a way to read them.
        """
        photos = None if images is None else as_list(images)
        captions = [text] if text is None or isinstance(text, str) else list(text)
        if text is None and photos is not None:
            captions = [None] * len(photos)
        if photos is not None and len(photos) != len(captions):
            raise ValueError(f"{len(photos)} photos came with {len(captions)} captions; give one caption a photo.")
        photos = photos or [None] * len(captions)
        if not photos:
            raise ValueError("There is no pair in the batch; give at least one photo or caption.")
        for caption in captions:
            if not (caption is None or isinstance(caption, str)):
                raise ValueError(f"A caption came as {type(caption).__name__}; expected a string or None.")
        if any(photo is None and not caption for photo, caption in zip(photos, captions, strict=True)):
            raise ValueError("A pair has neither a photo nor a caption; give at least one of them.")
        inputs = self.encode_text(captions, max_length)
        if any(photo is not None for photo in photos):
            inputs |= self.encode_photos(photos, device)
        return BatchFeature(inputs, tensor_type=return_tensors)

    def encode_text(self, captions: Sequence[str | None], max_length: int | None = None) -> dict[str, np.ndarray]:
        """`input_ids` and `attention_mask`, int64, padded to the longest caption; see `pad_tokens`."""
        token_ids = self.encode_captions([caption or "" for caption in captions], max_length)
        lengths = np.array([len(own) for own in token_ids])
        flat = np.concatenate(token_ids)
        return pad_tokens(flat, lengths.cumsum() - lengths, lengths, self.tokenizer.pad_token_id)

    def encode_captions(self, captions: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each caption, unpadded; an empty caption gives `[CLS] [SEP]`."""
        return self.tokenizer(
            list(captions), truncation=True, max_length=max_length or self.max_length, return_attention_mask=False
        )["input_ids"]

    def encode_photos(
        self, photos: Sequence[object], device: str | torch.device | None = None
    ) -> dict[str, np.ndarray]:
        """Pixels for a student, region features for a teacher; rows whose photo is None are masked."""
        if self.image_size is None:
            regions = self.encode_regions(photos, device)
            return {name: regions[name] for name in ("visual_embeds", "visual_attention_mask")}
        present = np.array([photo is not None for photo in photos])
        pixels = np.zeros((len(photos), 3, self.image_size, self.image_size), dtype=np.uint8)
        for row in np.flatnonzero(present):
            pixels[row] = resize_to_array(open_photo(photos[row]), self.image_size)
        return {"pixel_values": pixels, "pixel_mask": present.astype(np.int64)}

    def encode_regions(
        self, photos: Sequence[object], device: str | torch.device | None = None
    ) -> dict[str, np.ndarray]:
        """`visual_embeds` float32 `(batch, regions, dim)`, `visual_attention_mask` int64 `(batch, regions)` and
        `region_boxes` float32 `(batch, regions, 4)`, relative x1 y1 x2 y2; rows whose photo is None are masked."""
        extractor = self.load_extractor()
        if device is not None:
            extractor.to(device)
        regions = extractor.extract([to_rgb(open_photo(photo)) for photo in photos if photo is not None])
        rows = np.flatnonzero([photo is not None for photo in photos])

        def lay_out(values: torch.Tensor, dtype: type) -> np.ndarray:
            laid = np.zeros((len(photos), *values.shape[1:]), dtype=dtype)
            laid[rows] = values.cpu().to(torch.promote_types(values.dtype, torch.float32)).numpy()
            return laid

        visual_embeds = lay_out(regions.region_features, np.float32)
        counts = lay_out(regions.num_regions, np.int64)
        mask = np.arange(visual_embeds.shape[1]) < counts[:, None]
        return {
            "visual_embeds": visual_embeds,
            "visual_attention_mask": mask.astype(np.int64),
            "region_boxes": lay_out(regions.region_boxes, np.float32),
        }

    def load_extractor(self) -> PreTrainedModel:
        """The region extractor, loaded once.

        Raises:
            ValueError: the processor names none, or a checkpoint of another family.
            OSError: what it names is neither inside the checkpoint, nor a folder, nor a Hub id within reach.
        """
        if self not in EXTRACTORS:
            if self.region_extractor is None:
                raise ValueError(
                    "This processor has neither image_size (student) nor region_extractor (teacher), so it reads no "
                    "photos. Its model was trained on captions, or on imported features without an extractor."
                )
            source, subfolder = self.locate_extractor()
            try:
                EXTRACTORS[self] = load_region_extractor(source, subfolder)
            except OSError as error:
                raise OSError(
                    f"The region extractor '{self.region_extractor}' is neither inside the checkpoint "
                    f"'{self.name_or_path}', nor a folder here, nor a Hub id within reach. Set the processor's "
                    "`region_extractor` to the extractor that the teacher was trained with."
                ) from error
        return EXTRACTORS[self]

    def locate_extractor(self) -> tuple[str, str]:
        """Folder or Hub id of the region extractor, and its folder within."""
        name, checkpoint = self.region_extractor, self.name_or_path
        if checkpoint and os.path.isdir(os.path.join(checkpoint, name)):
            return os.path.join(checkpoint, name), ""
        if os.path.isdir(name):
            return name, ""
        if checkpoint and name.startswith("./") and not os.path.isdir(checkpoint):
            return checkpoint, os.path.normpath(name)
        return name, ""

    @property
    def model_input_names(self) -> list[str]:
        photo = (
            ["visual_embeds", "visual_attention_mask"] if self.image_size is None else ["pixel_values", "pixel_mask"]
        )
        return ["input_ids", "attention_mask", *photo]


EmocapProcessor.register_for_auto_class()


def load_region_extractor(name_or_path: str, subfolder: str = "") -> PreTrainedModel:
    """A region extractor in evaluation mode: the published bottom-up detector, as published or saved again, or an
    [`EmocapRegionExtractor`].

    Args:
        name_or_path: folder or Hub id, or `torchvision:` and a detector's name, such as
            `torchvision:fasterrcnn_resnet50_fpn_v2`, for torchvision's own weights, downloaded once.
        subfolder: where the extractor lies within a folder or Hub repository.

    Raises:
        ValueError: the checkpoint is of another family.
    """
    family, _, architecture = name_or_path.partition(":")
    if family == "torchvision" and architecture:
        return EmocapRegionExtractor.from_torchvision(architecture, weights="DEFAULT")
    kind = BottomUpConfig.get_config_dict(name_or_path, subfolder=subfolder)[0].get("model_type")
    for model_class in (BottomUpDetector, EmocapRegionExtractor):
        if model_class.config_class.model_type == kind:
            return model_class.from_pretrained(name_or_path, subfolder=subfolder).eval()
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


def as_list(images: object) -> list:
    """The photos of a batch: one that came alone, a sequence, or an array with an axis of photos before its three."""
    is_array = isinstance(images, (np.ndarray, torch.Tensor))
    alone = images.ndim <= 3 if is_array else isinstance(images, (Image.Image, str, os.PathLike))
    return [images] if alone else list(images)
