"""The README's Python runs as it stands."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


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
