"""What a teacher of the built-in corpus starts from: an untrained VisualBERT and the vocabulary of its captions."""

import os
from collections import Counter
from importlib import resources

import yaml
from datasets import DatasetDict
from transformers import BertTokenizer, VisualBertConfig, VisualBertModel, set_seed

from emocap.data.schema import NUM_REGIONS

__all__ = ["make_body"]

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_body(tables: DatasetDict, folder: str | os.PathLike, settings: dict[str, int] | None = None) -> None:
    """An untrained VisualBERT and a WordPiece vocabulary of the captions of the corpus, which has region features,
    saved like any checkpoint. `settings` are vocabulary and sizes, fields of `VisualBertConfig`; by default the
    quickstart's."""
    if settings is None:
        preset = resources.files("emocap.presets").joinpath("quickstart.yaml").read_text("utf-8")
        settings = yaml.safe_load(preset)["body"]
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
