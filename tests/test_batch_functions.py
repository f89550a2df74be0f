"""RegionFeatures and PseudoLabels: the jobs' bytes under every kind of map, hashes, pickles and caches."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import multiprocess
import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, load_from_disk
from datasets.fingerprint import Hasher
from PIL import Image as PILImage
from transformers import AutoModel

from emocap import PseudoLabels, RegionFeatures
from emocap.data.batches import BatchFunction
from emocap.data.schema import region_columns
from emocap.evaluation import scoring
from emocap.evaluation.scoring import Committee
from emocap.models import EmocapProcessor, EmocapRegionExtractor
from emocap.pseudo_labels.labelling import label_tables, score_columns
from emocap.regions.extraction import SCENES_DETECTOR, extract_regions
from tests.conftest import fresh_rng
from tests.test_readme import FUNCTIONS

KINDS = ("regions", "teacher", "student")
SCORES = ["emotion_scores", "caption_disagreement", "caption_scores"]


def jpeg(quality: int = 60, orientation: int = 1) -> bytes:
    """Noise, which a second compression would change."""
    content, exif = io.BytesIO(), PILImage.Exif()
    exif[0x0112] = orientation
    pixels = fresh_rng().integers(0, 256, (23, 31, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(content, "JPEG", quality=quality, exif=exif)
    return content.getvalue()


@pytest.fixture
def table(tiny_table) -> Dataset:
    """Rows of the tiny table with and without photo and caption; a few photos stand on their side."""
    rows = tiny_table["train"].select(range(14)).cast_column("image", Image(decode=False))
    photos = rows["image"][:]
    photos[2], photos[6] = {"bytes": jpeg(), "path": None}, {"bytes": jpeg(orientation=6), "path": None}
    features = rows.features
    rows = rows.remove_columns("image").add_column("image", photos, feature=features["image"])
    return rows.cast_column("image", Image())


def make(kind: str, tiny_teacher: str, tiny_student: str) -> BatchFunction:
    return (
        RegionFeatures("scenes")
        if kind == "regions"
        else PseudoLabels({"teacher": tiny_teacher}.get(kind, tiny_student))
    )


@pytest.fixture(params=KINDS)
def case(request, tmp_path, table, tiny_teacher, tiny_student) -> tuple[BatchFunction, Dataset, pa.Table]:
    """A function, rows, and the columns that its job writes of them."""
    function = make(request.param, tiny_teacher, tiny_student)
    tables = DatasetDict({"train": table})
    if request.param == "regions":
        job = extract_regions(tables, "scenes", tmp_path / "job")
    else:
        job = label_tables(tables, function.source[0], str(tmp_path / "job"))
    return function, table, columns_of(job["train"], function)


def columns_of(rows: Dataset | pa.Table, function: BatchFunction) -> pa.Table:
    arrow = rows if isinstance(rows, pa.Table) else rows.with_format("arrow")[:]
    return arrow.select(list(function.features)).combine_chunks().replace_schema_metadata()


def same(found: pa.Table, expected: pa.Table) -> None:
    assert found.schema == expected.schema
    for name in expected.column_names:
        assert len(found[name]) == len(expected[name]) and found[name].equals(expected[name]), name


def from_values(values: dict, function: BatchFunction) -> pa.Table:
    """What `datasets` makes of a function's dict."""
    return columns_of(Dataset.from_dict(values, features=function.features), function)


@pytest.mark.parametrize("batch_size", [14, 1000])
def test_dataset_map_gives_the_jobs_bytes(case, batch_size):
    function, table, expected = case
    features = Features(table.features | function.features)
    options = {"batched": True, "with_rank": True, "batch_size": batch_size}
    mapped = table.map(function, features=features, **options)
    same(columns_of(mapped, function), expected)
    assert mapped.features == features and mapped["captions"][:] == table["captions"][:]
    alone = table.map(function, features=function.features, remove_columns=table.column_names, **options)
    assert alone.features == function.features
    same(columns_of(alone, function), expected)
    arrow = table.with_format("arrow").map(function, **options)
    assert arrow.features == features, "what the schema says of photos and emotions stays"
    same(columns_of(arrow, function), expected)


def test_regions_do_not_depend_on_the_batch_nor_on_the_process(table, tmp_path):
    function = RegionFeatures("scenes")
    expected = columns_of(
        extract_regions(DatasetDict({"train": table}), "scenes", tmp_path / "job")["train"], function
    )
    features = Features(table.features | function.features)
    shared = table.map(function, batched=True, batch_size=3, with_rank=True, num_proc=2, features=features)
    same(columns_of(shared, function), expected)


def test_two_processes_score_as_two_batches_would(table, tiny_teacher):
    function = PseudoLabels(tiny_teacher)
    features = Features(table.features | function.features)
    shared = table.map(function, batched=True, with_rank=True, num_proc=2, features=features)
    halves = [columns_of(function(table.with_format("arrow")[own]), function) for own in (slice(0, 7), slice(7, 14))]
    same(columns_of(shared, function), pa.concat_tables(halves).combine_chunks())


@pytest.mark.parametrize("decode", [True, False])
def test_a_stream_gives_the_jobs_bytes(case, decode):
    function, table, expected = case
    stream = table.to_iterable_dataset(num_shards=2).cast_column("image", Image(decode=decode))
    features = Features(table.features | function.features)
    rows = list(stream.map(function, batched=True, batch_size=1000, features=features))
    same(from_values({name: [row[name] for row in rows] for name in function.features}, function), expected)
    assert [row["image_id"] for row in rows] == table["image_id"][:]
    batches = list(stream.with_format("arrow").map(function, batched=True, features=features).iter(14))
    same(pa.concat_tables([columns_of(batch, function) for batch in batches]).combine_chunks(), expected)


def test_by_hand_every_kind_of_column_gives_the_jobs_bytes(case):
    function, table, expected = case
    same(from_values(function(table[:]), function), expected)  # decoded photos, lists
    raw = table.cast_column("image", Image(decode=False))
    same(from_values(function(raw[:], 3), function), expected)
    arrow = raw.with_format("arrow")[:]
    given = function(arrow)
    same(columns_of(given, function), expected)
    assert given.column_names == [*(n for n in arrow.column_names if n not in function.features), *function.features]
    same(columns_of(function(pa.table(dict(zip(arrow.column_names, arrow.columns, strict=True)))), function), expected)
    numpy = {}
    for name, values in raw[:].items():  # as Ray's: objects, and objects in objects
        numpy[name] = np.empty(len(table), dtype=object)
        numpy[name][:] = [np.array(value, dtype=object) if name == "captions" else value for value in values]
    numpy["num_regions"] = numpy["num_regions"].astype(np.int32)
    numpy["region_features"] = np.array(raw["region_features"][:], dtype=np.float16)
    found = function(numpy)
    same(from_values(found, function), expected)
    if function.features.keys() == region_columns(1).keys():
        assert {name: (values.dtype, values.shape) for name, values in found.items()} == {
            "region_features": (np.float16, (14, function.features["region_features"].length)),
            "region_boxes": (np.float32, (14, 36 * 4)),
            "num_regions": (np.int32, (14,)),
        }


def test_features_are_those_of_the_tables(tiny_teacher):
    dim = EmocapRegionExtractor.from_pretrained(SCENES_DETECTOR).config.feature_dim
    assert RegionFeatures("scenes").features == Features(region_columns(dim))
    assert PseudoLabels(tiny_teacher).features == score_columns(Committee([tiny_teacher]))


def test_photos_as_bytes_paths_and_arrays(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    picture = PILImage.open(tmp_path / "photo.jpg")
    kinds = [
        {"bytes": None, "path": str(tmp_path / "photo.jpg")},
        (tmp_path / "photo.jpg").read_bytes(),
        tmp_path / "photo.jpg",
        picture,
        np.asarray(picture),
    ]
    found = RegionFeatures("scenes")({"image": kinds})
    assert found["num_regions"][0] > 0
    for values in found.values():
        assert all(np.array_equal(own, values[0]) for own in values)


def test_bad_photos_and_rows_with_nothing_to_read(tiny_teacher, caplog):
    regions = RegionFeatures("scenes")({"image": [b"none", {"bytes": jpeg()[:300], "path": None}, None, jpeg()]})
    assert (regions["num_regions"] > 0).tolist() == [False, False, False, True]
    assert not regions["region_features"][:3].any() and not regions["region_boxes"][:3].any()
    assert "Photo of 'row 0' left out: not an image" in caplog.text
    assert "Photo of 'row 1' left out: unreadable photo" in caplog.text
    assert "2 of 3 photos of the batch gave no regions" in caplog.text
    scores = PseudoLabels(tiny_teacher)({"captions": [["a dog"], [], None, ["a dog", "the rain"]]})
    assert [own is None for own in scores["emotion_scores"]] == [False, True, True, False]
    assert [own is None for own in scores["caption_disagreement"]] == [True, True, True, False]
    assert [len(own) for own in scores["caption_scores"]] == [1, 0, 0, 2]


HASHES = """
import json, sys
from datasets.fingerprint import Hasher
from emocap import PseudoLabels, RegionFeatures
detector, teacher, other = sys.argv[1:]
functions = [RegionFeatures(detector), PseudoLabels(teacher), PseudoLabels([teacher, other])]
print("RESULT", json.dumps([Hasher.hash(function) for function in functions]))
"""


def test_hashes_are_the_same_in_another_process_and_for_a_copy(tmp_path, tiny_teacher, tiny_student, table):
    copied = {"detector": SCENES_DETECTOR, "teacher": tiny_teacher, "student": tiny_student}
    for name, source in copied.items():
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", HASHES, *(str(tmp_path / name) for name in copied)]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    functions = [RegionFeatures("scenes"), PseudoLabels(tiny_teacher), PseudoLabels([tiny_teacher, tiny_student])]
    hashes = [Hasher.hash(function) for function in functions]
    assert json.loads(done.stdout.rpartition("RESULT")[2]) == hashes and len(set(hashes)) == 3
    for function in functions:
        function(table[:3], rank=1)
    assert [Hasher.hash(function) for function in functions] == hashes, "also after its first call"
    assert [Hasher.hash(pickle.loads(pickle.dumps(function))) for function in functions] == hashes
    assert Hasher.hash(RegionFeatures("scenes", 3, num_workers=1)) == hashes[0], "what changes no more than last bits"
    assert Hasher.hash(PseudoLabels(tiny_teacher, 3)) == hashes[1]
    assert Hasher.hash(RegionFeatures("scenes", dtype="bfloat16")) != hashes[0]
    assert Hasher.hash(PseudoLabels(tiny_teacher, bf16=True)) != hashes[1]


def saved(folder: Path, model: torch.nn.Module, processor: EmocapProcessor) -> str:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_one_weight_a_temperature_or_a_word_changes_the_hash(tmp_path, tiny_teacher):
    extractor = EmocapRegionExtractor.from_pretrained(SCENES_DETECTOR)
    with torch.no_grad():
        extractor.detector.roi_heads.box_head.fc7.bias[3] += 1e-3
    extractor.save_pretrained(tmp_path / "detector")
    assert Hasher.hash(RegionFeatures(str(tmp_path / "detector"))) != Hasher.hash(RegionFeatures("scenes"))
    hashes = {Hasher.hash(PseudoLabels(tiny_teacher))}
    model, processor = AutoModel.from_pretrained(tiny_teacher), EmocapProcessor.from_pretrained(tiny_teacher)
    with torch.no_grad():
        model.classifier.weight[1, 2] += 1e-3
    hashes.add(Hasher.hash(PseudoLabels(saved(tmp_path / "weight", model, processor))))
    model = AutoModel.from_pretrained(tiny_teacher)
    model.config.temperature = 2.0
    hashes.add(Hasher.hash(PseudoLabels(saved(tmp_path / "temperature", model, processor))))
    processor.max_length = 5
    hashes.add(Hasher.hash(PseudoLabels(saved(tmp_path / "length", model, processor))))
    words = (tmp_path / "length" / "tokenizer.json").read_text()
    assert '"dog"' in words and '"house"' in words
    swapped = words.replace('"dog"', '"?"').replace('"house"', '"dog"').replace('"?"', '"house"')
    (tmp_path / "length" / "tokenizer.json").write_text(swapped)
    hashes.add(Hasher.hash(PseudoLabels(str(tmp_path / "length"))))
    assert len(hashes) == 5


def test_pickles_are_small_and_compute_the_same(case):
    function, table, expected = case
    function(table[:2])
    content = pickle.dumps(function)
    assert len(content) < 4000
    copy = pickle.loads(content)
    assert copy.loaded is None
    same(from_values(copy(table[:]), copy), expected)
    assert copy.loaded is not None


def test_a_model_that_changed_since_is_refused(tmp_path, tiny_teacher):
    model, processor = AutoModel.from_pretrained(tiny_teacher), EmocapProcessor.from_pretrained(tiny_teacher)
    function = PseudoLabels(saved(tmp_path / "teacher", model, processor))
    content = pickle.dumps(function)
    with torch.no_grad():
        model.classifier.bias[0] += 1
    model.save_pretrained(tmp_path / "teacher")
    before = function({"captions": [["a dog"]]})
    with pytest.raises(ValueError, match="has changed since its PseudoLabels was made"):
        pickle.loads(content)({"captions": [["a dog"]]})
    after = PseudoLabels(str(tmp_path / "teacher"))({"captions": [["a dog"]]})
    assert before["emotion_scores"][0][0] < after["emotion_scores"][0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_map_does_not_run_the_model(tmp_path, table, tiny_teacher, tiny_student, monkeypatch, kind):
    table.save_to_disk(tmp_path / "table")
    stored, calls = load_from_disk(str(tmp_path / "table")), []
    for owner, name in ((EmocapRegionExtractor, "extract"), (scoring, "predict_logits")):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *inputs, real=real: calls.append(1) or real(*inputs))
    function = make(kind, tiny_teacher, tiny_student)
    options = {"batched": True, "with_rank": True, "features": Features(table.features | function.features)}
    first = stored.map(function, **options)
    assert calls
    calls.clear()
    again = load_from_disk(str(tmp_path / "table")).map(make(kind, tiny_teacher, tiny_student), **options)
    assert not calls and again.to_dict() == first.to_dict()


def test_devices_go_round_the_ranks(monkeypatch, tiny_teacher):
    moved = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device, *own: moved.append(device) or self)
    function, rows = PseudoLabels(tiny_teacher, bf16=False), {"captions": [["a dog"]]}
    assert not moved, "nothing touches a GPU before the first call"
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch, "autocast", lambda *own, **options: torch.no_grad())
    for rank in (0, 1, 2, None):
        function(rows, rank)
    assert [str(device) for device in moved] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


def test_several_teachers_give_the_mean_of_their_logits(tmp_path, table, tiny_teacher):
    other = AutoModel.from_pretrained(tiny_teacher)
    with torch.no_grad():
        other.classifier.weight.normal_(0, 0.5)
    other.config.temperature = 3.0
    second = saved(tmp_path / "second", other, EmocapProcessor.from_pretrained(tiny_teacher))
    members = [PseudoLabels(own)(table[:])["caption_scores"] for own in (tiny_teacher, second)]
    together = PseudoLabels([tiny_teacher, second])(table[:])
    for row, own in enumerate(together["caption_scores"]):
        logits = [np.log(np.array(scores[row]) / (1 - np.array(scores[row]))) for scores in members]
        expected = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
        np.testing.assert_allclose(own, expected, atol=1e-5)
        if own:
            np.testing.assert_allclose(together["emotion_scores"][row], np.mean(expected, axis=0), atol=1e-5)


def test_a_teacher_and_a_student_read_each_its_own_of_a_row(table, tiny_teacher, tiny_student):
    both = PseudoLabels([tiny_teacher, tiny_student])
    assert set(both.reads) == {"image_id", "image", "region_features", "num_regions", "captions"}
    scores = both(table[:])
    logits = []
    for own in (tiny_teacher, tiny_student):
        alone = np.array(PseudoLabels(own)(table[:1])["caption_scores"][0])
        logits.append(np.log(alone / (1 - alone)))
    np.testing.assert_allclose(scores["caption_scores"][0], 1 / (1 + np.exp(-np.mean(logits, axis=0))), atol=1e-5)


def test_what_does_not_fit_is_refused(tmp_path, table, tiny_teacher):
    with pytest.raises(ValueError, match="There is no teacher"):
        PseudoLabels([])
    with pytest.raises(ValueError, match="batch_size is 0"):
        PseudoLabels("no/such-teacher", 0)
    with pytest.raises(ValueError, match="num_workers is 0"):
        RegionFeatures("no/such-extractor", num_workers=0)
    with pytest.raises(ValueError, match="dtype is 'half'"):
        RegionFeatures("no/such-extractor", dtype="half")
    with pytest.raises(ValueError, match=r"none of the columns image_id, image \(columns: captions\)"):
        RegionFeatures("scenes")({"captions": [["a"]]})
    with pytest.raises(ValueError, match="has no column 'image'"):
        RegionFeatures("scenes")({"image_id": ["a"]})
    with pytest.raises(ValueError, match="has no column 'captions'"):
        PseudoLabels(tiny_teacher)(table.remove_columns("captions")[:])
    wide = {"captions": [["a"]], "region_features": [np.zeros(36 * 8)], "num_regions": [2]}
    with pytest.raises(ValueError, match="region features are 8-d, but .* reads 16-d"):
        PseudoLabels(tiny_teacher)(wide)
    with pytest.raises(ValueError, match="region_features are of the shapes"):
        PseudoLabels(tiny_teacher)({"captions": [["a"]] * 2, "region_features": [np.zeros(576), np.zeros(36)]})
    model = AutoModel.from_pretrained(tiny_teacher)
    model.config.id2label = {**model.config.id2label, 0: "bored"}
    other = saved(tmp_path / "other", model, EmocapProcessor.from_pretrained(tiny_teacher))
    with pytest.raises(ValueError, match="cannot answer together"):
        PseudoLabels([tiny_teacher, other])


def label_and_sum(content: bytes) -> tuple[int, float]:
    labels = pickle.loads(content)
    labels({"captions": [["a dog"]]})
    return torch.get_num_threads(), float(torch.ones(1_000_000).sum())


def test_a_forked_worker_does_not_wait_for_threads_that_it_has_not(tiny_teacher):
    content = pickle.dumps(PseudoLabels(tiny_teacher))
    torch.set_num_threads(2)
    try:
        torch.ones(1_000_000).sum()  # OpenMP's threads have run; a fork does not bring them
        with multiprocess.get_context("fork").Pool(1) as pool:
            assert pool.apply_async(label_and_sum, (content,)).get(timeout=60) == (1, 1e6)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_readmes_maps_run(tmp_path, table, tiny_teacher):
    table.to_parquet(tmp_path / "pairs.parquet")
    code = FUNCTIONS.partition("import ray")[0]
    for written, own in (
        ('"me/extractor"', '"scenes"'),
        ('"me/teacher"', repr(tiny_teacher)),
        ('"me/pairs"', f'"parquet", data_files={str(tmp_path / "pairs.parquet")!r}'),
    ):
        assert written in code
        code = code.replace(written, own)
    names = {"table": table}
    exec(compile(code, "README.md", "exec"), names)
    assert names["table"]["num_regions"][:] == [row["num_regions"] for row in names["stream"]]
    assert sum(names["table"]["num_regions"]) > 0
