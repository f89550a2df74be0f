"""Members of a committee that differ in all that they may."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, BertTokenizerFast

from emocap.models import (
    EmocapProcessor,
    EmocapRegionConfig,
    EmocapRegionExtractor,
    EmocapStudentConfig,
    EmocapStudentForMultiLabelClassification,
    EmocapTeacherForMultiLabelClassification,
)
from tests.conftest import EMOTIONS, make_tokenizer

ORDERS = {"first": [0, 1, 2, 3, 4], "second": [3, 0, 4, 2, 1], "third": [4, 3, 2, 1, 0]}
"""Where each member has the first's emotions."""

TEMPERATURES = {"first": 1.7, "second": 0.6, "third": None}


def fields(name: str, rng: np.random.Generator) -> dict[str, object]:
    names = [EMOTIONS[label] for label in ORDERS[name]]
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {label: place for place, label in enumerate(names)},
        "temperature": TEMPERATURES[name],
        "thresholds": rng.uniform(0.2, 0.8, len(names)).tolist(),
        "label_prevalence": rng.uniform(0.2, 0.8, len(names)).tolist(),
    }


def other_tokenizer(rng: np.random.Generator) -> BertTokenizerFast:
    """The suite's vocabulary with other ids, all but the special ones'."""
    words = sorted(make_tokenizer().vocab, key=make_tokenizer().vocab.get)
    return BertTokenizerFast(vocab={word: at for at, word in enumerate([*words[:5], *rng.permutation(words[5:])])})


def sharpened(model: torch.nn.Module) -> torch.nn.Module:
    """With a head whose probabilities are far from 0.5, and from those of another."""
    head = model.classifier if hasattr(model, "classifier") else model.fc2
    with torch.no_grad():
        head.weight.normal_(0, 0.5)
        head.bias.normal_(0, 1)
    return model


def make_members(folder: Path, body: str, rng: np.random.Generator) -> list[str]:
    """Folders of two teachers and a student that reads photos alone, with their processors; both teachers bring an
    extractor of the same weights."""
    torch.manual_seed(int(rng.integers(2**32)))
    regions = EmocapRegionConfig(
        backbone_channels=[8], anchor_sizes=[8], feature_dim=16, image_size=32, num_proposals=20, num_regions=9
    )
    extractor = EmocapRegionExtractor(regions).eval()
    for name in ("first", "second"):
        sharpened(EmocapTeacherForMultiLabelClassification.from_body(body, **fields(name, rng))).save_pretrained(
            folder / name
        )
        extractor.save_pretrained(folder / name / "extractor")
    first = EmocapProcessor(make_tokenizer(), region_extractor="./extractor")
    second = EmocapProcessor(other_tokenizer(rng), region_extractor="./extractor", max_length=5)
    student = EmocapStudentConfig(
        vocab_size=len(make_tokenizer()),
        word_embedding_size=32,
        gru_hidden_size=16,
        cnn_channels=[8, 16],
        image_size=16,
        fc_hidden_size=24,
        modalities="image",
        **fields("third", rng),
    )
    sharpened(EmocapStudentForMultiLabelClassification(student)).save_pretrained(folder / "third")
    processors = {"first": first, "second": second, "third": EmocapProcessor(make_tokenizer(), image_size=16)}
    for name, processor in processors.items():
        processor.name_or_path = str(folder / name)
        processor.save_pretrained(folder / name)
    return [str(folder / name) for name in processors]


@cache
def loaded(folder: str) -> tuple[torch.nn.Module, EmocapProcessor]:
    return AutoModel.from_pretrained(folder).eval(), EmocapProcessor.from_pretrained(folder)


@torch.no_grad()
def by_hand(folders: list[str], inputs) -> tuple[np.ndarray, np.ndarray]:
    """A committee's probabilities and the members' spread for one pair, each `(L,)` in the order of `EMOTIONS`.

    `inputs` makes a member's model inputs from its processor.
    """
    logits = []
    for folder in folders:
        model, processor = loaded(folder)
        raw = model(**inputs(processor, model.config)).logits[0].double() / (model.config.temperature or 1.0)
        by_name = {model.config.id2label[label]: value.item() for label, value in enumerate(raw)}
        logits.append([by_name[name] for name in EMOTIONS])
    own = 1 / (1 + np.exp(-np.array(logits)))
    mean = np.array(logits).sum(axis=0) / len(logits)
    return 1 / (1 + np.exp(-mean)), np.sqrt(((own - own.mean(axis=0)) ** 2).sum(axis=0) / len(own))
