"""Long jobs over a table in shards: each is written whole, and a killed job goes on with those that are missing.

Why not `Dataset.map`, under which the same functions run too (see `emocap.data.batches`). Over the whole table it
renames its file only when all (or, with `num_proc`, a process's whole part) is done, so a kill loses everything
before. Shard by shard it would keep what is done, but it hands over one batch and waits: no thread decodes the next
shard's photos while the model has this one's. And it takes a cache file for whole because it is there, which after a
loss of power it need not be. Rows, columns, writing and reading are `datasets`' own.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from transformers.utils import logging

from emocap.data.ranks import Ranks

__all__ = ["job_fingerprint", "map_in_shards"]

logger = logging.get_logger(__name__)


def map_in_shards(
    table: Dataset,
    function: Callable[[list[Dataset]], Iterable[pa.Table]],
    features: Features,
    work_dir: Path,
    settings: dict[str, Any],
    shard_size: int = 1000,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> Dataset:
    """Applies `function` to the shards of a table that are not done yet and returns all new columns, read from disk.

    Args:
        table: the rows.
        function: from shards (data sets of up to `shard_size` rows) to a `pyarrow.Table` of `features` for each, row
            for row, as they are asked for: `functools.partial(map, one)` where `one` takes a single shard. It may look
            ahead in the list.
        features: the new columns.
        work_dir: where the shards lie until the job's result is saved. Every job (rows, settings, shard size) has a
            folder of its own in it: shards of different jobs never mix, and starting one job loses nothing of another.
        settings: what the result depends on beside the rows; JSON values.
        shard_size: rows a shard, which is what a kill loses at most (on each rank).
        ranks: the processes that share the job, each of which calls this function: the missing shards go round them
            in turn. Without it this process does everything.

    Returns:
        the new columns of all rows, on every rank, once every rank is done.
    """
    starts = range(0, len(table), shard_size)
    folder = work_dir / job_fingerprint(settings, [table], shard_size)
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.is_first and (others := sorted(path.name for path in work_dir.iterdir() if path != folder)):
        logger.warning(f"'{work_dir}' also holds unfinished work of other settings or rows ({', '.join(others)}).")
    paths = [folder / f"{number:06d}.arrow" for number in range(len(starts))]
    rows = [min(shard_size, len(table) - start) for start in starts]
    missing = ranks.first_decides([not is_whole(path, number) for path, number in zip(paths, rows, strict=True)])
    own = [number for number, is_missing in enumerate(missing) if is_missing][ranks.rank :: ranks.size]
    shards = [table.select(range(starts[number], min(starts[number] + shard_size, len(table)))) for number in own]
    for number, columns in zip(own, function(shards) if shards else [], strict=True):
        temporary = paths[number].with_suffix(".partial")
        try:
            with ArrowWriter(features=features, path=str(temporary)) as writer:
                writer.write_table(columns)
                writer.finalize()
        except BaseException:
            temporary.unlink(missing_ok=True)  # a full disk needs the room
            raise
        os.replace(temporary, paths[number])
    ranks.wait_for_all()
    if not paths:
        return Dataset.from_dict({name: [] for name in features}, features=features)
    return concatenate_datasets([Dataset.from_file(str(path)) for path in paths])


def is_whole(path: Path, rows: int) -> bool:
    """Whether the file holds so many rows; a machine that lost power may keep a name without its content."""
    try:
        return len(Dataset.from_file(str(path))) == rows
    except (OSError, pa.ArrowInvalid):
        return False


def job_fingerprint(settings: dict[str, Any], tables: Iterable[Dataset], *more: object) -> str:
    """Hexadecimal hash of what a job's result depends on: its settings, and the rows of its tables in their order."""
    rows = [[table._fingerprint, len(table)] for table in tables]
    return hashlib.sha256(json.dumps([settings, rows, *more], sort_keys=True).encode()).hexdigest()[:16]
