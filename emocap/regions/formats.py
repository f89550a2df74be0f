"""Region features that exist already."""

from pathlib import Path

import pyarrow as pa
from datasets import Dataset, DatasetDict
from safetensors import safe_open

from emocap.data.schema import NUM_REGIONS
from emocap.data.storage import DataReport, check_output_dir
from emocap.regions.extraction import empty_regions, map_splits, regions_table

__all__ = ["import_regions"]


def import_regions(tables: DatasetDict, path: str, output_dir: str) -> DatasetDict:
    """Attaches features that exist already, from a safetensors file with the keys `<image_id>/features` (float16
    `(36, D)`) and `<image_id>/boxes` (float32 `(36, 4)`, relative x1 y1 x2 y2).

    Rows that the file lacks get `num_regions` 0 and are listed in data_report.json.

    Raises:
        ValueError: the file holds no features, features of several widths, or none of the table's photos.
    """
    check_output_dir(output_dir)
    if not str(path).endswith(".safetensors") or not Path(path).is_file():
        raise ValueError(f"--import '{path}': expected an existing .safetensors file.")
    with safe_open(path, framework="np") as file:
        known = {key.removesuffix("/features") for key in file.keys() if key.endswith("/features")}  # noqa: SIM118
        dim = check_imported(path, file, known, tables)

        def attach(shard: Dataset) -> pa.Table:
            features, boxes, counts = empty_regions(len(shard), dim)
            for row, image_id in enumerate(shard["image_id"][:]):
                if image_id in known:
                    own = file.get_tensor(f"{image_id}/features")
                    counts[row] = len(own)
                    features[row, : len(own)], boxes[row, : len(own)] = own, file.get_tensor(f"{image_id}/boxes")
            return regions_table(features, boxes, counts)

        settings = {"import": str(path), "bytes": Path(path).stat().st_size, "changed": Path(path).stat().st_mtime}
        report = DataReport()
        report.extra["imported"] = Path(path).name
        return map_splits(tables, attach, dim, output_dir, settings, report, {}, "not in the file")


def check_imported(path: str, file, keys: set[str], tables: DatasetDict) -> int:
    """The one width of the file's features."""
    widths = {file.get_slice(f"{key}/features").get_shape()[1] for key in keys}
    if len(widths) != 1:
        raise ValueError(f"'{path}' holds features of the widths {sorted(widths)}; expected one width.")
    crowded = [key for key in keys if file.get_slice(f"{key}/features").get_shape()[0] > NUM_REGIONS]
    if crowded:
        raise ValueError(f"'{path}' has more than {NUM_REGIONS} regions for '{crowded[0]}'.")
    if not any(image_id in keys for split in tables.values() for image_id in split["image_id"][:]):
        raise ValueError(
            f"None of the data set's image ids is in '{path}': it holds ids such as '{min(keys)}', the data set "
            f"such as '{next(iter(tables.values()))[0]['image_id']}'."
        )
    return widths.pop()
