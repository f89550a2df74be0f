"""Published data sets, each from small files in its published form."""

import csv
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from PIL import Image

from emocap import load_pairs
from emocap.cli import main
from emocap.commands.data import Pairs
from emocap.data import sources
from emocap.data.licenses import license_note, license_of
from emocap.data.published import MIKELS, PUBLISHED
from emocap.data.schema import label_names
from emocap.data.storage import load_table

GO = ["admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
      "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
      "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise",
      "neutral"]  # fmt: skip


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), "green").save(path)


def write_csv(path, rows: list[dict]):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def all_rows(table: DatasetDict) -> dict[str, dict]:
    return {row["image_id"]: row for part in table.values() for row in part}


@pytest.fixture
def goemotions(rng, monkeypatch) -> DatasetDict:
    """Of the Hub: the configuration `simplified`."""
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=GO)), "id": Value("string")})
    tables = DatasetDict()
    for name, number in (("train", 30), ("validation", 8), ("test", 9)):
        rows = [
            {"text": f"comment {i} of {name}", "labels": rng.choice(28, rng.integers(1, 4), replace=False).tolist(),
             "id": f"{name[:2]}{i}"} for i in range(number)
        ]  # fmt: skip
        tables[name] = Dataset.from_list(rows, features)

    def load(name, config):
        assert (name, config) == ("google-research-datasets/go_emotions", "simplified")
        return tables

    monkeypatch.setattr(sources, "load_dataset", load)
    monkeypatch.setattr(sources, "card_license", lambda name: None)
    return tables


def test_goemotions_from_the_hub(goemotions, tmp_path, capsys):
    out = tmp_path / "table"
    source = "google-research-datasets/go_emotions"
    main(["data", "pairs", source, "--preset", "goemotions", "--output_dir", str(out)])
    table = load_table(out)
    assert label_names(table) == GO and license_of(table.values()) == ["apache-2.0"]
    for name, part in goemotions.items():
        assert table[name]["image_id"][:] == part["id"][:]
        assert table[name]["captions"][:] == [[text] for text in part["text"]]
        assert table[name]["emotions"][:] == [sorted(own) for own in part["labels"]]
        assert table[name]["image"][:] == [None] * len(part)
    ekman = {name: "joy" if place in (0, 1, 17) else ["anger"] if place in (2, 3) else None if name == "neutral" else
             name for place, name in enumerate(GO)}  # fmt: skip
    (tmp_path / "ekman.json").write_text(json.dumps(ekman))
    folded = load_pairs(source, preset="goemotions", label_map=tmp_path / "ekman.json")
    assert len(label_names(folded)) == 28 - 3 - 1
    for own, labels in zip(goemotions["test"]["id"], goemotions["test"]["labels"], strict=True):
        names = {("joy" if GO[label] in ("admiration", "amusement") else "anger" if GO[label] == "annoyance" else
                  GO[label]) for label in labels} - {"neutral"}  # fmt: skip
        row = all_rows(folded).get(own)
        assert (row is None) == (not names)
        assert row is None or {label_names(folded)[label] for label in row["emotions"]} == names


def answers(rng, images: list[dict], text: str) -> list[dict]:
    """Of each image some people's emotion and reason, in no order."""
    rows = []
    for own in images:
        for person in rng.choice(40, rng.integers(2, 8), replace=False):
            emotion = str(rng.choice([*MIKELS, "something else"]))
            rows.append(own | {"emotion": emotion, "utterance": f"{text} {len(rows)}", "workerid": f"w{person}"})
    rng.shuffle(rows)
    return rows


def check_answers(table: DatasetDict, rows: list[dict], name_of) -> None:
    names = [*MIKELS, "something else"]
    assert label_names(table) == names
    given = defaultdict(list)
    for row in rows:
        given[name_of(row)].append(row)
    found = all_rows(table)
    assert set(found) == set(given)
    for own, people in given.items():
        votes = Counter(row["emotion"] for row in people)
        assert found[own]["votes"] == [votes[name] for name in names]
        assert found[own]["num_annotators"] == len(people)
        np.testing.assert_allclose(found[own]["soft_labels"], [votes[name] / len(people) for name in names], rtol=1e-6)
        assert found[own]["captions"] == [row["utterance"] for row in people]


def test_artemis_with_the_paintings_of_wikiart(tmp_path, rng):
    images = [{"art_style": f"Style_{i % 3}", "painting": f"painter_work-{i}", "repetition": 5} for i in range(30)]
    rows = answers(rng, images, "the colours")
    columns = ["art_style", "painting", "emotion", "utterance", "repetition"]
    rows = [{column: row[column] for column in columns} for row in rows]
    for image in images:
        photo(tmp_path / "wikiart" / image["art_style"] / f"{image['painting']}.jpg")
    source = write_csv(tmp_path / "artemis_dataset_release_v0.csv", rows)
    table = load_pairs(source, preset="artemis", images_dir=tmp_path / "wikiart")
    check_answers(table, rows, lambda row: f"{row['art_style']}/{row['painting']}.jpg")
    assert all(row["image"].size == (12, 10) for row in all_rows(table).values())
    assert "ask them before anything of it is passed on" in license_note(license_of(table.values()))
    rows[4]["emotion"] = "joy"
    with pytest.raises(ValueError, match=r"names 1 emotion\(s\) that the given labels lack: joy"):
        load_pairs(write_csv(source, rows), preset="artemis", images_dir=tmp_path / "wikiart")


@pytest.mark.parametrize("form", ["raw", "preprocessed"])
def test_affection_with_photos_of_several_data_sets(form, tmp_path, rng):
    images = [{"dataset": ("coco_affective", "flickr30k_affective")[i % 2], "image_name": f"{i // 2}.jpg"}
              for i in range(40)]  # fmt: skip
    rows = answers(rng, images, "because")
    rows.append(rows[0] | {"utterance": "the same person again"})
    if form == "preprocessed":
        where = {"/".join(own.values()): ("train", "val", "test")[i % 3] for i, own in enumerate(images)}
        rows = [row | {"utterance_spelled": "x", "tokens": "['x']", "tokens_len": 1, "tokens_encoded": "[4]",
                       "split": where[f"{row['dataset']}/{row['image_name']}"]} for row in rows]  # fmt: skip
    for image in images:
        photo(tmp_path / "photos" / image["dataset"] / image["image_name"])
    source = write_csv(tmp_path / f"affection_{form}_public_version_0.csv", rows)
    table = load_pairs(source, preset="affection", images_dir=tmp_path / "photos")
    again = all_rows(table)[f"{rows[0]['dataset']}/{rows[0]['image_name']}"]
    assert again["captions"][-1] == "the same person again"
    twice = [row for row in rows[:-1] if row["image_name"] == rows[0]["image_name"] and
             row["dataset"] == rows[0]["dataset"]]  # fmt: skip
    assert again["num_annotators"] == len(twice)
    plain = load_pairs(write_csv(source, rows[:-1]), preset="affection", images_dir=tmp_path / "photos")
    check_answers(plain, rows[:-1], lambda row: f"{row['dataset']}/{row['image_name']}")
    if form == "preprocessed":
        assert list(plain) == ["train", "validation", "test"] and len(plain["train"]) == 14
    assert all(row["image"] is not None for row in all_rows(plain).values())


def test_emoset_by_its_lists(tmp_path, rng):
    root, given = tmp_path / "EmoSet", {}
    for split, number in (("train", 20), ("val", 4), ("test", 6)):
        entries = []
        for i in range(number):
            emotion = str(rng.choice(MIKELS))
            name = f"{emotion}_{split}_{i:05d}"
            entries.append([emotion, name, f"image/{emotion}/{name}.jpg", f"annotation/{emotion}/{name}.json"])
            photo(root / entries[-1][2])
            (root / entries[-1][3]).parent.mkdir(parents=True, exist_ok=True)
            (root / entries[-1][3]).write_text(json.dumps({"image_id": name, "emotion": emotion, "brightness": 0.5}))
            given[entries[-1][2]] = (split, emotion)
        (root / f"{split}.json").write_text(json.dumps(entries))
    (root / "info.json").write_text(json.dumps({"emotion": {"label2idx": dict(zip(MIKELS, range(8), strict=True))}}))
    table = load_pairs(root, preset="emoset")
    assert list(table) == ["train", "validation", "test"] and label_names(table) == MIKELS
    for split, part in zip(("train", "val", "test"), table.values(), strict=True):
        found = dict(zip(part["image_id"][:], part["emotions"][:], strict=True))
        assert found == {own: [MIKELS.index(emotion)] for own, (where, emotion) in given.items() if where == split}
        assert all(row["image"].size == (12, 10) and row["captions"] == [] for row in part)
    (root / "val.json").write_text('[["awe", "awe_1"]]')
    with pytest.raises(ValueError, match=r"val.json', entry 1 is \[\"awe\", \"awe_1\"\]; expected \[emotion, name"):
        load_pairs(root, preset="emoset")
    (root / "val.json").unlink()
    with pytest.raises(FileNotFoundError, match="EmoSet's own layout"):
        load_pairs(root, preset="emoset")


def test_the_command_offers_every_published_data_set():
    (action,) = (own for own in Pairs.parser()._actions if own.dest == "preset")
    assert action.choices == list(PUBLISHED)
