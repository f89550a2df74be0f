"""From photos and captions to what teacher and student read."""

import os
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, BatchFeature, PreTrainedConfig, PreTrainedModel
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import cached_file, extract_commit_hash

from .photo_emocap import EmocapImageProcessor, as_list, open_photo, to_rgb

__all__ = ["EmocapProcessor", "load_region_extractor", "pad_tokens", "same_model"]

MAX_LENGTH = 32

LOADING = ("trust_remote_code", "revision", "cache_dir", "local_files_only")
"""With what a processor was loaded, and its extractor will be."""

EXTRACTORS = weakref.WeakKeyDictionary()
"""The loaded extractor of each processor. Outside of it, a copy, a pickle or a hash of the processor is the same
before and after its first photo."""


class EmocapProcessor(ProcessorMixin):
    """Turns captions into tokens and photos into pixels (student) or region features (teacher).

    A student's photos go through its `image_processor`. No detector's code is needed here: a teacher's extractor
    brings its own, which is loaded as the checkpoint's was, with or without `trust_remote_code`.

    Args:
        tokenizer: the body's or student's own: WordPiece, BPE or sentencepiece, with a padding token.
        image_size: side in pixels of the student's photos, or None.
        region_extractor: the teacher's region extractor, loaded when the first photo comes, or None. In this order:
            a folder inside the checkpoint that the processor was loaded from, which on the Hub has to start with
            `./`; a folder; what `load_region_extractor` takes.
        max_length: tokens kept of a caption, `[CLS]` and `[SEP]` included; the study's 32 by default.
    """

    def __init__(self, tokenizer, image_size: int | None = None, region_extractor: str | None = None, **defaults: int):
        self.max_length = defaults.pop("max_length", MAX_LENGTH)
        self.image_size = image_size
        if image_size is not None:
            self.image_processor = EmocapImageProcessor(size=image_size)
        self.region_extractor = None if region_extractor is None else str(region_extractor)
        self.name_or_path, self.loaded_with = "", {}
        self.auto_map = {"AutoProcessor": "processing_emocap.EmocapProcessor"}  # as saving would note it
        super().__init__(tokenizer, **defaults)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "EmocapProcessor":
        """As everywhere in transformers; `max_length` and `region_extractor` may be given anew."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        processor.name_or_path = str(pretrained_model_name_or_path)
        processor.loaded_with = {name: kwargs[name] for name in LOADING if kwargs.get(name) is not None}
        return processor

    @classmethod
    def from_args_and_dict(cls, args, processor_dict: dict[str, object], **kwargs) -> "EmocapProcessor":
        """As everywhere in transformers, which knows no default that each call may change: `max_length`."""
        loaded = super().from_args_and_dict(args, processor_dict, **kwargs)
        processor = loaded[0] if isinstance(loaded, tuple) else loaded
        processor.max_length = kwargs.get("max_length") or processor_dict.get("max_length", MAX_LENGTH)
        return loaded

    def to_dict(self) -> dict[str, object]:
        """What `processor_config.json` holds."""
        return {**super().to_dict(), "max_length": self.max_length}

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> list[str]:
        """As everywhere in transformers; a student's image processor, and an extractor that lies inside the
        checkpoint, come along."""
        if self.image_size is not None:
            self.image_processor.save_pretrained(save_directory)
        if self.region_extractor and self.locate_extractor()[0] != self.region_extractor:
            target = os.path.join(save_directory, self.region_extractor)
            if not os.path.isdir(target):
                self.load_extractor().save_pretrained(target)
        return super().save_pretrained(save_directory, **kwargs)

    @property
    def text_kwargs(self) -> dict[str, object]:
        """How captions are read where a call does not say otherwise. What a tokenizer was once set to does not count:
        a model reads captions as it was trained to."""
        return {
            "padding": True,
            "truncation": True,
            "max_length": self.max_length,
            "padding_side": "right",
            "return_tensors": "pt",
        }

    def __call__(
        self,
        images: Image.Image | str | os.PathLike | np.ndarray | torch.Tensor | Sequence | None = None,
        text: str | Sequence[str | None] | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Model inputs of a batch of pairs.

        Args:
            images: one or several photos: PIL images, paths, http(s) URLs, arrays or tensors (see `open_photo`); None
                in a list, or altogether, where there is no photo.
            text: one or several captions; None or "" where there is no caption.
            return_tensors: "pt" (the default), "np", or None for numpy arrays.
            padding, truncation, max_length, ...: what tokenizers take, here or in `text_kwargs`; by default captions
                are cut at the processor's `max_length` and padded to the longest.
            do_rescale, rescale_factor, ...: what a student's image processor takes, here or in `images_kwargs`.
            device: where the region extractor runs, here or in `images_kwargs`; by default where it is, at first the
                CPU.

        Returns:
            `input_ids`, `attention_mask` int64 `(batch, words)`; with photos, for a student `pixel_values` uint8
            `(batch, 3, image_size, image_size)` (float32 with `do_rescale`) and `pixel_mask` int64 `(batch,)`, for a
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
        options = self._merge_kwargs(**kwargs)
        return_tensors = options["text_kwargs"].pop("return_tensors")
        options["images_kwargs"].pop("return_tensors", None)
        inputs = self.encode_text(captions, **options["text_kwargs"])
        if any(photo is not None for photo in photos):
            inputs |= self.encode_photos(photos, **options["images_kwargs"])
        return BatchFeature(inputs, tensor_type=return_tensors)

    def encode_text(self, captions: Sequence[str | None], **options) -> dict[str, np.ndarray | list[list[int]]]:
        """What the tokenizer gives, int64 `(batch, words)`, or lists where nothing is padded. An empty caption is
        masked whole."""
        options = {**self.text_kwargs, "return_token_type_ids": False, **options, "return_tensors": None}
        encoded = dict(self.tokenizer([caption or "" for caption in captions], **options))
        if "attention_mask" in encoded:
            masks = zip(captions, encoded["attention_mask"], strict=True)
            encoded["attention_mask"] = [mask if caption else [0] * len(mask) for caption, mask in masks]
        if len({len(own) for own in encoded["input_ids"]}) > 1:
            return encoded
        return {name: np.array(rows) for name, rows in encoded.items()}

    def encode_captions(self, captions: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each caption, unpadded; an empty caption gives what frames one, such as `[CLS] [SEP]`."""
        return self.tokenizer(
            list(captions), truncation=True, max_length=max_length or self.max_length, return_attention_mask=False
        )["input_ids"]

    def encode_photos(
        self, photos: Sequence[object], device: str | torch.device | None = None, **options
    ) -> dict[str, np.ndarray]:
        """Pixels for a student, region features for a teacher; rows whose photo is None are masked."""
        if self.image_size is None:
            regions = self.encode_regions(photos, device)
            return {name: regions[name] for name in ("visual_embeds", "visual_attention_mask")}
        present = np.array([photo is not None for photo in photos])
        seen = self.image_processor([photo for photo in photos if photo is not None], **options)["pixel_values"]
        pixels = np.zeros((len(photos), *seen.shape[1:]), dtype=seen.numpy().dtype)
        pixels[present] = seen
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
            trust, own = self.loaded_with.get("trust_remote_code"), {**self.loaded_with}
            own.pop("trust_remote_code", None)
            try:
                if subfolder:  # code is looked for at the top of a repository, so the folder has to be one of its own
                    snapshot = snapshot_download(source, allow_patterns=f"{subfolder}/*", **own)
                    source = os.path.join(snapshot, subfolder)
                EXTRACTORS[self] = load_region_extractor(source, trust)
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
        assert name is not None  # who asks has looked
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


def load_region_extractor(name_or_path: str, trust_remote_code: bool | None = None) -> PreTrainedModel:
    """A region extractor in evaluation mode, of the code that lies beside its weights, or of emocap where that is
    installed. Its configuration's `_commit_hash` is the Hub's commit that it came from, None for a folder.

    Args:
        name_or_path: folder or Hub id of a `BottomUpDetector`, as published or saved again, of an
            `EmocapRegionExtractor` or of an `EmocapGridExtractor`; or `torchvision:` and a detector's name, such as
            `torchvision:fasterrcnn_resnet50_fpn_v2`, for torchvision's own weights, downloaded once; or `vision:` and
            the folder or Hub id of a vision encoder of transformers' own classes, whose patches become 6 x 6 regions.
        trust_remote_code: as everywhere in transformers; an encoder's own code is never run.

    Raises:
        ImportError: weights that bring no code, as published ones do, where emocap is not installed.
        ValueError: the checkpoint is of another family.
    """
    family, _, name = name_or_path.partition(":")
    if family == "torchvision" and name:
        return class_of("emocap_regions", name_or_path).from_torchvision(name, weights="DEFAULT")
    if family == "vision" and name:
        model = class_of("emocap_grid", name_or_path).from_encoder(name)
        model.config._commit_hash = extract_commit_hash(cached_file(name, "config.json"), None)
        return model
    config_file = cached_file(name_or_path, "config.json", _raise_exceptions_for_missing_entries=False)
    if config_file is None:
        return class_of("emocap_bottom_up", name_or_path).from_pretrained(name_or_path).eval()
    kind = PreTrainedConfig.get_config_dict(name_or_path)[0].get("model_type")
    if kind not in ("emocap_regions", "emocap_grid", "emocap_bottom_up"):
        raise ValueError(
            f"'{name_or_path}' is a '{kind}' checkpoint, which extracts no region features; of a vision encoder, "
            f"'vision:{name_or_path}' does."
        )
    model = AutoModel.from_pretrained(name_or_path, trust_remote_code=trust_remote_code).eval()
    model.config._commit_hash = extract_commit_hash(config_file, None)
    return model


def same_model(model: PreTrainedModel, other: PreTrainedModel) -> bool:
    """Whether two models have the same settings and weights, wherever they were loaded from."""
    origin = ("_name_or_path", "auto_map", "dtype")
    settings = [
        {name: value for name, value in own.config.to_dict().items() if name not in origin} for own in (model, other)
    ]
    weights, others = model.state_dict(), other.state_dict()
    return (
        settings[0] == settings[1]
        and weights.keys() == others.keys()
        and all(torch.equal(values.cpu(), others[name].cpu()) for name, values in weights.items())
    )


def class_of(model_type: str, name_or_path: str) -> type[PreTrainedModel]:
    """The model class that an installed emocap has registered."""
    try:
        return MODEL_MAPPING[type(AutoConfig.for_model(model_type))]
    except ValueError as error:
        raise ImportError(
            f"The region extractor '{name_or_path}' brings no code of its own: pip install emocap to read photos with "
            "it, or give the model region features."
        ) from error


def pad_tokens(
    flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray, pad_token_id: int, framing: int = 2
) -> dict[str, np.ndarray]:
    """Rows `flat[start : start + length]` as `input_ids` and `attention_mask`, int64, padded to the longest row.

    An empty caption, which has the `framing` tokens alone (`[CLS] [SEP]`), is masked whole.
    """
    columns = np.arange(lengths.max(initial=0))
    inside = columns < lengths[:, None]
    input_ids = np.where(inside, flat[np.where(inside, starts[:, None] + columns, 0)], pad_token_id)
    mask = inside & (lengths > framing)[:, None]
    return {"input_ids": input_ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}
