"""Region features of a table: from an extractor and from a file, going on after a stop, bad photos left out."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from emocap.data import shards
from emocap.data.schema import pair_features
from emocap.models import EmocapRegionConfig, EmocapRegionExtractor
from emocap.regions import extract_regions, extraction


@pytest.fixture(scope="module", params=[36, 9])
def extractor(request, tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("extractor"))
    config = EmocapRegionConfig(
        backbone_channels=[8, 8], anchor_sizes=[8, 16], feature_dim=12, image_size=32, num_proposals=60,
        num_regions=request.param,
    )  # fmt: skip
    EmocapRegionExtractor(config).save_pretrained(folder)
    return folder


def test_every_photo_has_its_regions(tmp_path, tiny_table, extractor):
    result = extract_regions(tiny_table, extractor, str(tmp_path / "out"), batch_size=7)
    model = EmocapRegionExtractor.from_pretrained(extractor).eval()
    for name, split in result.items():
        assert split.features["region_features"].length == 36 * 12, "earlier features are replaced"
        for row, before in zip(split, tiny_table[name], strict=True):
            assert row["captions"] == before["captions"] and row["labels"] == before["labels"]
            features = np.array(row["region_features"], dtype=np.float32).reshape(36, 12)
            boxes = np.array(row["region_boxes"]).reshape(36, 4)
            count = row["num_regions"]
            assert (count == 0) == (row["image"] is None)
            assert not features[count:].any() and not boxes[count:].any()
            if count:
                alone = model.extract([before["image"]])
                assert alone.num_regions[0] == count
                np.testing.assert_allclose(features[:count], alone.region_features[0, :count], atol=2e-3)
                np.testing.assert_allclose(boxes[:count], alone.region_boxes[0, :count], atol=1e-4)
    report = json.loads((tmp_path / "out" / "data_report.json").read_text())
    without = [row["image_id"] for split in tiny_table.values() for row in split if row["image"] is None]
    assert [problem["image_id"] for problem in report["problems"]] == without
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_bad_photo_stops_nothing(tmp_path, tiny_table, extractor):
    good = tiny_table["train"].with_format("arrow")[0]["image"][0].as_py()
    stored = [good, {"bytes": good["bytes"][:200], "path": None}, {"bytes": b"no photo", "path": None}, good]
    rows = {"image_id": list("abcd"), "image": stored, "captions": [["a"]] * 4}
    tables = DatasetDict({"train": Dataset.from_dict(rows, pair_features(None))})
    result = extract_regions(tables, extractor, str(tmp_path / "out"))["train"]
    counts = result["num_regions"][:]
    assert counts[1:3] == [0, 0] and counts[0] == counts[3] > 0
    report = json.loads((tmp_path / "out" / "data_report.json").read_text())
    assert [problem["image_id"] for problem in report["problems"]] == ["b", "c"]


def test_a_stopped_job_goes_on(tmp_path, tiny_table, extractor, monkeypatch):
    calls, real = [], extraction.regions_of_batch

    def in_tens(*arguments, **options):
        return shards.map_in_shards(*arguments, **{**options, "shard_size": 10})

    def count(model, rows):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(rows[0]["image_id"])
        return real(model, rows)

    monkeypatch.setattr(extraction, "map_in_shards", in_tens)
    whole = extract_regions(tiny_table, extractor, str(tmp_path / "whole"))
    monkeypatch.setattr(extraction, "regions_of_batch", count)
    with pytest.raises(KeyboardInterrupt):
        extract_regions(tiny_table, extractor, str(tmp_path / "out"))
    calls.append("resumed")
    resumed = extract_regions(tiny_table, extractor, str(tmp_path / "out"))
    after = calls[calls.index("resumed") + 1 :]
    assert after[:2] == ["train_040.jpg", "train_050.jpg"] and len(after) == 2 + 2 + 3
    for name in whole:
        for column in ("region_features", "region_boxes", "num_regions", "image_id"):
            assert resumed[name][column][:] == whole[name][column][:]


def test_an_extractor_of_too_many_regions_is_refused(tmp_path, tiny_table):
    EmocapRegionExtractor(EmocapRegionConfig(backbone_channels=[8], num_regions=40)).save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match="gives 40 regions; a table holds 36"):
        extract_regions(tiny_table, str(tmp_path / "wide"), str(tmp_path / "out"))
