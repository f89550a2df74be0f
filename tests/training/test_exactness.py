"""Training gives the same weights however its pairs are spread over steps, processes and interruptions."""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emocap.cli import main

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
NO_EVALUATION = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
CPU = ["--use_cpu", "--disable_tqdm", "true"]


def start_of(kind: str, source: str, target: Path, **fields) -> list[str]:
    """Flags that start a job from a copy of a checkpoint whose configuration says so."""
    if not target.exists():
        shutil.copytree(source, target)
        config = json.loads((target / "config.json").read_text()) | fields
        (target / "config.json").write_text(json.dumps(config))
    return [f"train-{kind}", "--model_name_or_path", str(target)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def largest_difference(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def moved(start: Path, end: Path) -> float:
    first, second = weights(start), weights(end)
    return max((first[name] - second[name]).abs().max().item() for name in first if name in second)


DROPOUTS = dict.fromkeys(("dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
CASES = {
    "early": ["--pos_weight", "4", "--label_smoothing", "0.1"],
    "late": ["--loss", "db"],
    "student": ["--loss", "asl", "--augment_photos", "true"],
}


@pytest.mark.parametrize("name", CASES)
def test_one_batch_of_32_equals_four_of_8_in_whole_epochs(tmp_path, tiny_table_dir, tiny_teacher, tiny_student, name):
    """60 rows and their captions do not fill whole batches: the last step is exact too."""
    kind = "student" if name == "student" else "teacher"
    fields = DROPOUTS if name == "student" else DROPOUTS | {"fusion": name, "classifier_dropout": 0.0}
    begin = start_of(kind, tiny_student if name == "student" else tiny_teacher, tmp_path / "start", **fields)
    for batch, steps in ((32, 1), (8, 4)):
        main([*begin, "--dataset", tiny_table_dir, "--output_dir", str(tmp_path / f"{batch}x{steps}"),
              "--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(steps),
              "--num_train_epochs", "2", "--learning_rate", "0.1", "--head_learning_rate", "0.1", "--optim", "sgd",
              *NO_EVALUATION, *CPU, *CASES[name]])  # fmt: skip
    assert largest_difference(tmp_path / "32x1", tmp_path / "8x4") < 2e-6
    assert moved(tmp_path / "start", tmp_path / "32x1") > 1e-3


SAVING = ["--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "no", "--load_best_model_at_end",
          "false", "--save_total_limit", "20"]  # fmt: skip
DRAWS = {
    "random captions": ["--captions", "random"],
    "mixed": ["--sampling", "class_balanced", "--mix_share", "0.3"],
}
GOING_ON = {**DRAWS, "cropped photos": ["--augment_photos", "true"]}


@pytest.mark.parametrize("draw", GOING_ON)
def test_a_run_that_goes_on_draws_what_it_would_have_drawn(
    tmp_path, labelled_table, tiny_table_dir, tiny_student, draw
):
    """With dropout, over several epochs, from a checkpoint in the middle of one and at the end of one."""
    flags = ["train-student", "--model_name_or_path", tiny_student, "--dataset", labelled_table, *CPU, *SAVING,
             "--label_column", "emotion_scores", "--per_device_train_batch_size", "16", "--num_train_epochs", "3",
             "--save_steps", "1", *GOING_ON[draw]]  # fmt: skip
    flags += ["--mix_dataset", tiny_table_dir] if draw == "mixed" else []
    main([*flags, "--output_dir", str(tmp_path / "whole")])
    state = json.loads((tmp_path / "whole" / "trainer_state.json").read_text())
    an_epoch = state["global_step"] // 3
    assert an_epoch >= 3
    for step in (an_epoch, an_epoch + 2):
        broken = tmp_path / f"broken{step}"
        broken.mkdir()
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", broken / f"checkpoint-{step}")
        main([*flags, "--output_dir", str(broken), "--resume_from_checkpoint", "true"])
        assert largest_difference(tmp_path / "whole", broken) == 0, step
        assert (broken / "metrics.json").read_text() == (tmp_path / "whole" / "metrics.json").read_text()


def test_a_killed_process_ends_like_one_that_was_not(tmp_path, tiny_table_dir, tiny_teacher):
    flags = ["--model_name_or_path", tiny_teacher, "--dataset", tiny_table_dir, *CPU, *SAVING, "--captions", "random",
             "--per_device_train_batch_size", "8", "--max_steps", "30"]  # fmt: skip
    main(["train-teacher", *flags, "--output_dir", str(tmp_path / "whole")])
    command = [sys.executable, str(ROOT / "train_teacher.py"), *flags, "--output_dir", str(tmp_path / "killed"),
               "--resume_from_checkpoint", "true"]  # fmt: skip
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waited = time.monotonic()
    while not (tmp_path / "killed" / "checkpoint-6").exists():
        assert process.poll() is None and time.monotonic() - waited < 120
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    main(["train-teacher", *flags, "--output_dir", str(tmp_path / "killed"), "--resume_from_checkpoint", "true"])
    assert largest_difference(tmp_path / "whole", tmp_path / "killed") == 0
    both = [(tmp_path / run / "metrics.json").read_text() for run in ("whole", "killed")]
    assert both[0] == both[1]


def test_a_checkpoint_that_was_not_written_to_its_end_is_left_out(tmp_path, tiny_table_dir, tiny_teacher, caplog):
    flags = ["train-teacher", "--model_name_or_path", tiny_teacher, "--dataset", tiny_table_dir, *CPU, *SAVING,
             "--max_steps", "4"]  # fmt: skip
    out = tmp_path / "run"
    main([*flags, "--output_dir", str(out), "--resume_from_checkpoint", "true"])
    assert "holds no checkpoint to go on from: the run begins at its first step" in caplog.text
    whole = weights(out)
    (out / "checkpoint-4" / "trainer_state.json").write_text('{"global_step": 4, "ep')
    main([*flags, "--output_dir", str(out), "--resume_from_checkpoint", "true"])
    assert "checkpoint-4' was not written to its end: it is left out" in caplog.text
    assert all(torch.equal(values, whole[name]) for name, values in weights(out).items())


WAYS = {**DRAWS, "frozen": ["--freeze_body"]}
EACH_RUN = """
import json, sys
from emocap.cli import main
for flags in json.loads(sys.argv[1]):
    main(flags)
"""


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(tmp_path, labelled_table, tiny_table_dir, tiny_teacher):
    """The same global batch, dropout 0; and two processes that go on in the middle of an epoch. All in one launch."""
    start_of("teacher", tiny_teacher, tmp_path / "start", **DROPOUTS, classifier_dropout=0.0)
    runs = {
        way: ["train-teacher", "--model_name_or_path", str(tmp_path / "start"), "--dataset", labelled_table, *CPU,
              *SAVING, "--label_column", "emotion_scores", "--num_train_epochs", "2", "--optim", "sgd",
              "--learning_rate", "0.1", "--head_learning_rate", "0.1", "--loss", "db", *flags,
              *(["--mix_dataset", tiny_table_dir] if way == "mixed" else [])]
        for way, flags in WAYS.items()
    }  # fmt: skip
    split = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    launched = []
    for way, flags in runs.items():
        main([*flags, "--output_dir", str(tmp_path / way / "one"), "--per_device_train_batch_size", "16"])
        launched.append([*flags, *split, "--output_dir", str(tmp_path / way / "two")])
    way = "random captions"
    going_on = ["--output_dir", str(tmp_path / "again"), "--resume_from_checkpoint",
                str(tmp_path / way / "two" / "checkpoint-6")]  # fmt: skip
    launched.append([*runs[way], *split, *going_on])
    (tmp_path / "runs.py").write_text(EACH_RUN)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port),
               str(tmp_path / "runs.py"), json.dumps(launched)]  # fmt: skip
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    for way in WAYS:
        one, two = tmp_path / way / "one", tmp_path / way / "two"
        assert largest_difference(one, two) < 1e-6, way
        assert moved(tmp_path / "start", one) > 1e-3
        alone, together = (json.loads((run / "metrics.json").read_text()) for run in (one, two))
        assert alone == {key: pytest.approx(value, abs=1e-4) if isinstance(value, float) else value
                         for key, value in together.items()}  # fmt: skip
    assert largest_difference(tmp_path / "random captions" / "two", tmp_path / "again") == 0


def test_bfloat16_trains_in_bfloat16_and_saves_float32(tmp_path, tiny_table_dir, tiny_student, monkeypatch):
    from emocap.models import EmocapStudentForMultiLabelClassification

    dtypes = set()
    plain = EmocapStudentForMultiLabelClassification.forward

    @functools.wraps(plain)  # Trainer reads its signature
    def watched(self, *args, **kwargs):
        output = plain(self, *args, **kwargs)
        dtypes.add((output.logits.dtype, None if output.loss is None else output.loss.dtype))
        return output

    monkeypatch.setattr(EmocapStudentForMultiLabelClassification, "forward", watched)
    flags = ["train-student", "--model_name_or_path", tiny_student, "--dataset", tiny_table_dir, *CPU,
             "--num_train_epochs", "2", "--loss", "asl"]  # fmt: skip
    main([*flags, "--output_dir", str(tmp_path / "fp32"), "--bf16", "false"])
    assert dtypes == {(torch.float32, torch.float32)}
    dtypes.clear()
    main([*flags, "--output_dir", str(tmp_path / "bf16"), "--bf16"])
    assert dtypes == {(torch.bfloat16, torch.float32)}
    assert all(values.dtype == torch.float32 for values in weights(tmp_path / "bf16").values())
    assert 0 < largest_difference(tmp_path / "fp32", tmp_path / "bf16") < 0.02


def test_a_run_stops_where_it_no_longer_gets_better(tmp_path, tiny_table_dir, tiny_student):
    main(["train-student", "--model_name_or_path", tiny_student, "--dataset", tiny_table_dir, *CPU, "--output_dir",
          str(tmp_path / "run"), "--num_train_epochs", "30", "--early_stopping_patience", "2", "--learning_rate",
          "0.05"])  # fmt: skip
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    scores = [entry["eval_map_macro"] for entry in state["log_history"] if "eval_map_macro" in entry]
    assert len(scores) < 30 and int(np.argmax(scores)) == len(scores) - 3
    assert len(list((tmp_path / "run").rglob("metrics.json"))) == 1
