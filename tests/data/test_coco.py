"""COCO captions from its own layout and from a data set of the Hub."""

import io
import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Value
from datasets.exceptions import DatasetNotFoundError
from PIL import Image

from emocap.data import sources
from emocap.data.coco import COCO_LICENSES, build_coco, load_coco
from emocap.data.schema import pair_features

LICENSES = [{"id": number, "name": name, "url": "http://"} for number, name in COCO_LICENSES.items()]


def random_content(rng: np.random.Generator, number: int = 40) -> dict:
    """A captions file with images and annotations out of order, as COCO's own are."""
    image_ids = rng.choice(10**6, number, replace=False).tolist()
    images = [
        {"id": i, "file_name": f"{i:012d}.jpg", "coco_url": f"http://host/{i}.jpg", "license": int(rng.integers(1, 9))}
        for i in image_ids
    ]
    owners = np.repeat(image_ids, rng.integers(1, 7, number))
    annotation_ids = rng.permutation(len(owners)) + 1
    annotations = [
        {"id": int(a), "image_id": int(i), "caption": f"caption {a} of {i} "}
        for a, i in zip(annotation_ids, owners, strict=True)
    ]
    rng.shuffle(annotations)
    return {"licenses": LICENSES, "images": images, "annotations": annotations}


def write_coco(root, content: dict, split: str = "train2017", photos: list[str] | None = None):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir()
    (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
    for name in [image["file_name"] for image in content["images"]] if photos is None else photos:
        Image.new("RGB", (24, 16), "blue").save(root / split / name)
    return root


def slow_rows(content: dict) -> list[tuple]:
    rows = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        own = sorted((a["id"], a["caption"]) for a in content["annotations"] if a["image_id"] == image["id"])
        license = next(entry["name"] for entry in content["licenses"] if entry["id"] == image["license"])
        rows.append((image["file_name"], [caption for _, caption in own], image["coco_url"], license))
    return rows


def as_rows(part: Dataset) -> list[tuple]:
    names = ("image_id", "captions", "coco_url", "license")
    return list(zip(*(part[name][:] for name in names), strict=True))


def hub_form(content: dict, prefix: str = "") -> Dataset:
    images = content["images"]
    owned = [[a for a in content["annotations"] if a["image_id"] == image["id"]] for image in images]
    return Dataset.from_dict(
        {
            "license": [image["license"] for image in images],
            "file_name": [prefix + image["file_name"] for image in images],
            "coco_url": [image["coco_url"] for image in images],
            "height": [16] * len(images),
            "image_id": [image["id"] for image in images],
            "ids": [[a["id"] for a in own] for own in owned],
            "captions": [[a["caption"] for a in own] for own in owned],
        }
    )


def test_one_row_an_image_with_all_captions_in_order(tmp_path, rng):
    content = random_content(rng)
    table, report = build_coco(write_coco(tmp_path, content))
    assert list(table) == ["train"]
    assert as_rows(table["train"]) == slow_rows(content)
    assert set(table["train"]["split"]) == {"train2017"}
    expected = pair_features(None, extra=dict.fromkeys(("coco_url", "license", "split"), Value("string")))
    assert table["train"].features == expected
    assert table["train"][7]["image"].size == (24, 16)
    assert report.problems == [] and report.counts["captions"] == len(content["annotations"])


def test_splits_get_their_names(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train2017", "val2017", "test2014", "unlabeled2017"):
        write_coco(tmp_path, random_content(rng, 3), split)
    table = load_coco(tmp_path, splits=["val2017", "train2017", "test2014", "unlabeled2017"])
    assert list(table) == ["validation", "train", "test", "unlabeled2017"]
    assert table["validation"]["split"][:] == ["val2017"] * 3
    with pytest.raises(ValueError, match="become different splits"):
        load_coco(tmp_path, splits=["train2017", "train2014"])


def test_fraction_draws_a_seeded_sample_in_order(tmp_path):
    content = random_content(np.random.default_rng(0), 105)
    write_coco(tmp_path, content, photos=[])
    drawn = {seed: as_rows(load_coco(tmp_path, fraction=0.1, seed=seed)["train"]) for seed in (0, 1)}
    whole = slow_rows(content)
    for sample in drawn.values():
        assert len(sample) == round(10.5)
        assert sample == [row for row in whole if row in sample]
    assert drawn[0] != drawn[1]
    assert drawn[0] == as_rows(load_coco(tmp_path, fraction=0.1, seed=0)["train"])
    with pytest.raises(ValueError, match="draws none"):
        load_coco(tmp_path, fraction=0.001)
    for fraction in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="expected a share above 0"):
            load_coco(tmp_path, fraction=fraction)


def test_missing_photos_are_counted_and_damaged_ones_listed(tmp_path):
    content = random_content(np.random.default_rng(0), 60)
    names = sorted(image["file_name"] for image in content["images"])
    lonely = {image["id"] for image in content["images"] if image["file_name"] in (names[0], names[1], names[2])}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in lonely]
    content["annotations"].append({"id": 10**7, "image_id": next(iter(lonely)), "caption": " "})
    root = write_coco(tmp_path, content, photos=[names[0], *names[5:30]])
    (root / "train2017" / names[1]).write_text("no photo")
    (root / "train2017" / names[3]).write_text("no photo")
    whole = io.BytesIO()
    Image.effect_noise((300, 200), 80).save(whole, "JPEG")
    (root / "train2017" / names[4]).write_bytes(whole.getvalue()[:-1000])
    table, report = build_coco(root)
    rows = {row["image_id"]: row for row in table["train"]}
    assert sorted(rows) == [names[0], *names[3:]], "without photo and caption a row goes"
    assert rows[names[0]]["captions"] == [] and rows[names[0]]["image"] is not None
    assert all(rows[name]["image"] is not None for name in names[5:30])
    assert all(rows[name]["image"] is None for name in [names[3], names[4], *names[30:]])
    assert report.counts["kept without photo"] == 2 + 30 and report.counts["row skipped"] == 2
    listed = {problem["image_id"]: problem["reason"] for problem in report.problems}
    assert set(listed) == set(names[1:5])
    assert listed[names[3]] == "not an image" and "truncated" in listed[names[4]]
    assert report.extra["missing_photos"]["train2017"] == {"number": 30, "first": names[30:50]}


def test_a_photo_outside_the_folder_is_never_read(tmp_path):
    content = random_content(np.random.default_rng(0), 3)
    root = write_coco(tmp_path / "coco", content, photos=[])
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    content["images"][0]["file_name"] = "../../secret.jpg"
    content["images"][1]["file_name"] = str(tmp_path / "secret.jpg")
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    assert load_coco(root)["train"]["image"][:] == [None] * 3


def test_a_folder_in_a_file_name_is_no_part_of_the_id(tmp_path, rng):
    content = random_content(rng, 5)
    expected, root = slow_rows(content), write_coco(tmp_path, content)
    for image in content["images"]:
        image["file_name"] = f"train2017/{image['file_name']}"
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    part = load_coco(root)["train"]
    assert as_rows(part) == expected and None not in part["image"][:]


def test_entries_that_do_not_fit_are_dropped_and_counted(tmp_path):
    content = random_content(np.random.default_rng(0), 6)
    whole = slow_rows(content)
    content["images"].append(content["images"][2])
    highest = max(image["id"] for image in content["images"])
    for number, owner in enumerate([0, highest + 1, highest - 1]):
        content["annotations"].append({"id": 10**7 + number, "image_id": owner, "caption": "whose?"})
    content["images"][0]["license"] = 77
    table, report = build_coco(write_coco(tmp_path, content))
    rows = as_rows(table["train"])
    assert [row[:3] for row in rows] == [row[:3] for row in whole]
    assert [row[3] for row in rows].count(None) == 1
    assert report.counts["image entries that came twice, dropped"] == 1
    assert report.counts["captions of unknown images, dropped"] == 3
    assert report.counts["images without a known licence"] == 1


@pytest.mark.parametrize("prefix", ["", "train2017/"])
def test_a_hub_data_set_gives_the_table_of_the_folder(tmp_path, monkeypatch, prefix, rng):
    content = random_content(rng, 50)
    hub = DatasetDict({"train": hub_form(content, prefix), "validation": hub_form(content)})
    asked = []
    monkeypatch.setattr(sources, "load_dataset", lambda name: asked.append(name) or hub)
    write_coco(tmp_path, content, photos=[])
    for fraction in (1.0, 0.3):
        online, report = build_coco("owner/coco", splits=["train2017", "val2017"], fraction=fraction)
        local = load_coco(tmp_path, fraction=fraction)["train"]
        assert list(online) == ["train", "validation"] and asked[-1] == "owner/coco"
        assert online["train"].features == local.features
        assert online["train"].to_dict() == local.to_dict()
        assert report.counts["kept without photo"] == 2 * len(local)


def test_hub_errors_name_columns_splits_and_forms(monkeypatch):
    content = random_content(np.random.default_rng(0), 4)
    whole = hub_form(content)
    forms = {
        "owner/columns": DatasetDict({"train": whole.remove_columns(["captions", "ids"])}),
        "owner/types": DatasetDict({"train": whole.cast_column("license", Value("string"))}),
        "owner/lengths": DatasetDict({"train": whole.remove_columns("ids").add_column("ids", [[1]] * 4)}),
        "owner/splits": DatasetDict({"validation": whole}),
    }

    def load_dataset(name):
        if name not in forms:
            raise DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
        return forms[name]

    monkeypatch.setattr(sources, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"lacks the column\(s\) ids, captions. Found: .*coco_url"):
        load_coco("owner/columns")
    with pytest.raises(ValueError, match="expected image_id and license integers"):
        load_coco("owner/types")
    with pytest.raises(ValueError, match="number of 'ids'"):
        load_coco("owner/lengths")
    with pytest.raises(ValueError, match="no split for 'train2017'; its splits: validation"):
        load_coco("owner/splits")
    with pytest.raises(FileNotFoundError, match=r"owner/absent/annotations/captions_train2017.json"):
        load_coco("owner/absent")
    with pytest.raises(FileNotFoundError, match=r"neither a folder .* id of the form 'owner/name'"):
        load_coco("./no/such/folder")


def test_a_folder_of_another_form_is_named(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"annotations/captions_train2017.json'.*Found: captions_val2017.json"):
        load_coco(tmp_path, splits=["val2017", "train2017"])  # said before the one that is there is read
    with pytest.raises(ValueError, match="without 'images'"):
        load_coco(tmp_path, splits=["val2017"])
    for text in ("not json", "[]", '{"images": 1, "annotations": []}'):
        (tmp_path / "annotations" / "captions_val2017.json").write_text(text)
        with pytest.raises(ValueError, match="captions_val2017.json' is not COCO's captions file"):
            load_coco(tmp_path, splits="val2017")
    instances = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "bbox": []}]}
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(instances))
    with pytest.raises(ValueError, match="without 'caption'"):
        load_coco(tmp_path, splits=["val2017"])
