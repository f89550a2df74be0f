"""Region features of every photo of a table."""

import itertools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, concatenate_datasets
from datasets.utils.logging import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging

from emocap.data.schema import NUM_REGIONS, region_columns
from emocap.data.shards import map_in_shards
from emocap.data.storage import DataReport, check_output_dir, load_table, save_table
from emocap.models.photo_emocap import to_rgb
from emocap.models.processing_emocap import load_region_extractor

__all__ = ["SCENES_DETECTOR", "extract_regions"]

logger = logging.get_logger(__name__)

SCENES_DETECTOR = Path(__file__).parent / "scenes_detector"
"""The built-in extractor, trained on the built-in corpus; `--extractor scenes` names it."""


def extract_regions(tables: DatasetDict, extractor: str, output_dir: str, batch_size: int = 64) -> DatasetDict:
    """Runs a region extractor over the photos of every split and saves the table with the new columns.

    Rows without a photo get zeros and `num_regions` 0; photos that cannot be read are listed in data_report.json. A
    killed job goes on where it was.

    Args:
        tables: a table of pairs.
        extractor: folder or Hub id of an extractor, or "scenes" for the built-in one.
        output_dir: where the table goes.
        batch_size: photos a step.
    """
    check_output_dir(output_dir)
    source = str(SCENES_DETECTOR) if extractor == "scenes" else extractor
    model = load_region_extractor(source)
    if model.config.num_regions > NUM_REGIONS:
        raise ValueError(f"'{extractor}' gives {model.config.num_regions} regions; a table holds {NUM_REGIONS}.")
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    def extract(shard: Dataset) -> pa.Table:
        starts = tqdm(range(0, len(shard), batch_size), desc="Regions", unit="batch")
        return pa.concat_tables(
            [
                regions_of_batch(model, shard.select(range(start, min(start + batch_size, len(shard)))))
                for start in starts
            ]
        )

    settings = {"extractor": source, "config": model.config.to_json_string(), "weights": weights_fingerprint(model)}
    report = DataReport()
    report.extra["extractor"] = extractor
    dim = model.config.feature_dim
    return map_splits(tables, extract, dim, output_dir, settings, report, {}, "no readable photo")


def map_splits(
    tables: DatasetDict,
    function: Callable[[Dataset], pa.Table],
    dim: int,
    output_dir: str,
    settings: dict[str, object],
    report: DataReport,
    reasons: Mapping[str, str],
    otherwise: str,
) -> DatasetDict:
    """Runs the job over every split, saves the table with the new columns and lists the rows that got none.

    Args:
        report: what the job has to say already; saved beside the table.
        reasons: why a row, by its image id, has no regions.
        otherwise: why the remaining rows without regions have none.
    """
    output, joined = Path(output_dir), {}
    work_dir = output.with_name(f".{output.name}.regions")
    for name, split in tables.items():
        new = map_in_shards(split, function, Features(region_columns(dim)), work_dir / name, settings)
        kept = split.remove_columns([column for column in new.column_names if column in split.column_names])
        joined[name] = concatenate_datasets([kept, new], axis=1)
        for image_id in itertools.compress(split["image_id"][:], np.asarray(new["num_regions"][:]) == 0):
            report.problem(image_id, reasons.get(image_id, otherwise), "kept without regions")
    save_table(DatasetDict(joined), output_dir, report)
    shutil.rmtree(work_dir, ignore_errors=True)
    return load_table(output_dir)


def regions_of_batch(model: PreTrainedModel, rows: Dataset) -> pa.Table:
    """The new columns of one batch; a photo that cannot be read is logged and gets no regions."""
    photos, present = [], np.zeros(len(rows), dtype=bool)
    stored = rows.cast_column("image", datasets.Image(decode=False))
    for row, (image_id, content) in enumerate(zip(stored["image_id"], stored["image"], strict=True)):
        try:
            if content is not None:
                photos.append(to_rgb(datasets.Image().decode_example(content)))
                present[row] = True
        except Exception as error:  # decoders raise whatever a damaged file makes them trip over
            logger.warning(f"Photo of '{image_id}' left out: {error}")
    features, boxes, counts = empty_regions(len(rows), model.config.feature_dim)
    if photos:
        regions = model.extract(photos)
        features[present, : model.config.num_regions] = regions.region_features.cpu().numpy()
        boxes[present, : model.config.num_regions] = regions.region_boxes.cpu().numpy()
        counts[present] = regions.num_regions.cpu().numpy()
    return regions_table(features, boxes, counts)


def empty_regions(rows: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features float16 `(rows, 36, dim)`, boxes float32 `(rows, 36, 4)` and counts int32 `(rows,)`, all zero."""
    return (
        np.zeros((rows, NUM_REGIONS, dim), dtype=np.float16),
        np.zeros((rows, NUM_REGIONS, 4), dtype=np.float32),
        np.zeros(rows, dtype=np.int32),
    )


def regions_table(features: np.ndarray, boxes: np.ndarray, counts: np.ndarray) -> pa.Table:
    """Arrow columns around the numpy memory, without a loop over rows."""
    columns = Features(region_columns(features.shape[2]))
    flat = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), int(np.prod(values.shape[1:])))
        for values in (features, boxes)
    ]
    return pa.table([*flat, pa.array(counts)], names=list(columns)).cast(columns.arrow_schema)


def weights_fingerprint(model: PreTrainedModel) -> list[float]:
    """Sums over the weights: another checkpoint under the same name is another extractor."""
    return [float(tensor.double().sum()) for tensor in model.state_dict().values()]
