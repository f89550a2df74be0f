"""Two processes under torchrun label what one would, each row once."""

import json
import os
import subprocess
import sys

import pytest

from emocap.data.storage import load_table
from emocap.pseudo_labels import labelling

JOB = """
import json, os, sys
from emocap.evaluation import scoring
from emocap.pseudo_labels import labelling
from emocap.data.storage import load_table

real_map, real_predict, scored = labelling.map_in_shards, scoring.predict_logits, []

def count(model, pairs, batch_size):
    scored.append(len(pairs))
    return real_predict(model, pairs, batch_size)

labelling.map_in_shards = lambda *own, **options: real_map(*own, **options, shard_size=4)
scoring.predict_logits = count
source, teacher, output_dir = sys.argv[1:]
labelled = labelling.label_tables(load_table(source), teacher, output_dir)
with open(f"{output_dir}.rank{os.environ['RANK']}", "w") as file:
    rows = {name: len(split) for name, split in labelled.items()}
    json.dump({"pairs": sum(scored), "shards": len(scored), "rows": rows}, file)
"""


@pytest.mark.slow
def test_two_processes_share_the_rows(tmp_path, tiny_table_dir, tiny_teacher, monkeypatch):
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               str(tmp_path / "job.py"), tiny_table_dir, tiny_teacher, str(tmp_path / "out")]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    real = labelling.map_in_shards
    monkeypatch.setattr(labelling, "map_in_shards", lambda *own, **options: real(*own, **options, shard_size=4))
    whole = labelling.label_tables(load_table(tiny_table_dir), tiny_teacher, str(tmp_path / "whole"))
    shared = load_table(tmp_path / "out")
    for name, split in whole.items():
        for column in ("image_id", *labelling.OWN_COLUMNS):
            assert shared[name][column][:] == split[column][:], column
    ranks = [json.loads((tmp_path / f"out.rank{rank}").read_text()) for rank in (0, 1)]
    pairs = sum(max(len(captions), 1) for split in whole.values() for captions in split["captions"][:])
    assert [own["shards"] for own in ranks] == [8 + 3 + 3, 7 + 2 + 3] and sum(own["pairs"] for own in ranks) == pairs
    assert all(own["rows"] == {name: len(split) for name, split in whole.items()} for own in ranks)
    assert not (tmp_path / ".out.scores").exists()
