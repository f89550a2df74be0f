"""COCO captions (Lin et al. 2014, Chen et al. 2015) as a table of pairs without human labels."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError

from emocap.data.licenses import set_license
from emocap.data.schema import pair_features
from emocap.data.storage import HUB_ID, DataReport, parse_json, photo_problems

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
MISSING = "missing file"
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
    report = DataReport()
    folder = Path(root) if Path(root).is_dir() else None
    sources = _hub_splits(str(root), splits) if folder is None else _annotation_files(folder, splits)
    table = DatasetDict()
    for split, target in zip(splits, targets, strict=True):
        columns = (_hub_columns if folder is None else _read_annotations)(sources[split], report)
        columns = _draw(columns, fraction, seed, split)
        table[target] = _split_table(columns, split, folder and folder / split, report)
    return set_license(table, "cc-by-4.0"), report  # of the annotations; each photo has its own, in a column


def _target_split(split: str) -> str:
    for prefix, target in {"train": "train", "val": "validation", "test": "test"}.items():
        if split.startswith(prefix):
            return target
    return split


def _annotation_files(root: Path, splits: list[str]) -> dict[str, Path]:
    paths = {split: root / "annotations" / f"captions_{split}.json" for split in splits}
    for split, path in paths.items():
        if not path.is_file():
            found = sorted(other.name for other in path.parent.glob("captions_*.json"))
            raise FileNotFoundError(
                f"There are no captions of split '{split}' at '{path}'. Expected COCO's own layout, annotations/"
                f"captions_<split>.json and <split>/*.jpg. Found: {', '.join(found) or 'no captions file'}."
            )
    return paths


def _read_annotations(path: Path, report: DataReport) -> pa.Table:
    """Columns image_id, coco_url, license, captions of one annotation file, in order of image id."""
    try:
        content = parse_json(path.read_text("utf-8"))
        images, annotations = content["images"], content["annotations"]
        ids, first = np.unique(np.array([image["id"] for image in images], np.int64), return_index=True)
        images = [images[i] for i in first]
        licenses = {entry["id"]: entry["name"] for entry in content.get("licenses", [])}
        file_names = pa.array([image["file_name"] for image in images], pa.string())
        urls = pa.array([image.get("coco_url") for image in images], pa.string())
        license_names = pa.array([licenses.get(image.get("license")) for image in images], pa.string())
        owners = np.array([annotation["image_id"] for annotation in annotations], np.int64)
        annotation_ids = np.array([annotation["id"] for annotation in annotations], np.int64)
        captions = pa.array([annotation["caption"] for annotation in annotations], pa.string())
    except KeyError as error:
        raise ValueError(
            f"'{path}' has an object without {error}; expected COCO's captions file: images (id, file_name) "
            "and annotations (id, image_id, caption)."
        ) from error
    except (ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise ValueError(f"'{path}' is not COCO's captions file: {error}.") from error
    report.count("image entries that came twice, dropped", len(content["images"]) - len(images))
    rows = np.searchsorted(ids, owners)
    known = np.append(ids, -1)[rows] == owners
    report.count("captions of unknown images, dropped", int((~known).sum()))
    lists = _caption_lists(rows[known], annotation_ids[known], captions.filter(pa.array(known)), len(ids))
    return pa.table({"image_id": file_names, "coco_url": urls, "license": license_names, "captions": lists})


def _hub_splits(root: str, splits: list[str]) -> dict[str, Dataset]:
    """The data set's part for each split, with its columns checked."""
    looked_for = Path(root, "annotations", f"captions_{splits[0]}.json")
    absent = f"'{root}' is neither a folder of COCO's own layout ('{looked_for}' does not exist) nor a Hub data set"
    if not HUB_ID.fullmatch(root):
        raise FileNotFoundError(f"{absent} id of the form 'owner/name'.")
    try:
        dataset = load_dataset(root)
    except (DatasetNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{absent} that can be reached ({error}).") from error
    for split in splits:
        if _target_split(split) not in dataset:
            raise ValueError(f"Data set '{root}' has no split for '{split}'; its splits: {', '.join(dataset)}.")
        found = dataset[_target_split(split)].column_names
        if missing := [column for column in HUB_COLUMNS if column not in found]:
            raise ValueError(
                f"Data set '{root}' lacks the column(s) {', '.join(missing)}. Found: {', '.join(found)}. Expected "
                "the columns of 'phiyodr/coco2017'."
            )
    return {split: dataset[_target_split(split)] for split in splits}


def _hub_columns(dataset: Dataset, report: DataReport) -> pa.Table:
    """The same columns as `_read_annotations`, from a data set of the Hub."""
    table = dataset.select_columns(list(HUB_COLUMNS)).with_format("arrow")[:]
    try:
        _, first = np.unique(table["image_id"].to_numpy(), return_index=True)
        report.count("image entries that came twice, dropped", len(table) - len(first))
        table = table.take(first).combine_chunks()
        captions, ids = (pc.list_flatten(table[name]).combine_chunks() for name in ("captions", "ids"))
        lengths = (pc.list_value_length(table[name]) for name in ("captions", "ids"))
        if not pc.all(pc.equal(*lengths)).as_py():
            raise ValueError(
                "A row of the data set has another number of 'ids' than of 'captions'; expected one each."
            )
        rows = pc.list_parent_indices(table["captions"]).to_numpy()
        licenses = pc.index_in(table["license"], pa.array(list(COCO_LICENSES), table["license"].type))
        return pa.table(
            {
                # Some copies write 'train2017/000000000009.jpg': an image's id is the same wherever it comes from.
                "image_id": pc.replace_substring_regex(table["file_name"], r"^.*/", ""),
                "coco_url": table["coco_url"],
                "license": pc.take(pa.array(list(COCO_LICENSES.values())), licenses),
                "captions": _caption_lists(rows, ids.to_numpy(), captions, len(table)),
            }
        )
    except (TypeError, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(
            f"The data set's columns are {dict(dataset.features)}; expected image_id and license integers, ids a list "
            "of integers, captions a list of strings, file_name and coco_url strings."
        ) from error


def _caption_lists(rows: np.ndarray, ids: np.ndarray, captions: pa.Array, num_images: int) -> pa.ListArray:
    """Captions that are not blank, as one list an image in order of annotation id; `rows` says whose each one is."""
    written = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(captions), ""), False).to_numpy(zero_copy_only=False)
    chosen = np.flatnonzero(written)
    chosen = chosen[np.lexsort((ids[chosen], rows[chosen]))]
    offsets = np.append(0, np.cumsum(np.bincount(rows[chosen], minlength=num_images)))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), captions.take(pa.array(chosen)))


def _draw(columns: pa.Table, fraction: float, seed: int, split: str) -> pa.Table:
    """round(fraction * N) of the rows, at random, in their order."""
    number = round(fraction * len(columns))
    if number == 0:
        raise ValueError(f"fraction {fraction} of the {len(columns)} images of split '{split}' draws none; raise it.")
    if number == len(columns):
        return columns
    return columns.take(np.sort(np.random.default_rng(seed).choice(len(columns), number, replace=False)))


def _split_table(columns: pa.Table, split: str, photos_dir: Path | None, report: DataReport) -> Dataset:
    """The finished table of one split: photos checked and attached, rows with neither photo nor caption left out."""
    names = columns["image_id"].to_pylist()
    problems = [MISSING] * len(names) if photos_dir is None else _photo_problems(names, photos_dir)
    captioned = pc.greater(pc.list_value_length(columns["captions"]), 0).to_numpy()
    missing = []
    for name, problem, has_caption in zip(names, problems, captioned, strict=True):
        if problem is not None and not has_caption:
            report.problem(name, f"no caption and no photo ({problem})", "row skipped")
        elif problem == MISSING:
            missing.append(name)
        elif problem is not None:
            report.problem(name, problem, "kept without photo")
    report.count("kept without photo", len(missing))
    if missing:  # often most of a split: counted, not listed one by one
        report.extra.setdefault("missing_photos", {})[split] = {
            "number": len(missing),
            "first": missing[:NUM_MISSING_SHOWN],
        }
    usable = np.array([problem is None for problem in problems])
    paths = [str(photos_dir / name) if good else None for name, good in zip(names, usable, strict=True)]
    features = pair_features(None, extra={name: Value("string") for name in ("coco_url", "license", "split")})
    columns = columns.append_column("image", pa.array(paths, pa.string()))
    columns = columns.append_column("split", pa.array([split] * len(names), pa.string()))
    columns = columns.filter(pa.array(captioned | usable))
    report.count("images without a known licence", columns["license"].null_count)
    report.count("captions", len(pc.list_flatten(columns["captions"])))
    return Dataset.from_dict({name: columns[name] for name in features}, features=features)


def _photo_problems(names: list[str], photos_dir: Path) -> list[str | None]:
    """Why each photo cannot be used, or None where it can."""
    # Names of the folder's own entries hold no separator, so that nothing outside of it can be meant.
    present = {entry.name for entry in os.scandir(photos_dir)} if photos_dir.is_dir() else set()
    found = [name for name in names if name in present]
    problems = dict(zip(found, photo_problems([photos_dir / name for name in found]), strict=True))
    return [problems.get(name, MISSING) for name in names]
