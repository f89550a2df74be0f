"""Region features that exist already: files of other tools, attached to the photos of a table."""

import base64
import binascii
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError, safe_open

from emocap.data.schema import NUM_REGIONS
from emocap.data.storage import DataReport, check_output_dir
from emocap.regions.extraction import empty_regions, map_splits, regions_table
from emocap.terminal import progress

__all__ = ["image_key", "import_regions"]

TSV_COLUMNS = {
    # Anderson et al. 2018, the original release of bottom-up attention
    6: ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    # Tan and Bansal 2019 (LXMERT); height comes first
    10: (
        "image_id", "image_h", "image_w", "objects_id", "scores", "attrs_id", "attrs_conf", "num_boxes", "boxes",
        "features",
    ),
}  # fmt: skip

NPZ_NAMES = {
    "features": ("features", "x"),
    "boxes": ("boxes", "bbox"),
    "scores": ("scores", "objects_conf"),
    "num_boxes": ("num_boxes", "num_bbox"),
    "image_w": ("image_w", "img_w", "width"),
    "image_h": ("image_h", "img_h", "height"),
}
"""What the arrays of an .npz file are called."""

IMAGE_SUFFIX = re.compile(r"\.(jpe?g|png|webp|bmp|gif|tiff?)$", re.IGNORECASE)
COCO_ID = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d+)")

NUM_NAMED = 20


class BadEntryError(ValueError):
    """What is wrong with one image's entry in a file."""


@dataclass(frozen=True)
class Regions:
    """Regions of one photo: features float16 `(n, D)` and boxes float32 `(n, 4)`, relative x1 y1 x2 y2, n up to 36."""

    features: np.ndarray
    boxes: np.ndarray


Read = Callable[[], Regions]


def import_regions(tables: DatasetDict, path: str, output_dir: str) -> DatasetDict:
    """Attaches region features that exist already and saves the table with the new columns.

    Reads, by the ending of `path`:

    - `.tsv`: a row an image, without a header, arrays as base64 of little-endian float32. Six columns are the original
      release of bottom-up attention (image_id, image_w, image_h, num_boxes, boxes, features), ten are LXMERT's
      (img_id, img_h, img_w, objects_id, objects_conf, attrs_id, attrs_conf, num_boxes, boxes, features).
    - a folder: one `.npz` file an image, called by its id, with `features` or `x` `(n, D)` or `(D, n)`, `boxes` or
      `bbox` `(n, 4)`, and where boxes are in pixels `image_w` and `image_h`; also `scores`, `num_bbox`.
    - `.safetensors`: `<image_id>/features` `(n, D)`, `<image_id>/boxes` `(n, 4)`, also `<image_id>/scores`.

    Boxes are x1 y1 x2 y2, in pixels or relative. Of more than 36 regions the 36 of the highest scores are kept where
    there are scores, else the first 36; fewer are fine.

    Ids are compared as they are, then as `image_key` has them. The file is read through once, entry by entry, and what
    is needed of it again for the table: memory holds a few hundred bytes an image. Photos whose entry is absent or
    unusable get `num_regions` 0; data_report.json lists them with the reason, and entries that came twice (the first
    one counts). Features of another width than most are unusable.

    Raises:
        ValueError: another kind of file, or not one usable entry for the table's photos.
    """
    check_output_dir(output_dir)
    source, report = Path(path), DataReport()
    entries = scan(source)
    report.extra["imported"] = source.name
    readers, reasons, dim = match(entries, tables, str(path), report)

    def attach(shard: Dataset) -> pa.Table:
        features, boxes, counts = empty_regions(len(shard), dim)
        for row, image_id in enumerate(shard["image_id"][:]):
            if image_id in readers:
                regions = readers[image_id]()
                counts[row] = count = len(regions.boxes)
                features[row, :count], boxes[row, :count] = regions.features, regions.boxes
        return regions_table(features, boxes, counts)

    def explain(rows: Dataset) -> list[str]:
        return [reasons.get(image_id, "not in the file") for image_id in rows["image_id"][:]]

    return map_splits(tables, partial(map, attach), dim, output_dir, file_state(source), report, explain)


def image_key(name: str) -> str:
    """What an image is known by in every release: `COCO_val2014_000000000139`, `val2017/000000000139.jpg` and `139`
    are one COCO image, `139`; of other names the folder and the ending of an image file go."""
    stem = IMAGE_SUFFIX.sub("", PurePosixPath(name).name)
    coco = COCO_ID.fullmatch(stem)
    return str(int(coco[1])) if coco else stem


def match(
    entries: Iterator[tuple[str, Read]], tables: DatasetDict, path: str, report: DataReport
) -> tuple[dict[str, Read], dict[str, str], int]:
    """Readers of the usable entries and reasons against the others, by the table's image ids, and the features' width.

    Every entry of the table's photos is read here, so that what is wrong with a file is known before the job begins.
    """
    if nameless := [name for name, split in tables.items() if "image_id" not in split.column_names]:
        raise ValueError(f"The split(s) {', '.join(nameless)} lack the column image_id, by which entries are found.")
    image_ids = dict.fromkeys(image_id for split in tables.values() for image_id in split["image_id"][:])
    keys: dict[str, str | None] = {}
    for image_id in image_ids:
        key = image_key(image_id)
        keys[key] = None if key in keys else image_id  # two images by one key: only their own names tell them apart
    readers, widths, reasons, others = {}, {}, {}, Counter()
    for name, read in progress(entries, desc="Reading the file", unit="images"):
        image_id = name if name in image_ids else keys.get(image_key(name))
        if image_id is None:
            others[name] += 1
        elif image_id in readers:
            report.problem(image_id, f"'{name}' is there already", "later entry left out")
        else:
            try:
                widths[image_id] = read().features.shape[1]
                readers[image_id] = read
            except BadEntryError as error:
                reasons[image_id] = str(error)
    check_any(readers, reasons, others, path, next(iter(image_ids), None))
    dim = Counter(widths.values()).most_common(1)[0][0]
    for image_id in [image_id for image_id, width in widths.items() if width != dim]:
        reasons[image_id] = f"features of width {widths[image_id]}, most are {dim} wide"
        del readers[image_id]
    report.count("images of the file that the data set lacks", others.total())
    if others:
        report.extra["not_in_the_data_set"] = {"number": others.total(), "first": list(others)[:NUM_NAMED]}
    return readers, {image_id: reason for image_id, reason in reasons.items() if image_id not in readers}, dim


def check_any(
    readers: Mapping[str, Read], reasons: Mapping[str, str], others: Counter[str], path: str, image_id: str | None
) -> None:
    """Raises a ValueError that says why a file gives nothing."""
    if readers:
        return
    if reasons:
        first, reason = next(iter(reasons.items()))
        raise ValueError(f"None of the {len(reasons)} matching entries of '{path}' is usable; '{first}': {reason}.")
    if not others:
        raise ValueError(f"'{path}' holds no region features.")
    raise ValueError(
        f"None of the data set's image ids is in '{path}': it holds ids such as '{next(iter(others))}', the data set "
        f"such as '{image_id}'."
    )


def file_state(path: Path) -> dict[str, Any]:
    """What tells a changed file, or folder, from the one that a stopped job read."""
    stats = [file.stat() for file in (path.rglob("*.npz") if path.is_dir() else [path])]
    newest = max(stat.st_mtime_ns for stat in stats)
    return {"import": str(path), "files": len(stats), "bytes": sum(s.st_size for s in stats), "changed": newest}


def scan(path: Path) -> Iterator[tuple[str, Read]]:
    """The image ids of a file and how to read their entries, in the file's order.

    Raises:
        ValueError: another kind of file.
    """
    if path.is_dir():
        return scan_npz(path)
    if path.is_file() and path.suffix == ".tsv":
        return scan_tsv(path)
    if path.is_file() and path.suffix == ".safetensors":
        try:
            return scan_safetensors(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise ValueError(f"'{path}' is no safetensors file: {error}.") from error
    raise ValueError(f"--import '{path}': expected an existing .tsv or .safetensors file, or a folder of .npz files.")


def scan_tsv(path: Path) -> Iterator[tuple[str, Read]]:
    with open(path, "rb") as file:
        offset = 0
        for row in file:
            if row.strip():
                name = row[: max(row.find(b"\t"), 0) or 80].strip().decode("utf-8", "replace")
                yield name, partial(read_tsv_row, path, offset, len(row))
            offset += len(row)


def read_tsv_row(path: Path, offset: int, length: int) -> Regions:
    with open(path, "rb") as file:
        file.seek(offset)
        cells = file.read(length).rstrip(b"\r\n").split(b"\t")
    if len(cells) not in TSV_COLUMNS:
        raise BadEntryError(f"row of {len(cells)} column(s) instead of 6 or 10")
    row = dict(zip(TSV_COLUMNS[len(cells)], cells, strict=True))
    width, height, count = (whole_number(row[name], name) for name in ("image_w", "image_h", "num_boxes"))
    features, boxes = (decode_floats(row[name], count, name) for name in ("features", "boxes"))
    scores = decode_floats(row["scores"], count, "scores")[:, 0] if "scores" in row else None
    return make_regions(features, boxes, scores, width, height)


def whole_number(cell: bytes, name: str) -> int:
    if not cell.isdigit() or int(cell) == 0:
        raise BadEntryError(f"{name} is {cell[:20].decode('utf-8', 'replace')!r} instead of a whole number above 0")
    return int(cell)


def decode_floats(cell: bytes, count: int, name: str) -> np.ndarray:
    """Float32 `(count, width)` of a base64 cell."""
    try:
        content = base64.b64decode(cell, validate=True)
    except binascii.Error as error:
        raise BadEntryError(f"{name}: bad base64 ({error})") from None
    if not content or len(content) % (4 * count):
        raise BadEntryError(f"{name}: {len(content)} bytes, which are not {count} rows of float32")
    return np.frombuffer(content, "<f4").reshape(count, -1)


def scan_npz(folder: Path) -> Iterator[tuple[str, Read]]:
    for path in sorted(folder.rglob("*.npz")):
        yield path.relative_to(folder).with_suffix("").as_posix(), partial(read_npz, path)


def read_npz(path: Path) -> Regions:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = {name: next((own for own in known if own in file), None) for name, known in NPZ_NAMES.items()}
            arrays = {name: file[own] for name, own in names.items() if own is not None}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadEntryError(f"unreadable .npz file ({error})".replace(str(path), path.name)) from None
    for name in ("features", "boxes"):
        if name not in arrays:
            raise BadEntryError(f"no array {' or '.join(NPZ_NAMES[name])}")
    for name in ("num_boxes", "image_w", "image_h"):
        if name in arrays and (arrays[name].size != 1 or arrays[name].dtype.kind not in "iuf"):
            raise BadEntryError(f"{name} is not a number")
    count = int(arrays.pop("num_boxes", len(arrays["boxes"])))
    if arrays["features"].ndim == 2 and arrays["features"].shape[1] == len(arrays["boxes"]):
        arrays["features"] = arrays["features"].T
    features, boxes = (arrays[name][:count] for name in ("features", "boxes"))
    scores = arrays["scores"][:count] if "scores" in arrays else None
    return make_regions(features, boxes, scores, *(int(arrays.get(name, 0)) for name in ("image_w", "image_h")))


def scan_safetensors(file: safe_open) -> Iterator[tuple[str, Read]]:
    names = frozenset(file.keys())
    for name in sorted(names):
        if name.endswith("/features"):
            image_id = name.removesuffix("/features")
            yield image_id, partial(read_tensors, file, names, image_id)


def read_tensors(file: safe_open, names: frozenset[str], image_id: str) -> Regions:
    parts = [part for part in ("features", "boxes", "scores") if f"{image_id}/{part}" in names]
    if "boxes" not in parts:
        raise BadEntryError(f"no tensor '{image_id}/boxes'")
    found = {part: file.get_tensor(f"{image_id}/{part}").float().numpy() for part in parts}
    return make_regions(found["features"], found["boxes"], found.get("scores"))


def make_regions(
    features: np.ndarray, boxes: np.ndarray, scores: np.ndarray | None, width: int = 0, height: int = 0
) -> Regions:
    """Checks arrays of any number of regions, and makes of them what the table holds.

    Args:
        features: `(n, D)`.
        boxes: `(n, 4)`, relative or in pixels.
        scores: `(n,)`, or None.
        width: of the image in pixels, 0 if not known; likewise `height`.
    """
    if (
        features.ndim != 2
        or boxes.shape != (len(features), 4)
        or features.dtype.kind not in "fiu"
        or not features.size
    ):
        raise BadEntryError(
            f"features of shape {features.shape} and boxes of shape {boxes.shape} instead of (n, D) and (n, 4)"
        )
    if scores is not None and scores.shape != (len(features),):
        raise BadEntryError(f"{scores.size} scores for {len(features)} regions")
    if len(features) > NUM_REGIONS:
        best = slice(NUM_REGIONS) if scores is None else np.argsort(-scores, kind="stable")[:NUM_REGIONS]
        features, boxes = features[best], boxes[best]
    with np.errstate(over="ignore"):
        features = features.astype(np.float16)
    if not np.isfinite(features).all():
        raise BadEntryError("features that are not finite, or too large for float16")
    return Regions(features, relative_boxes(boxes.astype(np.float32), width, height))


def relative_boxes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes float32 `(n, 4)`, x1 y1 x2 y2 in 0..1, of relative ones or of ones in pixels."""
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise BadEntryError("boxes that are not x1 y1 x2 y2")
    if boxes.max() > 1:
        if not width or not height:
            raise BadEntryError("boxes in pixels of an image of unknown size")
        right, bottom = boxes[:, 2].max(), boxes[:, 3].max()
        if right > 1.01 * width + 1 or bottom > 1.01 * height + 1:
            raise BadEntryError(f"boxes up to {right:.0f}, {bottom:.0f} in an image of {width}x{height}")
        boxes = boxes / np.array([width, height, width, height], dtype=np.float32)
    return boxes.clip(0, 1)
