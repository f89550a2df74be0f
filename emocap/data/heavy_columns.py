"""Photos and region features apart from the light table: on the Hub, and beside a labelled table on disk.

A table's captions and labels are megabytes, its region features 147 kB an image. On the Hub the features are a
configuration of their own: `load_dataset(repo)` gives the light table at once, `load_dataset(repo, "regions")` the
features alone. On disk a labelled table's folder holds the light columns, and in `heavy-columns` hard links to the
files in which photos and features lie already: labels cost their own bytes, and neither folder needs the other. The
two share those files, so none may be written in place: emocap writes new ones and renames them.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk
from transformers.utils import logging

__all__ = [
    "HEAVY_FOLDER",
    "PHOTOS_CONFIG",
    "REGIONS_CONFIG",
    "join_regions",
    "read_folder",
    "save_apart",
    "split_regions",
]

logger = logging.get_logger(__name__)

REGIONS_CONFIG = "regions"
"""Name of the configuration of region features; the light table is the default one."""

PHOTOS_CONFIG = "photos"
"""The same for the photos of a labelled table, where they may be published."""

HEAVY_FOLDER = "heavy-columns"
"""Beside the splits of a labelled table, none of which can be named so: a table of the same rows with their photos and
region features, and whatever else lies in the same files."""

HEAVY = ("region_features", "region_boxes", "num_regions")


def split_regions(tables: DatasetDict) -> tuple[DatasetDict, DatasetDict | None]:
    """The table without region features, and the features with `image_id`, both in the table's order; None where there
    are no features.

    Raises:
        ValueError: an image id comes twice in a split, which a join could not tell apart.
    """
    if not any("region_features" in split.features for split in tables.values()):
        return tables, None
    light, heavy = DatasetDict(), DatasetDict()
    for name, split in tables.items():
        row_by_id(split, name)
        own = [column for column in HEAVY if column in split.features]
        light[name] = split.remove_columns(own)
        heavy[name] = split.select_columns(["image_id", *own])
    return light, heavy


def join_regions(light: DatasetDict, heavy: DatasetDict) -> DatasetDict:
    """The table with the region features of its rows. Where both hold the same images in the same order, as they are
    pushed, no feature is copied; otherwise rows are found by `image_id`, and `datasets` writes the features once more,
    in the table's order, to its cache.

    Raises:
        ValueError: a split or an image of the light table is absent from the features, or comes there twice.
    """
    joined = DatasetDict()
    for name, split in light.items():
        if name not in heavy:
            raise ValueError(f"There are no region features of the split '{name}' (splits: {', '.join(heavy)}).")
        features = heavy[name]
        image_ids = split["image_id"][:]
        if image_ids != features["image_id"][:]:
            rows = row_by_id(features, name)
            if missing := [image_id for image_id in image_ids if image_id not in rows]:
                raise ValueError(
                    f"{len(missing)} of {len(image_ids)} rows of the split '{name}' have no region features (first: "
                    f"'{missing[0]}'). Publish the features of this very table, or make them with `emocap regions`."
                )
            features = features.select(np.array([rows[image_id] for image_id in image_ids], dtype=np.int64))
        joined[name] = concatenate_datasets([split, features.remove_columns("image_id")], axis=1)
    return joined


def row_by_id(split: Dataset, name: str) -> dict[str, int]:
    """Row of each image."""
    image_ids = split["image_id"][:]
    rows = {image_id: row for row, image_id in enumerate(image_ids)}
    if len(rows) < len(image_ids):
        twice = next(image_id for row, image_id in enumerate(image_ids) if rows[image_id] != row)
        raise ValueError(f"The split '{name}' holds the image id '{twice}' more than once; an id stands for one row.")
    return rows


def save_apart(tables: DatasetDict, folder: Path, stored: DatasetDict) -> None:
    """Saves the light columns to a folder and lays photos and region features beside them, in `heavy-columns`.

    Args:
        tables: the splits to save, none of them empty.
        folder: a new folder.
        stored: the table that they were made from. Where a split of it is as it was read from disk, and no row was
            left out, its files are linked; otherwise the heavy columns are written anew, which a log line says.
    """
    apart = [name for name, split in tables.items() if own_heavy(split)]
    DatasetDict({name: split.remove_columns(own_heavy(split)) for name, split in tables.items()}).save_to_disk(
        str(folder)
    )
    write_index(folder, splits=list(tables), heavy=apart)
    for name in apart:
        beside, left_out = folder / HEAVY_FOLDER / name, len(stored[name]) - len(tables[name])
        source = None if left_out else stored_folder(stored[name])
        if source is not None:
            link_split(source, beside)
            continue
        reason = f"{left_out} rows are left out" if left_out else "no folder holds that very split"
        logger.warning(f"Photos and region features of the {name} split are written anew: {reason}.")
        heavy_alone(tables[name]).save_to_disk(str(beside))
    if apart:
        write_index(folder / HEAVY_FOLDER, splits=apart)


def own_heavy(split: Dataset) -> list[str]:
    return [column for column in ("image", *HEAVY) if column in split.features]


def heavy_alone(split: Dataset) -> Dataset:
    return split.select_columns(["image_id", *own_heavy(split)])


def write_index(folder: Path, **splits: list[str]) -> None:
    """`datasets` reads "splits" alone."""
    (folder / "dataset_dict.json").write_text(json.dumps(splits), "utf-8")


def stored_folder(split: Dataset) -> Path | None:
    """Where photos and region features of a split lie, if reading it from its folder gives the very split again: any
    change of rows or columns since it was read gave it another fingerprint, and so did any change of the folder."""
    for folder in {Path(file["filename"]).parent for file in split.cache_files}:
        if (folder.parent / "dataset_dict.json").is_file():
            found = read_folder(folder.parent).get(folder.name)
            if found is not None and found._fingerprint == split._fingerprint:
                beside = folder.parent / HEAVY_FOLDER / folder.name
                return beside if beside.is_dir() else folder
    return None


def link_split(source: Path, target: Path) -> None:
    """A saved split once more, in hard links, which outlive the removal of the first; as a copy where the file system
    has none, or is another one."""
    target.mkdir(parents=True)
    for name in ("state.json", "dataset_info.json"):
        shutil.copyfile(source / name, target / name)
    names = [file["filename"] for file in json.loads((source / "state.json").read_text("utf-8"))["_data_files"]]
    try:
        for name in names:
            os.link(os.path.realpath(source / name), target / name)  # not to a link, which a cache of the Hub holds
    except OSError as error:
        size = sum((source / name).stat().st_size for name in names)
        logger.warning(f"'{source}' cannot be linked ({error.strerror}): {size / 1e6:.0f} MB are copied.")
        for name in names:
            (target / name).unlink(missing_ok=True)
            shutil.copyfile(source / name, target / name)


def read_folder(folder: Path) -> DatasetDict:
    """The table of a folder, with the photos and region features that lie beside it; no byte of them is copied.

    Raises:
        FileNotFoundError: they do not lie there any more.
        ValueError: a row has none.
    """
    tables = load_from_disk(str(folder))
    for name in json.loads((folder / "dataset_dict.json").read_text("utf-8")).get("heavy", []):
        beside = folder / HEAVY_FOLDER / name
        if not beside.is_dir():
            raise FileNotFoundError(
                f"There is no '{beside}', which held photos and region features of the {name} split. Put it back, run "
                "`emocap label` again, or read the other columns with `datasets.load_from_disk`."
            )
        heavy = heavy_alone(load_from_disk(str(beside)))
        tables |= join_regions(DatasetDict({name: tables[name]}), DatasetDict({name: heavy}))
    return tables
