"""Region features of a table: from an extractor and from a file, going on after a stop, bad photos left out."""

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict

from emocap.data.schema import pair_features
from emocap.models import EmocapRegionConfig, EmocapRegionExtractor
from emocap.models.configuration_bottom_up import BottomUpConfig
from emocap.models.modeling_bottom_up import BottomUpDetector
from emocap.regions import extract_regions, extraction


@pytest.fixture(scope="module")
def extractors(tmp_path_factory) -> dict[int, str]:
    """Folders of tiny random extractors, by the number of regions that they give."""
    folders = {}
    for number in (36, 9):
        torch.manual_seed(0)
        folders[number] = str(tmp_path_factory.mktemp("extractor"))
        config = EmocapRegionConfig(
            backbone_channels=[8, 8], anchor_sizes=[8, 16], feature_dim=12, image_size=32, num_proposals=60,
            num_regions=number,
        )  # fmt: skip
        EmocapRegionExtractor(config).save_pretrained(folders[number])
    return folders


@pytest.fixture
def extractor(extractors) -> str:
    return extractors[9]


@pytest.mark.parametrize("number", [36, 9])
def test_every_photo_has_its_regions(tmp_path, tiny_table, extractors, number):
    extractor = extractors[number]
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
    cut, other = {"bytes": good["bytes"][:200], "path": None}, {"bytes": b"no photo", "path": None}
    rows = {"image_id": list("abcde"), "image": [good, cut, other, good, None], "captions": [["a"]] * 5}
    tables = DatasetDict({"train": Dataset.from_dict(rows, pair_features(None))})
    result = extract_regions(tables, extractor, str(tmp_path / "out"))["train"]
    counts = result["num_regions"][:]
    assert counts[1:3] == [0, 0] and counts[4] == 0 and counts[0] == counts[3] > 0
    report = json.loads((tmp_path / "out" / "data_report.json").read_text())
    assert [(problem["image_id"], problem["reason"].split(":")[0]) for problem in report["problems"]] == [
        ("b", "unreadable photo"),
        ("c", "not an image"),
        ("e", "no photo"),
    ]
    assert report["counts"]["kept without regions"] == 3


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("stop_at", [0, 7, 30, 50])
def test_a_stopped_job_goes_on(tmp_path, tiny_table, extractor, monkeypatch, stop_at):
    monkeypatch.setitem(extraction.SHARD_SIZES, "cpu", 10)
    extract_regions(tiny_table, extractor, str(tmp_path / "whole"))
    seen, real = [], EmocapRegionExtractor.extract

    def stop(model, photos):
        if len(seen) == stop_at:
            raise KeyboardInterrupt
        seen.append(photos)
        return real(model, photos)

    monkeypatch.setattr(EmocapRegionExtractor, "extract", stop)
    with pytest.raises(KeyboardInterrupt):
        extract_regions(tiny_table, extractor, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    finished = len(list((tmp_path / ".out.regions").rglob("*.arrow")))
    seen.clear()
    stop_at = -1
    extract_regions(tiny_table, extractor, str(tmp_path / "out"))
    present = np.concatenate(
        [[row["image"] is not None for row in split] + [False] * (-len(split) % 10) for split in tiny_table.values()]
    )
    assert len(seen) == present[10 * finished :].sum(), "whole shards are not done again, and nothing is left out"
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_photo_is_computed_in_one_thread(tmp_path, tiny_table, extractor, monkeypatch):
    threads, real = [], EmocapRegionExtractor.extract

    def count(model, photos):
        threads.append((torch.get_num_threads(), threading.get_ident(), len(photos)))
        return real(model, photos)

    monkeypatch.setattr(EmocapRegionExtractor, "extract", count)
    torch.set_num_threads(2)
    try:
        extract_regions(tiny_table, extractor, str(tmp_path / "out"), num_workers=3)
        assert torch.get_num_threads() == 2, "as it was before"
    finally:
        torch.set_num_threads(1)
    assert {own[0] for own in threads} == {1} and {own[2] for own in threads} == {1}
    assert len({own[1] for own in threads}) > 1


def test_what_goes_wrong_in_the_network_is_not_taken_for_a_bad_photo(tmp_path, tiny_table, extractor, monkeypatch):
    def fail(model, photos):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(EmocapRegionExtractor, "extract", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        extract_regions(tiny_table, extractor, str(tmp_path / "out"))


def test_batches_as_on_a_gpu_find_the_same_regions(tiny_table, extractor):
    model = EmocapRegionExtractor.from_pretrained(extractor).eval()
    rows = tiny_table["train"]
    shards = [rows.select(range(0, 25)), rows.select(range(25, 60))]
    alone = pa.concat_tables(extraction.regions_of_shards(model, 1, 2, torch.float32, False, shards))
    on_gpu = type("OnGPU", (), {"config": model.config, "extract": model.extract})()
    on_gpu.device = torch.device("cuda")  # batches go through whole; the computation stays where the weights are
    together = pa.concat_tables(extraction.regions_of_shards(on_gpu, 7, 3, torch.float32, False, shards))
    assert together["num_regions"].equals(alone["num_regions"])
    for column in ("region_features", "region_boxes"):
        pair = [np.asarray(table[column].combine_chunks().flatten(), dtype=np.float32) for table in (alone, together)]
        np.testing.assert_allclose(*pair, rtol=2e-3, atol=2e-3)


def test_batch_size_and_workers_change_no_byte(tmp_path, tiny_table, extractor):
    for name, options in {
        "one": {"batch_size": 1, "num_workers": 1},
        "seven": {"batch_size": 7, "num_workers": 3},
        "all": {"batch_size": 64, "num_workers": 8},
    }.items():
        extract_regions(tiny_table, extractor, str(tmp_path / name), **options)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "seven") == files_of(tmp_path / "all")


def test_a_second_call_does_nothing_and_other_settings_do_it_anew(
    tmp_path, tiny_table, extractor, monkeypatch, capsys
):
    out, real = tmp_path / "out", EmocapRegionExtractor.extract
    calls = []

    def count(model, photos):
        calls.append(torch.is_autocast_enabled("cpu"))
        return real(model, photos)

    monkeypatch.setattr(EmocapRegionExtractor, "extract", count)
    first = extract_regions(tiny_table, extractor, str(out))
    number, before = len(calls), {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "Nothing to do" not in capsys.readouterr().out
    again = extract_regions(tiny_table, extractor, str(out), batch_size=3, num_workers=1, dtype="float32")
    assert len(calls) == number and {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert f"'{out}' holds these regions already" in capsys.readouterr().err
    assert again["train"]["num_regions"][:] == first["train"]["num_regions"][:]
    assert json.loads((out / "data_report.json").read_text())["dtype"] == "float32"

    calls.clear()
    extract_regions(tiny_table, extractor, str(out), dtype="bfloat16")
    assert calls == [True] * number
    report = json.loads((out / "data_report.json").read_text())
    assert report["dtype"] == "bfloat16" and report["float32_modules"] == ["box_predictor"]
    mixed = report["fingerprint"]

    monkeypatch.setattr(EmocapRegionExtractor, "_keep_in_fp32_modules_strict", ["box_predictor", "rpn"])
    calls.clear()
    extract_regions(tiny_table, extractor, str(out), dtype="float32")
    extract_regions(tiny_table, extractor, str(out), dtype="bfloat16")
    assert len(calls) == 2 * number, "each replaces the other"
    assert json.loads((out / "data_report.json").read_text())["fingerprint"] != mixed, "less is in bfloat16"

    calls.clear()
    fewer = DatasetDict({**tiny_table, "train": tiny_table["train"].select(range(1, 60))})
    extract_regions(fewer, extractor, str(out), dtype="bfloat16")
    assert len(calls) == number - 1

    calls.clear()
    other = EmocapRegionExtractor.from_pretrained(extractor)
    with torch.no_grad():
        other.detector.roi_heads.box_head.fc7.bias[3] += 1
    other.save_pretrained(tmp_path / "other")
    extract_regions(fewer, str(tmp_path / "other"), str(out), dtype="bfloat16")
    assert len(calls) == number - 1, "other weights are another job"
    other.save_pretrained(tmp_path / "copy")
    extract_regions(fewer, str(tmp_path / "copy"), str(out), dtype="bfloat16")
    assert len(calls) == number - 1, "the same weights in another folder are not"


def test_an_unfinished_job_of_other_settings_is_not_mixed_in_and_not_lost(
    tmp_path, tiny_table, extractor, monkeypatch
):
    monkeypatch.setitem(extraction.SHARD_SIZES, "cpu", 10)
    seen, real = [], EmocapRegionExtractor.extract

    def stop(model, photos):
        if len(seen) == 30:
            raise KeyboardInterrupt
        seen.append(photos)
        return real(model, photos)

    monkeypatch.setattr(EmocapRegionExtractor, "extract", stop)
    for dtype in ("float32", "bfloat16"):
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            extract_regions(tiny_table, extractor, str(tmp_path / "out"), dtype=dtype)
    folders = {path.parent: path.name for path in (tmp_path / ".out.regions").rglob("*.arrow")}
    assert len(folders) == 2, "each has shards of its own"
    seen.clear()
    monkeypatch.setattr(EmocapRegionExtractor, "extract", lambda *inputs: seen.append(1) or real(*inputs))
    extract_regions(tiny_table, extractor, str(tmp_path / "out"), dtype="float32")
    photos = sum(row["image"] is not None for split in tiny_table.values() for row in split)
    assert photos - 30 <= len(seen) < photos
    assert not (tmp_path / ".out.regions").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"dtype": "half"}, "dtype is 'half'; it must be one of auto, float32"),
    ],
)
def test_bad_arguments_are_refused_before_the_extractor_is_loaded(tmp_path, tiny_table, options, message):
    with pytest.raises(ValueError, match=message):
        extract_regions(tiny_table, "no/such-extractor", str(tmp_path / "out"), **options)
    with pytest.raises(ValueError, match="train split lacks the column.s. image "):
        extract_regions(DatasetDict({"train": tiny_table["train"].remove_columns("image")}), "no/such", str(tmp_path))


def test_a_network_in_bfloat16_where_it_is_large_and_the_processor_fast(tiny_table, monkeypatch):
    cpu = torch.device("cpu")
    small, large = EmocapRegionExtractor(EmocapRegionConfig()), torch.nn.Linear(4000, 4000)
    large.num_parameters = lambda: 16_000_000
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert extraction.pick_dtype("auto", small, cpu) == torch.float32
        assert extraction.pick_dtype("auto", large, cpu) == (torch.bfloat16 if fast else torch.float32)
        assert extraction.pick_dtype("bfloat16", small, cpu) == torch.bfloat16


def small_bottom_up() -> BottomUpConfig:
    return BottomUpConfig(
        anchor_sizes=[8, 16, 32], shortest_edge=96, longest_edge=128, depths=[1, 1, 1, 1], stem_channels=4,
        bottleneck_channels=4, res2_channels=8, rpn_channels=8, num_classes=9, num_attributes=5,
        rpn_num_candidates=60, num_proposals=40,
    )  # fmt: skip


def test_weights_saved_in_bfloat16_compute_in_the_dtype_asked_for(tmp_path, tiny_table):
    torch.manual_seed(0)
    narrow = BottomUpDetector(small_bottom_up()).to(torch.bfloat16)
    narrow.save_pretrained(tmp_path / "narrow")
    narrow.float().save_pretrained(tmp_path / "wide")
    few = DatasetDict({"train": tiny_table["train"].select(range(4))})
    features = {}
    for saved, dtype in (("narrow", "float32"), ("wide", "float32"), ("wide", "bfloat16")):
        table = extract_regions(few, str(tmp_path / saved), str(tmp_path / f"{saved} {dtype}"), dtype=dtype)["train"]
        features[saved, dtype] = np.array(table["region_features"][:])
    assert features["narrow", "float32"].any()
    assert np.array_equal(features["narrow", "float32"], features["wide", "float32"])
    assert not np.array_equal(features["wide", "bfloat16"], features["wide", "float32"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["bottom-up", "torchvision"])
def test_other_detectors_write_the_same_bytes_in_any_number_of_threads(tmp_path, tiny_table, family, dtype):
    torch.manual_seed(0)
    if family == "bottom-up":
        config = small_bottom_up()
        BottomUpDetector(config).save_pretrained(tmp_path / "detector")
    else:
        config = EmocapRegionConfig(
            architecture="fasterrcnn_mobilenet_v3_large_320_fpn", shortest_edge=32, longest_edge=64, num_proposals=40
        )
        EmocapRegionExtractor(config).save_pretrained(tmp_path / "detector")
    few = DatasetDict({"train": tiny_table["train"].select(range(12))})
    for workers in (1, 4):
        out = str(tmp_path / f"with {workers}")
        table = extract_regions(few, str(tmp_path / "detector"), out, dtype=dtype, num_workers=workers)["train"]
    assert files_of(tmp_path / "with 1") == files_of(tmp_path / "with 4")
    assert table.features["region_features"].length == 36 * config.feature_dim
    counts = np.array(table["num_regions"][:])
    assert (counts > 0).sum() > 5 and not counts[[row["image"] is None for row in few["train"]]].any()


def test_an_extractor_of_too_many_regions_is_refused(tmp_path, tiny_table):
    EmocapRegionExtractor(EmocapRegionConfig(backbone_channels=[8], num_regions=40)).save_pretrained(tmp_path / "wide")
    with pytest.raises(ValueError, match="gives 40 regions; a table holds 36"):
        extract_regions(tiny_table, str(tmp_path / "wide"), str(tmp_path / "out"))
