"""What a card says of a fine-tuning: its strategy in a few words, and what surgery.json records of it."""

import json
from pathlib import Path

from emocap.cards.text import Markdown

__all__ = ["WITHOUT_WEIGHTS", "told_surgery"]

STRATEGIES = {
    "anb": "the student's layers, frozen; the rest is trained on the target",
    "anb+": "the student's layers, trained on together with the rest",
    "bnb": "layers of a model of the target itself, frozen (control of AnB)",
    "bnb+": "layers of a model of the target itself, trained on (control of AnB+)",
    "random": "layers that nobody trained, frozen (control of AnB)",
    "scratch": "the same architecture, no layer copied (what the others have to beat)",
}

WITHOUT_WEIGHTS = ("scratch", "random")
"""Strategies of fine-tuning that take a student's architecture and none of its trained weights."""


def told_surgery(folder: Path, strategy: str | None) -> Markdown:
    """The strategy, how many tensors were frozen, and what holds of the word embeddings where the strategy's words
    leave it open: that they started as published, or that `--freeze_word_embeddings` decided about them."""
    if strategy is None:
        return Markdown()
    told, path = STRATEGIES[strategy], folder / "surgery.json"
    if not path.is_file():
        return Markdown(told)
    surgery = json.loads(path.read_text("utf-8"))
    tensors = {name: entry for name, entry in surgery["tensors"].items() if not entry["buffer"]}
    frozen = sum(entry["frozen"] for entry in tensors.values())
    verb = "was" if frozen == 1 else "were"
    told += f". {frozen} of its {len(tensors)} tensors {verb} frozen" if frozen else ". Nothing was frozen"
    words = next(entry for name, entry in tensors.items() if name.endswith("word_embeddings.weight"))
    if surgery["freeze_word_embeddings"] is not None:
        how = "frozen" if words["frozen"] else "trained"
        told += f"; the word embeddings were {how} by `--freeze_word_embeddings`"
    if words["origin"].startswith("given by"):
        told += "; the word embeddings started as published, no training on emotions had moved them"
    return Markdown(told)
