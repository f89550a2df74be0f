"""Anybody's pairs: a file, folder, frame or data set of any columns, as a table of pairs."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict, Value

from emocap.data.annotations import Annotated, fixed_labels, frequent_first, keep_labels, refuse_unknown
from emocap.data.columns import Columns, choose_columns, image_columns
from emocap.data.label_cells import Answers, read_answers, read_label_map
from emocap.data.licenses import set_license
from emocap.data.published import PUBLISHED, Published
from emocap.data.schema import SPLIT_SHARES, draw_splits, pair_features, to_dataset_dict
from emocap.data.sources import Source, open_source
from emocap.data.storage import DataReport, attach_photos, find_photos

__all__ = ["build_pairs", "load_pairs"]

FEW = 30
"""Images below which a split's figures say little."""

IN_CACHE = re.compile(r"^datasets--[^/]+/snapshots/[^/]+/")
"""Where the Hub's client keeps files of a data set: no part of a photo's name, as it changes with each revision."""

SPLIT_NAMES = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation",
               "development": "validation", "testing": "test"}  # fmt: skip
"""Other names of the splits, in lower case."""


def load_pairs(source: Any, **options: Any) -> DatasetDict:
    """The table of `build_pairs`, which explains the options, without its report."""
    return build_pairs(source, **options)[0]


def build_pairs(
    source: Any,
    *,
    preset: str | None = None,
    config: str | None = None,
    images_dir: str | os.PathLike | None = None,
    image_column: str | None = None,
    caption_column: Sequence[str] | str | None = None,
    labels_column: Sequence[str] | str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
    id_column: str | None = None,
    annotator_column: str | None = None,
    num_annotators_column: str | None = None,
    annotators: bool | None = None,
    labels: Sequence[str] | str | os.PathLike | None = None,
    label_map: str | os.PathLike | None = None,
    min_count: int | None = None,
    license: str | None = None,
    seed: int = 0,
) -> tuple[DatasetDict, DataReport]:
    """Reads pairs of photo and caption, with or without emotions, one row an image.

    A column that is not given is guessed where its name or type leaves one choice, and "none" says that there is none.
    The report's `columns` tells which were taken. Photos in a data set or frame are held in memory.

    Args:
        source: a path, a Hub id, a frame of pandas or polars, a `Dataset` or a `DatasetDict`, see `open_source`.
        preset: a published data set whose columns are known, see `PUBLISHED`.
        config: configuration of a Hub id.
        images_dir: folder of the photos, by default that of the file. None outside of it is read.
        image_column: the photo: its path in that folder, absolute or relative, or its content; or a pattern of
            columns, such as "{style}/{painting}.jpg".
        caption_column: one or several columns of captions, texts or lists of such.
        labels_column: one column of emotions (a list, or names with | ; or , between them, or class ids), or one
            column an emotion: marks of 0 and 1, shares from 0 to 1, or votes.
        group_column: rows of one group never stand in two splits, folds or resamples.
        split_column: each row's split. Without it the source's own splits are kept, or `draw_splits` draws them; rows
            without labels are all `train`.
        id_column: what rows of one image have in common, where that is not the photo's path.
        annotator_column: who answered. Each row is then one annotator's answer.
        num_annotators_column: how many people voted.
        annotators: whether each row is one annotator's answer, so that votes, their number and soft labels follow;
            else the emotions of an image's rows are joined. By default as its rows say: yes with an annotator column,
            no where the rows of each image agree.
        labels: the emotions to keep, in order, as a list or the path of a JSON list; the names of class ids that
            have none. By default the source's own in its order, or by how many images carry them, then alphabetically.
        label_map: YAML or JSON file of old names with new ones, see `read_label_map`.
        min_count: keep emotions found in at least so many images.
        license: the table's licence, by default the source's where known.
        seed: seed of the splits.

    Returns:
        The table of `pair_features`: with `votes`, `num_annotators` and `soft_labels` where they are known, with
        `group` where it is given, without `labels` and `emotions` where the source has none. The report lists photos
        that cannot be used, and the columns, and warns of splits that are too small to measure on.

    Raises:
        FileNotFoundError: the source, a folder or a file does not exist.
        ValueError: a column is missing or not plain, a cell cannot be read, emotions have no name, or an image or
            group stands in two given splits.
    """
    if preset is not None and preset not in PUBLISHED:
        raise ValueError(f"There is no preset '{preset}' (presets: {', '.join(PUBLISHED)}).")
    if min_count is not None and min_count < 1:
        raise ValueError(f"min_count is {min_count}; expected 1 or more images.")
    if images_dir is not None and not Path(images_dir).is_dir():
        raise FileNotFoundError(f"There is no photo folder '{images_dir}'; leave it out to take the source's own.")
    fixed, new_names = fixed_labels(labels), None if label_map is None else read_label_map(label_map)
    known = PUBLISHED[preset] if preset else Published()
    opened = known.read(source) if known.read else open_source(source, config or known.config)
    given = {
        "image": image_column, "caption": caption_column, "labels": labels_column, "group": group_column,
        "split": split_column, "id": id_column, "annotator": annotator_column,
        "num_annotators": num_annotators_column,
    }  # fmt: skip
    given = {role: known.columns.get(role) if column is None else column for role, column in given.items()}
    columns = choose_columns(opened, given)
    report = DataReport()
    report.extra["columns"] = columns.told()
    report.count("rows read", len(opened))
    answers = read_answers(opened, columns, fixed if new_names is None else None)
    if answers is None and new_names is not None:
        raise ValueError(f"'{opened.name}' has no column of labels; a label map needs one.")
    if answers is not None and known.labels is not None:
        refuse_unknown(answers.found(), known.labels, opened.name)
        answers.names = known.labels
    if answers is not None and new_names is not None:
        answers = answers.renamed(new_names, opened)
    images, owners = gather(opened, columns, images_dir)
    report.count("rows of an image that came before, merged", len(owners) - len(images))
    names, votes = None, False
    if answers is not None:
        annotators = known.annotators if annotators is None else annotators
        votes = add_answers(opened, images, owners, answers, columns, annotators)
        names, images = choose_names(opened, images, answers, fixed, min_count, report)
    rows = [image.row(own, names, votes=votes) for own, image in images.items()]
    folder = images_dir or opened.folder
    rows = attach_photos(present_photos(rows, folder, report), folder, report)
    if not rows:
        raise ValueError(f"'{opened.name}' leaves no row: {report.problems[0]['reason']}.")
    if rows[0]["split"]:
        splits = [row["split"] for row in rows]
    else:
        splits = ["train"] * len(rows) if names is None else draw_splits(rows, seed)
    features = pair_features(names, votes=votes, extra={"group": Value("string")} if columns.group else None)
    table = to_dataset_dict(rows, features, splits=splits)
    warn_of_small_splits(table, names, report)
    return set_license(table, license or known.license or opened.license), report


def gather(
    source: Source, columns: Columns, images_dir: str | os.PathLike | None
) -> tuple[dict[str, Annotated], list]:
    """Images by their id, with captions, photo, split and group; and the id of each row's."""
    images: dict[str, Annotated] = {}
    owners, used = [], columns.used()
    folder = None if source.folder is None else os.path.abspath(images_dir or source.folder)
    for number, (split, row) in enumerate(source.rows(used)):
        captions = [text for column in columns.caption for text in texts_of(row[column], source, number, column)]
        photo = photo_of(row, columns, source, number, folder)
        image_id = id_of(row, columns, photo, captions)
        if image_id is None:
            raise ValueError(f"{source.place(number)}: there is no photo, caption or id in it.")
        if columns.split:
            split = text_of(row[columns.split])
            if not split:
                raise ValueError(f"{source.place(number)}: '{columns.split}' is empty; expected the row's split.")
        own = {"split": split_name(split, source), "photo": photo[1]}
        if columns.group:
            own["group"] = text_of(row[columns.group]) or None
        image = images.setdefault(image_id, Annotated(columns=dict.fromkeys(own)))
        for name, value in own.items():
            if image.columns[name] is None:
                image.columns[name] = value
            elif value is not None and value != image.columns[name]:
                shown = " and ".join("another" if isinstance(own, bytes) else f"'{own}'" for own in
                                     (image.columns[name], value))  # fmt: skip
                cure = " Tell the rows apart with --id_column NAME." if name == "photo" else ""
                raise ValueError(f"{source.place(number)}: image '{image_id}' has the {name} {shown}.{cure}")
        for caption in captions:
            image.add_caption(caption)
        owners.append(image_id)
    refuse_torn_groups(source, images)
    return images, owners


def split_name(split: str, source: Source) -> str:
    """A split under its usual name; it becomes a folder's."""
    lower = split.lower()
    name = SPLIT_NAMES.get(lower, lower if lower in SPLIT_SHARES else split)
    if name and not re.fullmatch(r"\w+(\.\w+)*", name):
        raise ValueError(f"'{source.name}' has a split '{name}'; expected letters, digits, _ and single dots in it.")
    return name


def refuse_torn_groups(source: Source, images: dict[str, Annotated]) -> None:
    """Refuses a group whose images stand in several given splits."""
    where: dict[str, str] = {}
    for image in images.values():
        group, split = image.columns.get("group"), image.columns["split"]
        if group and where.setdefault(group, split) != split:
            raise ValueError(
                f"'{source.name}' has images of the group '{group}' in the splits '{where[group]}' and '{split}'. A "
                'group stands in one: leave the split column or the group column out with "none".'
            )


def text_of(value: Any) -> str:
    """A cell as text; an empty one, or NaN, is ""."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def texts_of(cell: Any, source: Source, number: int, column: str) -> list[str]:
    """Captions of a cell: one, or a list of them."""
    texts = cell if isinstance(cell, list | tuple) else [cell]
    if any(isinstance(text, dict | list | bytes) for text in texts):
        raise ValueError(
            f"{source.place(number)}: '{column}' is {str(cell)[:80]!r}; expected text or a list of texts."
        )
    return [text for text in map(text_of, texts) if text]


def photo_of(
    row: dict, columns: Columns, source: Source, number: int, folder: str | None
) -> tuple[str, str | bytes | None]:
    """A photo's name and what `attach_photos` takes; "" and None where the row has none."""
    names = image_columns(columns.image)
    if not names or not all(row[name] is not None and text_of(row[name]) for name in names):
        return "", None
    cell = row[names[0]]
    if columns.image and names != [columns.image]:
        cell = columns.image
        for name in names:
            cell = cell.replace(f"{{{name}}}", text_of(row[name]))
    if isinstance(cell, dict) and {"bytes", "path"} <= cell.keys():
        if cell["bytes"] is not None:
            return os.path.basename(cell["path"] or "") or digest(cell["bytes"]), cell["bytes"]
        cell = cell["path"]
    if isinstance(cell, bytes):
        return digest(cell), cell
    if not isinstance(cell, str):
        raise ValueError(
            f"{source.place(number)}: '{columns.image}' is {str(cell)[:80]!r}; expected a photo or its path."
        )
    cell = cell.strip()
    if folder and os.path.isabs(cell) and os.path.normpath(cell).startswith(os.path.join(folder, "")):
        cell = os.path.relpath(cell, folder)
    return IN_CACHE.sub("", cell), cell


def id_of(row: dict, columns: Columns, photo: tuple[str, object], captions: list[str]) -> str | None:
    """What the rows of an image have in common: its id, its photo's name or, without photo, what is said of it."""
    if columns.id and text_of(row[columns.id]):
        return text_of(row[columns.id])
    return photo[0] or (digest("\n".join(captions).encode()) if captions else None)


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def add_answers(
    source: Source,
    images: dict[str, Annotated],
    owners: list[str],
    answers: Answers,
    columns: Columns,
    annotators: bool | None,
) -> bool:
    """Gives the images what their rows say; whether that is votes."""
    if answers.amounts is not None:
        add_amounts(source, images, owners, answers, columns)
        return answers.votes
    assert answers.named is not None
    if columns.annotator:
        who = [text_of(row[columns.annotator]) or number for number, (_, row) in
               enumerate(source.rows([columns.annotator]))]  # fmt: skip
    else:
        who = list(range(len(owners)))
    first: dict[str, set[str] | None] = {}
    by_person: dict[tuple[str, Any], set[str]] = {}
    for number, (owner, person, own) in enumerate(zip(owners, who, answers.named, strict=True)):
        if annotators is None and not columns.annotator and first.setdefault(owner, own) != own:
            raise ValueError(
                f"{source.place(number)}: the rows of '{owner}' disagree about its emotions. Say --annotators where "
                "each row is one annotator's answer, or --no_annotators to join what they say."
            )
        if own is not None:
            images[owner].columns["answered"] = True
        by_person.setdefault((owner, person), set()).update(own or ())
    are_votes = bool(columns.annotator) if annotators is None else annotators
    for (owner, _), own in by_person.items():
        images[owner].add_answer(own)
    return are_votes


def add_amounts(
    source: Source, images: dict[str, Annotated], owners: list[str], answers: Answers, columns: Columns
) -> None:
    """The same for shares and votes, which all rows of an image repeat."""
    assert answers.names is not None and answers.amounts is not None
    asked: list[Any] = [None] * len(owners)
    if answers.votes and columns.num_annotators:
        asked = [text_of(row[columns.num_annotators]) for _, row in source.rows([columns.num_annotators])]
    for number, (owner, own, people) in enumerate(zip(owners, answers.amounts, asked, strict=True)):
        image, found = images[owner], dict(zip(answers.names, own, strict=True))
        if image.columns.setdefault("answered", (found, people)) != (found, people):
            raise ValueError(f"{source.place(number)}: it has other numbers than the rows of '{owner}' before it.")
        if not answers.votes:
            image.shares = found
            continue
        if not people.isdigit() or int(people) < max(1, *own):
            raise ValueError(
                f"{source.place(number)}: '{columns.num_annotators}' is '{people}'; expected the number of "
                "annotators, no fewer than the votes of any emotion."
            )
        image.votes = Counter({name: int(value) for name, value in found.items()})
        image.num_annotators = int(people)


def choose_names(
    source: Source,
    images: dict[str, Annotated],
    answers: Answers,
    fixed: list[str] | None,
    min_count: int | None,
    report: DataReport,
) -> tuple[list[str], dict[str, Annotated]]:
    """Emotions in order, and the images that say something of them: one or more, or that it is none at all."""
    said = {own: +image.votes if image.shares is None else image.shares for own, image in images.items()}
    counts = Counter(name for own in said.values() for name, amount in own.items() if amount > 0)
    if fixed is not None:
        refuse_unknown(counts, fixed, source.name)
    order = answers.names or frequent_first(counts)
    names = keep_labels(counts, order, min_count or 1, fixed or (None if min_count else answers.names), report)
    kept = {}
    for own, image in images.items():
        is_asked = image.columns.pop("answered", None) is not None
        if any(said[own].get(name) for name in names) or (is_asked and not said[own]) or image.shares is not None:
            kept[own] = image
    report.count("images without a kept emotion, dropped", len(images) - len(kept))
    return names, kept


def present_photos(rows: list[dict], folder: str | os.PathLike | None, report: DataReport) -> list[dict]:
    """The rows, told to have no photo where not one of those that are named lies in the folder.

    Raises:
        FileNotFoundError: they have no captions either.
    """
    named = [row["photo"] for row in rows if isinstance(row["photo"], str)]
    if not named or (folder and any(path for path, _ in find_photos(folder, named))):
        return rows
    told = f"None of the {len(named)} photos lies in '{folder}' (first: '{named[0]}'); --images DIR says where they do"
    if not any(row["captions"] for row in rows):
        raise FileNotFoundError(f"{told}.")
    report.warn(f"{told}. The table has captions alone.")
    return [row | {"photo": None} if isinstance(row["photo"], str) else row for row in rows]


def warn_of_small_splits(table: DatasetDict, names: list[str] | None, report: DataReport) -> None:
    """Says where a split is too small to measure on."""
    for split in ("validation", "test"):
        if names is None or split not in table:
            continue
        lacking = [names[label] for label in sorted(set(range(len(names))) - {
            label for own in table[split]["emotions"][:] for label in own})]  # fmt: skip
        if len(table[split]) < FEW:
            report.warn(
                f"The {split} split has {len(table[split])} images: what is measured on it says little. `emocap "
                "cross-validate` measures on every image."
            )
        if lacking:
            report.warn(f"The {split} split has no image of: {', '.join(lacking)}.")
