"""A published model, loaded from the Hub where emocap is not installed."""

import uuid

import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoModel, AutoProcessor

from emocap.models import EmocapRegionConfig, EmocapRegionExtractor

LOADS = """
import json, torch
from transformers import AutoModel, AutoProcessor, pipeline

repo_id = json.loads(sys.argv[1])
inputs = AutoProcessor.from_pretrained(repo_id, trust_remote_code=True)(text=["the dog at a party", "rain"])
with torch.inference_mode():
    logits = AutoModel.from_pretrained(repo_id, trust_remote_code=True).eval()(**inputs).logits.tolist()
scores = pipeline(model=repo_id, trust_remote_code=True)("rain", top_k=None)
assert len(scores) == len(logits[1]) and abs(scores[0]["score"] - torch.tensor(logits[1]).sigmoid().max()) < 1e-6
assert "emocap" not in sys.modules
print("RESULT" + json.dumps(logits))
"""


READS_A_PHOTO = """
import json
from transformers import AutoProcessor

repo_id, photo = json.loads(sys.argv[1])
features = AutoProcessor.from_pretrained(repo_id, trust_remote_code=True)(images=photo)["visual_embeds"]
print("RESULT" + json.dumps(features.tolist()))
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


def test_an_extractor_inside_a_published_checkpoint(tmp_path, tiny_teacher, run_without_emocap):
    regions = EmocapRegionConfig(
        backbone_channels=[8], anchor_sizes=[8], feature_dim=16, image_size=32, num_proposals=20, num_regions=9
    )
    EmocapRegionExtractor(regions).eval().save_pretrained(tmp_path / "teacher" / "extractor")
    processor = AutoProcessor.from_pretrained(tiny_teacher)
    processor.region_extractor = "./extractor"
    processor.save_pretrained(tmp_path / "teacher")
    repo_id = f"{HfApi().whoami()['name']}/teacher-{uuid.uuid4().hex[:8]}"
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=tmp_path / "teacher")
    photo = Image.effect_noise((60, 40), 90)
    expected = AutoProcessor.from_pretrained(tmp_path / "teacher")(images=photo)
    published = AutoProcessor.from_pretrained(repo_id)
    found = published(images=photo)
    assert torch.equal(found["visual_embeds"], expected["visual_embeds"])
    photo.save(tmp_path / "photo.png")
    without = run_without_emocap(READS_A_PHOTO, [repo_id, str(tmp_path / "photo.png")])
    torch.testing.assert_close(torch.tensor(without), expected["visual_embeds"])
    published.save_pretrained(tmp_path / "again")
    again = AutoProcessor.from_pretrained(tmp_path / "again")(images=photo)
    assert torch.equal(again["visual_embeds"], expected["visual_embeds"]), "the extractor came along"
