"""Long jobs over a table in shards: each is written whole, and a killed job goes on with the first one missing."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import datasets
from datasets import Dataset, Features, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from transformers.utils import logging

__all__ = ["map_in_shards"]

logger = logging.get_logger(__name__)


def map_in_shards(
    table: Dataset,
    function: Callable[[Dataset], "datasets.table.Table"],
    features: Features,
    work_dir: Path,
    settings: dict[str, object],
    shard_size: int = 1000,
) -> Dataset:
    """Applies `function` to `shard_size` rows at a time and returns the new columns, read from disk.

    Args:
        table: the rows.
        function: from a shard (a data set) to a `pyarrow.Table` of `features`, row for row.
        features: the new columns.
        work_dir: where the shards lie until the job's result is saved. A folder made with other settings, or from
            other rows, is refused by starting it afresh.
        settings: what the result depends on beside the rows; JSON values.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    fingerprint = hashlib.sha256(
        json.dumps([settings, table._fingerprint, len(table), shard_size], sort_keys=True).encode()
    ).hexdigest()
    stamp = work_dir / "fingerprint"
    if stamp.is_file() and stamp.read_text() != fingerprint:
        for stale in work_dir.glob("*.arrow"):
            stale.unlink()
    stamp.write_text(fingerprint)
    paths = []
    starts = range(0, len(table), shard_size)
    for number, start in enumerate(starts):
        path = work_dir / f"{number:06d}.arrow"
        paths.append(path)
        if path.is_file():
            continue
        logger.info(f"Shard {number + 1} of {len(starts)}")
        shard = table.select(range(start, min(start + shard_size, len(table))))
        temporary = path.with_suffix(".partial")
        with ArrowWriter(features=features, path=str(temporary)) as writer:
            writer.write_table(function(shard))
            writer.finalize()
        os.replace(temporary, path)
    if not paths:
        return Dataset.from_dict({name: [] for name in features}, features=features)
    return concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
