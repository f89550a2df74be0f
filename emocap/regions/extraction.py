"""Region features of every photo of a table."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, concatenate_datasets
from PIL import Image
from transformers import PreTrainedModel
from transformers.utils import logging

from emocap.data.batches import BatchFunction, config_fields, pick_rank_device, weights_hash
from emocap.data.ranks import Ranks, launched_ranks
from emocap.data.schema import NUM_REGIONS, region_columns
from emocap.data.shards import job_fingerprint, map_in_shards
from emocap.data.storage import DataReport, check_output_dir, load_table, save_table
from emocap.models.processing_emocap import load_region_extractor
from emocap.regions.photos import decode_ahead, photo_column, why_without_regions
from emocap.terminal import progress, say

__all__ = ["DTYPES", "SCENES_DETECTOR", "RegionFeatures", "extract_regions"]

logger = logging.get_logger(__name__)

SCENES_DETECTOR = Path(__file__).parents[1] / "scenes" / "detector"
"""The built-in extractor, trained on the built-in corpus; `--extractor scenes` names it."""

DTYPES = ("auto", "float32", "bfloat16", "float16")

SMALL_NETWORK = 10_000_000
"""Parameters below which a network gains nothing from bfloat16: the built-in one stays the same on every machine."""

SHARD_SIZES = {"cpu": 64, "cuda": 512}
"""Photos that a kill loses at most: minutes of a large detector's work on a CPU, seconds on a GPU, which also wants
many photos to find batches of one shape among them."""


class RegionFeatures(BatchFunction):
    """A region extractor as a function of photos: a batch's `image` gives `region_features`, `region_boxes` and
    `num_regions`, as `emocap regions` writes them.

        regions = RegionFeatures("me/extractor")
        features = Features(table.features | regions.features)
        table.map(regions, batched=True, with_rank=True, features=features)

    Rows without a photo, or whose photo cannot be read, get zeros and `num_regions` 0; the latter are counted and
    logged. On a CPU a photo's bytes depend on nothing but the photo, the weights and `dtype`; on a GPU photos of like
    shape within the call go through together. A stream should not decode its photos itself, which takes one thread
    and ends at the first damaged one: `stream.cast_column("image", Image(decode=False))`.

    Args:
        extractor, batch_size, dtype, num_workers: see `extract_regions`.

    Attributes:
        features, fingerprint: see `BatchFunction`.

    Raises:
        ValueError: a count below 1, an unknown dtype, or an extractor of too many regions.
    """

    reads = ("image_id", "image")

    def __init__(
        self, extractor: str, batch_size: int = 16, *, dtype: str = "auto", num_workers: int | None = None
    ) -> None:
        for name, value in (("batch_size", batch_size), ("num_workers", num_workers)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        if dtype not in DTYPES:
            raise ValueError(f"dtype is '{dtype}'; it must be one of {', '.join(DTYPES)}.")
        self.source, self.batch_size, self.dtype, self.num_workers = [extractor], batch_size, dtype, num_workers
        super().__init__(dtype=dtype)
        config = self.loaded.config
        if config.num_regions > NUM_REGIONS:
            raise ValueError(f"'{extractor}' gives {config.num_regions} regions; a table holds {NUM_REGIONS}.")
        self.features = Features(region_columns(config.feature_dim))

    def load(self) -> PreTrainedModel:
        (extractor,) = self.source
        return load_region_extractor(str(SCENES_DETECTOR) if extractor == "scenes" else extractor)

    def describe(self, loaded: PreTrainedModel) -> dict[str, Any]:
        return {"config": config_fields(loaded), "weights": weights_hash(loaded)}

    def prepare(self, rank: int | None = None) -> tuple[PreTrainedModel, torch.dtype]:
        """The model on the device of `rank`, and what it computes in there."""
        model, device = self.open(), pick_rank_device(rank)
        dtype = pick_dtype(self.dtype, model, device)
        model.to(device, torch.float32)  # autocast narrows what may be narrowed, also of weights saved in bfloat16
        if dtype != torch.float32:
            model.to(memory_format=torch.channels_last)
        return model, dtype

    def of_shards(
        self, shards: list[Dataset], rank: int | None = None, show_progress: bool = False
    ) -> Iterator[pa.Table]:
        """The new columns of each shard, while threads decode the photos of the next."""
        model, dtype = self.prepare(rank)
        step = 1 if model.device.type == "cpu" else self.batch_size
        return regions_of_shards(model, step, self.num_workers or default_workers(), dtype, show_progress, shards)

    def compute(self, rows: Dataset, rank: int | None) -> pa.Table:
        if "image" not in rows.features:
            raise ValueError("The batch has no column 'image' of photos.")
        (new,) = self.of_shards([rows], rank)
        present = ~np.asarray(photo_column(rows).is_null())
        if without := int((np.asarray(new["num_regions"])[present] == 0).sum()):
            logger.warning(f"{without} of {present.sum()} photos of the batch gave no regions.")
        return new


def extract_regions(
    tables: DatasetDict,
    extractor: str,
    output_dir: str | os.PathLike,
    batch_size: int = 16,
    *,
    dtype: str = "auto",
    num_workers: int | None = None,
) -> DatasetDict:
    """Runs a region extractor over the photos of every split and saves the table with the new columns.

    Threads decode photos ahead of the model. Rows without a photo get zeros and `num_regions` 0; photos that cannot be
    read are listed in data_report.json. A killed job goes on where it was, a finished one is not done again, and the
    processes of `accelerate launch` or torchrun share the work.

    What is the same, bit for bit: on a CPU a photo's regions depend on the photo, the weights and `dtype` alone,
    because each photo goes through the network by itself, in one thread; so neither `batch_size`, nor `num_workers`,
    nor the number of processes, nor a stop changes a byte (another kind of CPU may). On a GPU the batches are photos
    of like shape among 512 neighbours of the table; they depend on the rows and `batch_size` alone, so that workers,
    processes and stops change nothing, and `batch_size` changes last bits.

    Args:
        tables: a table of pairs.
        extractor: folder or Hub id of an extractor, or "scenes" for the built-in one.
        output_dir: where the table goes. It replaces a table of other settings there once it is whole.
        batch_size: photos a step on a GPU.
        dtype: what the network computes in, but for the modules that it keeps in float32 so that its boxes stay;
            features are stored in float16 in any case. "auto" is float32 for networks of less than ten million
            parameters, otherwise bfloat16 where the processor has instructions for it (AVX512-BF16, AMX; GPUs from
            2020 on), float16 on older GPUs and float32 on other CPUs. The choice and the modules are written to
            data_report.json.
        num_workers: threads that decode, and on a CPU also compute, a photo each; by default one a core.

    Raises:
        ValueError: a count below 1, an unknown dtype, no photos, or an extractor of too many regions.
    """
    check_output_dir(output_dir)
    check_columns(tables)
    regions = RegionFeatures(extractor, batch_size, dtype=dtype, num_workers=num_workers)
    ranks = launched_ranks()
    model, compute_dtype = regions.prepare(ranks.local_rank)
    settings = {"dtype": str(compute_dtype).removeprefix("torch."), "device": model.device.type}
    if model.device.type != "cpu":
        settings["batch_size"] = batch_size
    if compute_dtype != torch.float32:
        settings["float32_modules"] = sorted(model._keep_in_fp32_modules_strict)
    report = DataReport()
    report.extra |= {"extractor": extractor, "revision": getattr(model.config, "_commit_hash", None), **settings}
    settings |= {"config": config_fields(model), "weights": regions.weights}
    extract = partial(regions.of_shards, rank=ranks.local_rank, show_progress=ranks.is_first)
    dim, shard_size = model.config.feature_dim, SHARD_SIZES[model.device.type]
    return map_splits(tables, extract, dim, output_dir, settings, report, why_without_regions, shard_size, ranks)


def map_splits(
    tables: DatasetDict,
    function: Callable[[list[Dataset]], Iterable[pa.Table]],
    dim: int,
    output_dir: str | os.PathLike,
    settings: dict[str, Any],
    report: DataReport,
    explain: Callable[[Dataset], list[str]],
    shard_size: int = 1000,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> DatasetDict:
    """Runs a job over every split, saves the table with the new columns and lists the rows that got none.

    Args:
        function: see `map_in_shards`.
        dim: width of the features.
        settings: what the result depends on beside the rows; if `output_dir` holds that very result, nothing is done.
        report: what the job has to say already; saved beside the table.
        explain: why each of the given rows has no regions.
    """
    output, joined = Path(output_dir), {}
    work_dir = output.with_name(f".{output.name}.regions")
    fingerprint = job_fingerprint(settings, tables.values(), sorted(tables))
    if ranks.first_decides([is_result_of(output, fingerprint)])[0]:
        if ranks.is_first:
            say(f"'{output_dir}' holds these regions already: same photos, same settings. Nothing to do.")
        ranks.wait_for_all()
        return load_table(output_dir)
    for name, split in tables.items():
        new = map_in_shards(
            split, function, Features(region_columns(dim)), work_dir / name, settings, shard_size, ranks
        )
        kept = split.remove_columns([column for column in new.column_names if column in split.column_names])
        joined[name] = concatenate_datasets([kept, new], axis=1)
        joined[name]._fingerprint = job_fingerprint(settings, [split])  # not the time at which the shards were written
    if ranks.is_first:
        for split in joined.values():
            without = split.select(np.flatnonzero(np.asarray(split.with_format("arrow")["num_regions"][:]) == 0))
            for image_id, reason in zip(without["image_id"][:], explain(without), strict=True):
                report.problem(image_id, reason, "kept without regions")
        report.extra["fingerprint"] = fingerprint
        save_table(DatasetDict(joined), output_dir, report)
        shutil.rmtree(work_dir, ignore_errors=True)
    ranks.wait_for_all()
    return load_table(output_dir)


def is_result_of(folder: Path, fingerprint: str) -> bool:
    report = folder / "data_report.json"
    return report.is_file() and json.loads(report.read_text("utf-8")).get("fingerprint") == fingerprint


def regions_of_shards(
    model: PreTrainedModel,
    step: int,
    num_workers: int,
    dtype: torch.dtype,
    show_progress: bool,
    shards: list[Dataset],
) -> Iterator[pa.Table]:
    """The new columns of each shard; photos go through the model `step` at a time.

    On a CPU every thread that decodes a photo also takes it through the model. One thread a photo uses all cores
    better than all threads for one photo, and sums come out alike whatever the number of threads.
    """
    limit, on_cpu = model.config.num_regions, model.device.type == "cpu"

    def look(photos: list[Image.Image]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            regions = model.extract(photos)
        arrays = (regions.region_features.half(), regions.region_boxes.float(), regions.num_regions)
        return tuple(array.cpu().numpy() for array in arrays)

    compute_threads = torch.get_num_threads()
    if on_cpu:
        torch.set_num_threads(1)
    pool = ThreadPoolExecutor(num_workers)
    bar = progress(total=sum(map(len, shards)), desc="Regions", unit="photos", disable=not show_progress)
    try:
        batches = decode_ahead(
            shards, step, 2 * (step + num_workers), pool, (lambda photo: look([photo])) if on_cpu else None
        )
        for number, own_batches in itertools.groupby(batches, key=lambda batch: batch[0]):
            features, boxes, counts = empty_regions(len(shards[number]), model.config.feature_dim)
            for _, rows, results in own_batches:
                if len(rows):
                    (features[rows, :limit], boxes[rows, :limit], counts[rows]) = (
                        results[0] if on_cpu else look(results)
                    )
                    bar.update(len(rows))
            bar.update(sum(map(len, shards[: number + 1])) - bar.n)  # rows without a readable photo
            yield regions_table(features, boxes, counts)
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
        torch.set_num_threads(compute_threads)


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


def check_columns(tables: DatasetDict) -> None:
    for name, split in tables.items():
        if missing := {"image_id", "image"} - set(split.column_names):
            raise ValueError(
                f"The {name} split lacks the column(s) {', '.join(sorted(missing))} (columns: "
                f"{', '.join(split.column_names)}). Build a table of pairs with `emocap data`."
            )


def default_workers() -> int:
    """The cores that this process may use, divided among the processes of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def pick_dtype(dtype: str, model: PreTrainedModel, device: torch.device) -> torch.dtype:
    """See `extract_regions`."""
    if dtype != "auto":
        return getattr(torch, dtype)
    if model.num_parameters() < SMALL_NETWORK:
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
