"""Tables on disk: read from a folder or the Hub, written whole or not at all, with what went wrong beside them."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from PIL import Image, UnidentifiedImageError

__all__ = ["DataReport", "check_output_dir", "load_table", "photo_problem", "save_table", "write_json"]


class DataReport:
    """Counts and lists what a data step left out, and why; written as `data_report.json` beside the table."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.problems: list[dict[str, str]] = []
        self.extra: dict[str, object] = {}

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    def problem(self, image_id: str, reason: str, consequence: str) -> None:
        """One bad row: what was wrong with it and what became of it ('row skipped', 'kept without photo')."""
        self.counts[consequence] += 1
        self.problems.append({"image_id": image_id, "reason": reason, "consequence": consequence})

    def to_dict(self) -> dict[str, object]:
        return {"counts": dict(self.counts), **self.extra, "problems": self.problems}


def photo_problem(path: str | os.PathLike) -> str | None:
    """Why the photo at `path` cannot be used, or None when it decodes to its end.

    JPEGs are decoded at an eighth of their size: every byte is read, so a cut file shows, at a fraction of the work.
    """
    try:
        with Image.open(path) as photo:
            photo.draft("RGB", (photo.width // 8, photo.height // 8))
            photo.load()
    except FileNotFoundError:
        return "missing file"
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"unreadable image: {error}".replace(str(path), Path(path).name)
    return None


def load_table(source: str | os.PathLike) -> DatasetDict:
    """A table of pairs from a folder written by `save_to_disk`, or from a Hub data set id.

    Raises:
        FileNotFoundError: neither a folder nor a data set on the Hub.
    """
    if Path(source).is_dir():
        table = load_from_disk(str(source))
    elif "/" in str(source) and not str(source).startswith((".", "/", "~")) and str(source).count("/") == 1:
        table = load_dataset(str(source))
    else:
        raise FileNotFoundError(
            f"There is no data set folder at '{source}'. Give a folder written by an `emocap` command, or a Hub "
            "data set id of the form 'owner/name'."
        )
    return DatasetDict({"train": table}) if isinstance(table, Dataset) else table


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


def save_table(table: DatasetDict, output_dir: str | os.PathLike, report: DataReport | None = None) -> None:
    """Writes the table to a temporary folder and renames it, so that `output_dir` is whole or as it was before."""
    folder = check_output_dir(output_dir)
    for name, split in table.items():
        if report is not None:
            report.counts[f"rows in {name}"] = len(split)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    table.save_to_disk(str(temporary))
    if report is not None:
        write_json(temporary / "data_report.json", report.to_dict())
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def write_json(path: str | os.PathLike, content: object) -> None:
    """Writes JSON under a temporary name, then renames it."""
    temporary = Path(f"{path}.partial")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
