"""The exact judge of captions of the built-in corpus, against a loop over pictures and wishes."""

import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features

from emocap.cli import main
from emocap.data.schema import NUM_REGIONS, label_names, region_columns, socratis_labels
from emocap.evaluation import scenes_captions
from emocap.evaluation.scenes_captions import evaluate_on_scenes
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from emocap.scenes.corpus import PICTURE_STATES, label_probabilities, load_scenes
from emocap.scenes.grammar import WORD_STATES, describe, parse_caption, write_caption
from emocap.scenes.truth import find_pictures, judge_captions
from tests.conftest import REGION_DIM
from tests.models.captioner import save_language_model

WISHES, NUMBER = ["sad", "calm", "happy"], 6


@pytest.fixture(scope="module")
def tables() -> DatasetDict:
    """The corpus with regions of noise."""
    tables = load_scenes(num_target=80, num_source=6)
    rng = np.random.default_rng(0)
    found = {}
    for name, split in tables.items():
        columns = {
            "region_features": list(rng.normal(size=(len(split), NUM_REGIONS * REGION_DIM)).astype(np.float16)),
            "region_boxes": list(rng.random((len(split), NUM_REGIONS * 4), dtype=np.float32)),
            "num_regions": rng.integers(1, 5, len(split)).astype(np.int32),
        }
        features = Features(region_columns(REGION_DIM))
        found[name] = Dataset.from_dict(split.to_dict() | columns, Features(split.features | features))
    return DatasetDict(found)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("captioner")
    language_model = save_language_model(folder / "lm", "llama")
    from transformers import AutoTokenizer

    numbers = {name: [1.0] * 29 for name in ("wish_mean", "wish_spread", "wish_high")}
    processor = EmocapCaptionerProcessor(
        AutoTokenizer.from_pretrained(language_model), emotions=socratis_labels(), max_length=8, **numbers
    )
    model = EmocapCaptionerForConditionalGeneration.from_language_model(
        language_model, processor, visual_embedding_dim=REGION_DIM, soft_hidden_size=16, num_region_heads=2,
        caption_length=8,
    )  # fmt: skip
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return str(folder / "model")


def states_of(rows: Dataset) -> list[int]:
    image = label_probabilities()[2]
    return [int(np.abs(image - row).sum(1).argmin()) for row in np.array(rows["bayes_probabilities_image"])]


def test_pictures_are_found_and_others_refused(tables, captioner):
    source = tables["source"]
    assert find_pictures(source).tolist() == states_of(source)
    few = load_scenes(num_target=30, num_source=3, num_labels=12)
    assert find_pictures(few["source"]).tolist() == find_pictures(source)[:3].tolist()
    for truth, text in ((few["source"].remove_columns("bayes_probabilities_image"), "no column"),
                        (load_scenes(num_target=0, num_source=2, num_labels=1)["source"], "told apart")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            find_pictures(truth)
    spoiled = source.to_dict()
    spoiled["bayes_probabilities_image"][1][3] += 0.01
    with pytest.raises(ValueError, match="'source_000002.jpg' shows no picture"):
        find_pictures(Dataset.from_dict(spoiled, source.features))
    with pytest.raises(ValueError, match="no column 'region_features'"):
        evaluate_on_scenes(captioner, few)
    with pytest.raises(ValueError, match="no split 'other'"):
        evaluate_on_scenes(captioner, tables, "other")


def test_captions_are_judged_by_the_exact_posterior(rng):
    table = load_scenes(num_target=0, num_source=1, num_labels=7)["source"]
    columns = [socratis_labels().index(name) for name in label_names(table)]
    captions, pictures, expected = [], [], []
    for _ in range(200):
        picture, shown, w = rng.integers(1800), rng.integers(1800), rng.integers(len(WORD_STATES))
        caption = describe(write_caption(WORD_STATES[w], rng), PICTURE_STATES[shown], rng)
        is_whole = rng.random() < 0.7
        captions.append(caption if is_whole else caption[:-3])
        pictures.append(picture)
        expected.append((is_whole, label_probabilities()[0][picture, w, columns] if is_whole else np.zeros(7)))
    told = judge_captions(table, np.array(pictures), captions)
    assert told.parsed.tolist() == [own for own, _ in expected]
    np.testing.assert_array_equal(told.posterior, [own for _, own in expected])
    for attribute in ("thing", "face", "weather"):
        for row, (caption, picture) in enumerate(zip(captions, pictures, strict=True)):
            seen = (parse_caption(caption) or (None, {}))[1]
            assert told.named[attribute][row] == (attribute in seen)
            assert told.true[attribute][row] == (seen.get(attribute) == getattr(PICTURE_STATES[picture], attribute))


def test_figures_are_those_of_a_slow_loop(tables, captioner, monkeypatch, tmp_path, rng):
    asked = {}

    def write(own, rows, wishes, scale, away_from=None):
        """Sentences of the grammar, and some that are none, in place of the captioner's."""
        texts = []
        for place, row in enumerate(rows):
            text = write_caption(WORD_STATES[rng.integers(len(WORD_STATES))], rng)
            text = describe(text, PICTURE_STATES[rng.integers(1800)], rng) if rng.random() < 0.8 else "a dog"
            wish = wishes[place]
            if isinstance(wish, dict):
                ((name, weight),) = wish.items()
                way = f"weight_{weight:g}", name
            elif isinstance(wish, tuple):
                way = "pairs", wish[0]
                asked["second", int(row), wish[0]] = wish[1]
            elif away_from is not None:
                way = "away_from", away_from[place]
            else:
                way = ("no_wish", None) if wish is None else (f"guidance_{scale:g}", wish)
            asked[way[0], int(row), way[1]] = text
            texts.append(text)
        return texts

    monkeypatch.setattr(scenes_captions, "write", write)
    out = tmp_path / "metrics.json"
    result = evaluate_on_scenes(
        captioner, tables, "train", guidance_scale=[1.5, 3], wishes=WISHES, num_images=NUMBER, num_resamples=20,
        seed=4, output=out,
    )  # fmt: skip
    assert json.loads(out.read_text()) == dict(result) and result["judge"] == "scenes"
    details = json.loads((tmp_path / "metrics_details.json").read_text())
    pictures = tables["train"].select([tables["train"]["image_id"][:].index(own) for own in details["image_id"]])
    states, labels = states_of(pictures), [socratis_labels().index(name) for name in WISHES]

    def exact(picture: int, caption: str) -> np.ndarray:
        told = parse_caption(caption)
        return np.zeros(29) if told is None else label_probabilities()[0][picture, WORD_STATES.index(told.words)]

    def caption(way, row, wish):
        if way == "references":
            return pictures[row]["captions"][0]
        return asked["guidance_1.5" if way == "weight_1" else way, row, None if way == "no_wish" else wish]

    ways = [
        "guidance_1.5",
        "guidance_3",
        "no_wish",
        "references",
        "weight_0.25",
        "weight_0.5",
        "weight_1",
        "away_from",
    ]
    for way in ways:
        single = way in ("no_wish", "references")
        values = {key: np.zeros((NUMBER, 3)) for key in ("own", "apart", "top1", "top3", "best", "others", "plain")}
        for row, picture in enumerate(states):
            for w, (wish, label) in enumerate(zip(WISHES, labels, strict=True)):
                own = exact(picture, caption(way, row, wish))
                values["own"][row, w] = own[label]
                values["apart"][row, w] = exact(states[row - 1], caption(way, row, wish))[label]
                values["plain"][row, w] = exact(picture, caption("no_wish", row, None))[label]
                values["best"][row, w] = max(label_probabilities()[0][picture, :, label])
                rank = 1 + sum(other > own[label] for other in own)
                values["top1"][row, w], values["top3"][row, w] = (own.any() and rank <= most for most in (1, 3))
                others = [exact(picture, caption(way, row, other))[label] for other in WISHES if other != wish]
                values["others"][row, w] = np.mean(others)
        expected = {
            "probability": values["own"], "alignment@1": values["top1"], "alignment@3": values["top3"],
            "share_of_best": values["own"] / values["best"], "lift": values["own"] - values["plain"],
            "shuffled_images/probability": values["apart"],
        } | ({} if single else {"shuffled_wishes/probability": values["others"]})  # fmt: skip
        for key, told in expected.items():
            assert result[f"{way}/{key}"] == pytest.approx(told.mean()), (way, key)
            for w, wish in enumerate(WISHES):
                assert result[f"{way}/{key}/{wish}"] == pytest.approx(told[:, w].mean())
        np.testing.assert_allclose(details["sentences"][way]["probabilities"], values["own"], atol=1e-4)
        told = [[parse_caption(caption(way, row, wish)) for wish in WISHES[: 1 if single else 3]] for row in range(6)]
        assert result[f"{way}/parsed"] == pytest.approx(np.mean([own is not None for row in told for own in row]))
        for attribute in ("thing", "face", "weather"):
            seen = [[own.seen[attribute] for own in row if own and attribute in own.seen] for row in told]
            for control, shift in (("", 0), ("shuffled_images/", 1)):
                shown = [getattr(PICTURE_STATES[states[row - shift]], attribute) for row in range(NUMBER)]
                shares = [np.mean([v == one for v in own]) for own, one in zip(seen, shown, strict=True) if own]
                if shares:
                    assert result[f"{way}/{control}{attribute}"] == pytest.approx(np.mean(shares))
            assert result[f"{way}/{attribute}_named"] == pytest.approx(sum(map(len, seen)) / sum(map(len, told)))
    reachable = label_probabilities()[0][states][..., labels].max(1)
    assert result["best/probability"] == pytest.approx(reachable.mean())
    rising = [[result[f"weight_{weight}/probability/{wish}"] for weight in ("0.25", "0.5", "1")] for wish in WISHES]
    assert result["monotone"] == pytest.approx(np.mean([a < b < c for a, b, c in rising]))
    lesser, alone, best = [], [], []
    for row, picture in enumerate(states):
        for wish, label in zip(WISHES, labels, strict=True):
            second = asked["second", row, wish]
            assert second in WISHES and second != wish
            pair = [label, socratis_labels().index(second)]
            lesser.append(exact(picture, asked["pairs", row, wish])[pair].min())
            alone.append(exact(picture, asked["guidance_1.5", row, wish])[pair].min())
            best.append(label_probabilities()[0][picture][:, pair].min(1).max())
    keys = "pairs/probability", "pairs/first_alone/probability", "pairs/best/probability"
    for key, told in zip(keys, (lesser, alone, best), strict=True):
        assert result[key] == pytest.approx(np.mean(told))
        assert result[f"{key}_low"] <= result[key] <= result[f"{key}_high"]
    known = {text for split in tables.values() for own in split["captions"] for text in own}
    texts = [asked["guidance_3", row, wish] for row in range(NUMBER) for wish in WISHES]
    assert result["guidance_3/novel"] == pytest.approx(np.mean([text not in known for text in texts]))
    assert result["references/novel"] == 0


def test_the_command_measures_a_captioner_that_has_learned_nothing(tables, captioner, tmp_path, capsys):
    tables.save_to_disk(tmp_path / "table")
    main(["evaluate", captioner, "--dataset", str(tmp_path / "table"), "--judge", "scenes", "--num_images", "3",
          "--wishes", "sad", "joy", "--num_resamples", "0", "--output", str(tmp_path / "m.json")])  # fmt: skip
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["guidance_1/parsed"] == metrics["guidance_2/probability"] == 0
    assert metrics["references/parsed"] == 1 and "guidance_1/thing" not in metrics
    told = capsys.readouterr().out
    assert all(told.count(f"\n{way} ") == 1 for way in ("guidance_2", "no_wish", "weight_0.5", "pairs/best"))
    assert "share of the best sentence" in told and "judge 'scenes'" in told


def test_candidates_are_judged_exactly(tables, captioner, tiny_body, tmp_path, monkeypatch):
    """The sentences that a teacher chose are those whose exact probabilities are reported."""
    from emocap.models import EmocapProcessor, EmocapTeacherForMultiLabelClassification
    from tests.conftest import make_tokenizer

    names = dict(enumerate(socratis_labels()))
    fields = {"id2label": names, "label2id": {name: label for label, name in names.items()}}
    teacher = EmocapTeacherForMultiLabelClassification.from_body(tiny_body, **fields)
    teacher.config.modalities = "text"
    teacher.save_pretrained(tmp_path / "teacher")
    EmocapProcessor(make_tokenizer()).save_pretrained(tmp_path / "teacher")
    rng, drawn = np.random.default_rng(1), []

    def write_candidates(model, processor, inputs, number, guidance_scale):
        texts = [write_caption(WORD_STATES[rng.integers(len(WORD_STATES))], rng) for _ in inputs["input_ids"]]
        drawn.extend(texts)
        nats = np.tile([1.0, *[99.0] * (number - 1)], len(texts))  # the first is by far the likeliest of the picture
        return [own for text in texts for own in (text, *["no sentence"] * (number - 1))], nats

    monkeypatch.setattr("emocap.evaluation.captioner.write_candidates", write_candidates)
    monkeypatch.setattr("emocap.evaluation.captioner.candidate_scores", lambda nats, *others: -nats)
    result = evaluate_on_scenes(
        captioner, tables, "train", guidance_scale=[2.0], wishes=WISHES, num_images=NUMBER, num_resamples=0,
        num_candidates=3, ranker=tmp_path / "teacher", output=tmp_path / "metrics.json",
    )  # fmt: skip
    details = json.loads((tmp_path / "metrics_details.json").read_text())
    assert sum(details["sentences"]["guidance_2/best_of_3"]["captions"], []) == drawn
    pictures = tables["train"].select([tables["train"]["image_id"][:].index(own) for own in details["image_id"]])
    labels = [socratis_labels().index(name) for name in WISHES]
    told = [
        label_probabilities()[0][state, WORD_STATES.index(parse_caption(drawn[3 * row + place]).words), label]
        for row, state in enumerate(states_of(pictures))
        for place, label in enumerate(labels)
    ]
    assert result["guidance_2/best_of_3/probability"] == pytest.approx(np.mean(told), abs=1e-6)
    assert result["guidance_2/best_of_3/parsed"] == 1 and result["num_candidates"] == 3
