"""A captioner on the Hub: from a table that `emocap label` wrote to a published model that writes the same."""

import torch
from huggingface_hub import HfApi, hf_hub_download
from transformers import AutoModelForImageTextToText, AutoProcessor

from emocap.cli import main
from tests.conftest import EMOTIONS
from tests.hub.conftest import QUICK
from tests.hub.test_publish import texts
from tests.models.captioner import random_regions, save_language_model


def test_a_captioner_is_published_with_its_code_and_card(family, new_name, tmp_path):
    torch.manual_seed(0)
    language_model = save_language_model(tmp_path / "lm", "qwen2")
    run, repo_id = tmp_path / "captioner", new_name("captioner")
    main(["train-captioner", "--dataset", str(family / "labelled"), "--model_name_or_path", language_model, *QUICK,
          "--soft_hidden_size", "16", "--region_extractor", str(family / "extractor"),
          "--output_dir", str(run), "--push_to_hub", "true", "--hub_model_id", repo_id])  # fmt: skip
    files = {info.rfilename for info in HfApi().model_info(repo_id).siblings}
    assert {"model.safetensors", "generation_config.json", "tokenizer.json", "README.md"} <= files
    assert {"modeling_emocap_captioner.py", "extractor/config.json", "extractor/model.safetensors"} <= files
    for name, text in texts(repo_id).items():
        assert str(tmp_path) not in text and str(family) not in text, name
    regions = random_regions(2)
    written = []
    for source in (str(run), repo_id):
        model = AutoModelForImageTextToText.from_pretrained(source)
        processor = AutoProcessor.from_pretrained(source)
        inputs = processor(text=["the", ""], emotions=[EMOTIONS[1], None], **regions)
        written.append(model.generate(**inputs, guidance_scale=2.0))
    assert torch.equal(*written)
    with open(hf_hub_download(repo_id, "README.md"), encoding="utf-8") as card:
        assert "base_model" not in (text := card.read()) and "image-text-to-text" in text
    main(["publish", str(run), "--repo_id", repo_id])
    assert len(HfApi().list_repo_commits(repo_id)) == 2, "one commit, after the repository's own"
