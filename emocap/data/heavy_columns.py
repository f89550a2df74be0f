"""Region features on the Hub: a configuration of their own beside the light table, joined again when it is read.

A table's captions and labels are megabytes, its region features 147 kB an image. Kept apart, `load_dataset(repo)`
gives the light table at once, and `load_dataset(repo, "regions")` the features alone.
"""

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

__all__ = ["PHOTOS_CONFIG", "REGIONS_CONFIG", "join_regions", "split_regions"]

REGIONS_CONFIG = "regions"
"""Name of the configuration of region features; the light table is the default one."""

PHOTOS_CONFIG = "photos"
"""The same for the photos of a labelled table, where they may be published."""

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
