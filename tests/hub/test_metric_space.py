"""The metric module as a Space: `evaluate.load` fetches and runs it where emocap is not installed."""

import json
import os
import subprocess
import sys
import uuid

import pytest
from huggingface_hub import HfApi

from emocap.hub.publishing import publish
from emocap.metrics import compute_metrics

LOAD_AND_COMPUTE = """
import json, sys
sys.modules["emocap"] = None
import evaluate
case = json.load(open(sys.argv[2]))
json.dump(evaluate.load(sys.argv[1]).compute(**case), open(sys.argv[3], "w"))
"""


def test_a_space_serves_the_metric(tmp_path, rng):
    name = f"emocap_metrics_{uuid.uuid4().hex[:8]}"
    repo_id = f"{HfApi().whoami()['name']}/{name}"
    publish("metric", repo_id)
    labels, probabilities = (rng.random((30, 5)) < 0.4).astype(float), rng.random((30, 5))
    case = {"predictions": probabilities.tolist(), "references": labels.tolist(), "thresholds": [0.3] * 5}
    (tmp_path / "case.json").write_text(json.dumps(case))
    run = subprocess.run(
        [sys.executable, "-c", LOAD_AND_COMPUTE, repo_id, str(tmp_path / "case.json"), str(tmp_path / "out.json")],
        env={**os.environ, "HF_HOME": str(tmp_path / "hf_home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert found == pytest.approx(compute_metrics(probabilities, labels, thresholds=[0.3] * 5))
