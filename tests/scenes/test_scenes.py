"""The built-in corpus: its probabilities against slow references, its rows, its captions and its drawings."""

import io
import math
import re
from itertools import product

import numpy as np
import pytest
from datasets import DatasetDict, concatenate_datasets, load_from_disk
from PIL import Image
from sklearn.metrics import average_precision_score

from emocap.data.schema import label_names, socratis_labels, split_of
from emocap.scenes import corpus as scenes
from emocap.scenes import tables as tables
from emocap.scenes.drawing import PICTURE_ATTRIBUTES

BAYES = ["bayes_probabilities", "bayes_probabilities_text", "bayes_probabilities_image"]
TARGET_SPLITS = ["train", "validation", "test"]


@pytest.fixture(scope="module")
def corpus() -> DatasetDict:
    return scenes.load_scenes(num_target=120, num_source=20)


@pytest.fixture(scope="module")
def target_rows() -> dict[str, np.ndarray]:
    corpus = scenes.load_scenes(num_target=3000, num_source=0)
    table = concatenate_datasets([corpus[name] for name in TARGET_SPLITS])
    return table.select_columns(["labels", "votes", *BAYES]).with_format("numpy")[:]


def raw(split) -> list[dict]:
    """Rows with the encoded picture rather than the decoded one."""
    return split.with_format("arrow")[:].to_pylist() if len(split) else []


def slow_shares(picture: scenes.PictureState, words: scenes.WordState) -> list[float]:
    """Chance that a random reaction names each emotion, straight from the tables, one sigmoid at a time."""
    panel = scenes._panel()
    result = []
    for index, name in enumerate(socratis_labels()):
        seen = sum(tables.PICTURE_EFFECTS[value].get(name, 0.0) for value in picture)
        read = sum(tables.WORD_EFFECTS[value].get(name, 0.0) for value in words)
        together = sum(tables.INTERACTIONS.get(pair, {}).get(name, 0.0) for pair in product(words, picture))
        shares = [
            1 / (1 + math.exp(-(tables.BASE_LOGITS[name] + taste[index] + eye * seen + ear * read + together)))
            for taste, eye, ear in zip(panel.taste, panel.eye, panel.ear, strict=True)
        ]
        result.append(sum(shares) / len(shares))
    return result


def slow_probability(picture: scenes.PictureState, words: scenes.WordState) -> list[float]:
    """P(label | v, w)."""
    return [1 - (1 - share) ** 6 for share in slow_shares(picture, words)]


def slow_joint(picture: scenes.PictureState, words: scenes.WordState) -> float:
    """P(v, w) straight from the tables."""
    share = math.prod(tables.PICTURE_SHARES[name][value] for name, value in picture._asdict().items())
    boosts = {t: 3.0 if picture.thing in tables.RELATED_THINGS.get(t, ()) else 1.0 for t in tables.TOPICS}
    return share * boosts[words.topic] / sum(boosts.values()) * tables.TONE_SHARES[words.tone]


def parse(caption: str) -> set[scenes.WordState]:
    """Every word state whose wordings occur in the caption."""
    topics = [topic for topic, wordings in tables.TOPICS.items() if any(text in caption for text in wordings)]
    tones = [tone for tone, wordings in tables.TONES.items() if any(text in caption for text in wordings)]
    return {scenes.WordState(*pair) for pair in product(topics, tones)}


def test_tables_name_known_values_and_emotions():
    values = [value for group in PICTURE_ATTRIBUTES.values() for value in group]
    assert sorted(tables.PICTURE_EFFECTS) == sorted(values) and len(set(values)) == len(values)
    assert sorted(tables.WORD_EFFECTS) == sorted([*tables.TOPICS, *tables.TONES])
    assert {name: set(shares) for name, shares in tables.PICTURE_SHARES.items()} == {
        name: set(group) for name, group in PICTURE_ATTRIBUTES.items()
    }
    for shares in [*tables.PICTURE_SHARES.values(), tables.TONE_SHARES]:
        assert sum(shares.values()) == pytest.approx(1)
    assert {word for word, _ in tables.INTERACTIONS} <= set(tables.WORD_EFFECTS)
    assert {picture for _, picture in tables.INTERACTIONS} <= set(values)
    effects = [tables.PICTURE_EFFECTS, tables.WORD_EFFECTS, tables.INTERACTIONS]
    moved = {name for table in effects for effect in table.values() for name in effect}
    assert moved == set(socratis_labels()) == set(tables.BASE_LOGITS)


def test_probabilities_equal_a_slow_reference(rng):
    both, text, image = scenes.label_probabilities()
    for _ in range(20):
        v, w = rng.integers(len(scenes.PICTURE_STATES)), rng.integers(len(scenes.WORD_STATES))
        expected = slow_probability(scenes.PICTURE_STATES[v], scenes.WORD_STATES[w])
        np.testing.assert_allclose(both[v, w], expected, rtol=1e-5, atol=1e-7)
    assert both.min() > 0
    assert both.max() < 1


def test_marginals_equal_a_brute_force_loop(rng):
    _, text, image = scenes.label_probabilities()
    w, v = rng.integers(len(scenes.WORD_STATES)), rng.integers(len(scenes.PICTURE_STATES))
    words, picture = scenes.WORD_STATES[w], scenes.PICTURE_STATES[v]
    joint = [slow_joint(state, words) for state in scenes.PICTURE_STATES]
    expected = np.average([slow_probability(state, words) for state in scenes.PICTURE_STATES], axis=0, weights=joint)
    np.testing.assert_allclose(text[w], expected, rtol=1e-5)
    joint = [slow_joint(picture, state) for state in scenes.WORD_STATES]
    expected = np.average([slow_probability(picture, state) for state in scenes.WORD_STATES], axis=0, weights=joint)
    np.testing.assert_allclose(image[v], expected, rtol=1e-5)
    total = sum(slow_joint(p, q) for p in scenes.PICTURE_STATES for q in scenes.WORD_STATES)
    assert total == pytest.approx(1)


@pytest.mark.parametrize(("v", "w"), [(0, 0), (777, 20), (1799, 44)])
def test_simulated_votes_match_the_probabilities(v, w):
    num_images = 20_000
    picture, words = scenes.PICTURE_STATES[v], scenes.WORD_STATES[w]
    votes = scenes.simulate_votes(picture, words, np.random.default_rng(v), num_images)
    assert votes.shape == (num_images, 29) and votes.max() <= scenes.NUM_REACTIONS
    expected = np.array(slow_probability(picture, words))
    sigma = np.sqrt(expected * (1 - expected) / num_images)
    assert np.all(np.abs((votes > 0).mean(axis=0) - expected) <= 4 * sigma + 1 / num_images)
    share = np.array(slow_shares(picture, words))
    sigma = np.sqrt(share * (1 - share) / (6 * num_images))
    assert np.all(np.abs(votes.mean(axis=0) / 6 - share) <= 4 * sigma + 1 / num_images)


def test_states_are_drawn_in_proportion_to_their_shares():
    rng = np.random.default_rng(4)
    states = [scenes.random_scene(rng) for _ in range(5000)]
    for attribute, shares in tables.PICTURE_SHARES.items():
        for value, share in shares.items():
            drawn = np.mean([getattr(state, attribute) == value for state in states])
            assert abs(drawn - share) < 4 * math.sqrt(share * (1 - share) / len(states))
    np.testing.assert_allclose(scenes.word_probabilities().sum(axis=1), 1)


def test_fusion_pays(target_rows):
    labels = target_rows["labels"]
    prior = labels.mean(axis=0)
    ap = {
        name: average_precision_score(labels, target_rows[name], average="macro") for name in BAYES
    }  # chance level of average precision is the prevalence
    both, text, image = (ap[name] for name in BAYES)
    assert both > max(text, image) + 0.15 and min(text, image) > prior.mean() + 0.15
    assert 0.55 < both < 0.75 and 0.3 < text < 0.45 and 0.3 < image < 0.45
    assert 3 < labels.sum(axis=1).mean() < 5
    np.testing.assert_allclose(target_rows["bayes_probabilities"].mean(axis=0), prior, atol=0.03)
    named = dict(zip(socratis_labels(), prior, strict=True))
    assert sorted(named, key=named.get)[-2:] == ["sad", "happy"] and 0.5 < named["happy"] < 0.7


def test_wrong_pictures_mislead_the_exact_posterior_below_what_words_alone_tell(target_rows):
    """So a model that reads both as it should falls below the text's ceiling where pictures are shuffled."""
    labels, (both, text, image) = target_rows["labels"], scenes.label_probabilities()
    pictures, words = (  # the states behind the rows: the exact answers of one modality tell them apart
        ((target_rows[name][:, None] - table) ** 2).sum(axis=-1).argmin(axis=1)
        for name, table in (("bayes_probabilities_image", image), ("bayes_probabilities_text", text))
    )
    np.testing.assert_array_equal(both[pictures, words], target_rows["bayes_probabilities"])
    ap = [
        average_precision_score(labels, scores, average="macro")
        for scores in (both[np.roll(pictures, 1), words], text[words])
    ]
    assert labels.mean() + 0.1 < ap[0] < ap[1] - 0.05


def test_a_better_informed_model_is_better_calibrated_too(target_rows):
    labels = target_rows["labels"]
    both, text, image = (target_rows[name] for name in BAYES)
    prior = np.broadcast_to(labels.mean(axis=0), labels.shape)
    brier = [float(np.mean((labels - guess) ** 2)) for guess in (both, text, image, prior)]
    assert brier[0] < min(brier[1:3]) and max(brier[1:3]) < brier[3]


def test_columns_of_the_target(corpus):
    for name in TARGET_SPLITS:
        for row in raw(corpus[name]):
            votes = np.array(row["votes"])
            assert split_of(row["image_id"]) == name and row["image"]["path"] == row["image_id"]
            assert row["labels"] == (votes > 0).tolist() and row["emotions"] == np.flatnonzero(votes).tolist()
            np.testing.assert_allclose(row["soft_labels"], votes / 6, rtol=1e-6)
            assert row["num_annotators"] == 6 and len(row["captions"]) == 1
    ids = [image_id for name in TARGET_SPLITS for image_id in corpus[name]["image_id"]]
    assert sorted(ids) == [f"target_{number:06d}.jpg" for number in range(1, 121)]
    assert label_names(corpus) == socratis_labels()
    assert len({str(split.features) for split in corpus.values()}) == 1


def test_columns_of_the_source(corpus):
    both, text, _ = scenes.label_probabilities()
    for row in raw(corpus["source"]):
        assert row["labels"] is row["emotions"] is row["votes"] is row["soft_labels"] is None
        assert row["num_annotators"] == 0 and len(row["captions"]) == 5
        states = [scenes.WORD_STATES.index(*parse(caption)) for caption in row["captions"]]
        np.testing.assert_allclose(row["bayes_probabilities_text"], text[states].mean(axis=0), rtol=1e-5)
        v = [np.allclose(table[states].mean(axis=0), row["bayes_probabilities"], rtol=1e-5) for table in both]
        assert sum(v) == 1, "the picture state can be found again from the probabilities"


def test_pictures_are_small_rgb_jpegs(corpus):
    row = raw(corpus["source"])[0]
    photo = Image.open(io.BytesIO(row["image"]["bytes"]))
    assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", (96, 96))
    assert corpus["train"][0]["image"].size == (96, 96)


def test_rows_do_not_depend_on_the_size_of_the_corpus(corpus):
    small = scenes.load_scenes(num_target=30, num_source=7)
    for name in corpus:
        assert raw(small[name]) == raw(corpus[name])[: len(small[name])]


def test_seeds(corpus):
    again = scenes.load_scenes(num_target=120, num_source=20)
    other = scenes.load_scenes(num_target=120, num_source=20, seed=1)
    for name in corpus:
        assert raw(again[name]) == raw(corpus[name])
        for first, second in zip(raw(corpus[name]), raw(other[name]), strict=True):
            assert first["image"]["bytes"] != second["image"]["bytes"]
        assert corpus[name]["captions"] != other[name]["captions"]
        assert again[name]._fingerprint == corpus[name]._fingerprint != other[name]._fingerprint


def test_fewer_labels_are_columns_of_all(corpus):
    few = scenes.load_scenes(num_target=40, num_source=3, num_labels=5)
    names = label_names(few)
    assert names == ["curious", "happy", "sad", "excited", "interested"]
    columns = [socratis_labels().index(name) for name in names]
    for name in few:
        for row, full in zip(raw(few[name]), raw(corpus[name]), strict=False):
            for column in [*BAYES, *(["votes", "labels", "soft_labels"] if name != "source" else [])]:
                assert row[column] == [full[column][index] for index in columns]


def test_empty_corpus_keeps_its_columns():
    corpus = scenes.load_scenes(num_target=0, num_source=0)
    assert all(len(split) == 0 for split in corpus.values()) and label_names(corpus) == socratis_labels()


@pytest.mark.parametrize("options", [{"num_labels": 0}, {"num_labels": 30}, {"num_target": -1}, {"num_source": -1}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*{next(iter(options.values()))}.*expected"):
        scenes.load_scenes(**options)


def test_round_trip_through_disk_and_parquet(corpus, tmp_path):
    corpus.save_to_disk(tmp_path / "scenes")
    loaded = load_from_disk(tmp_path / "scenes")
    corpus["source"].to_parquet(tmp_path / "source.parquet")
    parquet = type(corpus["source"]).from_parquet(str(tmp_path / "source.parquet"), cache_dir=str(tmp_path / "cache"))
    assert raw(loaded["test"]) == raw(corpus["test"])
    assert raw(loaded["source"]) == raw(parquet) == raw(corpus["source"])
    assert parquet.features == corpus["train"].features


def test_captions_reveal_their_state_and_nothing_else():
    for state in scenes.WORD_STATES:
        for topic, tone in product(tables.TOPICS[state.topic], tables.TONES[state.tone]):
            for place in tables.PLACES:
                caption = f"{topic} {place}, {tone}"
                assert 8 <= len(caption.split()) <= 14, caption
                assert caption == caption.lower() and re.fullmatch(r"[a-z, -]+", caption), caption
        assert parse(f"{tables.TOPICS[state.topic][0]} {tables.TONES[state.tone][0]}") == {state}
    wordings = [text for table in (tables.TOPICS, tables.TONES) for texts in table.values() for text in texts]
    assert not [(a, b) for a, b in product([*wordings, *tables.PLACES], wordings) if a != b and b in a]
    assert min(len(texts) for table in (tables.TOPICS, tables.TONES) for texts in table.values()) >= 6
    assert len(tables.TOPICS) >= 12 and len(wordings) == len(set(wordings))


def test_written_captions_vary_and_can_be_read_back(rng):
    for state in scenes.WORD_STATES:
        written = {scenes.write_caption(state, rng) for _ in range(30)}
        assert len(written) > 20
        for caption in written:
            assert parse(caption) == {state} and 8 <= len(caption.split()) <= 14


def test_every_attribute_of_a_drawing_has_its_box(rng):
    weather_marks = {
        ("clear", "night"): {"moon", "stars"}, ("clear", "day"): {"sun"}, ("clear", "dusk"): {"sun"},
    }  # fmt: skip
    marks = {"rain": {"rain"}, "storm": {"lightning"}, "snow": {"snow"}, "fog": {"fog"}}
    every = {mark for group in [*weather_marks.values(), *marks.values()] for mark in group}
    seen = set()
    for state in rng.permutation(np.array(scenes.PICTURE_STATES))[:300]:
        state = scenes.PictureState(*map(str, state))
        picture, boxes = scenes.draw_scene(state, rng)
        names = {name for name, _ in boxes}
        seen |= names
        assert (picture.mode, picture.size) == ("RGB", (96, 96))
        assert names & every == weather_marks.get((state.weather, state.light)) or marks.get(state.weather)
        assert {f"{state.light} sky", f"{state.palette} ground", state.thing} <= names
        assert {name for name in names if name.endswith(" face")} == (
            set() if state.face == "nobody" else {f"{state.face} face"}
        )
        for _, (x1, y1, x2, y2) in boxes:
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
    assert seen == set(scenes.SCENE_CLASSES)


def test_boxes_hold_what_changed_in_the_picture():
    """The same scene with and without its person differs about the head, inside the box and below it alone."""
    for seed in range(5):
        state = scenes.PictureState("clear", "day", "cool", "house", "smile")
        with_person, boxes = scenes.draw_scene(state, np.random.default_rng(seed))
        without, _ = scenes.draw_scene(state._replace(face="nobody"), np.random.default_rng(seed))
        changed = np.abs(np.asarray(with_person, int)[4:-4, 4:-4] - np.asarray(without, int)[4:-4, 4:-4]).sum(2) > 30
        x1, y1, x2, y2 = (np.array(dict(boxes)["smile face"]) * 96 - 4).round().astype(int)
        head = changed[y1:y2, x1:x2]
        assert head.mean() > 0.6 and not changed[: y1 - 1].any()
        assert head[:, :3].any() and head[:, -3:].any() and head[:3].any()


def test_drawing_is_seeded_and_refuses_unknown_values():
    state = scenes.PictureState("storm", "dusk", "warm", "dog", "angry")
    first, second = (scenes.draw_scene(state, np.random.default_rng(3)) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes() and first[1] == second[1]
    other, _ = scenes.draw_scene(state, np.random.default_rng(4))
    assert first[0].tobytes() != other.tobytes()
    with pytest.raises(ValueError, match="weather is 'hail'; expected one of clear, rain"):
        scenes.draw_scene(state._replace(weather="hail"), np.random.default_rng(0))
