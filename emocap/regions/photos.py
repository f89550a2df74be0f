"""Photos of a table, decoded, and looked at if that can be done one by one, by threads that work ahead."""

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from PIL import Image, UnidentifiedImageError
from transformers.utils import logging

from emocap.models.photo_emocap import to_rgb

__all__ = ["decode_ahead", "decode_photo", "photo_shape", "why_without_regions"]

logger = logging.get_logger(__name__)

Result = TypeVar("Result")

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""


@dataclass(frozen=True)
class Unreadable:
    """What stands for a photo that cannot be decoded."""

    reason: str


def decode_ahead(
    shards: Sequence[Dataset],
    step: int,
    ahead: int,
    pool: Executor,
    look: Callable[[Image.Image], Result] | None = None,
) -> Iterator[tuple[int, np.ndarray, list[Any]]]:
    """Batches of photos of like shape: the shard's number, the rows in it int64 `(photos,)`, and RGB photos, or what
    `look` makes of each, in the same thread.

    Threads of the pool decode up to `ahead` photos beyond those handed out, over the borders of shards, so memory does
    not grow with the table; PIL decodes outside the interpreter's lock, which makes threads as fast as processes,
    without a copy of every picture. Which photos make a batch follows from the shard's rows and `step` alone: its
    photos sorted by shape, then by row, cut every `step`. A photo that cannot be read is logged and left out, which
    moves no other into another batch. Every shard gives at least one batch, be it an empty one.
    """
    waiting: deque[tuple[int, list[str], np.ndarray, list[Future]]] = deque()
    submitted = 0
    for number, shard in enumerate(shards):
        photos, image_ids = photo_column(shard), shard["image_id"][:]
        for rows in batches_by_shape(photos, step, pool):
            own = [pool.submit(decode_and_look, photos[int(row)].as_py(), look) for row in rows]
            waiting.append((number, [image_ids[row] for row in rows], rows, own))
            submitted += len(rows)
            while submitted > ahead and len(waiting) > 1:
                submitted -= len(waiting[0][2])
                yield batch_of(*waiting.popleft())
    while waiting:
        yield batch_of(*waiting.popleft())


def batch_of(
    number: int, image_ids: list[str], rows: np.ndarray, futures: list[Future]
) -> tuple[int, np.ndarray, list]:
    results = [future.result() for future in futures]
    readable = np.array([not isinstance(result, Unreadable) for result in results], dtype=bool)
    for row in np.flatnonzero(~readable):
        logger.warning(f"Photo of '{image_ids[row]}' left out: {results[row].reason}")
    return number, rows[readable], [result for result in results if not isinstance(result, Unreadable)]


def decode_and_look(content: dict[str, Any], look: Callable[[Image.Image], Result] | None):
    """The photo, or what `look` makes of it, or what is wrong with it. What `look` raises is no fault of the photo."""
    try:
        photo = decode_photo(content)
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        return Unreadable(reason_of(error))
    return photo if look is None else look(photo)


def photo_column(rows: Dataset) -> pa.ChunkedArray:
    """The photos as stored: structs of `bytes` and `path`, or null."""
    return rows.with_format("arrow")["image"][:]


def batches_by_shape(photos: pa.ChunkedArray, step: int, pool: Executor) -> list[np.ndarray]:
    """Rows that have a photo, int64, in batches of like shape; one empty batch where none has."""
    rows = np.flatnonzero(~np.asarray(photos.is_null()))
    if step > 1:
        heights, widths = (
            np.array(list(pool.map(photo_shape, (photos[int(row)].as_py() for row in rows)))).reshape(-1, 2).T
        )
        rows = rows[np.lexsort((rows, widths, heights))]
    return np.split(rows, range(step, len(rows), step))


def photo_shape(content: dict[str, Any]) -> tuple[int, int]:
    """Height and width of an upright photo from its header; zeros where that cannot be read."""
    try:
        with Image.open(content["path"] if content["bytes"] is None else io.BytesIO(content["bytes"])) as photo:
            sideways = photo.format in ("JPEG", "MPO") and photo.getexif().get(0x0112) in SIDEWAYS
            return photo.size if sideways else photo.size[::-1]
    except Exception:  # decoding will say what is wrong with it
        return 0, 0


def decode_photo(content: dict[str, Any]) -> Image.Image:
    """Upright RGB photo from its stored bytes or path."""
    return to_rgb(datasets.Image().decode_example(content))


def why_without_regions(rows: Dataset) -> list[str]:
    """What is wrong with the photo of each row. Looks at them again, as an earlier process may have met them."""
    return [problem_of(photo.as_py()) for photo in photo_column(rows)]


def problem_of(content: dict[str, Any] | None) -> str:
    if content is None:
        return "no photo"
    try:
        decode_photo(content)
    except Exception as error:  # as above
        return reason_of(error)
    return "no region found"


def reason_of(error: Exception) -> str:
    """The same sentence for the same photo in every process: without addresses of objects."""
    if isinstance(error, FileNotFoundError):
        return "missing file"
    return "not an image" if isinstance(error, UnidentifiedImageError) else f"unreadable photo: {error}"
