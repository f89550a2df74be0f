"""Photos of a table, decoded by threads ahead of whoever looks at them."""

import io
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from PIL import Image, UnidentifiedImageError
from transformers.utils import logging

from emocap.models.photo_emocap import to_rgb

__all__ = ["decode_ahead", "decode_photo", "photo_shape", "why_without_regions"]

logger = logging.get_logger(__name__)

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""


def decode_ahead(
    shards: Sequence[Dataset], step: int, ahead: int, pool: Executor
) -> Iterator[tuple[int, np.ndarray, list[Image.Image]]]:
    """Batches of photos of like shape: the shard's number, the rows in it int64 `(photos,)`, and RGB photos.

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
            own = [pool.submit(decode_photo, photos[int(row)].as_py()) for row in rows]
            waiting.append((number, [image_ids[row] for row in rows], rows, own))
            submitted += len(rows)
            while submitted > ahead and len(waiting) > 1:
                submitted -= len(waiting[0][2])
                yield batch_of(*waiting.popleft())
    while waiting:
        yield batch_of(*waiting.popleft())


def batch_of(
    number: int, image_ids: list[str], rows: np.ndarray, futures: list[Future]
) -> tuple[int, np.ndarray, list[Image.Image]]:
    photos = []
    for image_id, future in zip(image_ids, futures, strict=True):
        try:
            photos.append(future.result())
        except Exception as error:  # decoders raise whatever a damaged file makes them trip over
            logger.warning(f"Photo of '{image_id}' left out: {reason_of(error)}")
            photos.append(None)
    readable = np.array([photo is not None for photo in photos], dtype=bool)
    return number, rows[readable], [photo for photo in photos if photo is not None]


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


def photo_shape(content: dict[str, object]) -> tuple[int, int]:
    """Height and width of an upright photo from its header; zeros where that cannot be read."""
    try:
        with Image.open(content["path"] if content["bytes"] is None else io.BytesIO(content["bytes"])) as photo:
            sideways = photo.format in ("JPEG", "MPO") and photo.getexif().get(0x0112) in SIDEWAYS
            return photo.size if sideways else photo.size[::-1]
    except Exception:  # decoding will say what is wrong with it
        return 0, 0


def decode_photo(content: dict[str, object]) -> Image.Image:
    """Upright RGB photo from its stored bytes or path."""
    return to_rgb(datasets.Image().decode_example(content))


def why_without_regions(rows: Dataset) -> list[str]:
    """What is wrong with the photo of each row. Looks at them again, as an earlier process may have met them."""
    return [problem_of(photo.as_py()) for photo in photo_column(rows)]


def problem_of(content: dict[str, object] | None) -> str:
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
