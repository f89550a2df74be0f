"""Region features apart from the light table, and read back from every form that a table takes."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset, load_from_disk

from emocap.data.heavy_columns import join_regions, split_regions
from emocap.data.pairs import FixedSizeColumn
from emocap.data.schema import region_columns

REGIONS = ["region_features", "region_boxes", "num_regions"]


def test_apart_and_together_again_is_the_same_table(tiny_table):
    light, heavy = split_regions(tiny_table)
    joined = join_regions(light, heavy)
    for name, split in tiny_table.items():
        assert light[name].column_names == [column for column in split.column_names if column not in REGIONS]
        assert heavy[name].column_names == ["image_id", *REGIONS]
        assert dict(joined[name].features) == dict(split.features)
        for column in split.column_names:
            if column != "image":
                assert joined[name][column][:] == split[column][:], column
        before, after = (FixedSizeColumn(table, "region_features").views for table in (split, joined[name]))
        assert all(np.shares_memory(*views) for views in zip(before, after, strict=True)), "no feature is copied"


def test_rows_in_another_order_are_found_by_their_image(tiny_table):
    light, heavy = split_regions(tiny_table)
    shuffled = DatasetDict({name: split.shuffle(seed=3) for name, split in light.items()})
    fewer = DatasetDict({name: split.select(range(4, len(split))) for name, split in shuffled.items()})
    extra = heavy["train"].select([0]).map(lambda row: {"image_id": "of no row"})
    more = DatasetDict({**heavy, "train": concatenate_datasets([extra, heavy["train"]]), "other": heavy["test"]})
    joined = join_regions(fewer, more)
    assert list(joined) == list(fewer)
    for name, split in joined.items():
        own = {row["image_id"]: row for row in tiny_table[name]}
        assert len(split) == len(tiny_table[name]) - 4
        for row in split:
            assert all(row[column] == own[row["image_id"]][column] for column in [*REGIONS, "captions"])
        features = FixedSizeColumn(split, "region_features")[np.arange(len(split))]
        assert np.array_equal(features, [own[image_id]["region_features"] for image_id in split["image_id"][:]])


def test_a_table_without_features_is_the_light_one(tiny_table):
    light, _ = split_regions(tiny_table)
    assert split_regions(light) == (light, None)


def test_tables_that_do_not_belong_together_are_refused(tiny_table):
    light, heavy = split_regions(tiny_table)
    with pytest.raises(ValueError, match="no region features of the split 'test' .splits: train"):
        join_regions(light, DatasetDict({name: heavy[name] for name in ("train", "validation")}))
    with pytest.raises(ValueError, match="2 of 20 rows of the split 'validation' have no .*'validation_000.jpg'"):
        join_regions(light, DatasetDict({**heavy, "validation": heavy["validation"].select(range(2, 20))}))
    twice = DatasetDict({"train": concatenate_datasets([tiny_table["train"], tiny_table["train"].select([7])])})
    with pytest.raises(ValueError, match="'train' holds the image id 'train_007.jpg' more than once"):
        split_regions(twice)


def save_in_parts(table: Dataset, folder) -> Dataset:
    table.save_to_disk(str(folder), max_shard_size="3KB")
    return load_from_disk(str(folder))


def through_parquet(table: Dataset, folder) -> Dataset:
    for number, part in enumerate((table.select(range(0, 25)), table.select(range(25, len(table))))):
        folder.mkdir(exist_ok=True)
        part.to_parquet(str(folder / f"train-{number}.parquet"), batch_size=7)
    return load_dataset(str(folder), cache_dir=str(folder / "cache"), split="train")


@pytest.mark.parametrize("form", [save_in_parts, through_parquet], ids=["several files", "parquet"])
def test_features_are_read_without_a_copy_from_every_form(tmp_path, tiny_table, form, rng):
    light = tiny_table["train"].select_columns(["image_id", *REGIONS])
    stored = form(light, tmp_path / "table")
    width = stored.features["region_features"].length
    assert dict(stored.features) == {"image_id": light.features["image_id"], **region_columns(width // 36)}
    assert form is not save_in_parts or len(stored.cache_files) > 2
    expected = np.array(light["region_features"][:], dtype=np.float16)
    order = rng.permutation(len(light))
    views = {
        "as stored": (stored, np.arange(len(light))),
        "shuffled": (stored.select(order), order),
        "filtered": (
            stored.filter(lambda count: count % 2 == 0, input_columns="num_regions"),
            np.flatnonzero(np.array(light["num_regions"][:]) % 2 == 0),
        ),
    }
    for what, (view, rows) in views.items():
        column = FixedSizeColumn(view, "region_features")
        found = column[np.arange(len(rows))]
        assert found.dtype == np.float16 and np.array_equal(found, expected[rows]), what
        for own, chunk in zip(column.views, view.data.column("region_features").chunks, strict=True):
            assert np.shares_memory(own, chunk.values.to_numpy(zero_copy_only=True)) and not own.flags.writeable


def test_narrow_and_wide_rows_of_many_chunks_are_gathered_alike(monkeypatch, tiny_table, rng):
    parts = concatenate_datasets([tiny_table["train"].select(range(start, start + 6)) for start in range(0, 60, 6)])
    column = FixedSizeColumn(parts, "region_features")
    assert len(column.views) == 10
    for width in (1, 10**9):
        monkeypatch.setattr("emocap.data.pairs.WIDE_ROW", width)
        rows = rng.integers(0, 60, 33)
        assert np.array_equal(column[rows], np.array([parts[int(row)]["region_features"] for row in rows]))
        assert column[np.array([], dtype=int)].shape == (0, column.width)


def test_rows_without_features_are_refused(tiny_table):
    features = tiny_table["train"].features["region_features"]
    values = pa.array([None, [0.0] * features.length], pa.list_(pa.float32(), features.length))
    table = Dataset(pa.table({"region_features": values.cast(pa.list_(pa.float16(), features.length))}))
    with pytest.raises(ValueError, match="1 rows have no 'region_features'.*emocap regions"):
        FixedSizeColumn(table, "region_features")
