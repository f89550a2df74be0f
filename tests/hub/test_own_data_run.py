"""The README's six commands from one's own photos, captions and emotions to a published teacher, run as they stand."""

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from emocap.cli import main
from emocap.data.storage import load_table

OWN = ["calm", "curious", "proud", "homesick", "amused", "uneasy", "tender"]
SECTION = (Path(__file__).parents[2] / "README.md").read_text("utf-8").partition("\n## Your own")[2]
COMMANDS = [line for line in SECTION.partition("```bash\n")[2].partition("```")[0].splitlines() if line[0] != "#"]
SMALLER = {
    "train-teacher": ["--max_steps", "3", "--use_cpu", "true", "--disable_tqdm", "true"],
    "evaluate": ["--num_resamples", "20"],
    "predict": ["--top_k", "7"],
}


def write_album(folder: Path, rng: np.random.Generator) -> None:
    """50 photos, and `pairs.csv` with a caption and some of seven emotions for each."""
    (folder / "photos").mkdir(parents=True)
    with open(folder / "pairs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "caption", "emotions"])
        for number in range(50):
            name = f"photos/{number:02}.jpg"
            Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / name)
            named = {OWN[number % 7], OWN[rng.integers(7)]}
            writer.writerow([name, f"a dog at the house {number}", ", ".join(sorted(named))])


def push_encoders(text: str, vision: str, encoders: dict[str, str]) -> None:
    """A tiny MPNet and a tiny SigLIP."""
    AutoModel.from_pretrained(encoders["mpnet"]).push_to_hub(text)
    AutoTokenizer.from_pretrained(encoders["mpnet"]).push_to_hub(text)
    torch.manual_seed(4)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    tower = {"vision_config": {**sizes, "image_size": 48, "patch_size": 8}, "text_config": {**sizes, "vocab_size": 30}}
    SiglipModel(SiglipConfig(**tower)).push_to_hub(vision)
    SiglipImageProcessor(size={"height": 48, "width": 48}).push_to_hub(vision)


def test_own_emotions_become_a_published_teacher(tmp_path, monkeypatch, new_name, encoders, rng, capsys):
    monkeypatch.chdir(tmp_path)
    write_album(tmp_path / "album", rng)
    names = {
        "sentence-transformers/all-mpnet-base-v2": new_name("mpnet"),
        "google/siglip-base-patch16-224": new_name("siglip"),
        "me/own-emotions": new_name("own-emotions"),
    }
    push_encoders(*list(names.values())[:2], encoders)
    assert len(COMMANDS) == 6
    for line in COMMANDS:
        for public, own in names.items():
            line = line.replace(public, own)
        program, *words = shlex.split(line)
        assert program == "emocap"
        capsys.readouterr()
        main(words + SMALLER.get(words[0], []))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert sorted(row["label"] for row in rows) == sorted(OWN)

    table = load_table("runs/regions")
    assert {name: len(part) for name, part in table.items()} == {"train": 35, "validation": 5, "test": 10}
    assert all(number == 36 for part in table.values() for number in part["num_regions"])
    metrics = json.loads(Path("runs/teacher/metrics.json").read_text())
    assert metrics["num_examples"] == 10 and "text_only/map_macro" in metrics and "encoder/map_macro" in metrics

    repo_id = names["me/own-emotions"]
    assert HfApi().model_info(repo_id).private and "homesick" in ModelCard.load(repo_id).text
    model, processor = AutoModel.from_pretrained(repo_id).eval(), AutoProcessor.from_pretrained(repo_id)
    assert model.config.text_config.model_type == "mpnet" and model.config.fusion == "late"
    with torch.inference_mode():
        logits = model(**processor(images="album/photos/01.jpg", text="a dog at the house")).logits[0]
    probabilities = (logits / (model.config.temperature or 1)).sigmoid().sort(descending=True).values
    assert [row["score"] for row in rows] == pytest.approx(probabilities.tolist(), abs=1e-4), "four digits are printed"
