"""Captions of photos that raise wished emotions."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, set_seed

from emocap.data.storage import photo_problem
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from emocap.models.photo_emocap import photos_in_folder
from emocap.terminal import progress

__all__ = ["find_photos", "read_wishes", "write_captions"]


def find_photos(path: str | os.PathLike) -> list[Path]:
    """A photo, or those of a folder, see `photos_in_folder`.

    Raises:
        FileNotFoundError: there is nothing at the path, or no photo in the folder.
        ValueError: a file that is no photo.
    """
    own = Path(path)
    if own.is_dir():
        return [Path(str(photo["image"])) for photo in photos_in_folder(own)]
    if not own.is_file():
        raise FileNotFoundError(f"There is no photo or folder at '{own}'.")
    if problem := photo_problem(own):
        raise ValueError(f"The photo '{own}' cannot be read: {problem}.")
    return [own]


def read_wishes(words: Sequence[str]) -> dict[str, float]:
    """Emotions with their weights, from `NAME` or `NAME=WEIGHT`.

    Raises:
        ValueError: a weight that is no number, or an emotion that comes twice.
    """
    wishes = {}
    for word in words:
        name, equals, weight = word.partition("=")
        if name in wishes:
            raise ValueError(f"The emotion '{name}' is named twice.")
        try:
            wishes[name] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(f"'{word}' is no wish; expected an emotion, or EMOTION=WEIGHT such as calm=.5.") from None
    return wishes


def write_captions(
    model: str | os.PathLike,
    photos: Sequence[str | os.PathLike],
    emotions: Mapping[str, float] | None = None,
    away_from: Sequence[str] | None = None,
    *,
    text: str | None = None,
    batch_size: int = 16,
    seed: int = 0,
    **generation: Any,
) -> Iterator[dict[str, Any]]:
    """Captions of photos, in their order.

    Args:
        model: folder or Hub id of a captioner that names a region extractor.
        photos: paths; a photo that cannot be read has an `error` in place of captions.
        emotions: what the captions shall raise, with weights; None: no wish.
        away_from: what they shall not raise.
        text: how each caption begins; captions hold it.
        batch_size: photos a step.
        seed: of sampling.
        **generation: what `generate` takes, such as `guidance_scale`.

    Yields:
        `image`, `emotions`, `away_from` and `captions`, best first.

    Raises:
        ValueError: a checkpoint of another family, a wish that the captioner does not know, or one that reads no
            photos: before the weights are loaded.
    """
    kind = AutoConfig.from_pretrained(model).model_type
    if kind != "emocap_captioner":
        raise ValueError(f"'{model}' is a '{kind}' checkpoint; expected an emocap captioner.")
    processor = EmocapCaptionerProcessor.from_pretrained(model)
    wishes = {"emotions": None if emotions is None else dict(emotions), "away_from": tuple(away_from or ()) or None}
    processor.encode_wishes(1, **wishes)
    if processor.region_extractor is None:
        raise ValueError(
            f"'{model}' names no region extractor, so it reads no photos: train it with --region_extractor."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    captioner = EmocapCaptionerForConditionalGeneration.from_pretrained(model).eval().to(device)
    set_seed(seed)
    given = {**wishes, "text": text}
    for first in progress(range(0, len(photos), batch_size), desc="Captioning", unit="batches"):
        part = photos[first : first + batch_size]
        problems = [photo_problem(photo) for photo in part]
        read = [photo for photo, problem in zip(part, problems, strict=True) if problem is None]
        captions = iter(caption_batch(captioner, processor, read, given, generation) if read else [])
        for photo, problem in zip(part, problems, strict=True):
            told = {"error": problem} if problem else {"captions": next(captions)}
            yield {"image": os.fspath(photo), **wishes, **told}


def caption_batch(
    captioner: EmocapCaptionerForConditionalGeneration,
    processor: EmocapCaptionerProcessor,
    photos: Sequence[str | os.PathLike],
    given: dict[str, Any],
    generation: dict[str, Any],
) -> list[list[str]]:
    """The captions of each photo of a batch."""
    inputs = processor(images=list(photos), device=captioner.device, **given)
    written = captioner.generate(**inputs.to(captioner.device), **generation)[:, inputs["input_ids"].shape[1] :]
    beginning = given["text"] or ""
    texts = [(beginning + text).strip() for text in processor.batch_decode(written, skip_special_tokens=True)]
    size = len(texts) // len(photos)
    return [texts[first : first + size] for first in range(0, len(texts), size)]
