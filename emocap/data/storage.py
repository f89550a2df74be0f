"""Tables on disk: read from a folder or the Hub, written whole or not at all, with what went wrong beside them."""

import csv
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, get_dataset_config_names, load_dataset, load_from_disk
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError
from PIL import Image, UnidentifiedImageError
from transformers.utils import logging

from emocap.data.heavy_columns import PHOTOS_CONFIG, REGIONS_CONFIG, join_regions, read_folder, save_apart
from emocap.data.licenses import card_license, set_license
from emocap.terminal import progress

__all__ = [
    "HUB_ID",
    "DataReport",
    "attach_photos",
    "check_output_dir",
    "csv_rows",
    "find_photos",
    "load_table",
    "local_folder",
    "parse_json",
    "photo_problem",
    "photo_problems",
    "read_text",
    "save_table",
    "usable_photos",
    "write_array",
    "write_json",
    "write_text",
]

logger = logging.get_logger(__name__)

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
"""`owner/name`, which a relative path of two parts may look like too: a folder that is there comes first."""

Photo = str | bytes | None
"""A photo's name, path or content, or that there is none."""

MISSING, OUTSIDE = "missing file", "path leads outside the photo folder"


class DataReport:
    """Counts and lists what a data step left out, and why; written as `data_report.json` beside the table."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.problems: list[dict[str, str]] = []
        self.extra: dict[str, Any] = {}

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    def problem(self, image_id: str, reason: str, consequence: str) -> None:
        """One bad row: what was wrong with it and what became of it ('row skipped', 'kept without photo')."""
        self.counts[consequence] += 1
        self.problems.append({"image_id": image_id, "reason": reason, "consequence": consequence})

    def warn(self, text: str) -> None:
        """What the table's reader should know: logged, and listed."""
        logger.warning(text)
        self.extra.setdefault("warnings", []).append(text)

    def to_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), **self.extra, "problems": self.problems}


def photo_problem(path: str | os.PathLike | bytes) -> str | None:
    """Why the photo at `path`, or with this content, cannot be used, or None when it decodes to its end.

    JPEGs are decoded at an eighth of their size: every byte is read, so a cut file shows, at a fraction of the work.
    """
    try:
        with Image.open(io.BytesIO(path) if isinstance(path, bytes) else path) as photo:
            photo.draft("RGB", (max(photo.width // 8, 1), max(photo.height // 8, 1)))
            photo.load()
    except FileNotFoundError:
        return MISSING
    except UnidentifiedImageError:
        return "not an image"
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        told = f"unreadable image: {error}"
        return told if isinstance(path, bytes) else told.replace(str(path), Path(path).name)
    return None


def photo_problems(paths: Sequence[str | os.PathLike | bytes]) -> list[str | None]:
    """`photo_problem` of every path, in order; threads share the work, as PIL decodes outside the interpreter lock."""
    if not paths:
        return []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(photo_problem, paths)
        return list(progress(found, total=len(paths), desc="Checking photos", unit="photos"))


def attach_photos(rows: list[dict], photos_dir: str | os.PathLike | None, report: DataReport) -> list[dict]:
    """Sets each row's `image` to what `usable_photos` finds, and leaves out rows with neither photo nor caption.

    Args:
        rows: dicts with `image_id` string and `captions` list of strings. A row's `photo`, which it then lacks, says
            another name in the folder than `image_id`, or is the file's content as bytes, or None: it has none.
        photos_dir: folder of photos; None leaves every `image` None that is not there as bytes.
    """
    image_ids, captioned = [row["image_id"] for row in rows], [bool(row["captions"]) for row in rows]
    asked = [row.get("photo", row["image_id"]) for row in rows]
    attached = []
    for row, photo in zip(rows, usable_photos(image_ids, asked, captioned, photos_dir, report), strict=True):
        if photo is not None or row["captions"]:
            image = {"bytes": photo, "path": row["image_id"]} if isinstance(photo, bytes) else photo
            attached.append({name: value for name, value in row.items() if name != "photo"} | {"image": image})
    return attached


def usable_photos(
    image_ids: Sequence[str],
    photos: Sequence[Photo],
    captioned: Sequence[bool],
    photos_dir: str | os.PathLike | None,
    report: DataReport,
    missing: list[str] | None = None,
) -> list[Photo]:
    """Each image's photo as a path or content, None where there is none that can be used.

    A photo that is missing, damaged or outside `photos_dir` is listed in the report: "row skipped" where the image has
    no caption either, "kept without photo" elsewhere.

    Args:
        image_ids: the images, for the report.
        photos: each one's name in the folder, or its content as bytes, or None: there is none.
        captioned: whether each image has a caption.
        photos_dir: folder of photos; None: names are not asked for.
        missing: gets the captioned images whose file is missing, which the report then does not list one by one.
    """
    found = find_photos(photos_dir, photos)
    there = {index: photo for index, (photo, _) in enumerate(found) if photo is not None}
    for index, problem in zip(there, photo_problems(list(there.values())), strict=True):
        if problem is not None:
            found[index] = None, problem
    for image_id, (photo, problem), has_caption in zip(image_ids, found, captioned, strict=True):
        if photo is None and not has_caption:
            report.problem(image_id, f"no caption and no photo ({problem or 'not asked for'})", "row skipped")
        elif problem == MISSING and missing is not None:
            missing.append(image_id)
        elif problem is not None:
            report.problem(image_id, problem, "kept without photo")
    return [photo for photo, _ in found]


def find_photos(photos_dir: str | os.PathLike | None, photos: Sequence[Photo]) -> list[tuple[Photo, str | None]]:
    """For each name the path in the folder or, failing that, of its last part; or None, and the reason. Content stays
    as it is."""
    if photos_dir is None:
        return [(photo if isinstance(photo, bytes) else None, None) for photo in photos]
    folder = os.path.join(os.path.abspath(photos_dir), "")
    here = {entry.name for entry in os.scandir(folder) if entry.is_file()} if os.path.isdir(folder) else set()

    def find(photo: Photo) -> tuple[Photo, str | None]:
        if not isinstance(photo, str):
            return photo, None
        reason = MISSING
        if "/" in photo or os.sep in photo:
            given = os.path.abspath(os.path.join(folder, photo))
            if not given.startswith(folder):
                reason = OUTSIDE
            elif os.path.isfile(given):
                return given, None
            photo = PurePosixPath(photo).name
        return (folder + photo, None) if photo in here else (None, reason)

    return [find(photo) for photo in photos]


def read_text(path: str | os.PathLike, what: str) -> str:
    """Text of a UTF-8 file, with or without byte order mark; `what` says in an error which file is meant.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8 text.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{path}'; expected {what}.")
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{path}' is not UTF-8 text ({error.reason} at byte {error.start}); expected {what}."
        ) from None


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is not JSON, or nested more deeply than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists and objects are nested too deeply") from None


def csv_rows(
    text: str, path: str | os.PathLike, columns: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV text with the number of the line each ends on; cells that a short row lacks are "".

    Raises:
        ValueError: a column is missing, or the text is no CSV.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=delimiter)
    try:
        found = reader.fieldnames or []
        if missing := [column for column in columns if column not in found]:
            raise ValueError(
                f"'{path}' lacks the column(s) {', '.join(missing)}. Found: {', '.join(found)[:200] or 'nothing'}. "
                f"Expected a CSV with a first line that names {', '.join(columns)}."
            )
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"'{path}', after line {reader.line_num}: not a CSV ({error}).") from error


def load_table(source: str | os.PathLike) -> DatasetDict:
    """A table of pairs from a folder written by `save_to_disk`, with the columns of its `heavy-columns`, or from a Hub
    data set id, with those of its configurations "regions" and "photos".

    Raises:
        FileNotFoundError: neither a folder nor a data set on the Hub.
        ValueError: a split without rows, which `datasets` writes but cannot read.
    """
    if Path(source).is_dir():
        for state in Path(source).glob("*/state.json"):
            if not json.loads(state.read_text("utf-8"))["_data_files"]:
                raise ValueError(f"The {state.parent.name} split of '{source}' is empty; add rows or leave it out.")
        is_dict = Path(source, "dataset_dict.json").is_file()
        table = read_folder(Path(source)) if is_dict else load_from_disk(str(source))
    elif HUB_ID.fullmatch(str(source)):
        table = load_published(str(source))
    else:
        raise FileNotFoundError(
            f"There is no data set folder at '{source}'. Give a folder written by an `emocap` command, or a Hub "
            "data set id of the form 'owner/name'."
        )
    return DatasetDict({"train": table}) if isinstance(table, Dataset) else table


def load_published(repo_id: str) -> DatasetDict | Dataset:
    """A data set of the Hub, with the columns that are published in configurations of their own."""
    table = load_dataset(repo_id)
    if isinstance(table, DatasetDict):
        for part in sorted({REGIONS_CONFIG, PHOTOS_CONFIG}.intersection(get_dataset_config_names(repo_id))):
            table = join_regions(table, load_dataset(repo_id, part))
    license = card_license(repo_id)
    set_license(table if isinstance(table, DatasetDict) else {"train": table}, license)
    return table


def local_folder(source: str | os.PathLike, repo_type: str, patterns: Sequence[str]) -> Path:
    """The folder itself or, of a Hub id, a copy in the client's cache of the files that match the patterns.

    Raises:
        FileNotFoundError: neither a folder nor within reach on the Hub.
    """
    if Path(source).is_dir() or not HUB_ID.fullmatch(str(source)):
        return Path(source)
    try:
        return Path(snapshot_download(str(source), repo_type=repo_type, allow_patterns=list(patterns)))
    except (HTTPError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"'{source}' is neither a folder nor a {repo_type} on the Hub that can be read ({reason})."
        ) from None


def check_output_dir(output_dir: str | os.PathLike) -> Path:
    """Refuses, before any work, an output folder that holds something other than an earlier table."""
    folder = Path(output_dir)
    if folder.is_file():
        raise FileExistsError(f"--output_dir '{folder}' is a file; give a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "dataset_dict.json").is_file():
        raise FileExistsError(
            f"--output_dir '{folder}' exists and is not a table of pairs; give an empty or a new folder."
        )
    return folder


def save_table(
    table: DatasetDict,
    output_dir: str | os.PathLike,
    report: DataReport | None = None,
    files: dict[str, str] | None = None,
    stored: DatasetDict | None = None,
) -> None:
    """Writes the table to a temporary folder and renames it, so that `output_dir` is whole or as it was before.

    Splits without rows are left out: `datasets` would write them and not read them back. `files` are texts by name
    that belong beside the table. `stored` is a table of the same rows, whose photos and region features are linked
    rather than written again: see `save_apart`.
    """
    folder = check_output_dir(output_dir)
    for name, split in table.items():
        if report is not None:
            report.counts[f"rows in {name}"] = len(split)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        filled = DatasetDict({name: split for name, split in table.items() if len(split)})
        if stored is None:
            filled.save_to_disk(str(temporary))
        else:
            save_apart(filled, temporary, stored)
        if report is not None:
            write_json(temporary / "data_report.json", report.to_dict())
        for name, text in (files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8", errors="replace")
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the room
        raise
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def write_json(path: str | os.PathLike, content: object) -> None:
    """Writes JSON under a temporary name, then renames it."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | os.PathLike, text: str, errors: str = "strict") -> None:
    """Writes UTF-8 text under a temporary name, then renames it; `errors` as `open` takes it."""
    temporary = Path(f"{path}.partial")
    temporary.write_text(text, encoding="utf-8", errors=errors)
    temporary.replace(path)


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes an array in NumPy's format under a temporary name, then renames it."""
    temporary = Path(f"{path}.partial")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    temporary.replace(path)
