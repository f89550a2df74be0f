"""What models of the built-in corpus start from: an untrained VisualBERT and an untrained language model, both with
the vocabulary of its captions."""

import os
from collections import Counter
from importlib import resources
from typing import Any

import yaml
from datasets import DatasetDict
from transformers import AutoConfig, AutoTokenizer, BertTokenizer, VisualBertConfig, VisualBertModel, set_seed

from emocap.data.schema import NUM_REGIONS

__all__ = ["make_body", "make_language_model"]

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_body(tables: DatasetDict, folder: str | os.PathLike, settings: dict[str, Any] | None = None) -> None:
    """An untrained VisualBERT and a WordPiece vocabulary of the captions of the corpus, which has region features,
    saved like any checkpoint. `settings` are vocabulary and sizes, fields of `VisualBertConfig`; by default the
    quickstart's."""
    settings = settings or quickstart_settings("body")
    set_seed(0)
    splits = [name for name in ("train", "source") if name in tables]
    captions = [caption for split in splits for own in tables[split]["captions"] for caption in own]
    tokenizer = make_tokenizer(captions, settings["vocab_size"])
    dim = tables["train"].features["region_features"].length // NUM_REGIONS
    config = VisualBertConfig(
        **(settings | {"vocab_size": len(tokenizer)}), visual_embedding_dim=dim, pad_token_id=tokenizer.pad_token_id
    )
    VisualBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_language_model(
    body: str | os.PathLike, folder: str | os.PathLike, settings: dict[str, Any] | None = None
) -> None:
    """The configuration of a causal language model with the vocabulary of a body, saved without weights: what
    `train_captioner` starts from with `random_weights`. `settings` are its `model_type` and sizes; by default the
    quickstart's."""
    tokenizer = AutoTokenizer.from_pretrained(body)
    end = tokenizer.sep_token_id
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": end, "eos_token_id": end}
    settings = settings or quickstart_settings("language_model")
    AutoConfig.for_model(**settings, vocab_size=len(tokenizer), **ids).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def quickstart_settings(section: str) -> dict[str, Any]:
    return yaml.safe_load(resources.files("emocap.presets").joinpath("quickstart.yaml").read_text("utf-8"))[section]


def make_tokenizer(captions: list[str], vocab_size: int) -> BertTokenizer:
    """A WordPiece vocabulary of single characters and the most frequent words. Ties go by the alphabet: the trainer of
    the tokenizers library breaks them another way each run."""
    backend = BertTokenizer().backend_tokenizer
    counts = Counter(
        word
        for caption in captions
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(caption))
    )
    characters = sorted(set("".join(counts)))
    pieces = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if len(word) > 1]
    vocabulary = [*pieces, *words][:vocab_size]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(vocabulary)})
