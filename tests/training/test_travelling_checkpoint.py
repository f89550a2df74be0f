"""A teacher's folder reads photos wherever it is moved to."""

import json
import shutil

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, pipeline

from emocap.cli import main
from emocap.models import EmocapRegionConfig, EmocapRegionExtractor
from emocap.regions import SCENES_DETECTOR
from emocap.regions.bundling import find_extractor

QUICK = ["--max_steps", "2", "--disable_tqdm", "true", "--use_cpu", "true", "--save_strategy", "steps", "--save_steps",
         "1", "--eval_strategy", "no", "--load_best_model_at_end", "false"]  # fmt: skip


def train(table: str, body: str, *flags: str) -> None:
    main(["train-teacher", "--dataset", table, "--model_name_or_path", body, *QUICK, *flags])


def test_a_moved_teacher_reads_photos_from_any_folder(tmp_path, monkeypatch, capsys, tiny_table_dir, tiny_body):
    made, other = tmp_path / "made", tmp_path / "other"
    made.mkdir()
    other.mkdir()
    monkeypatch.chdir(made)
    torch.manual_seed(4)
    config = EmocapRegionConfig(
        backbone_channels=[8], anchor_sizes=[8], feature_dim=16, image_size=32, num_proposals=20, num_regions=9
    )
    extractor = EmocapRegionExtractor(config).eval()
    extractor.save_pretrained("runs/extractor")
    train(tiny_table_dir, tiny_body, "--region_extractor", "runs/extractor", "--output_dir", "runs/teacher")
    train(tiny_table_dir, "runs/teacher", "--output_dir", "runs/again")  # goes on from it: takes the extractor along
    shutil.move("runs", other / "runs")
    shutil.rmtree(other / "runs" / "extractor")
    monkeypatch.chdir(other)
    EmocapRegionExtractor(config).save_pretrained("extractor")  # another one of that name where the command runs
    Image.new("RGB", (30, 20), "red").save("red.png")
    expected = extractor.extract([Image.open("red.png").convert("RGB")]).region_features
    capsys.readouterr()
    for folder in ("runs/teacher", "runs/again", "runs/teacher/checkpoint-2"):
        assert AutoConfig.from_pretrained(folder).region_extractor == "./extractor"
        found = AutoProcessor.from_pretrained(folder)(images="red.png")["visual_embeds"]
        torch.testing.assert_close(found, expected)
        main(["predict", folder, "--image", "red.png", "--top_k", "1"])
        best = json.loads(capsys.readouterr().out)
        scores = pipeline("emotion-recognition", model=folder)({"image": "red.png"})
        assert best["label"] == scores[0]["label"] and best["score"] == pytest.approx(scores[0]["score"], abs=1e-4)


def test_names_of_extractors(tmp_path):
    assert find_extractor("scenes") == str(SCENES_DETECTOR)
    assert find_extractor(str(tmp_path)) == str(tmp_path)
    assert find_extractor("torchvision:fasterrcnn_resnet50_fpn_v2") == "torchvision:fasterrcnn_resnet50_fpn_v2"
    assert find_extractor("owner/name") == "owner/name"
    for gone in (str(tmp_path / "gone"), "./gone", "runs/a/gone"):
        with pytest.raises(ValueError, match="There is no region extractor at .*gone"):
            find_extractor(gone)
