"""Statistics of labelled tables against plain loops, and the page, its pictures and the tables made from them."""

import base64
import io
import itertools
import json
import re

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from PIL import Image as PILImage

from emocap.data.label_configs import label_configs
from emocap.pseudo_labels.labelling import label_tables
from emocap.pseudo_labels.statistics import HISTOGRAM_BINS, label_statistics
from emocap.report.labels_page import label_report, surest_pictures

NAMES = ["happy", "<b>sad</b>", "curious", "angry"]
SELECTION = {"teacher": "me/teacher", "revision": "abc", "modalities": "both", "labels_per_image": 2}


def jpeg(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    PILImage.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def random_table(rng: np.random.Generator, number: int) -> Dataset:
    scores = rng.random((number, 4), dtype=np.float32)
    emotions = [rng.permutation(4)[: rng.integers(0, 4)].tolist() for _ in range(number)]
    shades = [np.full((9, 12, 3), int(255 * own[0]), dtype=np.uint8) for own in scores]
    kinds = List(ClassLabel(names=NAMES))
    features = Features(
        {"image_id": Value("string"), "image": Image(), "captions": List(Value("string")), "license": Value("string"),
         "emotion_scores": List(Value("float32"), length=4), "caption_disagreement": Value("float32"),
         "caption_scores": List(List(Value("float32"), length=4)), "emotions": kinds, "selected_for": kinds}
    )  # fmt: skip
    return Dataset.from_dict(
        {
            "image_id": [f"{row}.jpg" for row in range(number)],
            "image": [None if row % 5 == 2 else {"bytes": jpeg(shade)} for row, shade in enumerate(shades)],
            "captions": [["a"] * (row % 3) for row in range(number)],
            "license": [[None, "Attribution License"][row % 2] for row in range(number)],
            "emotion_scores": list(scores),
            "caption_disagreement": [0.01 * row if row % 3 == 2 else None for row in range(number)],
            "caption_scores": [[own] * (row % 3) for row, own in enumerate(scores)],
            "emotions": emotions,
            "selected_for": [own[:1] for own in emotions],
        },
        features=features,
    )


@pytest.fixture
def tables(rng) -> DatasetDict:
    return DatasetDict({"train": random_table(rng, 40), "validation": random_table(rng, 11)})


def test_statistics_equal_plain_loops(tables):
    statistics = json.loads(json.dumps(label_statistics(tables, SELECTION, [0.5, 0.25, 0.1, 0.0])))
    rows = [row for split in tables.values() for row in split.remove_columns("image")]
    assert statistics["images"] == 51 and statistics["splits"] == {"train": 40, "validation": 11}
    assert statistics["captions"] == sum(len(row["captions"]) for row in rows)
    for label, (name, own) in enumerate(statistics["emotions"].items()):
        scores = [row["emotion_scores"][label] for row in rows]
        carried = [row for row in rows if label in row["emotions"]]
        assert name == NAMES[label] and own["images"] == len(carried)
        assert own["share"] == pytest.approx(len(carried) / 51, abs=1e-6)
        assert own["selected"] == sum(label in row["selected_for"] for row in rows)
        assert own["prevalence"] == [0.5, 0.25, 0.1, 0.0][label]
        assert own["score_mean"] == pytest.approx(np.mean(scores), abs=1e-6)
        assert own["score_sd"] == pytest.approx(np.std(scores), abs=1e-6)
        assert own["lowest_kept"] == pytest.approx(min(row["emotion_scores"][label] for row in carried), abs=1e-6)
        assert own["histogram"] == [
            sum(int(score * HISTOGRAM_BINS) == place for score in scores) for place in range(HISTOGRAM_BINS)
        ]
    for first, second in itertools.product(range(4), repeat=2):
        both = sum(first in row["emotions"] and second in row["emotions"] for row in rows)
        assert statistics["co_occurrence"][first][second] == both
    numbers = [len(row["emotions"]) for row in rows]
    assert statistics["emotions_per_image"] == {str(k): numbers.count(k) for k in range(max(numbers) + 1)}
    sets = [tuple(sorted(row["emotions"])) for row in rows]
    assert statistics["distinct_sets"] == len(set(sets))
    assert statistics["most_common_set_share"] == pytest.approx(max(map(sets.count, sets)) / 51, abs=1e-6)
    known = [row["caption_disagreement"] for row in rows if row["caption_disagreement"] is not None]
    assert statistics["caption_disagreement"]["images"] == len(known)
    assert statistics["caption_disagreement"]["mean"] == pytest.approx(np.mean(known), abs=1e-6)
    assert statistics["caption_disagreement"]["quantiles"]["0.5"] == pytest.approx(np.median(known), abs=1e-6)
    assert statistics["licenses"] == {"unknown": 26, "Attribution License": 25} and statistics["sources"] == {}


def test_the_page_shows_every_emotion_and_escapes_names(tables):
    statistics = label_statistics(tables, SELECTION, None)
    page = label_report(statistics, surest_pictures(tables["train"], NAMES[:2], number=3))
    assert "<b>sad</b>" not in page and page.count("&lt;b&gt;sad&lt;/b&gt;") >= 4
    for name in ("happy", "curious", "angry"):
        assert page.count(name) >= 4
    assert "a model&#39;s guess" in page or "a model's guess" in page
    assert page.count("<svg") == page.count('role="img"') == 3
    assert "data:image/jpeg;base64," in page and not re.search("(src|href)=.https?:", page)
    assert "data:image/jpeg" not in label_report(statistics)


def test_the_surest_pictures_stand_best_first(tables):
    table = tables["train"]
    found = surest_pictures(table, ["happy", "angry"], number=6)
    assert list(found) == ["happy", "angry"]
    for emotion, own in found.items():
        rows = [row for row in table if row["image"] is not None]
        rows.sort(key=lambda row: -row["emotion_scores"][NAMES.index(emotion)])
        for picture, row in zip(own, rows[:6], strict=True):
            assert picture["score"] == row["emotion_scores"][NAMES.index(emotion)]
            assert picture["caption"] == (row["captions"] or [""])[0]
            assert picture["emotions"] == [NAMES[label] for label in row["emotions"]]
            photo = PILImage.open(io.BytesIO(base64.b64decode(picture["image"].partition(",")[2])))
            # a picture's shade is its score for the first emotion
            assert abs(photo.convert("RGB").getpixel((5, 5))[0] - 255 * row["emotion_scores"][0]) < 8
    assert surest_pictures(table.remove_columns("image"), ["happy"]) == {}
    assert surest_pictures(table.select([2, 7]), ["happy"]) == {}


def test_the_published_tables(tmp_path, tiny_table, tiny_teacher):
    labelled = label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    configs = label_configs(labelled)
    assert list(configs) == ["labels", "captions", "regions"]
    light = configs["labels"]["train"]
    assert {"image_id", "captions", "emotion_scores", "emotions", "selected_for", "caption_disagreement"} <= set(
        light.column_names
    )
    assert not {"image", "region_features", "caption_scores"} & set(light.column_names)
    assert configs["regions"]["test"].column_names == ["image_id", "region_features", "region_boxes", "num_regions"]
    for name, split in labelled.items():
        expected = [
            {"image_id": row["image_id"], "caption_index": index, "caption": caption, "emotion_scores": scores}
            for row in split
            for index, (caption, scores) in enumerate(zip(row["captions"], row["caption_scores"], strict=True))
        ]
        assert configs["captions"][name].to_list() == expected
    assert "regions" not in label_configs(labelled.remove_columns(["region_features", "region_boxes", "num_regions"]))
    with pytest.raises(ValueError, match="no pseudo-labels"):
        label_configs(tiny_table)
    for name, config in configs.items():  # as parquet, the way the Hub keeps them
        for split, rows in config.items():
            rows.to_parquet(str(tmp_path / f"{name}-{split}.parquet"))
        files = {split: str(tmp_path / f"{name}-{split}.parquet") for split in config}
        again = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
        assert again["test"].to_list() == config["test"].to_list()


def test_captions_of_a_teacher_that_read_none_have_no_scores(tables):
    bare = tables["train"].map(lambda row: {"caption_scores": []}, features=tables["train"].features)
    captions = label_configs(DatasetDict({"train": bare}))["captions"]["train"]
    assert len(captions) == sum(map(len, bare["captions"][:])) and set(captions["emotion_scores"][:]) == {None}
