"""The extraction job, killed for real and shared by two processes: not a byte of the result differs."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from emocap.cli import main
from emocap.data.schema import pair_features
from emocap.data.storage import load_table
from emocap.regions import extraction
from tests.conftest import fresh_rng

SHARD_SIZE = 8

JOB = f"""
import sys, time
from emocap.cli import main
from emocap.models import EmocapRegionExtractor
from emocap.regions import extraction

extraction.SHARD_SIZES["cpu"] = {SHARD_SIZE}
real = EmocapRegionExtractor.extract

def slow(model, photos):
    time.sleep(float(sys.argv[1]))
    return real(model, photos)

EmocapRegionExtractor.extract = slow
main(sys.argv[2:])
"""


def noise(rng: np.random.Generator) -> bytes:
    content = io.BytesIO()
    pixels = rng.integers(0, 256, (*rng.integers(20, 60, 2), 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def save_photos(folder: Path, contents: list[bytes | None]) -> None:
    """A table of two splits; None is a row without a photo."""
    rows = [
        {"image_id": f"{row}", "image": content and {"bytes": content, "path": None}, "captions": ["a"]}
        for row, content in enumerate(contents)
    ]
    cut = len(rows) * 2 // 3
    parts = {"train": rows[:cut], "test": rows[cut:]}
    tables = {name: Dataset.from_list(part, features=pair_features(None)) for name, part in parts.items()}
    DatasetDict(tables).save_to_disk(str(folder))


def synthetic_photos() -> list[bytes | None]:
    rng = fresh_rng()
    return [None if row == 5 else b"no photo" if row == 40 else noise(rng) for row in range(60)]


def real_photos(folder: Path) -> list[bytes | None]:
    """200 photos of COCO and OASIS, one of them cut short."""
    paths = [*sorted((folder / "coco" / "val2017").iterdir())[:100], *sorted((folder / "oasis" / "images").iterdir())]
    contents = [path.read_bytes() for path in paths[:200]]
    contents[77] = contents[77][:5000]
    return contents


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["synthetic", pytest.param("real", marks=pytest.mark.real_data)])
def test_killed_or_shared_the_job_writes_the_same_bytes(tmp_path, request, monkeypatch, kind):
    contents = synthetic_photos() if kind == "synthetic" else real_photos(request.getfixturevalue("real_data"))
    save_photos(tmp_path / "photos", contents)
    script = tmp_path / "job.py"
    script.write_text(JOB)
    flags = ["regions", str(tmp_path / "photos"), "--extractor", "scenes", "--output_dir"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    main([*flags, str(tmp_path / "whole")])
    whole = files_of(tmp_path / "whole")

    killed = subprocess.Popen([sys.executable, script, "0.02", *flags, str(tmp_path / "killed")], env=environment)
    end = time.monotonic() + 300
    while len(list((tmp_path / ".killed.regions").rglob("*.arrow"))) < 3:
        assert time.monotonic() < end and killed.poll() is None, "it ended, or hung, before it could be killed"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    finished = len(list((tmp_path / ".killed.regions").rglob("*.arrow")))
    assert 3 <= finished < len(contents) // SHARD_SIZE and not (tmp_path / "killed").exists()

    monkeypatch.setitem(extraction.SHARD_SIZES, "cpu", SHARD_SIZE)
    main([*flags, str(tmp_path / "killed")])
    assert files_of(tmp_path / "killed") == whole

    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(script), "0", *flags, str(tmp_path / "shared")]
    shared = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert shared.returncode == 0, shared.stderr
    assert files_of(tmp_path / "shared") == whole

    table = load_table(tmp_path / "whole")
    counts = np.concatenate([table[name]["num_regions"][:] for name in ("train", "test")])
    bad = [5, 40] if kind == "synthetic" else [77]
    assert np.flatnonzero(counts == 0).tolist() == bad
    assert len(counts) == len(contents)
