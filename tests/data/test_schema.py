"""The table's columns, label names and splits."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Image, List, Value

from emocap.data.schema import (
    NUM_REGIONS,
    SPLIT_SHARES,
    label_names,
    pair_features,
    region_columns,
    socratis_labels,
    split_of,
    to_dataset_dict,
)


def test_socratis_labels_are_the_29_in_the_study_s_order():
    labels = socratis_labels()
    assert len(labels) == len(set(labels)) == 29
    assert labels[:3] == ["curious", "amazed", "fear"] and labels[-1] == "scared"


def test_pair_features_with_votes_and_further_columns():
    features = pair_features(["joy", "fear"], votes=True, extra={"coco_url": Value("string")})
    assert list(features) == [
        "image_id", "image", "captions", "labels", "emotions", "votes", "num_annotators", "soft_labels", "coco_url",
    ]  # fmt: skip
    assert features["image"] == Image()
    assert features["labels"] == List(Value("float32"), length=2)
    assert features["emotions"] == List(ClassLabel(names=["joy", "fear"]))
    assert features["votes"] == List(Value("int32"), length=2)


def test_pair_features_without_names_carry_no_labels():
    assert list(pair_features(None)) == ["image_id", "image", "captions"]


def test_region_columns_are_flat_and_of_fixed_length():
    columns = region_columns(8)
    assert columns["region_features"] == List(Value("float16"), length=NUM_REGIONS * 8)
    assert columns["region_boxes"] == List(Value("float32"), length=NUM_REGIONS * 4)


def test_label_names_come_from_the_emotions_column():
    part = Dataset.from_dict({"emotions": [[1, 0]]})
    with pytest.raises(ValueError, match="emocap label"):
        label_names(part)
    features = pair_features(["joy", "fear"])
    row = {"image_id": ["a"], "image": [None], "captions": [["x"]], "labels": [[1.0, 0.0]], "emotions": [[0]]}
    table = Dataset.from_dict(row, features)
    assert label_names(table) == label_names(DatasetDict({"train": table})) == ["joy", "fear"]


def test_splits_keep_their_shares_and_depend_on_id_and_seed_alone():
    ids = [f"image_{i}.jpg" for i in range(20_000)]
    splits = np.array([split_of(i) for i in ids])
    for name, share in SPLIT_SHARES.items():
        # four standard deviations of a binomial share
        assert abs((splits == name).mean() - share) < 4 * np.sqrt(share * (1 - share) / len(ids))
    assert [split_of(i) for i in reversed(ids)] == splits[::-1].tolist()
    other = np.array([split_of(i, seed=1) for i in ids])
    agreement = sum(share**2 for share in SPLIT_SHARES.values())
    assert abs((splits == other).mean() - agreement) < 0.02


def test_to_dataset_dict_loses_no_row_and_keeps_their_order():
    ids = [f"{i}" for i in range(200)]
    rows = [{"captions": [f"caption {i}"], "image": None, "image_id": i} for i in ids]
    table = to_dataset_dict(rows, pair_features(None), seed=3)
    assert list(table) == ["train", "validation", "test"]
    for name, part in table.items():
        assert part["image_id"][:] == [i for i in ids if split_of(i, 3) == name]
        assert part["captions"][:] == [[f"caption {i}"] for i in part["image_id"]]
        assert part.features == pair_features(None) and part.column_names == ["image_id", "image", "captions"]


def test_to_dataset_dict_refuses_an_empty_split():
    rows = [{"image_id": "only", "image": None, "captions": ["x"]}]
    with pytest.raises(ValueError, match=r"The 1 row\(s\) leave the split\(s\) \w+, \w+ empty"):
        to_dataset_dict(rows, pair_features(None))
