"""A labelled table beside the photos and region features of the table it was made from: bytes, bits, and accidents."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from emocap.data import heavy_columns
from emocap.data.heavy_columns import HEAVY_FOLDER
from emocap.data.pairs import FixedSizeColumn
from emocap.data.schema import pair_features, region_columns
from emocap.data.storage import load_table, save_table

DIM, ROWS = 512, {"train": 60, "test": 25}


@pytest.fixture(scope="module")
def regions_dir(tmp_path_factory) -> Path:
    """A table of wide features, as `emocap regions` leaves it."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("table") / "regions"
    features = {name: pair_features(None)[name] for name in ("image_id", "image", "captions")} | region_columns(DIM)
    tables = DatasetDict()
    for name, rows in ROWS.items():
        columns = {
            "image_id": [f"{name}_{row}.jpg" for row in range(rows)],
            "image": [{"bytes": rng.bytes(2000), "path": None} for _ in range(rows)],
            "captions": [["a dog at the house"]] * rows,
            "region_features": list(rng.standard_normal((rows, 36 * DIM), dtype=np.float32).astype(np.float16)),
            "region_boxes": list(rng.random((rows, 36 * 4), dtype=np.float32)),
            "num_regions": rng.integers(0, 37, rows).astype(np.int32),
        }
        tables[name] = Dataset.from_dict(columns, type(pair_features(None))(features))
    save_table(tables, folder)
    return folder


@pytest.fixture
def first(regions_dir, tmp_path) -> Path:
    return Path(shutil.copytree(regions_dir, tmp_path / "first"))


def with_scores(tables: DatasetDict, value: float = 0.5) -> DatasetDict:
    return DatasetDict(
        {
            name: concatenate_datasets([split, Dataset.from_dict({"score": [value] * len(split)})], axis=1)
            for name, split in tables.items()
        }
    )


def bytes_by_inode(*folders: Path) -> dict[int, int]:
    files = [path.stat() for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {file.st_ino: file.st_size for file in files}


def added_bytes(folder: Path, *others: Path) -> int:
    """What the folder costs beside the others."""
    before = bytes_by_inode(*others)
    return sum(size for inode, size in bytes_by_inode(folder).items() if inode not in before)


def same_columns(found: DatasetDict, expected: DatasetDict) -> None:
    for name, split in expected.items():
        for column in split.column_names:
            own, other = (table[name].with_format("arrow")[column][:] for table in (found, expected))
            assert own.equals(other), (name, column)


FEATURE_BYTES = sum(ROWS.values()) * 36 * DIM * 2


def test_new_columns_cost_their_own_bytes(first, tmp_path):
    second, third = tmp_path / "second", tmp_path / "third"
    tables = load_table(first)
    save_table(with_scores(tables), second, stored=tables)
    save_table(with_scores(load_table(second).remove_columns("score"), 0.7), third, stored=load_table(second))
    assert sum(bytes_by_inode(first).values()) > FEATURE_BYTES
    for folder, value in ((second, 0.5), (third, 0.7)):
        assert added_bytes(folder, first) < FEATURE_BYTES / 100, "no feature is written again"
        linked = list((folder / HEAVY_FOLDER).rglob("*.arrow"))
        assert len(linked) == len(ROWS) and all(path.stat().st_nlink == 3 for path in linked)
        found = load_table(folder)
        same_columns(found, with_scores(tables, value))
        for name, split in found.items():
            column = FixedSizeColumn(split, "region_features")
            chunks = split.data.column("region_features").chunks
            for own, chunk in zip(column.views, chunks, strict=True):
                assert np.shares_memory(own, chunk.values.to_numpy(zero_copy_only=True))
            assert {Path(file["filename"]).parent for file in split.cache_files} == {
                folder / name,
                folder / HEAVY_FOLDER / name,
            }


def test_neither_folder_needs_the_other(first, tmp_path):
    tables = load_table(first)
    expected = DatasetDict(
        {name: Dataset.from_dict(split.to_dict(), split.features) for name, split in tables.items()}
    )
    save_table(with_scores(tables), tmp_path / "second", stored=tables)
    shutil.rmtree(first)
    moved = (tmp_path / "second").rename(tmp_path / "moved")
    same_columns(load_table(moved), with_scores(expected))
    again = load_table(moved)
    save_table(again.remove_columns("score"), moved, stored=again)  # a table may replace the folder it came from
    same_columns(load_table(moved), expected)
    assert "score" not in load_table(moved)["train"].column_names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved"]


def test_a_table_written_in_one_piece_replaces_the_first_without_harm(first, tmp_path):
    tables = load_table(first)
    save_table(with_scores(tables), tmp_path / "second", stored=tables)
    expected = tables["train"]["num_regions"][:]
    save_table(tables.map(lambda row: {"num_regions": 0}), first)
    assert set(load_table(first)["train"]["num_regions"][:]) == {0}
    assert load_table(tmp_path / "second")["train"]["num_regions"][:] == expected


def test_a_folder_written_anew_since_it_was_read_is_not_linked(first, tmp_path):
    tables = load_table(first)
    expected = tables["train"]["num_regions"][:]
    save_table(tables.map(lambda row: {"num_regions": 0}), first)
    save_table(with_scores(tables), tmp_path / "second", stored=tables)
    assert load_table(tmp_path / "second")["train"]["num_regions"][:] == expected


def test_what_strangers_read(first, tmp_path):
    tables = load_table(first)
    save_table(with_scores(tables), tmp_path / "second", stored=tables)
    light, heavy = load_from_disk(str(tmp_path / "second")), load_from_disk(str(tmp_path / "second" / HEAVY_FOLDER))
    assert light["train"].column_names == ["image_id", "captions", "score"]
    same_columns(heavy, tables)
    assert light["train"]._fingerprint != load_table(tmp_path / "second")["train"]._fingerprint


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    said = []
    monkeypatch.setattr(heavy_columns.logger, "warning", said.append)
    return said


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM], ids=["another file system", "no hard links"])
def test_where_links_cannot_be_files_are_copied(first, tmp_path, monkeypatch, warnings, code):
    real = os.link

    def link(source, target):
        if "train" in str(target):
            raise OSError(code, os.strerror(code))
        real(source, target)

    tables = load_table(first)
    save_table(with_scores(tables), tmp_path / "linked", stored=tables)
    assert warnings == []
    monkeypatch.setattr(os, "link", link)
    save_table(with_scores(tables), tmp_path / "copied", stored=tables)
    assert len(warnings) == 1 and os.strerror(code) in warnings[0] and str(first / "train") in warnings[0]
    linked, copied = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "linked", tmp_path / "copied")
    )
    assert linked == copied
    train_bytes = sum(path.stat().st_size for path in (first / "train").glob("*.arrow"))
    assert 0 <= added_bytes(tmp_path / "copied", first) - train_bytes < FEATURE_BYTES / 100
    same_columns(load_table(tmp_path / "copied"), with_scores(tables))


def test_a_cache_of_symbolic_links_is_followed(first, tmp_path, warnings):
    blobs = first.rename(tmp_path / "blobs")
    for path in [path for path in blobs.rglob("*") if path.is_file()]:
        link = first / path.relative_to(blobs)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    tables = load_table(first)
    save_table(with_scores(tables), tmp_path / "second", stored=tables)
    expected = with_scores(load_table(blobs))
    shutil.rmtree(first)
    shutil.rmtree(blobs)
    assert not warnings and not any(path.is_symlink() for path in (tmp_path / "second").rglob("*"))
    assert load_table(tmp_path / "second")["test"]["num_regions"][:] == expected["test"]["num_regions"][:]


def test_other_rows_than_the_folders_are_written_anew_and_said(first, tmp_path, warnings):
    tables = load_table(first)
    chosen = DatasetDict({"train": tables["train"].select([5, 3, 8]), "test": tables["test"]})
    save_table(chosen, tmp_path / "out", stored=chosen)
    save_table(chosen, tmp_path / "left_out", stored=tables)
    assert [said.split(" written anew: ")[1] for said in warnings] == [
        "no folder holds that very split.",
        "57 rows are left out.",
    ]
    for folder in ("out", "left_out"):
        same_columns(load_table(tmp_path / folder), chosen)
        assert load_from_disk(str(tmp_path / folder / HEAVY_FOLDER / "train")).num_rows == 3


def test_rows_are_matched_by_their_image(first, tmp_path):
    tables = load_table(first)
    save_table(with_scores(tables), tmp_path / "out", stored=tables)
    beside = tmp_path / "out" / HEAVY_FOLDER / "train"
    shutil.rmtree(beside)
    turned = tables["train"].select(range(59, -1, -1))
    turned.save_to_disk(str(beside))
    same_columns(load_table(tmp_path / "out"), with_scores(tables))
    shutil.rmtree(beside)
    turned.select(range(58)).save_to_disk(str(beside))
    with pytest.raises(ValueError, match="2 of 60 rows of the split 'train' have no region features .*'train_0.jpg'"):
        load_table(tmp_path / "out")
    shutil.rmtree(beside)
    with pytest.raises(FileNotFoundError, match="no '.*heavy-columns/train'.*Put it back, run `emocap label` again"):
        load_table(tmp_path / "out")


def test_a_table_without_heavy_columns_is_one_plain_folder(tmp_path):
    light = DatasetDict({"train": Dataset.from_dict({"image_id": ["a"], "captions": [["b"]]})})
    save_table(light, tmp_path / "out", stored=light)
    assert not (tmp_path / "out" / HEAVY_FOLDER).exists()
    same_columns(load_table(tmp_path / "out"), light)
