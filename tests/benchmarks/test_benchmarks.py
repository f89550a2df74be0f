"""Every benchmark still runs, at sizes that say nothing about speed, and prints what it is there for: its ratios."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

NUMBER = r"(\d+\.\d+)"
RATIOS = {
    "captions": (rf"{NUMBER} times the plain loop", 10),
    "detector": (rf"images/s +{NUMBER}x", 3),
    "extraction": (rf"photos/s, {NUMBER} times", 2),
    "frozen": (rf"^ratio +{NUMBER}", 1),
    "labelling": (rf"ratio {NUMBER}", 3),
    "memory": (rf"{NUMBER} of the peak", 1),
    "metrics": (rf"{NUMBER} times all of ours", 1),
    "store": (rf": {NUMBER} times", 2),
    "training": (rf"{NUMBER} times the plain recipe", 6),
    "wishes": (rf"{NUMBER} times that without words", 5),
}
"""What stands around each printed ratio, and how many there are."""


def test_each_benchmark_is_tried():
    files = Path(__file__).parent.glob("bench_*.py")
    assert {path.stem.removeprefix("bench_") for path in files} == set(RATIOS)


@pytest.mark.slow
@pytest.mark.parametrize("name", RATIOS)
def test_a_tiny_run_prints_its_ratios(name, monkeypatch, capsys, tmp_path):
    if name == "metrics":
        pytest.importorskip("sklearn")
    if torch.cuda.is_available() and name in ("detector", "training"):
        pytest.skip("on a GPU it measures other things")
    flags = ["--folder", str(tmp_path)] if name == "store" else []
    monkeypatch.setattr(sys, "argv", [f"bench_{name}", "--tiny", *flags])
    importlib.import_module(f"tests.benchmarks.bench_{name}").main()
    printed, (pattern, number) = capsys.readouterr().out, RATIOS[name]
    found = [float(ratio) for ratio in re.findall(pattern, printed, re.MULTILINE)]
    assert len(found) == number and all(0 < ratio < 1e6 for ratio in found), printed
