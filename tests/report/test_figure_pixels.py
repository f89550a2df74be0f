"""A report's figures as pictures: colour lies where the data are, whatever draws them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emocap.metrics import METRIC_KEYS
from emocap.report.page import write_report

STEPS = np.linspace(0, 1, 4)  # so few that their marks alone cover little


def coloured(path: Path) -> np.ndarray:
    """Whether a pixel has a colour, neither white, grey nor black: bool `(height, width)`."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return pixels.max(2) - pixels.min(2) > 60


def loss_figure(folder: Path, losses: np.ndarray) -> np.ndarray:
    """The coloured pixels of the loss curve of a run that logged these values."""
    history = [{"epoch": epoch, "eval_loss": loss} for epoch, loss in enumerate(losses.tolist(), start=1)]
    run = folder / "run"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps(dict.fromkeys(METRIC_KEYS, 0.5) | {"split": "test", "truth": "labels",
                                                                                    "num_examples": 9}))  # fmt: skip
    (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    write_report(folder / "report.html", title="A report", runs={"run": run}, figures=folder / "figures")
    (path,) = (folder / "figures").glob("*loss*.png")
    return coloured(path)


@pytest.mark.parametrize("falls", [True, False])
def test_a_curve_is_drawn_from_its_first_to_its_last_value(tmp_path, falls):
    drawn = loss_figure(tmp_path, 0.9 - 0.8 * STEPS if falls else 0.1 + 0.8 * STEPS)
    columns = np.flatnonzero(drawn.any(0))
    assert len(columns) > 0.6 * drawn.shape[1], "a line over most of the width, not marks alone"
    heights = np.array([np.flatnonzero(drawn[:, column]).mean() for column in columns])
    assert np.ptp(heights) > 0.4 * drawn.shape[0], "over most of the height"
    third = len(columns) // 3
    fall = np.median(heights[third:] - heights[:-third]) / drawn.shape[0]  # whatever a legend adds to some columns
    assert fall > 0.1 if falls else fall < -0.1, "rows of a picture count from above"


def test_two_runs_have_two_colours(tmp_path):
    runs = {}
    for name, losses in (("first", [0.9, 0.5, 0.3]), ("second", [0.4, 0.6, 0.8])):
        runs[name] = tmp_path / name
        runs[name].mkdir()
        history = [{"epoch": epoch, "eval_map_macro": loss} for epoch, loss in enumerate(losses, start=1)]
        metrics = dict.fromkeys(METRIC_KEYS, 0.5) | {"split": "test", "truth": "labels", "num_examples": 9}
        (runs[name] / "metrics.json").write_text(json.dumps(metrics))
        (runs[name] / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    write_report(tmp_path / "report.html", title="A report", runs=runs, figures=tmp_path / "figures")
    (path,) = (tmp_path / "figures").glob("*ranking*.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))[coloured(path)]
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    strongest = colours[np.argsort(-counts)[:2]].astype(int)
    assert np.abs(strongest[0] - strongest[1]).max() > 60
    assert np.sort(counts)[-2] > 0.2 * counts.max(), "both over like lengths"
