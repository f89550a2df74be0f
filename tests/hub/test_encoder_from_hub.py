"""Region features of a vision encoder that is named by its Hub id, and a teacher that reads photos with it."""

import json

import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoConfig, AutoProcessor, ViTConfig, ViTImageProcessor, ViTModel

from emocap.cli import main
from emocap.hub.publishing import publish
from emocap.models.processing_emocap import load_region_extractor
from tests.hub.conftest import QUICK

READS_A_PHOTO = """
import json
from transformers import AutoProcessor

folder, photo = json.loads(sys.argv[1])
try:
    AutoProcessor.from_pretrained(folder, trust_remote_code=True)(images=photo)
except ImportError as error:
    print("RESULT" + json.dumps(str(error)))
"""


def test_an_encoder_by_its_hub_id(tmp_path, new_name, tiny_table_dir, tiny_body, run_without_emocap):
    torch.manual_seed(4)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    repo_id, side = new_name("vit"), {"height": 48, "width": 48}
    ViTModel(ViTConfig(**sizes, image_size=48, patch_size=8)).push_to_hub(repo_id)
    ViTImageProcessor(size=side).push_to_hub(repo_id)
    main(["regions", tiny_table_dir, "--extractor", f"vision:{repo_id}", "--output_dir", str(tmp_path / "regions")])
    report = json.loads((tmp_path / "regions" / "data_report.json").read_text())
    assert report["extractor"] == f"vision:{repo_id}" and report["revision"] == HfApi().model_info(repo_id).sha
    extractor = load_region_extractor(f"vision:{repo_id}")
    assert extractor.config.encoder == repo_id
    teacher = str(tmp_path / "teacher")
    main(["train-teacher", "--dataset", str(tmp_path / "regions"), "--model_name_or_path", tiny_body, *QUICK,
          "--region_extractor", f"vision:{repo_id}", "--output_dir", teacher])  # fmt: skip
    assert AutoConfig.from_pretrained(teacher).region_extractor == f"vision:{repo_id}"
    photo = Image.effect_noise((60, 40), 90)
    photo.save(tmp_path / "photo.png")
    found = AutoProcessor.from_pretrained(teacher)(images=photo)["visual_embeds"]
    assert torch.equal(found, extractor.extract([photo]).region_features)
    said = run_without_emocap(READS_A_PHOTO, [teacher, str(tmp_path / "photo.png")])
    assert f"'vision:{repo_id}' brings no code of its own: pip install emocap" in said
    assert not any(path.startswith("extractor/") for path in publish(teacher, new_name("t"), dry_run=True).sizes)
    extractor.push_to_hub(repo_id + "-grid")
    again = load_region_extractor(repo_id + "-grid")
    assert again.config._commit_hash == HfApi().model_info(repo_id + "-grid").sha
    assert torch.equal(again.extract([photo]).region_features, found)
    with pytest.raises(OSError, match="gone"):
        load_region_extractor(f"vision:{repo_id}-gone")
