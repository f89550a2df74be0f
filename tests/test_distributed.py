"""Two processes under `accelerate launch` train and measure as one process would."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emocap.cli import main
from emocap.data.storage import load_table
from emocap.scenes.body import make_body

ROOT = Path(__file__).parents[1]
BATCH = 3


def close(key: str, value):
    """Equal up to the rounding of sums; the entropies of a model that hardly trained differ by little else."""
    tolerance = 1e-3 if "entropy_correlation" in key else 1e-6
    return pytest.approx(value, abs=tolerance) if isinstance(value, float) else value


def launch(script: str, *flags: object) -> None:
    """Runs a training script in two processes on the CPU."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
               "--main_process_port", str(port), str(ROOT / script), "--use_cpu", *map(str, flags)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_two_processes_report_what_one_process_finds(tmp_path, tiny_table_dir, tiny_body, tiny_bert, kind):
    out = tmp_path / "run"
    start = {
        "teacher": ["--model_name_or_path", tiny_body],
        "student": ["--word_embeddings", tiny_bert, "--image_size", 16, "--cnn_channels", 8, 16],
    }
    launch(
        f"train_{kind}.py", "--dataset", tiny_table_dir, "--output_dir", out, *start[kind], "--num_train_epochs", 2,
        "--per_device_train_batch_size", BATCH, "--per_device_eval_batch_size", BATCH, "--disable_tqdm", "true",
    )  # fmt: skip
    metrics = json.loads((out / "metrics.json").read_text())
    test = load_table(tiny_table_dir)["test"]
    pairs = sum(max(len(captions), 1) for captions in test["captions"][:])
    assert len(test) % 2 == 1 and pairs % (2 * BATCH), "the last batch has to be padded"
    main(["evaluate", str(out), "--dataset", tiny_table_dir, "--output", str(tmp_path / "again.json")])
    again = json.loads((tmp_path / "again.json").read_text())
    assert metrics["num_examples"] == again["num_examples"] == 21
    assert set(metrics) == set(again)
    for key, value in again.items():
        assert metrics[key] == close(key, value), key
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert np.isfinite([entry["eval_map_macro"] for entry in history if "eval_map_macro" in entry]).all()
    assert not list(out.glob("*.partial"))


@pytest.mark.slow
def test_two_processes_train_on_the_built_in_corpus(tmp_path):
    main(["data", "scenes", "--num_target", "205", "--num_source", "10", "--output_dir", f"{tmp_path}/scenes"])
    main(["regions", f"{tmp_path}/scenes", "--extractor", "scenes", "--output_dir", f"{tmp_path}/regions"])
    tables, sizes = load_table(tmp_path / "regions"), {"hidden_size": 32, "num_hidden_layers": 1}
    make_body(
        tables, tmp_path / "body", {**sizes, "vocab_size": 500, "num_attention_heads": 2, "intermediate_size": 64}
    )
    launch(
        "train_teacher.py", "--dataset", tmp_path / "regions", "--model_name_or_path", tmp_path / "body",
        "--output_dir", tmp_path / "run", "--num_train_epochs", 2, "--disable_tqdm", "true",
    )  # fmt: skip
    main(["evaluate", f"{tmp_path}/run", "--dataset", f"{tmp_path}/regions", "--output", f"{tmp_path}/again.json"])
    metrics, again = (json.loads((tmp_path / name).read_text()) for name in ("run/metrics.json", "again.json"))
    assert metrics["num_examples"] == again["num_examples"] == len(tables["test"])
    assert metrics == {key: close(key, value) for key, value in again.items()}
