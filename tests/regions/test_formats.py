"""Features that exist already: every format against an independent decode, every kind of bad entry by its name."""

import base64
import json
import struct
import tracemalloc

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from safetensors.numpy import load_file, save_file

from emocap.cli import main
from emocap.data.schema import pair_features
from emocap.data.storage import load_table
from emocap.regions import import_regions
from emocap.regions.formats import image_key
from tests.conftest import fresh_rng

DIM = 5


def make_table(*image_ids: str, **splits: list[str]) -> DatasetDict:
    splits = splits or {"train": list(image_ids)}
    return DatasetDict(
        {
            name: Dataset.from_dict(
                {"image_id": own, "image": [None] * len(own), "captions": [["a"]] * len(own)}, pair_features(None)
            )
            for name, own in splits.items()
        }
    )


class Entry:
    """One image's regions as they were drawn, boxes in pixels."""

    def __init__(self, rng: np.random.Generator, count: int, dim: int = DIM):
        self.width, self.height = (int(side) for side in rng.integers(40, 700, 2))
        corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
        self.boxes = (corners * [self.width, self.height, self.width, self.height]).astype(np.float32)
        self.features = rng.gamma(1, 2, (count, dim)).astype(np.float32)
        self.scores = rng.random(count).astype(np.float32)

    def expected(self, by_score: bool) -> tuple[np.ndarray, np.ndarray]:
        """Features float16 and relative boxes as the table is to hold them."""
        rows = list(range(len(self.boxes)))
        if len(rows) > 36:
            rows = sorted(rows, key=lambda row: -self.scores[row])[:36] if by_score else rows[:36]
        boxes = [[x1 / self.width, y1 / self.height, x2 / self.width, y2 / self.height]
                 for x1, y1, x2, y2 in self.boxes[rows].tolist()]  # fmt: skip
        return self.features[rows].astype(np.float16), np.array(boxes, dtype=np.float32)


def pack(values: np.ndarray) -> str:
    """Base64 of little-endian float32, or int64 for whole numbers."""
    kind = "q" if values.dtype.kind == "i" else "f"
    return base64.b64encode(struct.pack(f"<{values.size}{kind}", *values.ravel().tolist())).decode()


def lxmert_row(name: str, entry: Entry) -> str:
    ids = np.zeros(len(entry.boxes), dtype=np.int64)
    cells = [name, entry.height, entry.width, pack(ids), pack(entry.scores), pack(ids), pack(entry.scores),
             len(entry.boxes), pack(entry.boxes), pack(entry.features)]  # fmt: skip
    return "\t".join(map(str, cells)) + "\n"


def release_row(name: str, entry: Entry) -> str:
    cells = [name, entry.width, entry.height, len(entry.boxes), pack(entry.boxes), pack(entry.features)]
    return "\t".join(map(str, cells)) + "\n"


def check_rows(split: Dataset, entries: dict[str, Entry], by_score: bool) -> None:
    for row in split:
        entry = entries.get(row["image_id"])
        features = np.array(row["region_features"], dtype=np.float16).reshape(36, -1)
        boxes = np.array(row["region_boxes"], dtype=np.float32).reshape(36, 4)
        count = row["num_regions"]
        assert not features[count:].any() and not boxes[count:].any()
        if entry is None:
            assert count == 0
            continue
        wanted_features, wanted_boxes = entry.expected(by_score)
        assert count == len(wanted_boxes)
        assert np.array_equal(features[:count], wanted_features)
        np.testing.assert_allclose(boxes[:count], wanted_boxes, atol=1e-6)


def report_of(folder) -> dict:
    return json.loads((folder / "data_report.json").read_text())


NAMES = ["000000000139.jpg", "000000000285.jpg", "cat.jpg", "000000000632.jpg", "000000000724.jpg"]
IN_FILE = ["139", "COCO_val2014_000000000285", "photos/cat.PNG", "000000000632"]


@pytest.fixture
def entries(rng) -> dict[str, Entry]:
    return {name: Entry(rng, count) for name, count in zip(NAMES, (36, 10, 57, 1), strict=False)}


def write_tsv(path, entries: dict[str, Entry], make_row) -> None:
    rows = [make_row(name, entry) for name, entry in zip(IN_FILE, entries.values(), strict=True)]
    path.write_text("".join([make_row("999", Entry(fresh_rng(), 4)), *rows[::-1]]))


def write_npz(folder, entries: dict[str, Entry]) -> None:
    for kind, (name, entry) in enumerate(zip(IN_FILE, entries.values(), strict=True)):
        path = folder / f"{name}.npz"
        path.parent.mkdir(exist_ok=True, parents=True)
        if kind % 2:
            np.savez(path, features=entry.features, boxes=entry.boxes, image_w=entry.width, image_h=entry.height)
        else:  # one more, empty, row; the tool's own record is a pickle, which nobody opens
            features, boxes = (np.pad(values, ((0, 1), (0, 0))) for values in (entry.features, entry.boxes))
            np.savez_compressed(path, x=features.T if kind else features, bbox=boxes, num_bbox=len(entry.boxes),
                                image_w=entry.width, image_h=entry.height,
                                info=np.array({"objects": 1}, dtype=object))  # fmt: skip


@pytest.mark.parametrize("layout", ["lxmert", "release", "npz", "safetensors"])
def test_every_format_gives_the_same_table(tmp_path, entries, layout):
    source = tmp_path / f"features.{'tsv' if layout in ('lxmert', 'release') else layout}"
    if layout == "npz":
        source = tmp_path / "features"
        write_npz(source, entries)
    elif layout == "safetensors":
        tensors = {}
        for name, entry in zip(IN_FILE, entries.values(), strict=True):
            boxes = entry.boxes / np.array([entry.width, entry.height] * 2, dtype=np.float32)
            parts = {"features": entry.features, "boxes": boxes, "scores": entry.scores}
            tensors |= {f"{name}/{part}": values for part, values in parts.items()}
        save_file(tensors, source)
    else:
        write_tsv(source, entries, lxmert_row if layout == "lxmert" else release_row)
    table = make_table(train=NAMES[:2], validation=NAMES[2:])
    table.save_to_disk(tmp_path / "table")
    main(["regions", str(tmp_path / "table"), "--import", str(source), "--output_dir", str(tmp_path / "out")])
    result = load_table(tmp_path / "out")
    for name, split in result.items():
        assert split["image_id"][:] == table[name]["image_id"][:]
        check_rows(split, entries, by_score=layout in ("lxmert", "safetensors"))
    report = report_of(tmp_path / "out")
    assert report["problems"] == [
        {"image_id": NAMES[4], "reason": "not in the file", "consequence": "kept without regions"}
    ]
    if source.suffix == ".tsv":
        assert report["not_in_the_data_set"] == {"number": 1, "first": ["999"]}
    assert report["imported"] == source.name


def test_bad_rows_are_named_and_cost_nothing_else(tmp_path, rng):
    good = {name: Entry(rng, 7) for name in ("a", "b", "c")}
    other = Entry(rng, 7)

    def cells(name: str, **changes) -> str:
        row = dict(
            zip(("name", "w", "h", "n", "boxes", "features"), release_row(name, other)[:-1].split("\t"), strict=True)
        )
        return "\t".join((row | changes).values()) + "\n"

    features, not_finite = pack(other.features), other.features.copy()
    not_finite[3, 2] = np.nan
    swapped = other.boxes[:, [2, 3, 0, 1]]
    outside = other.boxes + np.float32(2000)
    problems = {
        "width": (release_row("width", Entry(rng, 7, DIM + 1)), f"features of width {DIM + 1}, most are {DIM} wide"),
        "base64": (cells("base64", features="!" + features[1:]), "features: bad base64"),
        "padding": (cells("padding", boxes=pack(other.boxes)[:-3]), "boxes: bad base64"),
        "number": (cells("number", w="x"), "image_w is 'x' instead of a whole number"),
        "none": (cells("none", n="0"), "num_boxes is '0'"),
        "count": (cells("count", n="6"), "140 bytes, which are not 6 rows of float32"),
        "empty": (cells("empty", features=""), "features: 0 bytes"),
        "nan": (cells("nan", features=pack(not_finite)), "features that are not finite"),
        "large": (cells("large", features=pack(other.features + 1e5)), "too large for float16"),
        "swapped": (cells("swapped", boxes=pack(swapped)), "boxes that are not x1 y1 x2 y2"),
        "outside": (cells("outside", boxes=pack(outside)), f"in an image of {other.width}x{other.height}"),
        "few": ("few\t10\t20\n", "row of 3 column(s) instead of 6 or 10"),
        "last": (cells("last")[:-40], "features: "),
    }
    rows = [release_row("a", good["a"]), "\n", *(row for row, _ in problems.values() if not row.startswith("last"))]
    rows += [
        release_row("b", good["b"]),
        release_row("a.jpg", other),
        release_row("c", good["c"]),
        problems["last"][0],
    ]
    (tmp_path / "features.tsv").write_text("".join(rows))
    table = make_table(*good, "absent", *problems)
    result = import_regions(table, str(tmp_path / "features.tsv"), str(tmp_path / "out"))
    check_rows(result["train"], good, by_score=False)
    report = report_of(tmp_path / "out")
    named = {problem["image_id"]: problem["reason"] for problem in report["problems"]}
    assert named.keys() == {*problems, "absent", "a"} and len(report["problems"]) == len(named)
    for name, (_, reason) in problems.items():
        assert reason in named[name], name
    assert named["absent"] == "not in the file" and named["a"] == "'a.jpg' is there already"
    assert report["counts"]["kept without regions"] == len(problems) + 1
    assert report["counts"]["later entry left out"] == 1
    assert report["counts"]["images of the file that the data set lacks"] == 0


def test_bad_npz_files_are_named(tmp_path, rng):
    entry, folder = Entry(rng, 6), tmp_path / "features"
    folder.mkdir()
    arrays = {"x": entry.features, "bbox": entry.boxes, "image_w": entry.width, "image_h": entry.height}

    def save(name: str, **changes) -> None:
        np.savez(folder / f"{name}.npz", **{key: own for key, own in (arrays | changes).items() if own is not None})

    save("good")
    save("pickled", x=np.array([{"a": 1}], dtype=object))
    save("boxless", bbox=None)
    save("sizeless", image_w=None)
    save("rows", x=entry.features[:-1])
    save("word", image_h=np.array("tall"))
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:300])
    (folder / "text.npz").write_text("no archive")
    names = ["good", "pickled", "boxless", "sizeless", "rows", "word", "cut", "text"]
    result = import_regions(make_table(*names), str(folder), str(tmp_path / "out"))
    check_rows(result["train"], {"good": entry}, by_score=False)
    named = {problem["image_id"]: problem["reason"] for problem in report_of(tmp_path / "out")["problems"]}
    assert named.keys() == set(names[1:])
    for name, reason in {
        "pickled": "Object arrays cannot be loaded", "boxless": "no array boxes or bbox",
        "sizeless": "image of unknown size", "rows": "features of shape (5, 5) and boxes of shape (6, 4)",
        "word": "image_h is not a number", "cut": "unreadable .npz file", "text": "unreadable .npz file",
    }.items():  # fmt: skip
        assert reason in named[name], name


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.jpg/features": np.zeros((2, 4)), "a.jpg/boxes": np.zeros((2, 4))},
         "None of the data set's image ids is in .* such as 'a.jpg', the data set such as 'b.jpg'"),
        ({"b.jpg/features": np.zeros((2, 4))}, "None of the 1 matching entries .* 'b.jpg': no tensor 'b.jpg/boxes'"),
        ({"b.jpg": np.zeros((3, 4))}, "holds no region features"),
    ],
)  # fmt: skip
def test_files_that_give_nothing_are_refused_before_anything_is_written(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "features.safetensors")
    with pytest.raises(ValueError, match=message):
        import_regions(make_table("b.jpg"), str(tmp_path / "features.safetensors"), str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.safetensors"]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.safetensors").write_text("no tensors")
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "a.safetensors": "is no safetensors file",
        "a.csv": "expected an existing .tsv or .safetensors file",
        "b.tsv": "expected an existing .tsv or .safetensors file",
        "folder": "holds no region features",
    }.items():
        with pytest.raises(ValueError, match=message):
            import_regions(make_table("a"), str(tmp_path / name), str(tmp_path / "out"))


def test_a_table_without_ids_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("1\t2\n")
    table = make_table("a").remove_columns("image_id")
    with pytest.raises(ValueError, match="train lack the column image_id"):
        import_regions(table, str(tmp_path / "a.tsv"), str(tmp_path / "out"))


def test_ids():
    coco = ["139", "000000000139", "000000000139.jpg", "val2017/000000000139.jpg", "COCO_val2014_000000000139.jpg"]
    assert {image_key(name) for name in coco} == {"139"}
    assert image_key("photos/Dog 1.v2.JPEG") == "Dog 1.v2" and image_key("I12.png") == "I12"


def test_ids_that_only_their_full_names_tell_apart(tmp_path, rng):
    own = {"x/7.jpg": Entry(rng, 3), "y/7.jpg": Entry(rng, 4)}
    rows = [release_row("7", Entry(rng, 5)), *(release_row(name, entry) for name, entry in own.items())]
    (tmp_path / "features.tsv").write_text("".join(rows))
    result = import_regions(make_table(*own), str(tmp_path / "features.tsv"), str(tmp_path / "out"))
    check_rows(result["train"], own, by_score=False)
    assert report_of(tmp_path / "out")["not_in_the_data_set"] == {"number": 1, "first": ["7"]}


def test_memory_does_not_grow_with_the_file(tmp_path, rng):
    """One row's text is as large as its share of the table; only a shard of the table may be held at a time."""
    names = [f"{row}.jpg" for row in range(3500)]
    row = release_row("", Entry(rng, 36, dim=64))
    with open(tmp_path / "features.tsv", "w") as file:
        file.writelines(name + row for name in names)
    table, size = make_table(*names), (tmp_path / "features.tsv").stat().st_size
    tracemalloc.start()
    try:
        result = import_regions(table, str(tmp_path / "features.tsv"), str(tmp_path / "out"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(result["train"]["num_regions"][:]) == {36}
    assert size > 40e6 and peak < size / 3


@pytest.mark.real_data
def test_the_sample_of_the_field(real_data, tmp_path):
    source = real_data / "regions" / "coco_train2014_sample_obj36.tsv"
    rows = [line.rstrip("\n").split("\t") for line in source.read_text().splitlines()]
    assert len(rows) == 10
    names = [f"{int(row[0].rpartition('_')[2]):012d}.jpg" for row in rows]
    table = make_table(train=names[::2], test=[*names[1::2], "000000000001.jpg"])
    result = import_regions(table, str(source), str(tmp_path / "out"))
    found = {row["image_id"]: row for split in result.values() for row in split}
    for name, row in zip(names, rows, strict=True):
        boxes = struct.unpack("<144f", base64.b64decode(row[8]))
        features = np.frombuffer(base64.b64decode(row[9]), np.float32)
        # the column order: height, width; boxes fit that way and, on the portrait ones, no other
        height, width = int(row[1]), int(row[2])
        assert max(boxes[2::4]) <= width + 1 and max(boxes[3::4]) <= height + 1
        expected = [value / (width, height)[axis % 2] for axis, value in enumerate(boxes)]
        assert found[name]["num_regions"] == 36
        np.testing.assert_allclose(found[name]["region_boxes"], np.clip(expected, 0, 1), atol=1e-6)
        assert np.array_equal(np.array(found[name]["region_features"], np.float16), features.astype(np.float16))
    assert found["000000000001.jpg"]["num_regions"] == 0


@pytest.mark.real_data
def test_the_features_of_real_photos(real_data, tmp_path):
    source = real_data / "regions" / "oasis_lite36.safetensors"
    tensors = load_file(source)
    names = sorted({name.partition("/")[0] for name in tensors})
    result = import_regions(make_table(*names), str(source), str(tmp_path / "out"))["train"]
    assert result["num_regions"][:] == [len(tensors[f"{name}/boxes"]) for name in names]
    features = np.stack(result.with_format("numpy")["region_features"][:])
    for row, name in enumerate(names):
        assert np.array_equal(features[row].reshape(36, -1), tensors[f"{name}/features"])
