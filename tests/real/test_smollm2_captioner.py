"""A real language model learns COCO's captions, of photos and without them, each with the emotions that a Socratis
teacher reads in it: a small version of the run whose figures stand in hub_cards/results.md."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict, concatenate_datasets
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from emocap.cli import main
from emocap.data.schema import NUM_REGIONS
from emocap.data.storage import load_table
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor

pytestmark = [pytest.mark.real_data, pytest.mark.timeout(900)]

SMOLLM2 = os.environ.get("EMOCAP_TEST_SMOLLM2")
"""Folder of SmolLM2-135M-Instruct as `save_pretrained` writes it."""
NUM_PHOTOS, NUM_OTHERS = 72, 240


@pytest.fixture(scope="module")
def folder(real_data, minilm, quick, tmp_path_factory) -> Path:
    """The README's stages, once: photos with their regions beside images of which there is no photo."""
    if not (SMOLLM2 and Path(SMOLLM2).is_dir()):
        pytest.skip("no language model is at hand: set EMOCAP_TEST_SMOLLM2 to its folder")
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("captioner")
    main(["data", "socratis", f"{real_data}/socratis/cleaned.csv", "--output_dir", f"{folder}/socratis"])
    main([
        "train-teacher", "socratis_text_teacher", "--dataset", f"{folder}/socratis", "--model_name_or_path", minilm,
        "--output_dir", f"{folder}/teacher", "--num_train_epochs", "1", *quick,
    ])  # fmt: skip
    main(["data", "coco", f"{real_data}/coco", "--split", "train2017", "val2017", "--output_dir", f"{folder}/coco"])
    main([
        "regions", f"{folder}/coco", "--import", f"{real_data}/regions/coco_lite36.safetensors",
        "--output_dir", f"{folder}/regions",
    ])  # fmt: skip
    table = concatenate_datasets(list(load_table(folder / "regions").values()))
    counts = np.asarray(table["num_regions"][:])
    photos, others = np.flatnonzero(counts), np.flatnonzero(counts == 0)
    train = np.concatenate([photos[:NUM_PHOTOS], others[:NUM_OTHERS]])
    rows = {"train": train, "validation": others[-20:], "test": photos[-24:]}
    DatasetDict({name: table.select(own) for name, own in rows.items()}).save_to_disk(f"{folder}/chosen")
    main(["label", f"{folder}/chosen", "--teacher", f"{folder}/teacher", "--output_dir", f"{folder}/labelled"])
    main([
        "train-captioner", "--dataset", f"{folder}/labelled", "--model_name_or_path", SMOLLM2,
        "--language_model", "lora", "--max_length", "24", "--num_train_epochs", "2", "--per_device_train_batch_size",
        "16", "--train_sampling_strategy", "group_by_length", "--output_dir", f"{folder}/captioner", *quick,
    ])  # fmt: skip
    return folder


def untuned_nats(processor: EmocapCaptionerProcessor, captions: list[str]) -> float:
    """What the language model asks for the same tokens, after its own start token alone, before it learned any."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(SMOLLM2).eval(), AutoTokenizer.from_pretrained(SMOLLM2)
    total = tokens = 0
    for own in processor.encode_captions(captions):
        ids = torch.tensor([[tokenizer.bos_token_id, *own]])
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1].float()
        total, tokens = total + F.cross_entropy(logits, ids[0, 1:], reduction="sum").item(), tokens + len(own)
    return total / tokens


def test_the_language_model_learns_captions_and_writes_them_for_wishes(folder):
    metrics = json.loads((folder / "captioner/metrics.json").read_text())
    processor = EmocapCaptionerProcessor.from_pretrained(folder / "captioner")
    table = load_table(folder / "labelled")["test"]
    before = untuned_nats(processor, [text for own in table["captions"][:] for text in own])
    print(f"nats a token: {before:.2f} before, {metrics['loss_without_wish']:.2f} after, {metrics}")
    assert metrics["loss_without_wish"] < before - 1
    model = EmocapCaptionerForConditionalGeneration.from_pretrained(folder / "captioner").eval()
    photos = table.select(range(4)).with_format("numpy")
    regions = {
        "visual_embeds": np.asarray(photos["region_features"][:]).reshape(4, NUM_REGIONS, -1).astype(np.float32),
        "region_boxes": np.asarray(photos["region_boxes"][:]).reshape(4, NUM_REGIONS, 4),
    }
    for wish in (None, "sad"):
        inputs = processor(emotions=wish, **regions)
        written = model.generate(**inputs, guidance_scale=2.0)[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(written, skip_special_tokens=True)
        print(wish, texts)
        assert all(len(text.split()) >= 3 and "<image>" not in text for text in texts)
