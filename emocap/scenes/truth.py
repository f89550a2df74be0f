"""The exact answer for any sentence beside any picture of the built-in corpus."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from emocap.data.schema import label_names, socratis_labels
from emocap.scenes.corpus import PICTURE_STATES, label_probabilities
from emocap.scenes.grammar import WORD_STATES, ParsedCaption, parse_caption

__all__ = ["Judged", "posteriors_of_all_words", "find_pictures", "judge_captions"]

STATE_COLUMN = "bayes_probabilities_image"

read = lru_cache(maxsize=100_000)(parse_caption)


class Judged(NamedTuple):
    """What is true of captions beside pictures, an entry a caption."""

    parsed: np.ndarray
    """bool `(captions,)`: the grammar produces it."""
    posterior: np.ndarray
    """float64 `(captions, L)`, P(label | picture, words); 0 where it is not parsed."""
    named: dict[str, np.ndarray]
    """Of thing, face and weather: bool `(captions,)`, whether it is named,"""
    true: dict[str, np.ndarray]
    """and whether it is named and in the picture."""


def find_pictures(table: Dataset) -> np.ndarray:
    """Which of `PICTURE_STATES` each row shows, int64 `(rows,)`: its exact P(label | picture) tells.

    Raises:
        ValueError: a table, or a row, that is not of the built-in corpus, or so few labels that states look alike.
    """
    if STATE_COLUMN not in table.features:
        raise ValueError(
            f"The table has no column '{STATE_COLUMN}': exact answers are known of the built-in corpus alone, which "
            "`emocap data scenes` draws."
        )
    index_of = {row.tobytes(): index for index, row in enumerate(known_labels(table, label_probabilities()[2]))}
    if len(index_of) < len(PICTURE_STATES):
        raise ValueError(f"With {len(label_names(table))} labels some pictures cannot be told apart; draw more.")
    rows = np.asarray(table.with_format("numpy")[STATE_COLUMN][:], dtype=np.float32)
    found = [index_of.get(row.tobytes()) for row in rows]
    if None in found:
        raise ValueError(f"'{table[found.index(None)]['image_id']}' shows no picture of this version's corpus.")
    return np.array(found, dtype=np.int64)


def judge_captions(table: Dataset, pictures: np.ndarray, captions: Sequence[str]) -> Judged:
    """Captions `(captions,)`, each beside one of `PICTURE_STATES`, int64 `(captions,)`; labels as in the table."""
    told = [read(caption) for caption in captions]
    parsed = np.array([own is not None for own in told], dtype=bool)
    words = np.array([0 if own is None else WORD_STATES.index(own.words) for own in told], dtype=np.int64)
    posterior = known_labels(table, label_probabilities()[0][pictures, words]).astype(np.float64)
    posterior[~parsed] = 0
    shown = [PICTURE_STATES[picture]._asdict() for picture in pictures]
    named, true = {}, {}
    for attribute in ("thing", "face", "weather"):
        values = [value_of(own, attribute) for own in told]
        named[attribute] = np.array([value is not None for value in values], dtype=bool)
        true[attribute] = np.array([value == own[attribute] for value, own in zip(values, shown, strict=True)])
    return Judged(parsed, posterior, named, true)


def posteriors_of_all_words(table: Dataset, pictures: np.ndarray) -> np.ndarray:
    """P(label | picture, words) of all words, float64 `(pictures, WORD_STATES, L)`, the best included."""
    return known_labels(table, label_probabilities()[0][pictures]).astype(np.float64)


def known_labels(table: Dataset, probabilities: np.ndarray) -> np.ndarray:
    """Of the 29 labels `(..., 29)` those of the table, in its order."""
    return np.ascontiguousarray(probabilities[..., [socratis_labels().index(name) for name in label_names(table)]])


def value_of(told: ParsedCaption | None, attribute: str) -> str | None:
    return None if told is None else told.seen.get(attribute)
