"""The loaders on real annotations and photos."""

import json
from statistics import fmean

import pytest
from scipy.stats import spearmanr

from emocap.data.coco import build_coco
from emocap.data.oasis import build_oasis
from emocap.data.schema import OASIS_LABELS, label_names, socratis_labels
from emocap.data.socratis import build_socratis, clean_label
from emocap.data.storage import load_table, save_table

pytestmark = pytest.mark.real_data


def test_coco_validation_annotations_are_complete(real_data):
    table, report = build_coco(real_data / "coco", splits=["val2017"])
    part = table["validation"]
    assert len(part) == 5000 and sum(map(len, part["captions"])) == 25_014
    photos = part.with_format("arrow")[:]["image"]
    assert len(photos) - photos.null_count == 208
    assert report.counts["kept without photo"] == 5000 - 208 and report.problems == []
    assert part["image_id"][:] == sorted(part["image_id"]), "file names are zero-padded ids"
    assert part["license"][:].count(None) == 0


def test_coco_train_photos_survive_saving(real_data, tmp_path):
    table, report = build_coco(real_data / "coco")
    save_table(table, tmp_path / "coco", report)
    part = load_table(tmp_path / "coco")["train"]
    assert len(part) == 130 and set(map(len, part["captions"])) == {5}
    row = part.with_format("arrow")[17]
    photo = real_data / "coco" / "train2017" / row["image_id"][0].as_py()
    assert row["image"][0].as_py()["bytes"] == photo.read_bytes()


def test_a_tenth_of_coco(real_data):
    table, _ = build_coco(real_data / "coco", splits=["val2017"], fraction=0.1)
    assert len(table["validation"]) == 500


def test_the_982_raw_emotions_become_853(real_data):
    raw = json.loads((real_data / "socratis" / "raw_labels.json").read_text())
    assert len(set(raw)) == 982
    assert len({clean_label(emotion) for emotion in raw} - {None}) == 853


def test_cleaned_socratis(real_data):
    table, _ = build_socratis(real_data / "socratis" / "cleaned.csv")
    assert sum(map(len, table.values())) == 1656
    study = json.loads((real_data / "socratis" / "labels.json").read_text())
    assert label_names(table) == study == socratis_labels()
    numbers = [len(emotions) for part in table.values() for emotions in part["emotions"]]
    assert fmean(numbers) == pytest.approx(3.98, abs=0.1)


def test_oasis(real_data):
    table, report = build_oasis(real_data / "oasis")
    assert sum(map(len, table.values())) == 384 and report.problems == []
    train = table["train"]
    assert train[0]["image"].size == (500, 400)
    pleasant = [labels[OASIS_LABELS.index("pleasant")] for labels in train["labels"]]
    assert spearmanr(pleasant, train["valence_mean"][:]).statistic > 0.95
