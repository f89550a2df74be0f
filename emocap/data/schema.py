"""The one table of pairs that every step reads and writes: its columns, its label names and its splits."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from importlib import resources

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

__all__ = [
    "NUM_REGIONS",
    "OASIS_LABELS",
    "SPLIT_SHARES",
    "draw_splits",
    "group_keys",
    "held_out",
    "label_names",
    "pair_features",
    "region_columns",
    "socratis_labels",
    "split_of",
    "to_dataset_dict",
]

NUM_REGIONS = 36
"""Regions an image, as in bottom-up attention (Anderson et al. 2018, section 3.1)."""

OASIS_LABELS = ["pleasant", "unpleasant", "aroused", "calm"]

SPLIT_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}

FEWEST, SMALL = 5, 1000
"""Images, or groups, from which `draw_splits` gives each split one, and from which on a hash alone does well: it gives
1,000 a validation split of 100 with a standard deviation of 9."""


def socratis_labels() -> list[str]:
    """The 29 emotions of Socratis in the study's order."""
    return json.loads(resources.files("emocap.data").joinpath("socratis_labels.json").read_text("utf-8"))


def pair_features(
    names: Sequence[str] | None, *, votes: bool = False, extra: dict[str, Value | List] | None = None
) -> Features:
    """Columns of the table of pairs, one row an image.

    Args:
        names: emotion names in label order, or None for a table without human labels (COCO).
        votes: whether the crowd's votes are known; adds `votes`, `num_annotators` and `soft_labels`
            (votes / num_annotators).
        extra: further columns of one source, such as `coco_url`, or `group` string: rows of one group never stand in
            two splits, folds or resamples (null: the row is its own group).

    Returns:
        `image_id` string, `image` Image (null where the photo is not at hand), `captions` List(string) and, with
        names, `labels` List(float32, L) (multi-hot or soft) and `emotions` List(ClassLabel) (the true labels, which
        carry the names).
    """
    columns = {"image_id": Value("string"), "image": Image(), "captions": List(Value("string"))}
    if names is not None:
        columns["labels"] = List(Value("float32"), length=len(names))
        columns["emotions"] = List(ClassLabel(names=list(names)))
        if votes:
            columns["votes"] = List(Value("int32"), length=len(names))
            columns["num_annotators"] = Value("int32")
            columns["soft_labels"] = List(Value("float32"), length=len(names))
    return Features({**columns, **(extra or {})})


def region_columns(dim: int) -> dict[str, Value | List]:
    """Columns that `emocap regions` adds, for features of width `dim`: flat, so that Arrow reads them zero-copy."""
    return {
        "region_features": List(Value("float16"), length=NUM_REGIONS * dim),
        "region_boxes": List(Value("float32"), length=NUM_REGIONS * 4),
        "num_regions": Value("int32"),
    }


def label_names(dataset: Dataset | DatasetDict) -> list[str]:
    """Emotion names of a table, in label order, from its `emotions` column.

    Raises:
        ValueError: the table carries no emotions.
    """
    features = (next(iter(dataset.values())) if isinstance(dataset, dict) else dataset).features
    column = features.get("emotions")
    if not isinstance(getattr(column, "feature", None), ClassLabel):
        raise ValueError(
            f"The data set has no 'emotions' column of ClassLabel (columns: {', '.join(features)}). Human labels come "
            "from `emocap data pairs|socratis|oasis|scenes`, pseudo-labels from `emocap label`."
        )
    return list(column.feature.names)


def group_keys(table: Dataset) -> list[str]:
    """What each row is split by: its `group`, or its own `image_id` where it has none (null or empty)."""
    ids = table["image_id"][:]
    if "group" not in table.features:
        return ids
    return [group or own for group, own in zip(table["group"][:], ids, strict=True)]


def split_of(key: str, seed: int = 0) -> str:
    """Split of an image: `train`, `validation` or `test`, from a hash of its id, or of its group, so that no other row
    matters; see `group_keys`."""
    position = position_of(key, seed)
    for name, bound in zip(SPLIT_SHARES, np.cumsum(list(SPLIT_SHARES.values())), strict=True):
        if position < bound:
            return name
    return name


def held_out(table: Dataset) -> np.ndarray:
    """Which rows are kept for validation where there is no such split, bool `(rows,)`: a tenth, groups whole."""
    return np.array([split_of(key, seed=1) == "validation" for key in group_keys(table)], dtype=bool)


def position_of(key: str, seed: int = 0) -> float:
    """A hash of the key, from 0 to below 1."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def draw_splits(rows: Sequence[dict], seed: int = 0) -> list[str]:
    """Split of each row. In a large table `split_of` says it; in one of fewer than `SMALL` images (or groups) the hash
    says the order alone and the shares where it is cut, since 40 rows would else become 28, 1 and 11.

    The cut is made within the images of one rarest emotion, one emotion after the other, so that each split has its
    share of all: sizes are exact to one image. Where such a table grows, no more rows move than about one an emotion
    and bound, and few move when it becomes a large one, as both order by the same hash.

    Args:
        rows: with `image_id`, and where known `group` and `emotions`.
        seed: of the hash.

    Raises:
        ValueError: so few images or groups that a split stays empty.
    """
    keys = [row.get("group") or row["image_id"] for row in rows]
    emotions: dict[str, set[int]] = {}
    for key, row in zip(keys, rows, strict=True):
        emotions.setdefault(key, set()).update(row.get("emotions", ()))
    if len(emotions) >= SMALL:
        return [split_of(key, seed) for key in keys]
    if len(emotions) < FEWEST:
        raise ValueError(
            f"There are {len(emotions)} images (or groups), too few to draw train, validation and test from: "
            f"give {FEWEST} or more, or say each one's split in a column."
        )
    counts = Counter(label for own in emotions.values() for label in own)
    rarest = {key: min(own, key=lambda label: (counts[label], label), default=-1) for key, own in emotions.items()}
    _, validation, test = SPLIT_SHARES.values()
    before, places = 0, {}
    for stratum in sorted(set(rarest.values())):
        members = sorted((key for key in rarest if rarest[key] == stratum), key=lambda key: position_of(key, seed))
        after = before + len(members)
        # What a stratum's part lacks to its share the next ones make good.
        num_validation, num_test = (
            math.floor(share * after + 0.5) - math.floor(share * before + 0.5) for share in (validation, test)
        )
        num_train = len(members) - num_validation - num_test
        names = np.repeat(list(SPLIT_SHARES), [num_train, num_validation, num_test])
        places |= dict(zip(members, names.tolist(), strict=True))
        before = after
    return [places[key] for key in keys]


def to_dataset_dict(
    rows: Sequence[dict], features: Features, seed: int = 0, splits: Sequence[str] | None = None
) -> DatasetDict:
    """Rows (dicts of python values) into splits, each in the order the rows came. No image stands in two of them, and
    no `group`, where rows have one.

    Args:
        rows: with a value for each column.
        features: the columns.
        seed: of `split_of`.
        splits: each row's, in place of `split_of`.

    Raises:
        ValueError: so few rows that one of `SPLIT_SHARES` stays empty, where rows were drawn.
    """
    places = splits or [split_of(row.get("group") or row["image_id"], seed) for row in rows]
    names = [*(name for name in SPLIT_SHARES if splits is None or name in places), *places]
    by_split: dict[str, list[dict]] = {name: [] for name in names}
    for row, place in zip(rows, places, strict=True):
        by_split[place].append(row)
    if empty := [name for name, part in by_split.items() if not part]:
        raise ValueError(
            f"The {len(rows)} row(s) leave the split(s) {', '.join(empty)} empty. Each image, or group of images, "
            "falls into train, validation or test (7 : 1 : 2) by a hash of its id: give more images or another seed."
        )
    table = DatasetDict()
    for name, part in by_split.items():
        table[name] = Dataset.from_dict({column: [row[column] for row in part] for column in features}, features)
    return table
