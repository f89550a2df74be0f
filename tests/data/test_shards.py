"""Long jobs that are stopped half way: nothing finished is done again, and the result is the same."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value

from emocap.data.shards import map_in_shards

FEATURES = Features({"double": Value("int64"), "row": List(Value("float32"), length=3)})


def table(number: int = 25) -> Dataset:
    return Dataset.from_dict({"value": list(range(number))})


class Job:
    """Doubles a column, shard by shard; stops at the `stop_at`-th one, and remembers what it was given."""

    def __init__(self, stop_at: int | None = None):
        self.calls, self.stop_at = [], stop_at

    def __call__(self, shards: list[Dataset]) -> Iterator[pa.Table]:
        return map(self.double, shards)

    def double(self, shard: Dataset) -> pa.Table:
        values = np.array(shard["value"][:])
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(values.tolist())
        rows = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(values, 3).astype(np.float32)), 3)
        return pa.table({"double": values * 2, "row": rows})


def test_result_is_in_order_and_of_the_given_columns(tmp_path):
    job = Job()
    result = map_in_shards(table(), job, FEATURES, tmp_path / "work", {}, shard_size=10)
    assert [len(call) for call in job.calls] == [10, 10, 5]
    assert result.features == FEATURES and result["double"][:] == [2 * value for value in range(25)]
    assert result["row"][24] == [24.0] * 3


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_a_stopped_job_goes_on_with_the_first_missing_shard(tmp_path, stop_at):
    options = {"settings": {"model": "a"}, "shard_size": 10}
    first, second = Job(stop_at), Job()
    with pytest.raises(KeyboardInterrupt):
        map_in_shards(table(), first, FEATURES, tmp_path / "work", **options)
    resumed = map_in_shards(table(), second, FEATURES, tmp_path / "work", **options)
    assert len(first.calls) == stop_at and len(second.calls) == 3 - stop_at
    whole = map_in_shards(table(), Job(), FEATURES, tmp_path / "other", **options)
    assert resumed.to_dict() == whole.to_dict()
    third = Job()
    assert map_in_shards(table(), third, FEATURES, tmp_path / "work", **options).to_dict() == whole.to_dict()
    assert third.calls == []


@pytest.mark.parametrize("change", ["settings", "rows", "shard_size", "order"])
def test_another_job_starts_afresh(tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        map_in_shards(table(), Job(2), FEATURES, tmp_path / "work", {"model": "a"}, shard_size=10)
    job = Job()
    rows = {"rows": table(26), "order": table().shuffle(seed=0)}.get(change, table())
    settings = {"model": "b" if change == "settings" else "a"}
    shard_size = 9 if change == "shard_size" else 10
    result = map_in_shards(rows, job, FEATURES, tmp_path / "work", settings, shard_size=shard_size)
    assert len(job.calls) == 3
    assert result["double"][:] == [2 * value for value in rows["value"][:]]


def test_a_shard_that_was_half_written_is_written_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        map_in_shards(table(), Job(1), FEATURES, tmp_path / "work", {}, shard_size=10)
    (folder,) = (tmp_path / "work").iterdir()
    (folder / "000001.partial").write_bytes(b"half of a shard")
    job = Job()
    result = map_in_shards(table(), job, FEATURES, tmp_path / "work", {}, shard_size=10)
    assert len(job.calls) == 2 and result["double"][:] == [2 * value for value in range(25)]


def test_a_table_of_the_same_rows_read_again_is_the_same_job(tmp_path):
    table().save_to_disk(str(tmp_path / "table"))
    with pytest.raises(KeyboardInterrupt):
        map_in_shards(Dataset.load_from_disk(str(tmp_path / "table")), Job(2), FEATURES, tmp_path / "work", {}, 10)
    job = Job()
    map_in_shards(Dataset.load_from_disk(str(tmp_path / "table")), job, FEATURES, tmp_path / "work", {}, 10)
    assert len(job.calls) == 1


def test_no_rows_give_no_rows(tmp_path):
    result = map_in_shards(table().select([]), Job(), FEATURES, tmp_path / "work", {})
    assert len(result) == 0 and result.features == FEATURES


KILLED = """
import sys, time
from functools import partial
from pathlib import Path
from datasets import Dataset, Features, List, Value
import pyarrow as pa
import pyarrow.compute
from emocap.data.shards import map_in_shards

def slow(shard):
    time.sleep(0.2)
    values = pa.array(shard["value"][:], pa.int64())
    rows = pa.array([[value] * 3 for value in shard["value"]], pa.list_(pa.float32(), 3))
    return pa.table({"double": pa.compute.multiply(values, 2), "row": rows})

rows = Dataset.from_dict({"value": list(range(40))})
map_in_shards(rows, partial(map, slow), Features({"double": Value("int64"), "row": List(Value("float32"), length=3)}),
              Path(sys.argv[1]), {}, shard_size=5)
"""


def test_a_process_killed_for_real_goes_on(tmp_path):
    work = tmp_path / "work"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(work)], env=environment)
    wait_for(lambda: len(list(work.glob("*/*.arrow"))) >= 3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = len(list(work.glob("*/*.arrow")))
    assert 3 <= finished < 8
    job = Job()
    result = map_in_shards(table(40), job, FEATURES, work, {}, shard_size=5)
    assert job.calls == [list(range(5 * shard, 5 * shard + 5)) for shard in range(finished, 8)]
    assert result["double"][:] == [2 * value for value in range(40)]
    assert result["row"][0] == [0.0] * 3 and result["row"][39] == [39.0] * 3


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def test_the_work_folder_is_made_with_its_parents(tmp_path):
    map_in_shards(table(3), Job(), FEATURES, Path(tmp_path) / "a" / "b", {})
    assert [path.name for path in (tmp_path / "a" / "b").glob("*/*")] == ["000000.arrow"]
