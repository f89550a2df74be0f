"""Each notebook runs as a script in an empty folder, offline, and leaves what it speaks of."""

import csv
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emocap.data.storage import load_table

NOTEBOOKS = ("use_a_model", "train_on_your_pairs", "label_a_collection", "read_a_transfer_study")
FOLDER = Path(__file__).parent


@pytest.fixture
def run(tmp_path):
    """Runs a notebook; its folder, and what it printed."""

    def run_notebook(name: str) -> tuple[Path, str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parents[1])}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, str(FOLDER / f"{name}.py")],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return tmp_path / "runs" / name, done.stdout

    return run_notebook


def test_there_is_a_test_for_each_and_each_has_cells():
    assert sorted(NOTEBOOKS) == sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("test_"))
    for name in NOTEBOOKS:
        assert f"test_{name}" in globals()
        lines = (FOLDER / f"{name}.py").read_text("utf-8").splitlines()
        assert lines[:2] == ["# %% [markdown]", f"# # {name.replace('_', ' ').capitalize()}"]
        kinds = [line for line in lines if line.startswith("# %%")]
        assert kinds == ["# %% [markdown]", "# %%"] * (len(kinds) // 2), "each cell of code has its text"


def test_use_a_model(run):
    folder, told = run("use_a_model")
    with open(folder / "answers.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    photos = sorted(path for path in (folder / "photos").iterdir() if path.suffix == ".png")
    assert [row["image"] for row in rows] == [path.name for path in photos] and len(rows) == 6
    assert [row["caption"] for row in rows] == [path.with_suffix(".txt").read_text() for path in photos]
    scores = [[float(value) for name, value in row.items() if name not in ("image", "caption")] for row in rows]
    assert np.shape(scores) == (6, 8) and 0 < np.min(scores) < np.max(scores) < 1
    assert np.asarray(Image.open(folder / "prediction.png").convert("L")).std() > 5
    total, logit = next(line for line in told.splitlines() if line.startswith("sum of weights")).split(" = logit ")
    assert float(total.split()[-1]) == pytest.approx(float(logit), abs=0.01)


def test_train_on_your_pairs(run):
    folder, told = run("train_on_your_pairs")
    metrics = json.loads((folder / "teacher" / "metrics.json").read_text())
    assert f"map_macro {metrics['map_macro']:.3f} ({metrics['map_macro_low']:.3f}" in told
    assert f"the prior {metrics['prior/map_macro']:.3f}" in told and metrics["map_macro"] > metrics["chance/map_macro"]
    with open(folder / "album" / "pairs.csv", newline="", encoding="utf-8") as file:
        written = {row["image"].removeprefix("photos/"): row for row in csv.DictReader(file)}
    tables = load_table(str(folder / "regions"))
    named = {name for name, own in written.items() if own["emotions"]}
    assert {Path(own).name for split in tables.values() for own in split["image_id"]} == named
    assert len(named) < len(written) == 300
    names = tables["test"].features["emotions"].feature.names
    for row in tables["test"]:
        own = written[Path(row["image_id"]).name]
        assert row["captions"] == [own["caption"]]
        assert {names[label] for label in row["emotions"]} == set(filter(None, own["emotions"].split(", ")))
    assert "My album" in (folder / "report.html").read_text("utf-8")


def test_label_a_collection(run):
    folder, told = run("label_a_collection")
    (table,) = load_table(str(folder / "labelled")).values()
    assert len(table) == 80 and table["captions"][0] == (folder / "photos" / table["image_id"][0]).with_suffix(
        ".txt"
    ).read_text("utf-8").split("\n")
    scores = np.array(table["emotion_scores"][:])
    assert [set(own) for own in table["emotions"]] == [set(own) for own in np.argsort(-scores, axis=1)[:, :3].tolist()]
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == table["image_id"][:]
    found = [[float(row[name]) for name in table.features["emotions"].feature.names] for row in rows]
    assert np.allclose(found, scores, atol=1e-6)
    apart = next(line for line in told.splitlines() if line.startswith("largest difference"))
    assert float(apart.split()[-1]) < 1e-5
    assert (folder / "labelled" / "labels.html").is_file()


def test_read_a_transfer_study(run):
    folder, told = run("read_a_transfer_study")
    rows = json.loads((folder / "study" / "study.json").read_text())["rows"]
    kinds = [(row["strategy"], row["num_layers"]) for row in rows]
    assert sorted(kinds) == sorted(
        [
            ("scratch", 0),
            ("scratch matched", 0),
            *((name, layers) for name in ("anb", "anb+", "bnb+", "bnb+ matched") for layers in (2, 5)),
        ]
    )
    for row in rows:
        assert row["mean"] == pytest.approx(np.mean(row["values"])) and len(row["values"]) == 2
        if "over_anb_plus" in row:
            assert f"{row['num_layers']} layers: {row['over_anb_plus']['mean']:+.3f}" in told
    clear = next(line for line in told.splitlines() if "gains are clear of 0; by chance" in line)
    assert clear.split()[2] == "12", "two strategies, two numbers of layers, three controls"
    assert (folder / "transfer.md").read_text() == (folder / "study" / "study.md").read_text()
    assert np.asarray(Image.open(folder / "transfer.png").convert("L")).std() > 5
    assert (
        ElementTree.parse(folder / "study" / "figure.svg").getroot().get("aria-label") == "map_macro by layers passed"
    )
