"""COCO captions (Lin et al. 2014, Chen et al. 2015) as a table of pairs without human labels."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Value

from emocap.data.licenses import set_license
from emocap.data.schema import pair_features
from emocap.data.sources import open_hub
from emocap.data.storage import DataReport, parse_json, read_text, usable_photos

__all__ = ["COCO_LICENSES", "build_coco", "load_coco"]

COCO_LICENSES = {
    1: "Attribution-NonCommercial-ShareAlike License",
    2: "Attribution-NonCommercial License",
    3: "Attribution-NonCommercial-NoDerivs License",
    4: "Attribution License",
    5: "Attribution-ShareAlike License",
    6: "Attribution-NoDerivs License",
    7: "No known copyright restrictions",
    8: "United States Government Work",
}
"""Names of the photos' licences by id, as in COCO's annotation files; all of 1 to 6 are Creative Commons."""

HUB_COLUMNS = ("image_id", "file_name", "coco_url", "license", "ids", "captions")
ANNOTATIONS = "annotations/captions_{split}.json"
LAYOUT = f"COCO's own layout, {ANNOTATIONS.format(split='<split>')} and <split>/*.jpg"
NUM_MISSING_SHOWN = 20


def load_coco(
    root: str | os.PathLike, *, splits: Sequence[str] = ("train2017",), fraction: float = 1.0, seed: int = 0
) -> DatasetDict:
    """The table of `build_coco`, without its report."""
    return build_coco(root, splits=splits, fraction=fraction, seed=seed)[0]


def build_coco(
    root: str | os.PathLike, *, splits: Sequence[str] = ("train2017",), fraction: float = 1.0, seed: int = 0
) -> tuple[DatasetDict, DataReport]:
    """Reads COCO captions, one row an image in order of COCO's image id.

    Args:
        root: folder in COCO's own layout (`annotations/captions_<split>.json`, `<split>/*.jpg`), or the id of a Hub
            data set with the columns of `phiyodr/coco2017`, which carries no photos.
        splits: COCO's names of the splits, such as `train2017` and `val2017`.
        fraction: share of each split's images to draw at random; 0.1 as in the original study.
        seed: seed of the draw.

    Returns:
        The table under `train` (train...), `validation` (val...), `test` (test...) or a split's own name:
        `image_id` is the file name, `captions` are all captions in order of annotation id, `coco_url`, `license`
        (its name) and `split` (COCO's name) are strings. A photo that is missing or damaged is null; an image with
        neither photo nor caption is skipped. The report lists damaged photos, and counts missing ones.

    Raises:
        FileNotFoundError: `root` is neither such a folder nor on the Hub.
        ValueError: a file or data set of another form, an unknown split, or a fraction that draws nothing.
    """
    splits = [splits] if isinstance(splits, str) else list(splits)
    targets = [_target_split(split) for split in splits]
    if not splits or len(set(targets)) < len(targets):
        raise ValueError(
            f"splits is {splits}; expected one or more that become different splits (train..., val..., test...)."
        )
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; expected a share above 0 and up to 1, such as 0.1.")
    report, folder, dataset, paths = DataReport(), Path(root), None, {}
    if folder.is_dir():
        paths = {split: _annotations_path(folder, split) for split in splits}
    else:
        looked_for = folder / ANNOTATIONS.format(split=splits[0])
        dataset = open_hub(str(root), other=f"a folder of {LAYOUT} ('{looked_for}' is not there)")
    table = DatasetDict()
    for split, target in zip(splits, targets, strict=True):
        if dataset is None:
            columns = _read_annotations(paths[split], report)
        elif target in dataset:
            columns = _read_hub(dataset[target], report)
        else:
            raise ValueError(f"Data set '{root}' has no split for '{split}'; its splits: {', '.join(dataset)}.")
        table[target] = _with_photos(_draw(columns, fraction, seed, split), split, folder / split, report)
    return set_license(table, "cc-by-4.0"), report  # of the annotations; each photo has its own, in a column


def _target_split(split: str) -> str:
    targets = {"train": "train", "val": "validation", "test": "test"}
    return next((target for prefix, target in targets.items() if split.startswith(prefix)), split)


def _annotations_path(folder: Path, split: str) -> Path:
    path = folder / ANNOTATIONS.format(split=split)
    if not path.is_file():
        found = ", ".join(sorted(other.name for other in path.parent.glob("captions_*.json"))) or "no captions file"
        raise FileNotFoundError(f"There is no file '{path}'; expected {LAYOUT}. Found: {found}.")
    return path


def _read_annotations(path: Path, report: DataReport) -> pa.Table:
    """The columns of `_one_row_an_image` from COCO's own layout."""
    try:
        content = parse_json(read_text(path, "COCO's captions"))
        images, annotations = content["images"], content["annotations"]
        licenses = {entry["id"]: entry["name"] for entry in content.get("licenses", [])}
        columns = {
            "image_id": np.array([image["id"] for image in images], np.int64),
            "file_name": pa.array([image["file_name"] for image in images], pa.string()),
            "coco_url": pa.array([image.get("coco_url") for image in images], pa.string()),
            "license": pa.array([licenses.get(image.get("license")) for image in images], pa.string()),
        }
        owners = pa.array(np.array([annotation["image_id"] for annotation in annotations], np.int64))
        ids = np.array([annotation["id"] for annotation in annotations], np.int64)
        captions = pa.array([annotation["caption"] for annotation in annotations], pa.string())
    except KeyError as error:
        raise ValueError(
            f"'{path}' has an object without {error}; expected COCO's captions file: images (id, file_name) "
            "and annotations (id, image_id, caption)."
        ) from error
    except (ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise ValueError(f"'{path}' is not COCO's captions file: {error}.") from error
    table = _distinct(pa.table(columns), report)
    rows = pc.index_in(owners, table["image_id"])
    report.count("captions of unknown images, dropped", rows.null_count)
    known = rows.is_valid()
    return _one_row_an_image(table, rows.filter(known), ids[known], captions.filter(known))


def _read_hub(dataset: Dataset, report: DataReport) -> pa.Table:
    """The same from a data set with the columns of `phiyodr/coco2017`."""
    if missing := [column for column in HUB_COLUMNS if column not in dataset.column_names]:
        raise ValueError(
            f"The data set lacks the column(s) {', '.join(missing)}. Found: {', '.join(dataset.column_names)}. "
            "Expected the columns of 'phiyodr/coco2017'."
        )
    table = dataset.select_columns(list(HUB_COLUMNS)).with_format("arrow")[:]
    try:
        table = _distinct(table, report).combine_chunks()
        if not pc.all(pc.equal(*(pc.list_value_length(table[name]) for name in ("captions", "ids")))).as_py():
            raise ValueError("A row has another number of 'ids' than of 'captions'; expected one each.")
        known = pc.index_in(table["license"], pa.array(list(COCO_LICENSES), table["license"].type))
        licenses = pc.take(pa.array(list(COCO_LICENSES.values())), known)
        table = table.set_column(table.column_names.index("license"), "license", licenses)
        captions, ids = (pc.list_flatten(table[name]).combine_chunks() for name in ("captions", "ids"))
        return _one_row_an_image(table, pc.list_parent_indices(table["captions"]), ids.to_numpy(), captions)
    except (TypeError, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(
            f"The data set's columns are {dict(dataset.features)}; expected image_id and license integers, ids a list "
            "of integers, captions a list of strings, file_name and coco_url strings."
        ) from error


def _distinct(images: pa.Table, report: DataReport) -> pa.Table:
    """The first entry of each image, in order of their ids."""
    _, first = np.unique(images["image_id"].to_numpy(), return_index=True)
    report.count("image entries that came twice, dropped", len(images) - len(first))
    return images.take(first)


def _one_row_an_image(images: pa.Table, owners: pa.Array, ids: np.ndarray, captions: pa.Array) -> pa.Table:
    """Columns image_id, coco_url, license and captions: those that are not blank, in order of `ids`, int64. `owners`
    says whose row of `images` each caption is of."""
    written = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(captions), ""), False).to_numpy(zero_copy_only=False)
    rows, chosen = owners.to_numpy(), np.flatnonzero(written)
    chosen = chosen[np.lexsort((ids[chosen], rows[chosen]))]
    offsets = np.append(0, np.cumsum(np.bincount(rows[chosen], minlength=len(images))))
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), captions.take(pa.array(chosen)))
    # Some copies write 'train2017/000000000009.jpg': an image's id is the same wherever it comes from.
    image_ids = pc.replace_substring_regex(images["file_name"], r"^.*/", "")
    return images.select(["coco_url", "license"]).append_column("image_id", image_ids).append_column("captions", lists)


def _draw(columns: pa.Table, fraction: float, seed: int, split: str) -> pa.Table:
    """round(fraction * N) of the rows, at random, in their order."""
    number = round(fraction * len(columns))
    if number == 0:
        raise ValueError(f"fraction {fraction} of the {len(columns)} images of split '{split}' draws none; raise it.")
    if number == len(columns):
        return columns
    return columns.take(np.sort(np.random.default_rng(seed).choice(len(columns), number, replace=False)))


def _with_photos(columns: pa.Table, split: str, photos_dir: Path, report: DataReport) -> Dataset:
    """The finished table of one split: photos checked and attached, rows with neither photo nor caption left out."""
    names, captioned = columns["image_id"].to_pylist(), pc.greater(pc.list_value_length(columns["captions"]), 0)
    missing: list[str] = []  # often most of a split: counted, not listed one by one
    photos = pa.array(usable_photos(names, names, captioned.to_pylist(), photos_dir, report, missing), pa.string())
    report.count("kept without photo", len(missing))
    if missing:
        first = missing[:NUM_MISSING_SHOWN]
        report.extra.setdefault("missing_photos", {})[split] = {"number": len(missing), "first": first}
    columns = columns.append_column("image", photos).append_column("split", pa.repeat(split, len(names)))
    columns = columns.filter(pc.or_(captioned, photos.is_valid()))
    report.count("images without a known licence", columns["license"].null_count)
    report.count("captions", len(pc.list_flatten(columns["captions"])))
    features = pair_features(None, extra=dict.fromkeys(("coco_url", "license", "split"), Value("string")))
    return Dataset.from_dict({name: columns[name] for name in features}, features=features)
