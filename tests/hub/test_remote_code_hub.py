"""A published model, loaded from the Hub where emocap is not installed."""

import os
import uuid

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModel, AutoProcessor

pytestmark = [
    pytest.mark.hub,
    pytest.mark.skipif(
        not os.environ.get("HF_ENDPOINT") or not os.environ.get("HF_TOKEN"),
        reason="no Hub to write to: set HF_ENDPOINT and HF_TOKEN before pytest starts",
    ),
]

LOADS = """
import json, torch
from transformers import AutoModel, AutoProcessor

repo_id = json.loads(sys.argv[1])
inputs = AutoProcessor.from_pretrained(repo_id, trust_remote_code=True)(text=["the dog at a party", "rain"])
with torch.inference_mode():
    logits = AutoModel.from_pretrained(repo_id, trust_remote_code=True).eval()(**inputs).logits.tolist()
assert "emocap" not in sys.modules
print("RESULT" + json.dumps(logits))
"""


@pytest.mark.parametrize("name", ["tiny_teacher", "tiny_student"])
def test_the_code_comes_from_the_hub(name, request, run_without_emocap):
    folder = request.getfixturevalue(name)
    repo_id = f"{HfApi().whoami()['name']}/{name}-{uuid.uuid4().hex[:8]}"
    AutoModel.from_pretrained(folder).push_to_hub(repo_id)
    AutoProcessor.from_pretrained(folder).push_to_hub(repo_id)
    found = torch.tensor(run_without_emocap(LOADS, repo_id))
    inputs = AutoProcessor.from_pretrained(folder)(text=["the dog at a party", "rain"])
    with torch.inference_mode():
        torch.testing.assert_close(found, AutoModel.from_pretrained(folder).eval()(**inputs).logits)
