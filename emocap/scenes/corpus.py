"""The built-in corpus: small drawn scenes, captions from a grammar and a simulated crowd, with the exact answer known.

A picture has a state v (weather, light, palette, thing, face), a caption a state w (topic, tone). P(v) is a product
over the attributes; w is all but independent of v: a topic is likelier beside a related thing (`RELATED_THINGS`),
nothing more. Both states can be read off with certainty: every attribute is visible, and no two word states share a
wording. Captions of the source also say what is seen (`describe`), which moves nobody: people look for themselves.

A fixed panel of annotators looks at picture and caption. Each image gets six reactions; a reaction comes from a
panel member drawn uniformly with replacement, who names each emotion e independently with probability

    p_a,e(v, w) = sigmoid(base_e + taste_a,e + eye_a * picture_e(v) + ear_a * words_e(w) + interaction_e(v, w))

so that P(label_e = 1 | v, w) = 1 - (1 - mean_a p_a,e(v, w))^6: the best that any model can know. Tables of effects
are in `scenes.tables`.
"""

import hashlib
import io
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, List, Value

from emocap.data.licenses import set_license
from emocap.data.schema import SPLIT_SHARES, pair_features, socratis_labels, split_of
from emocap.scenes import tables
from emocap.scenes.drawing import PICTURE_ATTRIBUTES, SCENE_CLASSES, PictureState, draw_scene
from emocap.scenes.grammar import WORD_STATES, WordState, describe, write_caption
from emocap.terminal import progress

__all__ = [
    "CAPTIONS_PER_SOURCE_IMAGE",
    "NUM_REACTIONS",
    "PICTURE_STATES",
    "SCENE_CLASSES",
    "WORD_STATES",
    "PictureState",
    "WordState",
    "draw_scene",
    "label_probabilities",
    "load_scenes",
    "random_scene",
    "simulate_votes",
    "word_probabilities",
    "write_caption",
]

NUM_REACTIONS = 6
CAPTIONS_PER_SOURCE_IMAGE = 5
KNOWN = ("", "_text", "_image")
"""How columns of exact probabilities end: knowing both, the words alone, the picture alone."""

_NUM_ANNOTATORS = 12
_PANEL_SEED = 20  # the panel is the same for every corpus
_ROWS_A_CHUNK = 500


PICTURE_STATES = [PictureState(*values) for values in product(*PICTURE_ATTRIBUTES.values())]


def load_scenes(*, num_target: int = 2000, num_source: int = 6000, num_labels: int = 29, seed: int = 0) -> DatasetDict:
    """Draws the built-in corpus.

    A row depends on `seed` and its own id alone, so a larger corpus begins with the smaller one; the panel of
    annotators never changes.

    Args:
        num_target: images with human reactions and one caption, as in Socratis; split by `split_of`.
        num_source: images with five captions, most of which also say what is seen, and no reactions, as in COCO
            (`labels`, `emotions`, `votes` and `soft_labels` are null, `num_annotators` is 0).
        num_labels: keeps the emotions that Socratis names most often, listed in the study's order. Images whose
            reactions name none of them stay, without labels.
        seed: another seed, another corpus.

    Returns:
        Splits `train`, `validation`, `test` and `source` with the columns of `pair_features` and six of
        List(float32, num_labels): `bayes_probabilities`, P(label among all reactions | picture, words),
        `bayes_probabilities_text`, P(... | words), `bayes_probabilities_image`, P(... | picture), and `bayes_shares`,
        `bayes_shares_text` and `bayes_shares_image`, the same of one reaction. For the source, those that know the
        words are means over the captions; what these say of the picture is not among the words.

    Raises:
        ValueError: a number out of range.
    """
    num_all = len(tables.BASE_LOGITS)
    if not 1 <= num_labels <= num_all:
        raise ValueError(f"num_labels is {num_labels}; expected 1 to {num_all}, the emotions of Socratis.")
    if num_target < 0 or num_source < 0:
        raise ValueError(f"num_target is {num_target} and num_source {num_source}; expected 0 or more images.")
    frequent = list(tables.BASE_LOGITS)[:num_labels]
    kept = np.array([index for index, name in enumerate(socratis_labels()) if name in frequent])
    bayes = List(Value("float32"), length=num_labels)
    features = pair_features(
        [socratis_labels()[index] for index in kept],
        votes=True,
        extra={f"bayes_{what}{known}": bayes for what in ("probabilities", "shares") for known in KNOWN},
    )
    ids = [f"target_{number:06d}.jpg" for number in range(1, num_target + 1)]
    parts = {name: [image_id for image_id in ids if split_of(image_id) == name] for name in SPLIT_SHARES}
    parts["source"] = [f"source_{number:06d}.jpg" for number in range(1, num_source + 1)]
    table = DatasetDict({name: _draw_split(part, features, kept, seed) for name, part in parts.items()})
    return set_license(table, "apache-2.0")  # this project's own


def random_scene(rng: np.random.Generator) -> PictureState:
    """Draws a picture state from P(v)."""
    return PICTURE_STATES[_draw_index(rng, _picture_shares())]


def word_probabilities() -> np.ndarray:
    """P(w | v): float64 of shape (`PICTURE_STATES`, `WORD_STATES`), rows summing to 1."""
    by_thing = {thing: _word_shares(thing) for thing in PICTURE_ATTRIBUTES["thing"]}
    return np.stack([by_thing[state.thing] for state in PICTURE_STATES])


@cache
def label_probabilities(reactions: int = NUM_REACTIONS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact probabilities that some of so many reactions name each of the 29 labels, by enumeration of all states.

    Returns:
        P(label | v, w), of shape (`PICTURE_STATES`, `WORD_STATES`, 29), and its marginals P(label | w), of shape
        (`WORD_STATES`, 29), and P(label | v), of shape (`PICTURE_STATES`, 29); float32 below 1, read-only.
    """
    panel = _panel()
    both = np.empty((len(PICTURE_STATES), len(WORD_STATES), len(panel.base)), dtype=np.float32)
    for index in range(len(PICTURE_STATES)):
        both[index] = 1 - (1 - _reaction_probabilities(index).mean(axis=0)) ** reactions
    np.minimum(both, np.nextafter(np.float32(1), np.float32(0)), out=both)  # so that every logit is finite
    words = word_probabilities()
    joint = words * _picture_shares()[:, None]
    text = np.einsum("vw,vwl->wl", joint / joint.sum(axis=0), both, dtype=np.float64).astype(np.float32)
    image = np.einsum("vw,vwl->vl", words, both, dtype=np.float64).astype(np.float32)
    for table in (both, text, image):
        table.setflags(write=False)
    return both, text, image


def simulate_votes(
    picture: PictureState, words: WordState, rng: np.random.Generator, num_images: int = 1
) -> np.ndarray:
    """Votes of `NUM_REACTIONS` random panel members for images of one state: int32 of shape (num_images, 29)."""
    chances = _reaction_probabilities(PICTURE_STATES.index(picture))[:, WORD_STATES.index(words)]
    members = rng.integers(_NUM_ANNOTATORS, size=(num_images, NUM_REACTIONS))
    named = rng.random((num_images, NUM_REACTIONS, chances.shape[1])) < chances[members]
    return named.sum(axis=1, dtype=np.int32)


class _Panel(NamedTuple):
    base: np.ndarray  # (L,) base logits, in the order of `socratis_labels`
    taste: np.ndarray  # (A, L) leniency of each annotator, and which emotions come easily
    eye: np.ndarray  # (A,) weight of the picture
    ear: np.ndarray  # (A,) weight of the words


@cache
def _panel() -> _Panel:
    """Twelve annotators: some generous and some sparing, some who look and some who read."""
    rng = np.random.default_rng(_PANEL_SEED)
    names = socratis_labels()
    leniency = rng.normal(0, 0.35, (_NUM_ANNOTATORS, 1))
    taste = leniency + rng.normal(0, 0.25, (_NUM_ANNOTATORS, len(names)))
    eye = rng.uniform(0.7, 1.3, _NUM_ANNOTATORS)
    return _Panel(np.array([tables.BASE_LOGITS[name] for name in names]), taste, eye, 2 - eye)


@cache
def _effects() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Effects by state: picture (V, L), words (W, L), and the interactions' factors (V, P) and (P, W, L)."""
    picture_values, word_values = list(tables.PICTURE_EFFECTS), list(tables.WORD_EFFECTS)
    picture_effects = np.stack([_strengths(effect) for effect in tables.PICTURE_EFFECTS.values()])
    word_effects = np.stack([_strengths(effect) for effect in tables.WORD_EFFECTS.values()])
    shown = np.array([[value in state for value in picture_values] for state in PICTURE_STATES], dtype=np.float64)
    said = np.array([[value in state for value in word_values] for state in WORD_STATES], dtype=np.float64)
    pairs = np.zeros((len(picture_values), len(word_values), picture_effects.shape[1]))
    for (word, picture), effect in tables.INTERACTIONS.items():
        pairs[picture_values.index(picture), word_values.index(word)] = _strengths(effect)
    return shown @ picture_effects, said @ word_effects, shown, np.einsum("wq,pql->pwl", said, pairs)


def _strengths(effect: dict[str, float]) -> np.ndarray:
    row = np.zeros(len(tables.BASE_LOGITS))
    for name, strength in effect.items():
        row[socratis_labels().index(name)] = strength
    return row


def _reaction_probabilities(picture: int) -> np.ndarray:
    """Chance that each annotator names each emotion of a picture state beside each word state: (A, W, L)."""
    panel = _panel()
    picture_effects, word_effects, shown, pairs = _effects()
    logits = panel.base + panel.taste[:, None] + np.tensordot(shown[picture], pairs, axes=1)
    logits = logits + panel.eye[:, None, None] * picture_effects[picture]
    logits = logits + panel.ear[:, None, None] * word_effects
    return 1 / (1 + np.exp(-logits))


@cache
def _picture_shares() -> np.ndarray:
    """P(v), float64 of shape (`PICTURE_STATES`,)."""
    columns = [
        [tables.PICTURE_SHARES[attribute][getattr(state, attribute)] for state in PICTURE_STATES]
        for attribute in PICTURE_ATTRIBUTES
    ]
    return np.prod(columns, axis=0)


@cache
def _word_shares(thing: str) -> np.ndarray:
    """P(w | v) of a picture that shows `thing`."""
    weights = {
        topic: tables.RELATED_BOOST if thing in tables.RELATED_THINGS.get(topic, ()) else 1.0
        for topic in tables.TOPICS
    }
    shares = np.array([weights[state.topic] * tables.TONE_SHARES[state.tone] for state in WORD_STATES])
    return shares / shares.sum()


def _draw_split(ids: Sequence[str], features: Features, kept: np.ndarray, seed: int) -> Dataset:
    schema = features.arrow_schema
    parts = [ids[start : start + _ROWS_A_CHUNK] for start in range(0, len(ids), _ROWS_A_CHUNK)]
    digest = hashlib.blake2b(schema.serialize(), digest_size=8)  # datasets' own would copy the whole table
    chunks = [schema.empty_table()]
    with progress(total=len(ids), desc="Drawing scenes", unit="pictures") as bar:
        for part in parts:
            chunks.append(_to_arrow([_draw_row(image_id, kept, seed) for image_id in part], schema))
            for batch in chunks[-1].to_batches():
                digest.update(batch.serialize())
            bar.update(len(part))
    return Dataset(pa.concat_tables(chunks), fingerprint=digest.hexdigest())


def _draw_row(image_id: str, kept: np.ndarray, seed: int) -> dict[str, Any]:
    """One row of values; `votes` is None for an image of the source."""
    digest = hashlib.blake2b(f"{seed}:{image_id}".encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    is_target = image_id.startswith("target")
    picture_index = _draw_index(rng, _picture_shares())
    picture = PICTURE_STATES[picture_index]
    shares = _word_shares(picture.thing)
    words = [_draw_index(rng, shares) for _ in range(1 if is_target else CAPTIONS_PER_SOURCE_IMAGE)]
    captions = [write_caption(WORD_STATES[index], rng) for index in words]
    votes = simulate_votes(picture, WORD_STATES[words[0]], rng)[0, kept] if is_target else None
    file = io.BytesIO()
    draw_scene(picture, rng)[0].save(file, "JPEG", quality=90, subsampling=0)
    if not is_target:
        captions = [describe(caption, picture, rng) for caption in captions]
    exact = {"probabilities": label_probabilities(), "shares": label_probabilities(1)}
    return {
        "image_id": image_id,
        "image": {"bytes": file.getvalue(), "path": image_id},
        "captions": captions,
        "votes": votes,
        **{f"bayes_{what}": both[picture_index, words].mean(axis=0)[kept] for what, (both, _, _) in exact.items()},
        **{f"bayes_{what}_text": text[words].mean(axis=0)[kept] for what, (_, text, _) in exact.items()},
        **{f"bayes_{what}_image": image[picture_index, kept] for what, (_, _, image) in exact.items()},
    }


def _to_arrow(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows of one kind (all with votes, or all without) as an Arrow table with the columns of `schema`."""
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in schema.names}
    columns["num_annotators"] = [0 if votes is None else NUM_REACTIONS for votes in columns["votes"]]
    if columns["votes"][0] is not None:
        votes = np.stack(columns["votes"])
        columns["labels"] = list((votes > 0).astype(np.float32))
        columns["emotions"] = [np.flatnonzero(row) for row in votes]
        columns["soft_labels"] = list((votes / NUM_REACTIONS).astype(np.float32))
    return pa.table([pa.array(columns[field.name], type=field.type) for field in schema], schema=schema)


def _draw_index(rng: np.random.Generator, shares: np.ndarray) -> int:
    """An index drawn in proportion to `shares`, which sum to 1."""
    return min(int(np.searchsorted(np.cumsum(shares), rng.random(), side="right")), len(shares) - 1)
