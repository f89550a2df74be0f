"""The grammar of the built-in corpus: what is written is read back, and nothing else is read."""

import re
from collections import Counter
from itertools import product

import numpy as np

from emocap.scenes import tables
from emocap.scenes.body import make_tokenizer
from emocap.scenes.corpus import PICTURE_STATES, label_probabilities, load_scenes, random_scene
from emocap.scenes.drawing import PICTURE_ATTRIBUTES
from emocap.scenes.grammar import WORD_STATES, WordState, describe, parse_caption, write_caption

WORDINGS = {"topic": tables.TOPICS, "tone": tables.TONES, "place": {None: tables.PLACES}, **tables.SIGHTS}


def draw(rng: np.random.Generator, named: float = 0.5) -> tuple[str, WordState, dict[str, str]]:
    """A sentence put together here, from the tables alone, and what it says."""

    def any_of(wordings):
        return wordings[rng.integers(len(wordings))]

    words = WORD_STATES[rng.integers(len(WORD_STATES))]
    topic, tone, place = any_of(tables.TOPICS[words.topic]), any_of(tables.TONES[words.tone]), any_of(tables.PLACES)
    forms = f"{topic} {place}, {tone}", f"{topic} {tone}, {place}", f"{place}, {topic}, {tone}"
    seen = {kind: any_of(list(values)) for kind, values in tables.SIGHTS.items() if rng.random() < named}
    clause = " ".join(any_of(tables.SIGHTS[kind][value]) for kind, value in seen.items())
    parts = [any_of(forms), clause] if rng.random() < 0.5 else [clause, any_of(forms)]
    return ", ".join(part for part in parts if part), words, seen


def readings(caption: str) -> list[tuple]:
    """Everything that some sentence of the grammar with these very words says, by trying all that occur in it."""
    inside = {
        kind: [(value, text) for value, texts in values.items() for text in texts if text in caption]
        for kind, values in WORDINGS.items()
    }
    optional = {kind: [(None, ""), *inside[kind]] if kind in tables.SIGHTS else inside[kind] for kind in WORDINGS}
    found = []
    for (topic, a), (tone, b), (_, c), *sights in product(*optional.values()):
        clause = " ".join(text for _, text in sights if text)
        for base in (f"{a} {c}, {b}", f"{a} {b}, {c}", f"{c}, {a}, {b}"):
            if caption in ({f"{base}, {clause}", f"{clause}, {base}"} if clause else {base}):
                found.append((topic, tone, *(value for value, _ in sights)))
    return found


def test_sentences_are_read_back(rng):
    for _ in range(3000):
        caption, words, seen = draw(rng)
        assert parse_caption(caption) == (words, seen), caption


def test_what_is_written_is_read_back_and_true(rng):
    named, number = Counter(), 4000
    for _ in range(number):
        picture, words = random_scene(rng), WORD_STATES[rng.integers(len(WORD_STATES))]
        plain = write_caption(words, rng)
        assert parse_caption(plain) == (words, {})
        caption = describe(plain, picture, rng)
        told = parse_caption(caption)
        assert plain in caption and told.words == words, caption
        assert told.seen.items() <= picture._asdict().items(), caption
        named.update(told.seen.keys())
    for attribute, share in {"thing": 0.7, "face": 0.5, "weather": 0.5}.items():
        assert abs(named[attribute] / number - share) < 4 * np.sqrt(share * (1 - share) / number)


def test_a_sentence_has_one_reading(rng):
    for _ in range(300):
        caption, words, seen = draw(rng, named=0.8)
        assert set(readings(caption)) == {(*words, *(seen.get(kind) for kind in tables.SIGHTS))}, caption


def test_case_and_the_spaces_of_a_tokenizer_do_not_matter(rng):
    captions = [draw(rng) for _ in range(300)]
    tokenizer = make_tokenizer([caption for caption, _, _ in captions], 2000)
    for caption, words, seen in captions:
        ids = tokenizer(caption, add_special_tokens=False)["input_ids"]
        apart = " ".join(re.findall(r"\w+|[^\w\s]", caption))
        for text in (caption.upper(), tokenizer.decode(ids), apart, f"  {caption.capitalize()} "):
            assert parse_caption(text) == (words, seen), text


def test_other_sentences_are_not_read(rng):
    for text in ("", "a dog at the house", ", ", "beside a dog", "a birthday party in the garden"):
        assert parse_caption(text) is None
    tried = 0
    while tried < 1000:
        caption, _, _ = draw(rng)
        words = caption.replace(",", " ,").split()
        place, way = rng.integers(len(words)), rng.integers(3)
        if way == 0:
            changed = [*words[:place], *words[place + 1 :]]
        elif way == 1:
            changed = [*words[:place], words[place], *words[place:]]
        else:
            changed = [*words[place:], *words[:place]]
        text = " ".join(changed).replace(" ,", ",")
        if text == caption:
            continue
        tried += 1
        left = readings(text)
        assert (parse_caption(text) is None) == (not left), text
    assert parse_caption(f"{caption}.") is None and parse_caption(f"{caption} {caption}") is None


def test_every_value_has_several_wordings_of_its_own():
    assert {kind: set(values) for kind, values in tables.SIGHTS.items()} == {
        kind: set(PICTURE_ATTRIBUTES[kind]) for kind in ("thing", "face", "weather")
    }
    texts = [text for values in WORDINGS.values() for own in values.values() for text in own]
    assert len(set(texts)) == len(texts)
    assert not [(a, b) for a, b in product(texts, texts) if a != b and a in b]
    for values in tables.SIGHTS.values():
        for own in values.values():
            assert len(own) >= 3 and all(re.fullmatch("[a-z ]+", text) and len(text.split()) <= 4 for text in own)


def test_no_caption_is_cut_at_32_tokens():
    texts = [text for values in WORDINGS.values() for own in values.values() for text in own]
    tokenizer = make_tokenizer([f"{text}," for text in texts], 2000)
    lengths = {
        kind: max(
            len(tokenizer(text, add_special_tokens=False)["input_ids"]) for own in values.values() for text in own
        )
        for kind, values in WORDINGS.items()
    }
    assert sum(lengths.values()) + 3 + 2 <= 32, "with three commas, the beginning and the end"


def test_captions_of_the_source_are_true_and_those_of_the_target_say_nothing_of_the_picture():
    corpus = load_scenes(num_target=60, num_source=30)
    for split in ("train", "validation", "test"):
        assert all(parse_caption(text).seen == {} for own in corpus[split]["captions"] for text in own)
    exact = np.array(corpus["source"]["bayes_probabilities_image"])
    _, _, image = label_probabilities()
    for row, captions in zip(exact, corpus["source"]["captions"], strict=True):
        picture = PICTURE_STATES[((image - row) ** 2).sum(1).argmin()]
        told = [parse_caption(text).seen for text in captions]
        assert all(seen.items() <= picture._asdict().items() for seen in told)
        assert any(told)
