"""`emocap predict --images DIR --output FILE` beside single predictions, killed, and with a broken photo."""

import csv
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from transformers import pipeline

from emocap.cli import main
from emocap.evaluation import folder as folders
from emocap.evaluation.folder import predict_folder, report_path
from emocap.models import EmotionRecognitionPipeline
from tests.committees import make_members
from tests.conftest import EMOTIONS, SEED


@pytest.fixture(scope="module")
def members(tmp_path_factory, tiny_body) -> list[str]:
    return make_members(tmp_path_factory.mktemp("members"), tiny_body, np.random.default_rng([SEED, 9]))


@pytest.fixture
def photos(tmp_path, rng) -> Path:
    """Eleven photos, one of them broken, every third with a caption."""
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    for number in range(10):
        path = root / ("more" if number % 2 else "") / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (20 + number % 3, 30, 3), dtype=np.uint8)).save(path)
        if number % 3 == 0:
            path.with_suffix(".txt").write_text(f'the "dog", at a party {number}')
    (root / "broken.jpg").write_bytes(b"no photo")
    return root


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(folders, "PHOTOS_A_PART", 3)


def read(path: Path) -> list[dict]:
    """The rows of a file, flat, with float32 figures."""
    if path.suffix == ".parquet":
        rows = parquet.read_table(path).to_pylist()
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{**row, "caption": row["caption"] or None} for row in csv.DictReader(file)]
    else:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [
            {"image": row.pop("image"), "caption": row.pop("caption"), **row.pop("emotions"), **row} for row in lines
        ]
    return [
        {name: own if name in ("image", "caption") else np.float32(own) for name, own in row.items()} for row in rows
    ]


@pytest.mark.parametrize("number", [1, 3])
def test_three_formats_hold_what_single_predictions_say(members, photos, tmp_path, number, capsys, small_parts):
    names = members[:number]
    for ending in ("csv", "jsonl", "parquet"):
        main(["predict", *names, "--images", str(photos), "--output", str(tmp_path / "out" / f"answers.{ending}"),
              "--batch_size", "2"])  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.count("10 photos in '") == 3 and printed.count("broken.jpg: The photo '") == 3
    tables = [read(tmp_path / "out" / f"answers.{ending}") for ending in ("csv", "jsonl", "parquet")]
    pipe = pipeline("emotion-recognition", model=names[0], committee=names[1:], device="cpu")
    assert tables[0] == tables[1] == tables[2] and len(tables[2]) == 10
    assert list(tables[0][0]) == ["image", "caption", *EMOTIONS, *(["disagreement"] if number > 1 else [])]
    assert [row["image"] for row in tables[2]] == sorted(row["image"] for row in tables[2])
    for row in tables[2]:
        number_of = int(Path(row["image"]).stem)
        assert row["caption"] == (f'the "dog", at a party {number_of}' if number_of % 3 == 0 else None)
        rows = pipe({"image": photos / row["image"], "text": row["caption"]})
        for own in rows:
            assert row[own["label"]] == pytest.approx(own["score"], abs=2e-6)
        if number > 1:
            assert row["disagreement"] == pytest.approx(np.mean([own["disagreement"] for own in rows]), abs=2e-6)
    report = json.loads(report_path(tmp_path / "out" / "answers.csv").read_text())
    assert report["counts"] == {"photos answered": 10, "left out": 1} and report["models"] == names
    (problem,) = report["problems"]
    assert problem["image_id"] == "broken.jpg" and "cannot be read" in problem["reason"]
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == sorted(
        f"answers.{ending}{more}" for ending in ("csv", "jsonl", "parquet") for more in ("", ".report.json")
    )


class CountedForwards:
    """The pipeline's `forward`, which counts, and kills its process at its n-th call."""

    def __init__(self, monkeypatch, stop_at: int | None = None):
        self.calls, self.stop_at, real = 0, stop_at, EmotionRecognitionPipeline.forward

        def forward(pipe, *arguments, **options):
            if self.calls == self.stop_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls += 1
            return real(pipe, *arguments, **options)

        monkeypatch.setattr(EmotionRecognitionPipeline, "forward", forward)


def predict_until_killed(members: list[str], photos: Path, output: Path) -> None:
    torch.set_num_threads(1)  # their number changes the last bits of a sum
    folders.PHOTOS_A_PART = 3
    CountedForwards(pytest.MonkeyPatch(), stop_at=7)
    predict_folder(members, photos, output, batch_size=1)


def test_a_killed_job_goes_on_and_a_finished_one_is_not_done_again(
    members, photos, tmp_path, monkeypatch, small_parts
):
    output, whole = tmp_path / "answers.csv", tmp_path / "whole.csv"
    predict_folder(members, photos, whole, batch_size=1)
    processes = multiprocessing.get_context("forkserver")
    job = processes.Process(target=predict_until_killed, args=(members, photos, output))
    job.start()
    job.join()
    assert job.exitcode == -signal.SIGKILL
    assert not output.exists() and len(list(tmp_path.glob(".answers.csv.parts/*/*.arrow"))) == 2
    with monkeypatch.context() as patch:
        counted = CountedForwards(patch)
        predict_folder(members, photos, output, batch_size=1)
        assert counted.calls == 10 - 5, "what two parts of three photos, one of them broken, hold is not done again"
    assert output.read_bytes() == whole.read_bytes() and not list(tmp_path.glob(".answers*"))
    with monkeypatch.context() as patch:
        counted = CountedForwards(patch)
        report = predict_folder(members, photos, output, batch_size=4)
        assert counted.calls == 0 and report == json.loads(report_path(output).read_text())
        output.write_text("half of it")
        predict_folder(members, photos, output, batch_size=1)
        assert counted.calls == 10 and output.read_bytes() == whole.read_bytes(), "a file that was changed is"
        (photos / "1.txt").write_text("rain")
        (photos / "more" / "1.txt").write_text("rain")
        predict_folder(members, photos, output, batch_size=1)
        assert counted.calls == 20 and output.read_bytes() != whole.read_bytes(), "another caption, another job"
        predict_folder(members[:1], photos, output, batch_size=1)
        assert counted.calls == 30, "other models, another job"


def test_what_is_refused(members, photos, tmp_path, tiny_teacher, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(folders, "pipeline", None)
        with pytest.raises(ValueError, match=r"must end in .csv, .jsonl, .parquet"):
            predict_folder(members, photos, tmp_path / "answers.xlsx")
        with pytest.raises(FileNotFoundError, match="no folder"):
            predict_folder(members, tmp_path / "gone", tmp_path / "answers.csv")
        (tmp_path / "mine.csv").write_text("my own")
        with pytest.raises(FileExistsError, match="is no earlier result"):
            predict_folder(members, photos, tmp_path / "mine.csv")
    with pytest.raises(ValueError, match="neither image_size .* nor region_extractor"):
        predict_folder(tiny_teacher, photos, tmp_path / "answers.csv")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.jpg").write_text("no photo")
    with pytest.raises(ValueError, match="Of 1 photos none can be answered, the first because: The photo"):
        predict_folder(members, tmp_path / "empty", tmp_path / "answers.csv")
    assert not list(tmp_path.glob("*answers*")) and not list(tmp_path.glob(".answers*"))


def test_flags_that_do_not_go_together(members, photos, capsys):
    for flags, message in (
        (["--images", str(photos)], "--images and --output go together"),
        (["--output", "answers.csv"], "--images and --output go together"),
        (["--images", str(photos), "--output", "a.csv", "--caption", "rain"], "--images goes without --caption"),
    ):
        with pytest.raises(SystemExit):
            main(["predict", members[0], *flags])
        assert message in capsys.readouterr().err


def test_predict_of_one_pair_by_several_models(members, photos, capsys):
    main(["predict", *members, "--image", str(photos / "0.png"), "--caption", "rain", "--top_k", "2"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    pipe = pipeline("emotion-recognition", model=members[0], committee=members[1:], device="cpu")
    for row, own in zip(rows, pipe({"image": photos / "0.png", "text": "rain"}, top_k=2), strict=True):
        assert row == {
            "label": own["label"],
            "score": round(own["score"], 4),
            "disagreement": round(own["disagreement"], 4),
        }
    for flags, message in (
        (["--caption", "rain"], "third' was trained on image alone"),
        (["--image", str(photos / "0.png"), "--explain"], "--explain goes with a single model"),
    ):
        with pytest.raises(SystemExit):
            main(["predict", *members, *flags])
        assert message in capsys.readouterr().err


def test_a_csv_has_a_row_for_each_of_its_rows(members, photos, tmp_path, capsys):
    table = photos / "pairs.csv"
    rows = [
        "image,caption,extra",
        "0.png,a party,1",
        "more/1.png,,2",
        ",rain,3",
        "../out.png,rain,4",
        ",,5",
        "0.png,rain,6",
    ]
    table.write_text("\n".join(rows))
    pipe = pipeline("emotion-recognition", model=members[0], device="cpu")
    Image.new("RGB", (9, 9)).save(tmp_path / "out.png")
    report = predict_folder(pipe, table, tmp_path / "answers.csv")
    main(["predict", members[0], "--images", str(table), "--output", str(tmp_path / "again.csv")])
    assert "4 photos in '" in capsys.readouterr().out
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    found = read(tmp_path / "answers.csv")
    pairs = [("0.png", "a party"), ("more/1.png", None), ("", "rain"), ("0.png", "rain")]
    assert [(row["image"], row["caption"]) for row in found] == pairs
    for row, (image, caption) in zip(found, pairs, strict=True):
        alone = pipe({"image": str(photos / image) if image else None, "text": caption})
        for own in alone:
            assert row[own["label"]] == pytest.approx(own["score"], abs=1e-6)
    assert [problem["image_id"] for problem in report["problems"]] == ["../out.png", "a row without a photo"]
    table.write_text("picture,words\n0.png,rain")
    with pytest.raises(ValueError, match="has the columns picture, words; expected image, caption or both"):
        predict_folder(pipe, table, tmp_path / "none.csv")
