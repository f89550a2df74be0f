"""The README's Python runs as it stands."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
FUNCTIONS = BLOCKS.pop(next(place for place, block in enumerate(BLOCKS) if "PseudoLabels(" in block))
"""The block on functions of a batch, see tests/test_batch_functions.py and tests/test_ray.py."""
JOB = BLOCKS.pop(next(place for place, block in enumerate(BLOCKS) if "emocap.train_teacher(" in block))
TINY = {
    r"num_target=\d+": "num_target=60",
    r"num_source=\d+": "num_source=20",
    r"num_train_epochs=\d+": "num_train_epochs=1, disable_tqdm=True",
    r'"num_train_epochs": \d+': '"num_train_epochs": 1, "disable_tqdm": True',
    r'"image_size": \d+': '"image_size": 16',
    r'"cnn_channels": \[[\d, ]+\]': '"cnn_channels": [8]',
}


@pytest.fixture
def quickstart(tmp_path, tiny_student, monkeypatch) -> Path:
    """A folder with the checkpoint and the photo that the README speaks of."""
    shutil.copytree(tiny_student, tmp_path / "runs" / "quickstart" / "student")
    Image.new("RGB", (40, 30), "orange").save(tmp_path / "party.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(found: dict) -> None:
    assert len(found["best"]) == 3 and len(found["present"]) == 2
    assert [row["score"] for row in found["best"]] == pytest.approx(sorted(found["probabilities"])[::-1][:3])
    reasons = found["reasons"]
    assert sum(reasons["token_weights"] + reasons["box_weights"]) == pytest.approx(
        reasons["logit"] - reasons["baseline_logit"], abs=2e-3
    )


RESULT = """
reasons.pop("saliency")
found = {"best": best, "present": present, "probabilities": probabilities[0].tolist(), "reasons": reasons}
"""


def test_its_python_runs(quickstart):
    names = {}
    exec(compile("\n".join(BLOCKS) + RESULT, str(README), "exec"), names)
    check(names["found"])


@pytest.mark.slow
def test_its_whole_job_in_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, names = JOB, {}
    for pattern, tiny in TINY.items():
        code, number = re.subn(pattern, tiny, code)
        assert number, pattern
    exec(compile(code, str(README), "exec"), names)
    for name in ("teacher", "student", "anb-plus"):
        folder = tmp_path / "runs" / "python" / name
        assert {"model.safetensors", "metrics.json", "run_arguments.json", "README.md"} <= {
            path.name for path in folder.iterdir()
        }
    assert (tmp_path / "runs/python/labelled/labels.html").is_file()
    assert names["teacher"] == json.loads((tmp_path / "runs/python/teacher/metrics.json").read_text())
    assert names["before"]["truth"] == names["after"]["truth"] == "labels"
    gain = names["after"]["map_macro"] - names["after"]["prior/map_macro"]
    assert names["after"].gain("prior", "map_macro").value == pytest.approx(gain)
    batch = names["processor"](text="a picture of the garden")
    assert names["model"](**batch).logits.shape == (1, 29)


def test_it_links_every_notebook():
    names = {path.name for path in (README.parent / "tests" / "notebooks").glob("*.py")} - {"test_notebooks.py"}
    assert names == set(re.findall(r"\]\(tests/notebooks/(\w+\.py)\)", README.read_text("utf-8")))
