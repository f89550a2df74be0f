"""Files, folders, frames and data sets of any columns, opened as rows to go through."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.constants import HF_HUB_CACHE

from emocap.data.licenses import card_license
from emocap.data.storage import HUB_ID, csv_rows, load_table, parse_json, read_text

__all__ = ["Source", "open_hub", "open_source", "read_emoset"]

EXPECTED = "a CSV, TSV, JSON, JSON lines or Parquet file"
METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


@dataclass
class Source:
    """Rows of a source by their split, "" where it has none.

    Attributes:
        name: the source's, for errors.
        parts: a list of dicts, or a data set whose photos are not decoded, each split's.
        columns: names of the columns.
        features: their types, where the source has such.
        folder: where relative paths of photos start; None where no path is to be followed.
        lines: line of each row, where the source is a text file.
        license: the source's, where known.
    """

    name: str
    parts: Mapping[str, Sequence[dict] | Dataset]
    columns: list[str]
    features: Features = field(default_factory=lambda: Features({}))
    folder: Path | None = None
    lines: Sequence[int] | None = None
    license: str | None = None

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[str, dict]]:
        """Split and values of every row, in order."""
        for split, part in self.parts.items():
            for row in part.select_columns(list(columns)) if isinstance(part, Dataset) else part:
                yield split, {column: row[column] for column in columns}

    def place(self, row: int) -> str:
        """Where a row stands, for errors."""
        return f"'{self.name}', " + (f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}")

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))


def open_source(source: Any, config: str | None = None) -> Source:
    """Opens whatever holds rows.

    Args:
        source: a CSV, TSV, JSON lines, JSON or Parquet file, a folder written by `save_to_disk`, a folder of photos
            with `metadata.csv` or `metadata.jsonl` (or one such folder a split), a data set's Hub id, a `Dataset` or
            `DatasetDict`, or a frame of pandas or polars.
        config: of a Hub id, the configuration.

    Raises:
        FileNotFoundError: there is no such file, folder or data set.
        ValueError: it is there and cannot be read, or holds no row.
    """
    if not isinstance(source, str | os.PathLike):
        opened = open_object(source)
    elif Path(source).is_dir():
        opened = open_folder(Path(source))
    elif Path(source).is_file():
        opened = open_file(Path(source))
    elif HUB_ID.fullmatch(str(source)):
        opened = from_tables(str(source), open_hub(str(source), config), Path(HF_HUB_CACHE))
        opened.license = card_license(str(source))
    else:
        raise FileNotFoundError(
            f"There is no file or folder '{source}'. Give {EXPECTED}, a folder written by `save_to_disk`, a folder of "
            "photos with metadata.csv, or a Hub data set id of the form 'owner/name'."
        )
    if not len(opened):
        raise ValueError(f"'{opened.name}' holds no row.")
    return opened


def open_hub(repo_id: str, config: str | None = None, other: str = "a file or folder") -> DatasetDict:
    """A data set of the Hub; `other` says in an error what might have been given in its place.

    Raises:
        FileNotFoundError: it is no id, or not within reach.
        ValueError: it needs code of its own, or a configuration.
    """
    absent = f"'{repo_id}' is neither {other} nor a Hub data set"
    if not HUB_ID.fullmatch(repo_id):
        raise FileNotFoundError(f"{absent} id of the form 'owner/name'.")
    try:
        return load_dataset(repo_id, config) if config else load_dataset(repo_id)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{absent} that can be reached ({error}).") from error
    except RuntimeError as error:  # such as a data set that is a script
        raise ValueError(f"The Hub data set '{repo_id}' cannot be read: {error}.") from error


def open_object(source: Any) -> Source:
    """A data set or frame in memory; relative paths of photos start where the process runs."""
    package = type(source).__module__.partition(".")[0]
    name = f"the {package} {type(source).__name__}"
    if package == "pandas":
        source = Dataset.from_pandas(source, preserve_index=False)
    elif package == "polars":
        source = Dataset.from_polars(source)
    elif not isinstance(source, Dataset | DatasetDict):
        raise ValueError(
            f"The source is {name}; expected a path, a Hub id, a Dataset, a DatasetDict, or a frame of pandas or "
            f"polars."
        )
    return from_tables(name, source, Path.cwd())


def open_folder(folder: Path) -> Source:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return from_tables(str(folder), load_table(folder), folder)
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"'{folder}' holds {' and '.join(path.name for path in found)}; keep one of them.")
    if found:
        return open_file(found[0])
    splits = {path.parent.name: path for name in METADATA for path in sorted(folder.glob(f"*/{name}"))}
    if not splits:
        raise ValueError(
            f"The folder '{folder}' holds neither a data set of `save_to_disk` nor {', '.join(METADATA)}. Give the "
            "table's file itself; `emocap data photos` takes photos without one."
        )
    opened = {split: open_file(path) for split, path in splits.items()}
    first = next(iter(opened.values()))
    parts = {}
    for split, own in opened.items():
        if set(own.columns) != set(first.columns):
            raise ValueError(f"'{own.name}' has other columns than '{first.name}': {', '.join(own.columns)}.")
        parts[split] = [row | {"file_name": f"{split}/{row['file_name']}"} for row in own.parts[""]]
    return Source(str(folder), parts, first.columns, folder=folder)


def open_file(path: Path) -> Source:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        try:
            table = Dataset.from_parquet(str(path))
        except Exception as error:  # pyarrow's and datasets' own kinds
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise ValueError(f"'{path}' cannot be read as Parquet: {reason}.") from error
        return from_tables(str(path), table, path.parent)
    if suffix in DELIMITERS:
        return open_csv(path, DELIMITERS[suffix])
    if suffix in (".jsonl", ".ndjson", ".json"):
        return open_json(path)
    raise ValueError(f"'{path}' ends in '{path.suffix}'; expected {EXPECTED}.")


def open_csv(path: Path, delimiter: str) -> Source:
    text = read_text(path, EXPECTED)
    header = first_cells(text, delimiter)
    if delimiter == "," and len(header) == 1 and ";" in header[0]:
        delimiter, header = ";", first_cells(text, ";")  # as spreadsheets of some languages write it
    if twice := [name for name, number in Counter(header).items() if number > 1]:
        raise ValueError(f"'{path}' has more than one column {', '.join(map(repr, twice))}; rename all but one.")
    lines, rows = [], []
    for line, row in csv_rows(text, path, (), delimiter):
        if None in row:
            raise ValueError(
                f"'{path}', line {line}: more cells than the first line has names. Put double quotes around texts "
                f"with a '{delimiter}' in them."
            )
        lines.append(line)
        rows.append(row)
    return Source(str(path), {"": rows}, header, folder=path.parent, lines=lines)


def first_cells(text: str, delimiter: str) -> list[str]:
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])


def open_json(path: Path) -> Source:
    """JSON lines, or a JSON list of objects. A name that an object lacks is null there."""
    text = read_text(path, EXPECTED)
    rows, lines, columns = [], [], {}
    if text.lstrip().startswith("["):
        try:
            content = list(enumerate(parse_json(text), start=1))
        except ValueError as error:
            raise ValueError(
                f"'{path}' cannot be read: {error}. Expected a list of objects, or JSON lines."
            ) from error
    else:
        content = []
        for line, words in enumerate(text.split("\n"), start=1):
            if words.strip():
                try:
                    content.append((line, parse_json(words)))
                except ValueError as error:
                    raise ValueError(f"'{path}', line {line}: not JSON ({error}).") from error
    for line, row in content:
        if not isinstance(row, dict):
            raise ValueError(f"'{path}', line {line}: a {type(row).__name__}; expected an object of names and values.")
        columns |= dict.fromkeys(row)
        rows.append(row)
        lines.append(line)
    rows = [dict.fromkeys(columns) | row for row in rows]
    return Source(str(path), {"": rows}, list(columns), folder=path.parent, lines=lines)


def from_tables(name: str, tables: Dataset | DatasetDict, folder: Path) -> Source:
    """Data sets as they are, photos not decoded. One that is all `train` has no splits of its own."""
    tables = DatasetDict({"": tables}) if isinstance(tables, Dataset) else tables
    if list(tables) == ["train"]:
        tables = DatasetDict({"": tables["train"]})
    columns = list(dict.fromkeys(column for part in tables.values() for column in part.column_names))
    parts, features = {}, Features({})
    for split, part in tables.items():
        if missing := [column for column in columns if column not in part.features]:
            raise ValueError(f"The split '{split}' of {name} lacks the column(s) {', '.join(missing)}.")
        features = part.features
        for column, feature in features.items():
            if isinstance(feature, Image):
                part = part.cast_column(column, Image(decode=False))
        parts[split] = part.with_format(None)
    return Source(name, parts, columns, features, folder)


def read_emoset(folder: str | os.PathLike) -> Source:
    """EmoSet-118K (Yang et al. 2023) in its own layout: `train.json`, `val.json` and `test.json` are lists of
    [emotion, name, path of the photo, path of its attributes], the paths from the folder. The attributes stay unread.

    Raises:
        FileNotFoundError: there are no such lists.
        ValueError: a list of another form.
    """
    folder, parts = Path(folder), {}
    for split in ("train", "val", "test"):
        path = folder / f"{split}.json"
        content = parse_json(read_text(path, "EmoSet's own layout, with train.json, val.json and test.json"))
        parts[split] = []
        for number, entry in enumerate(content if isinstance(content, list) else [content]):
            if not (isinstance(entry, list) and len(entry) >= 3 and all(isinstance(own, str) for own in entry[:3])):
                raise ValueError(
                    f"'{path}', entry {number + 1} is {json.dumps(entry)[:80]}; expected [emotion, name, path of the "
                    "photo, path of its attributes]."
                )
            parts[split].append({"emotion": entry[0], "image": entry[2]})
    return Source(str(folder), parts, ["image", "emotion"], folder=folder)
