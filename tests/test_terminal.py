"""What commands show: progress, warnings, results, the next command, and how a stop ends."""

import io
import json
import logging
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from importlib import metadata
from pathlib import Path

import pytest
from datasets import are_progress_bars_disabled
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ProgressCallback
from transformers.utils import logging as transformers_logging

from emocap import terminal, train_student
from emocap.cli import as_json, command_parser, main
from emocap.commands import COMMANDS, doctor
from emocap.models import EmocapTeacherForMultiLabelClassification
from emocap.terminal import Bar, Terminal, progress
from emocap.training.trainer import EmocapTrainer, TrainingProgress
from tests.conftest import emotion_fields

QUICK = ["--max_steps", "4", "--eval_steps", "2", "--eval_strategy", "steps", "--save_steps", "2", "--save_strategy",
         "steps", "--use_cpu", "true", "--image_size", "16", "--cnn_channels", "8"]  # fmt: skip


@pytest.fixture
def training(tiny_table_dir, tiny_bert, tmp_path) -> list[str]:
    """A command that takes a moment."""
    named = ["--dataset", tiny_table_dir, "--word_embeddings", tiny_bert, "--output_dir", str(tmp_path / "out")]
    return ["train-student", *named, "--label_column", "labels", *QUICK]


def run(*flags: str, **more) -> subprocess.CompletedProcess:
    code = "from emocap.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *flags], stdin=subprocess.DEVNULL, capture_output=True, text=True, **more
    )


def test_a_command_without_a_terminal_prints_its_result_and_few_lines(training):
    done = run(*training)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr and "\r" not in done.stderr
    assert "pin_memory" not in done.stderr and "{" not in done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("emocap: warning: ")]
    assert len(told) <= 3 and len(done.stderr.splitlines()) <= 6, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:3] == ["model", "prior", "chance"]
    assert any(row.startswith("map_macro ") and " to " in row for row in rows)
    following = done.stderr.splitlines()[-1].removeprefix("Next: ")
    assert following.startswith("emocap finetune --dataset ID_OR_DIR --student ")


def test_json_is_one_document_and_quiet_is_silent(training, tmp_path, capfd):
    main([*training, "--json", "--quiet"])
    out, err = capfd.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert err == "" and len(out.splitlines()) == 1
    main([*training, "--quiet"])
    assert tuple(capfd.readouterr()) == ("", "")


def test_json_of_other_commands(tiny_table_dir, tiny_teacher, tiny_student, tmp_path, capsys):
    def result(*flags: object):
        main([*map(str, flags), "--json"])
        return json.loads(capsys.readouterr().out)

    labelled = result("label", tiny_table_dir, "--teacher", tiny_teacher, "--output_dir", tmp_path / "labelled")
    assert labelled["splits"] == {"train": 60, "validation": 20, "test": 21}
    assert len(result("predict", tiny_student, "--caption", "rain", "--top_k", 2)) == 2
    seen = result("regions", tiny_table_dir, "--extractor", "scenes", "--output_dir", tmp_path / "regions")
    assert seen["rows"] == labelled["splits"] and 0 < seen["with_regions"]["train"] < 60
    (tmp_path / "a.csv").write_text("image,caption,emotions\n" + "".join(f"{n}.jpg,rain,sad\n" for n in range(60)))
    built = result("data", "pairs", tmp_path / "a.csv", "--output_dir", tmp_path / "table")
    assert sum(built["rows"].values()) == 60 and built["photos"] == 0 and built["columns"]["caption"] == "caption"
    assert result("report", f"a={measured(tiny_student, tiny_table_dir, tmp_path)}")[0]["kind"] == "prior"
    assert as_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": Path("x")}) == {
        "a": None,
        "b": [None, 1.5],
        "c": "x",
    }


def measured(student: str, table: str, folder: Path) -> Path:
    """A folder with a model's metrics."""
    main(["evaluate", student, "--dataset", table, "--output", str(folder / "run" / "metrics.json"), "--quiet"])
    return folder / "run"


def test_each_command_shows_a_result_and_knows_what_comes_next(tiny_table_dir, tiny_teacher, tmp_path, capsys):
    for name, command in COMMANDS.items():
        assert callable(command.run) and callable(command.show) and callable(command.following), name
    labelled = tmp_path / "my labels"
    main(["label", tiny_table_dir, "--teacher", tiny_teacher, "--output_dir", str(labelled)])
    out, err = capsys.readouterr()
    assert "happy" in out and "101 images" in out
    told = err.splitlines()[-1]
    assert told.startswith("Next: emocap train-student --dataset ")
    name, *flags = shlex.split(told.removeprefix("Next: emocap "))
    assert command_parser(name).given(flags)["dataset"] == str(labelled)


def test_other_libraries_are_quiet_in_a_command_alone(monkeypatch, tiny_student, capsys):
    seen = []

    def look(self):
        logging.getLogger("transformers.generation").warning("of no use")
        logging.getLogger("somebody").warning("of no use either")
        warnings.warn("neither", UserWarning, stacklevel=2)
        print("a library's talk")
        seen.append((transformers_logging.get_verbosity(), are_progress_bars_disabled()))
        return []

    before = transformers_logging.get_verbosity(), are_progress_bars_disabled(), logging.lastResort
    filters = list(warnings.filters)
    monkeypatch.setattr(COMMANDS["predict"], "run", look)
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        main(["predict", tiny_student, "--caption", "rain", "--json"])
    assert not caught
    out, err = capsys.readouterr()
    assert out == "[]\n" and err == "a library's talk\n" and seen == [(logging.ERROR, True)]
    after = transformers_logging.get_verbosity(), are_progress_bars_disabled(), logging.lastResort
    assert after == before and warnings.filters == filters and Terminal.current is None
    assert not logging.getLogger("emocap").handlers


@pytest.mark.parametrize("is_command", [True, False])
def test_a_python_program_keeps_trainers_own_bars(is_command, monkeypatch, tiny_table_dir, tiny_bert, tmp_path):
    kinds = []

    def look(self, **kwargs):
        kinds.extend(type(own) for own in self.callback_handler.callbacks)
        raise ValueError("seen")

    monkeypatch.setattr(EmocapTrainer, "train", look)
    options = {"word_embeddings": tiny_bert, "label_column": "labels", "max_steps": 1, "use_cpu": True,
               "image_size": 16, "cnn_channels": [8], "disable_tqdm": False}  # fmt: skip
    with pytest.raises(ValueError, match="seen"):
        if is_command:
            with Terminal().opened():
                train_student(tiny_table_dir, tmp_path / "out", **options)
        else:
            train_student(tiny_table_dir, tmp_path / "out", **options)
    assert (TrainingProgress in kinds) == is_command and (ProgressCallback in kinds) != is_command


def test_a_finished_model_that_lacks_weights_is_told_of_and_a_body_is_not(
    tiny_student, tiny_table_dir, tiny_body, tmp_path, capsys
):
    shutil.copytree(tiny_student, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    gone = next(name for name in weights if name.endswith("fc1.weight"))
    del weights[gone]
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    for folder, number in ((tmp_path / "broken", 1), (tiny_student, 0)):
        main(["evaluate", str(folder), "--dataset", tiny_table_dir])
        err = capsys.readouterr().err
        assert err.count(f"'{folder}' lacks weights, which are drawn at random: {gone}.\n") == number, err
        assert "LOAD REPORT" not in err and "MISSING" not in err
    with Terminal().opened():
        EmocapTeacherForMultiLabelClassification.from_body(tiny_body, **emotion_fields())
    err = capsys.readouterr().err
    assert "a new head" in err and "LOAD REPORT" not in err and "lacks weights" not in err


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def on(monkeypatch, stream: io.StringIO, **environment: str) -> Terminal:
    for name in ("NO_COLOR", "TERM", *terminal.RANKS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", stream)
    return Terminal()


def test_a_bar_is_drawn_on_a_terminal_and_leaves_a_line(monkeypatch):
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    screen = Screen()
    with on(monkeypatch, screen).opened(), progress(desc="Regions", unit="photos", total=400) as bar:
        now = 10.0
        bar.update(100)
        assert screen.getvalue() == "\r\x1b[2KRegions ━━━━━┈┈┈┈┈┈┈┈┈┈┈┈┈┈┈ 100 of 400 photos, 0:30 left"
        with progress(desc="Scoring", unit="batches", total=4) as inner:  # half of the 101st
            now = 20.1
            inner.update(2)
        assert screen.getvalue().count("Regions") == 2 and "Scoring" not in screen.getvalue()
        logging.getLogger("emocap.data").warning("a photo is damaged")
        logging.getLogger("emocap.data").warning("a photo is damaged")
        now = 40.0
        bar.update(300)
    lines = screen.getvalue().replace("\r\x1b[2K", "\n").split("\n")
    assert lines.count("\x1b[33memocap: warning: a photo is damaged\x1b[0m") == 1
    assert [line for line in lines if line][-1] == "   0:40  Regions: 400 photos in 0:40"


def test_a_bar_without_a_terminal_is_a_line_a_minute(monkeypatch):
    now = 0.0
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now)
    file = io.StringIO()
    with on(monkeypatch, file).opened():
        for _ in progress(range(300), desc="Scoring", unit="batches"):
            now += 1.0
        list(progress(iter(range(300)), desc="Reading", unit="images"))  # in no time
    assert file.getvalue().splitlines() == [
        "   1:00  Scoring: 60 of 300 batches, 4:00 left",
        "   2:00  Scoring: 120 of 300 batches, 3:00 left",
        "   3:00  Scoring: 180 of 300 batches, 2:00 left",
        "   4:00  Scoring: 240 of 300 batches, 1:00 left",
        "   5:00  Scoring: 300 batches in 5:00",
    ]


def test_colour_is_for_terminals_that_want_it(monkeypatch, capsys):
    for stream, environment, has_colour in (
        (Screen(), {}, True), (Screen(), {"NO_COLOR": "1"}, False), (Screen(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ):  # fmt: skip
        on(monkeypatch, stream, **environment).warn("rain")
        assert ("\x1b" in stream.getvalue()) == has_colour and "emocap: warning: rain" in stream.getvalue()


def test_one_process_of_a_job_speaks_and_many_like_warnings_are_cut_short(monkeypatch):
    file = io.StringIO()
    on(monkeypatch, file, RANK="1").warn("rain")
    assert file.getvalue() == ""
    first = on(monkeypatch, file, RANK="0")
    for number in range(50):
        first.warn(f"photo {number} is damaged", ("emocap.photos", 7))
    first.warn("captions are cut", ("emocap.jobs", 7))
    lines = file.getvalue().splitlines()
    assert len(lines) == terminal.SAME_WARNINGS + 2 and lines[-2].endswith("of this kind are not shown.")


def slowly(flags: list[str], out: Path) -> None:
    """Runs a command whose bars take their time, so that a stop always comes while it works."""
    update = Bar.update

    def slow(self, number: int = 1) -> None:
        update(self, number)
        print("WORKING", file=sys.stderr, flush=True)
        time.sleep(0.5)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background was started without it
    with out.open("w") as sys.stderr:
        Bar.update = slow
        main(flags)


@pytest.mark.parametrize("name", ["train-student", "regions", "label", "predict", "quickstart", "cross-validate"])
def test_ctrl_c_ends_in_one_line_that_says_how_to_go_on(
    name, training, tiny_table_dir, tiny_teacher, tiny_student, tiny_body, tmp_path
):
    out, photos = str(tmp_path / "out"), tmp_path / "photos"
    photos.mkdir()
    for number in range(40):
        Image.new("RGB", (20, 16), (number, 0, 0)).save(photos / f"{number}.png")
    table = ["--dataset", tiny_table_dir, "--model_name_or_path", tiny_body, "--output_dir", out]
    flags = {
        "train-student": training[1:],
        "regions": [tiny_table_dir, "--extractor", "scenes", "--output_dir", out],
        "label": [tiny_table_dir, "--teacher", tiny_teacher, "--output_dir", out],
        "predict": [tiny_student, "--images", str(photos), "--output", str(tmp_path / "a.csv"), "--batch_size", "1"],
        "quickstart": ["--output_dir", out],
        "cross-validate": [*table, "--use_cpu", "true", "--num_folds", "2"],
    }[name]
    process = multiprocessing.get_context("fork").Process(target=slowly, args=([name, *flags], tmp_path / "err"))
    process.start()
    while "WORKING" not in (err := (tmp_path / "err").read_text() if (tmp_path / "err").is_file() else ""):
        assert process.is_alive(), err
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join(120)
    err = (tmp_path / "err").read_text()
    assert process.exitcode == 130, err
    assert "Traceback" not in err and "KeyboardInterrupt" not in err
    how = "Start again" if name == "quickstart" else "Go on"
    more = ["--resume_from_checkpoint", "true"] if name == "train-student" else []
    assert err.splitlines()[-1] == f"Stopped. {how} with: {shlex.join(['emocap', name, *flags, *more])}"


def test_a_stopped_training_goes_on(training, tmp_path, capsys, monkeypatch):
    steps = []

    def stop(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        if state.global_step == 3 and len(steps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingProgress, "on_step_end", stop)
    with pytest.raises(SystemExit) as stopped:
        main(training)
    told = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 130 and told.startswith("Stopped. Go on with: emocap train-student ")
    again = shlex.split(told.partition("with: emocap ")[2])
    main([*again, "--quiet"])
    assert steps == [1, 2, 3, 3, 4] and (tmp_path / "out" / "metrics.json").is_file()
    monkeypatch.setattr(EmocapTrainer, "train", stop_at_once)
    with pytest.raises(SystemExit):
        main(again)  # the same line, and no second pair of flags
    assert capsys.readouterr().err.splitlines()[-1] == told


def stop_at_once(self, **kwargs):
    raise KeyboardInterrupt


def test_doctor_tells_what_is_there(capsys):
    main(["doctor"])
    out, err = capsys.readouterr()
    for name in ("python", "torch", "transformers", "huggingface-hub"):
        assert re.search(rf"^{name} +\d+\.\d+", out, re.MULTILINE)
    assert re.search(r"^device +(cpu|cuda|mps)", out, re.MULTILINE) and " GB free" in out
    assert os.environ["HF_ENDPOINT"] in out and os.environ["HF_TOKEN"] not in out + err
    assert "logged in as" in out and err.startswith("Next: emocap ")
    main(["doctor", "--json"])
    printed = capsys.readouterr().out
    found = json.loads(printed)
    assert found["missing"] == [] and found["packages"]["datasets"] and os.environ["HF_TOKEN"] not in printed
    assert found["cache"]["free"] > 0 and found["devices"][-1]["name"].startswith("cpu")
    pyproject = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert list(found["extras"]) == list(doctor.EXTRAS) and set(doctor.EXTRAS) == set(
        pyproject["project"]["optional-dependencies"]
    )


def test_doctor_tells_what_is_missing(capsys, monkeypatch):
    told = metadata.version

    def version(name: str) -> str:
        if name in ("scikit-learn", "peft"):
            raise metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "accelerate" else told(name)

    required = ["torch>=2.9", "accelerate>=1.12", 'scikit-learn>=1.5; extra == "controls"',
                'onnx>=1.20; extra == "export"', 'peft>=0.18; extra == "lora"']  # fmt: skip
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    out, err = capsys.readouterr()
    assert stop.value.code == 1 and "accelerate>=1.12 is missing or too old" in out
    assert 'extra controls    lacks scikit-learn: pip install "emocap[controls]" (for evaluate --controls, ' in out
    assert "extra lora        lacks peft" in out and re.search(r"extra export +(installed|lacks onnx)", out)
    assert err.splitlines()[-1] == "Next: pip install 'accelerate>=1.12'"


def test_doctor_asks_nobody_where_there_is_no_network_or_no_login(capsys, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", lambda self: pytest.fail("the Hub was asked"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in doctor.look_at_hub()["login"]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert doctor.look_at_hub()["login"].startswith("not logged in")


def test_doctor_says_that_the_hub_refuses_or_is_not_there(monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_nobody")
    monkeypatch.setattr(HfApi, "whoami", lambda self, own=HfApi.whoami: own(self, token="hf_nobody"))
    found = doctor.look_at_hub()
    assert found["login"].startswith("refuses the token") and "hf_nobody" not in str(found)

    def fall(self):
        raise ConnectionError("hf_nobody was here")

    monkeypatch.setattr(HfApi, "whoami", fall)
    assert doctor.look_at_hub()["login"].startswith("cannot be reached (ConnectionError)")
