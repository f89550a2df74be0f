"""Photos that can and cannot be used, and tables that are written whole or not at all."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from emocap.data import storage
from emocap.data.schema import pair_features
from emocap.data.storage import (
    DataReport,
    attach_photos,
    check_output_dir,
    csv_rows,
    load_table,
    photo_problem,
    photo_problems,
    read_text,
    save_table,
)


def picture(mode: str = "RGB", size: tuple[int, int] = (96, 64), seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 65536, (40, 50), dtype=np.uint16))


def rotated_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn a quarter clockwise
    return exif


GOOD = {
    "cmyk.jpg": lambda path: picture("CMYK").save(path),
    "grey.jpg": lambda path: picture("L").save(path),
    "rgba.png": lambda path: picture("RGBA").save(path),
    "sixteen_bit.png": lambda path: sixteen_bit().save(path),
    "turned.jpg": lambda path: picture().save(path, exif=rotated_exif()),
    "progressive.jpg": lambda path: picture().save(path, progressive=True),
    "tiny.jpg": lambda path: picture(size=(5, 3)).save(path),
    "line.jpg": lambda path: picture(size=(300, 1)).save(path),
}


@pytest.mark.parametrize("name", GOOD)
def test_unusual_photos_are_accepted_and_stored_byte_for_byte(tmp_path, name):
    GOOD[name](tmp_path / name)
    assert photo_problem(tmp_path / name) is None
    row = {"image_id": [name], "image": [str(tmp_path / name)], "captions": [["a caption"]]}
    save_table(DatasetDict({"train": Dataset.from_dict(row, pair_features(None))}), tmp_path / "out")
    original = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    stored = load_table(tmp_path / "out")["train"].with_format("arrow")[0]["image"][0].as_py()
    assert stored["bytes"] == original


def test_bad_photos_are_named_for_what_they_are(tmp_path):
    whole = io.BytesIO()
    picture(size=(640, 480)).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:-2000])
    (tmp_path / "text.jpg").write_text("this is no photo")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    assert photo_problem(tmp_path / "absent.jpg") == "missing file"
    assert photo_problem(tmp_path / "text.jpg") == "not an image"
    assert photo_problem(tmp_path / "empty.jpg") == "not an image"
    assert "truncated" in photo_problem(tmp_path / "cut.jpg")
    problem = photo_problem(tmp_path / "folder.jpg")
    assert problem.startswith("unreadable image") and str(tmp_path) not in problem


@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_shows_wherever_it_is_cut(tmp_path, progressive, rng):
    whole = io.BytesIO()
    picture(size=(320, 240)).save(whole, "JPEG", progressive=progressive)
    content, path = whole.getvalue(), tmp_path / "cut.jpg"
    for cut in rng.integers(1, len(content) - 1, 20):
        path.write_bytes(content[:-cut])
        assert photo_problem(path) is not None, cut


def test_a_damaged_photo_never_raises(tmp_path, rng):
    path = tmp_path / "damaged"
    for number in range(100):
        whole = io.BytesIO()
        picture(size=(32, 24)).save(whole, ["JPEG", "PNG", "GIF", "BMP"][number % 4])
        content = np.frombuffer(whole.getvalue(), np.uint8).copy()
        content[rng.integers(0, min(len(content), 200), 5)] = rng.integers(0, 256, 5)
        path.write_bytes(content.tobytes())
        assert photo_problem(path) is None or isinstance(photo_problem(path), str)


def test_photo_problems_keeps_the_order(tmp_path):
    picture().save(tmp_path / "good.jpg")
    (tmp_path / "text.jpg").write_text("no photo")
    names = ["good.jpg", "absent.jpg", "text.jpg", "good.jpg"] * 20
    assert photo_problems([tmp_path / name for name in names]) == [None, "missing file", "not an image", None] * 20


def test_attach_photos_finds_lists_and_skips(tmp_path):
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for name in ("sub/a.jpg", "b.jpg"):
        picture().save(photos / name)
    picture().save(tmp_path / "secret.jpg")
    rows = [
        {"image_id": "sub/a.jpg", "captions": ["whole path"]},
        {"image_id": "/elsewhere/b.jpg", "captions": ["last part"]},
        {"image_id": "b.jpg", "captions": []},
        {"image_id": "gone.jpg", "captions": ["without photo"]},
        {"image_id": "gone_too.jpg", "captions": []},
        {"image_id": "../secret.jpg", "captions": ["outside"]},
        {"image_id": str(tmp_path / "secret.jpg"), "captions": ["outside, absolute"]},
    ]
    report = DataReport()
    kept = attach_photos(rows, photos, report)
    images = {row["image_id"]: row["image"] and str(Path(row["image"]).relative_to(photos)) for row in kept}
    assert images == {
        "sub/a.jpg": "sub/a.jpg",
        "/elsewhere/b.jpg": "b.jpg",
        "b.jpg": "b.jpg",
        "gone.jpg": None,
        "../secret.jpg": None,
        str(tmp_path / "secret.jpg"): None,
    }
    assert report.counts == {"kept without photo": 3, "row skipped": 1}
    reasons = {problem["image_id"]: problem["reason"] for problem in report.problems}
    assert reasons["../secret.jpg"] == "path leads outside the photo folder"
    assert reasons["gone.jpg"] == "missing file"
    assert "image" not in rows[0], "the rows given stay as they were"


def test_a_folder_whose_name_merely_begins_alike_is_outside(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos_private").mkdir()
    picture().save(tmp_path / "photos_private" / "a.jpg")
    report = DataReport()
    rows = attach_photos([{"image_id": "../photos_private/a.jpg", "captions": ["x"]}], tmp_path / "photos", report)
    assert rows[0]["image"] is None and report.counts["kept without photo"] == 1


def test_attach_photos_without_folder():
    report = DataReport()
    rows = [{"image_id": "a", "captions": ["x"]}, {"image_id": "b", "captions": []}]
    assert attach_photos(rows, None, report) == [{"image_id": "a", "captions": ["x"], "image": None}]
    assert report.counts == {"row skipped": 1}


def small_table(text: str = "a caption") -> DatasetDict:
    columns = {"image_id": ["a"], "image": [None], "captions": [[text]]}
    return DatasetDict({"train": Dataset.from_dict(columns, pair_features(None))})


def test_save_table_writes_table_and_report_and_replaces_an_earlier_one(tmp_path):
    report = DataReport()
    report.problem("b", "missing file", "row skipped")
    report.extra["label_counts"] = {"joy": 3}
    save_table(small_table(), tmp_path / "out", report)
    written = json.loads((tmp_path / "out" / "data_report.json").read_text())
    assert written["counts"] == {"row skipped": 1, "rows in train": 1}
    assert written["label_counts"] == {"joy": 3}
    assert written["problems"] == [{"image_id": "b", "reason": "missing file", "consequence": "row skipped"}]
    save_table(small_table("another"), tmp_path / "out")
    assert load_table(tmp_path / "out")["train"]["captions"][0] == ["another"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_table_can_replace_the_folder_it_was_read_from(tmp_path):
    save_table(small_table(), tmp_path / "out")
    save_table(load_table(tmp_path / "out").rename_column("image_id", "name"), tmp_path / "out")
    assert "name" in load_table(tmp_path / "out")["train"].column_names


def test_splits_without_rows_are_left_out_and_named_where_they_lie(tmp_path):
    table = small_table()
    table["source"] = table["train"].select([])
    save_table(table, tmp_path / "out")
    assert list(load_table(tmp_path / "out")) == ["train"]
    table.save_to_disk(str(tmp_path / "by hand"))
    with pytest.raises(ValueError, match="The source split of .*by hand' is empty"):
        load_table(tmp_path / "by hand")


def test_a_failed_write_leaves_the_earlier_table(tmp_path, monkeypatch):
    save_table(small_table(), tmp_path / "out")

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(storage, "write_json", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_table(small_table("another"), tmp_path / "out", DataReport())
    assert load_table(tmp_path / "out")["train"]["captions"][0] == ["a caption"]


def test_output_folders_with_other_things_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a table of pairs"):
        save_table(small_table(), tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        check_output_dir(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert check_output_dir(tmp_path / "new") == tmp_path / "new"


def test_load_table_takes_a_single_dataset_as_train_and_names_what_is_absent(tmp_path):
    small_table()["train"].save_to_disk(str(tmp_path / "single"))
    assert list(load_table(tmp_path / "single")) == ["train"]
    with pytest.raises(FileNotFoundError, match=r"no data set folder at .*owner/name"):
        load_table(tmp_path / "absent")


def test_read_text_names_path_and_what_was_expected(tmp_path):
    (tmp_path / "mark.csv").write_bytes(b"\xef\xbb\xbfname")
    (tmp_path / "latin.csv").write_bytes("café".encode("latin-1"))
    assert read_text(tmp_path / "mark.csv", "a table") == "name"
    with pytest.raises(FileNotFoundError, match="expected a table"):
        read_text(tmp_path / "absent.csv", "a table")
    with pytest.raises(ValueError, match=r"latin.csv' is not UTF-8 .*expected a table"):
        read_text(tmp_path / "latin.csv", "a table")


def test_csv_rows_count_lines_and_name_lacking_columns():
    text = 'a,b\n1,"two\nlines"\n3\n'
    assert list(csv_rows(text, "t.csv", ["a", "b"])) == [(3, {"a": "1", "b": "two\nlines"}), (4, {"a": "3", "b": ""})]
    with pytest.raises(ValueError, match=r"'t.csv' lacks the column\(s\) c. Found: a, b"):
        list(csv_rows(text, "t.csv", ["a", "c"]))
    with pytest.raises(ValueError, match="Found: nothing"):
        list(csv_rows("", "t.csv", ["a"]))
    with pytest.raises(ValueError, match="after line 1: not a CSV"):
        list(csv_rows(f"a\n{'x' * 200_000}\n", "t.csv", ["a"]))
