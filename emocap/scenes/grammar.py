"""The grammar of the built-in corpus: captions that word a topic and a tone, and may say what is seen; and back."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from emocap.scenes import tables
from emocap.scenes.drawing import PictureState

__all__ = ["WORD_STATES", "ParsedCaption", "WordState", "describe", "parse_caption", "write_caption"]


class WordState(NamedTuple):
    """What moves people in a caption: keys of `TOPICS` and `TONES` in `scenes.tables`."""

    topic: str
    tone: str


WORD_STATES = [WordState(*values) for values in product(tables.TOPICS, tables.TONES)]

ORDERS = ("{topic} {place}, {tone}", "{topic} {tone}, {place}", "{place}, {topic}, {tone}")
WORD_OR_MARK = re.compile(r"[^\W\d_]+|\S")


class ParsedCaption(NamedTuple):
    """What a caption says."""

    words: WordState
    seen: dict[str, str]
    """The attributes of the picture that it names, with their values: some of `thing`, `face` and `weather`."""


def write_caption(words: WordState, rng: np.random.Generator) -> str:
    """A caption of 8 to 14 words for a word state; the place says nothing."""
    topic = pick(rng, tables.TOPICS[words.topic])
    tone = pick(rng, tables.TONES[words.tone])
    place = pick(rng, tables.PLACES)
    return ORDERS[rng.integers(3)].format(topic=topic, tone=tone, place=place)


def describe(caption: str, picture: PictureState, rng: np.random.Generator) -> str:
    """The caption with a clause of what is seen, before or after it: each attribute of `SIGHTS` is named with its
    probability in `SIGHT_SHARES`, in that order, so that some captions stay as they are."""
    named = [
        pick(rng, wordings[getattr(picture, attribute)])
        for attribute, wordings in tables.SIGHTS.items()
        if rng.random() < tables.SIGHT_SHARES[attribute]
    ]
    if not named:
        return caption
    parts = [caption, " ".join(named)]
    return ", ".join(parts if rng.random() < 0.5 else parts[::-1])


def parse_caption(text: str) -> ParsedCaption | None:
    """What a sentence of the grammar says, whatever its case and the spaces between its words and marks; None: the
    grammar does not produce it."""
    told = plain(text) + " "
    for pattern in patterns():
        if match := pattern.fullmatch(told):
            found = {kind: value_of(kind)[wording] for kind, wording in match.groupdict().items() if wording}
            return ParsedCaption(WordState(found.pop("topic"), found.pop("tone")), found)
    return None


@cache
def patterns() -> list[re.Pattern[str]]:
    """Of sentences as `plain` leaves them, a space behind: each order of the words, without a clause of what is seen,
    with it after them or before."""
    slots = {kind: f"(?P<{kind}>{any_of(value_of(kind))})" for kind in ("topic", "tone", *tables.SIGHTS)}
    slots["place"] = f"(?:{any_of(map(plain, tables.PLACES))})"
    sights = "".join(f"(?:{slots[kind]} )?" for kind in tables.SIGHTS)
    found = []
    for order in ORDERS:
        words = order.replace(",", " ,").format(**slots)
        found += [re.compile(form) for form in (f"{words} ", f"{words} , (?=.){sights}", f"(?!,){sights}, {words} ")]
    return found


@cache
def value_of(kind: str) -> Mapping[str, str]:
    """The value that each wording of a kind stands for."""
    table = {"topic": tables.TOPICS, "tone": tables.TONES, **tables.SIGHTS}[kind]
    return {plain(wording): value for value, wordings in table.items() for wording in wordings}


def any_of(wordings: Iterable[str]) -> str:
    return "|".join(map(re.escape, wordings))


def plain(text: str) -> str:
    """Words in lower case and marks, a space between each two."""
    return " ".join(WORD_OR_MARK.findall(text.lower()))


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]
