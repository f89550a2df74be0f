"""Which column of a source is what: named by its owner, or guessed where only one can be meant."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Image, List

from emocap.data.sources import Source
from emocap.models.photo_emocap import PHOTO_ENDINGS

__all__ = ["NO_COLUMN", "Columns", "choose_columns", "numbers_of"]

NO_COLUMN = "none"
"""In place of a column's name: there is none, whatever the names look like."""

NUM_LOOKED_AT = 100

USUAL: dict[str, tuple[str, ...]] = {
    "image": ("image", "images", "imagepath", "imagefile", "imagename", "img", "imgpath", "filename", "filepath",
              "file", "path", "photo", "picture"),
    "caption": ("caption", "captions", "text", "sentence", "sentences", "description", "utterance", "comment"),
    "labels": ("label", "labels", "emotion", "emotions", "feeling", "feelings"),
    "group": ("group", "groupid"),
    "split": ("split", "partition"),
    "id": ("imageid",),
    "annotator": ("annotator", "annotatorid", "worker", "workerid", "rater", "raterid", "participant",
                  "participantid"),
    "num_annotators": ("numannotators", "nannotators", "annotators", "numraters", "nraters", "raters"),
}  # fmt: skip
"""Names, without case and signs, by which a column is known."""


@dataclass
class Columns:
    """Names of a source's columns by what they hold; None or no name: there is none.

    Attributes:
        image: path or content of the photo, or a pattern of columns such as "{folder}/{name}.jpg".
        caption: one or several columns of captions.
        labels: one column of emotions, or one column an emotion.
        label_names: names of the labels, in order, where the source says them apart.
        id: what rows of one image have in common, where that is not the photo's path.
    """

    image: str | None
    caption: list[str]
    labels: list[str]
    group: str | None
    split: str | None
    id: str | None
    annotator: str | None
    num_annotators: str | None
    label_names: list[str] | None = None

    def used(self) -> list[str]:
        single = [self.group, self.split, self.id, self.annotator, self.num_annotators]
        named = [*image_columns(self.image), *self.caption, *self.labels, *(name for name in single if name)]
        return list(dict.fromkeys(named))

    def told(self) -> dict[str, str]:
        """Each that there is, in words."""
        own = {name: value for name, value in vars(self).items() if value and name != "label_names"}
        return {name: ", ".join(value) if isinstance(value, list) else value for name, value in own.items()}


def image_columns(image: str | None) -> list[str]:
    """The columns of which an image's path is made."""
    if image is None:
        return []
    return re.findall(r"\{([^{}]+)\}", image) or [image]


def choose_columns(source: Source, given: Mapping[str, Any]) -> Columns:
    """The columns of a source, those that are not given guessed by their names and types.

    Args:
        source: the opened source.
        given: by the names of `Columns`; None: guess, NO_COLUMN: there is none.

    Raises:
        ValueError: a given column is missing, or a needed one can be several or none.
    """
    chosen: dict[str, list[str]] = {}
    for role, own in given.items():
        if own is not None:
            names = [own] if isinstance(own, str) else list(own)
            chosen[role] = [] if names == [NO_COLUMN] else names
            known = [name for own in chosen[role] for name in (image_columns(own) if role == "image" else [own])]
            if missing := [name for name in known if name not in source.columns]:
                refuse(source, f"has no column {', '.join(map(repr, missing))}", role)
    taken = [name for role, names in chosen.items() for own in names for name in
             (image_columns(own) if role == "image" else [own])]  # fmt: skip
    label_names = None
    is_own_table = {"labels", "emotions"} <= set(source.columns) and class_names(source, "emotions")
    if is_own_table and chosen.get("labels", ["labels"]) in (["labels"], ["votes"], ["soft_labels"]):
        label_names = class_names(source, "emotions")
        chosen.setdefault("labels", ["labels"])
        taken += ["labels", "emotions", "soft_labels", "votes"]
    for role in USUAL:
        if role not in chosen:
            chosen[role] = guess(source, role, [name for name in source.columns if name not in taken])
            taken += chosen[role]
    if not chosen["image"] and given.get("image") is None:
        chosen["image"] = guess_paths(
            source, [name for name in source.columns if name not in taken or name in chosen["id"]]
        )
        chosen["id"] = [name for name in chosen["id"] if name not in chosen["image"]]
        taken += chosen["image"]
    if not chosen["image"] and not chosen["id"] and given.get("id") is None:
        chosen["id"] = [name for name in source.columns if plain(name) == "id" and name not in taken]
    taken += chosen["id"]
    rest = [name for name in source.columns if name not in taken and plain(name) not in ("", "unnamed0", "id")]
    if not chosen["labels"] and given.get("labels") is None and rest:
        if not are_shares(source, rest):
            refuse(source, "has no column that is plainly the labels", "labels")
        chosen["labels"] = rest
    if not all(name.strip() for name in chosen["labels"]):
        refuse(source, "has emotions under no name: their column's is empty", "labels")
    if not chosen["image"] and not chosen["caption"]:
        refuse(source, "has no column that is plainly the photos or the captions", "image")
    for role in ("image", "group", "split", "id", "annotator", "num_annotators"):
        if len(chosen[role]) > 1:
            raise ValueError(f"--{role}_column is {', '.join(chosen[role])}; expected one column.")
    one = {role: next(iter(names), None) for role, names in chosen.items() if role not in ("caption", "labels")}
    return Columns(caption=chosen["caption"], labels=chosen["labels"], label_names=label_names, **one)


def guess(source: Source, role: str, free: Sequence[str]) -> list[str]:
    """The one column that is known by its name or, of photos, by its type."""
    found = [name for name in free if role == "image" and isinstance(source.features.get(name), Image)]
    found = found or [name for name in free if plain(name) in USUAL[role]]
    if len(found) > 1:
        refuse(source, f"has {len(found)} columns that may be the {role} ({', '.join(found)})", role)
    return found


def guess_paths(source: Source, free: Sequence[str]) -> list[str]:
    """The one column whose values, looked at in `NUM_LOOKED_AT` rows, all end as photos do."""
    looked_at = [row for _, row in itertools.islice(source.rows(free), NUM_LOOKED_AT)]
    found = [name for name in free if all(str(row[name]).lower().endswith(PHOTO_ENDINGS) for row in looked_at)]
    if len(found) > 1:
        refuse(source, f"has {len(found)} columns that may be the image ({', '.join(found)})", "image")
    return found


def refuse(source: Source, what: str, role: str) -> None:
    raise ValueError(
        f"'{source.name}' {what}. Its columns: {', '.join(source.columns)}. Say which it is with --{role}_column "
        f"NAME, or --{role}_column {NO_COLUMN} where there is none."
    )


def plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def are_shares(source: Source, names: Sequence[str]) -> bool:
    """Whether two columns or more hold numbers from 0 to 1 in every row: one column an emotion."""
    if len(names) < 2:
        return False
    numbers = (numbers_of(row.values()) for _, row in source.rows(names))
    return all(own is not None and all(0 <= value <= 1 for value in own) for own in numbers)


def numbers_of(values: Any) -> list[float] | None:
    """Numbers from cells that are numbers or texts of such; None where one is not."""
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        return None


def class_names(source: Source, column: str) -> list[str] | None:
    """Names of a column of class ids, or of lists of such; None where it is no such column."""
    feature = source.features.get(column)
    feature = feature.feature if isinstance(feature, List) else feature
    return list(feature.names) if isinstance(feature, ClassLabel) else None
