"""The labelling job under SIGKILL: three kills at random moments change nothing in the result."""

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from emocap.data.storage import load_table
from emocap.evaluation import scoring
from emocap.pseudo_labels import labelling

NUM_SHARDS = 15 + 5 + 6


def label(source: str, teacher: str, output_dir: str) -> None:
    """The job in shards of four rows, in one thread: the number of threads changes the last bits of a sum."""
    torch.set_num_threads(1)
    real = labelling.map_in_shards
    labelling.map_in_shards = lambda *own, **options: real(*own, **options, shard_size=4)
    try:
        labelling.label_tables(load_table(source), teacher, output_dir)
    finally:
        labelling.map_in_shards = real


def label_slowly(source: str, teacher: str, output_dir: str) -> None:
    real = scoring.predict_logits

    def slowly(*arguments):
        time.sleep(0.05)
        return real(*arguments)

    scoring.predict_logits = slowly
    label(source, teacher, output_dir)


@pytest.mark.slow
def test_three_kills_at_random_moments(tmp_path, tiny_table_dir, tiny_teacher):
    label(tiny_table_dir, tiny_teacher, str(tmp_path / "whole"))
    processes = multiprocessing.get_context("forkserver")  # it imports once, and forks before anything computes
    processes.set_forkserver_preload(["emocap.pseudo_labels.labelling"])
    finished = 0
    for _ in range(3):
        job = processes.Process(target=label_slowly, args=(tiny_table_dir, tiny_teacher, str(tmp_path / "out")))
        job.start()
        until = finished + 1 + random.randrange(6)
        while len(done(tmp_path)) < until:
            assert job.is_alive(), "the job ended before it was killed"
            time.sleep(0.01)
        time.sleep(0.06 * random.random())  # somewhere within the next shard
        job.kill()
        job.join()
        assert job.exitcode == -signal.SIGKILL and not (tmp_path / "out").exists()
        finished = len(done(tmp_path))
        assert until <= finished < NUM_SHARDS
    kept = {path: path.stat().st_mtime_ns for path in done(tmp_path)}
    job = processes.Process(target=label_slowly, args=(tiny_table_dir, tiny_teacher, str(tmp_path / "out")))
    job.start()
    while len(done(tmp_path)) < NUM_SHARDS and job.is_alive():
        time.sleep(0.01)
    assert {path: written_at(path) for path in kept} in (kept, dict.fromkeys(kept)), "a finished shard was done again"
    job.join()
    assert job.exitcode == 0
    whole, resumed = load_table(tmp_path / "whole"), load_table(tmp_path / "out")
    for name, split in whole.items():
        for column in ("image_id", *labelling.OWN_COLUMNS):
            assert resumed[name][column][:] == split[column][:], column
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def done(folder: Path) -> list[Path]:
    """Finished shards of the job, of all splits."""
    return [path for path in folder.glob(".out.scores/**/*") if path.suffix == ".arrow"]


def written_at(path: Path) -> int | None:
    """None once the job has tidied up."""
    return path.stat().st_mtime_ns if path.is_file() else None
