"""Batches of pairs against a slow construction row by row, and columns read without a copy."""

import io

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value, concatenate_datasets
from PIL import Image

from emocap.data import pairs as pairs_module
from emocap.data.pairs import FixedSizeColumn, PairDataset, has_photos, label_matrix, with_pixels
from emocap.models import EmocapProcessor
from emocap.models.photo_emocap import resize_to_array


@pytest.fixture
def teacher_processor(tiny_teacher) -> EmocapProcessor:
    return EmocapProcessor.from_pretrained(tiny_teacher)


@pytest.fixture
def student_processor(tiny_student) -> EmocapProcessor:
    return EmocapProcessor.from_pretrained(tiny_student)


def rearranged(table: Dataset, rng: np.random.Generator) -> dict[str, Dataset]:
    half = table.select(range(11, 40))
    return {
        "as it is": table,
        "slice": half,
        "slice of a slice": half.select(range(3, 9)),
        "chosen": table.select(rng.permutation(len(table))[:17]),
        "shuffled": table.shuffle(seed=int(rng.integers(1000))),
        "filtered": table.filter(lambda count: count > 5, input_columns="num_regions"),
        "joined": concatenate_datasets([half, table.select(range(4)), table.select(range(20, 50))]),
        "joined and shuffled": concatenate_datasets([table, half]).shuffle(seed=1).select(range(30)),
        "joined of shuffled": concatenate_datasets([table.shuffle(seed=3), half]),
        "empty": table.select([]),
    }


def test_fixed_size_columns_equal_plain_indexing(tiny_table, rng):
    for what, table in rearranged(tiny_table["train"], rng).items():
        for name in ("region_features", "labels", "votes"):
            column = FixedSizeColumn(table, name)
            assert len(column) == len(table), what
            rows = rng.integers(0, len(table), 25) if len(table) else np.array([], dtype=int)
            expected = [table[int(row)][name] for row in rows]
            found = column[rows]
            assert found.shape == (len(rows), column.width)
            assert np.array_equal(found, np.array(expected, dtype=found.dtype).reshape(found.shape)), (what, name)
            assert len(rows) == 0 or found.dtype == table.features[name].feature.dtype


def test_one_chunk_is_read_without_a_copy(tiny_table):
    for table in (tiny_table["train"], tiny_table["train"].select(range(10, 30)), tiny_table["train"].shuffle(seed=0)):
        column = FixedSizeColumn(table, "region_features")
        (chunk,) = table.data.column("region_features").chunks
        assert len(column.views) == 1
        assert np.shares_memory(column.views[0], chunk.values.to_numpy(zero_copy_only=True))
        assert not column.views[0].flags.writeable


def slow_pairs(table: Dataset, processor: EmocapProcessor, label_column: str | None, modalities: str) -> list[dict]:
    """Every pair of the table, one row and one caption at a time."""
    pairs = []
    for number, row in enumerate(table):
        captions = row["captions"] if modalities != "image" else []
        for caption in captions or [None]:
            ids = processor.tokenizer(caption or "", truncation=True, max_length=processor.max_length)["input_ids"]
            pair = {"row": number, "input_ids": ids, "words": 0 if caption is None else len(ids)}
            if modalities != "text" and processor.image_size is None:
                pair["visual_embeds"] = np.array(row["region_features"], dtype=np.float16).reshape(36, -1)
                pair["visual_attention_mask"] = np.arange(36) < row["num_regions"]
            elif modalities != "text":
                pair["pixel_mask"] = int(row["image"] is not None)
                size = processor.image_size
                pair["pixel_values"] = np.zeros((3, size, size), dtype=np.uint8)
                if row["image"] is not None:
                    pair["pixel_values"] = resize_to_array(row["image"], size)
            if label_column in ("labels", "soft_labels"):
                pair["labels"] = np.array(row[label_column], dtype=np.float32)
            elif label_column:
                pair["labels"] = np.isin(np.arange(5), row[label_column]).astype(np.float32)
            pairs.append(pair)
    return pairs


@pytest.mark.parametrize("modalities", ["both", "text", "image"])
@pytest.mark.parametrize("label_column", ["labels", "emotions", "soft_labels", None])
@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_batches_equal_a_slow_construction(
    tiny_table, teacher_processor, student_processor, kind, label_column, modalities, rng
):
    processor = teacher_processor if kind == "teacher" else student_processor
    table = tiny_table["train"].shuffle(seed=5).select(range(40))
    if modalities == "text":
        table = table.filter(lambda captions: len(captions) > 0, input_columns="captions")
    if modalities == "image":
        table = table.filter(lambda count: count > 0, input_columns="num_regions")
    slow = slow_pairs(table, processor, label_column, modalities)
    prepared = with_pixels(table, processor.image_size) if kind == "student" else table
    pairs = PairDataset(prepared, processor, label_column, modalities)
    assert len(pairs) == len(slow) and pairs.row_of_pair.tolist() == [pair["row"] for pair in slow]
    chosen = rng.permutation(len(slow))[:13]
    batch = PairDataset.collate(pairs.__getitems__(chosen.tolist()))
    words = max(len(slow[pair]["input_ids"]) for pair in chosen)
    assert batch["input_ids"].shape == (13, words)
    regions = max(table[slow[pair]["row"]]["num_regions"] for pair in chosen)
    for position, pair in enumerate(chosen):
        expected = slow[pair]
        ids = expected["input_ids"]
        assert batch["input_ids"][position].tolist() == ids + [0] * (words - len(ids))
        assert batch["attention_mask"][position].tolist() == [1] * expected["words"] + [0] * (
            words - expected["words"]
        )
        for name in ("visual_embeds", "visual_attention_mask", "pixel_values", "pixel_mask", "labels"):
            assert (name in batch) == (name in expected), name
            if name in expected:
                whole = np.asarray(expected[name])
                own = whole[:regions] if name.startswith("visual_") else whole
                assert np.array_equal(batch[name][position].numpy(), own), name
                assert not name.startswith("visual_") or not whole[regions:].any()
    single = pairs[int(chosen[0])]
    assert single["input_ids"].tolist() == slow[chosen[0]]["input_ids"]


def test_a_data_loader_goes_over_every_pair_once(tiny_table, teacher_processor):
    pairs = PairDataset(tiny_table["test"], teacher_processor, "labels")
    loader = torch.utils.data.DataLoader(pairs, batch_size=8, shuffle=True, collate_fn=PairDataset.collate)
    sizes = [len(batch["labels"]) for batch in loader]
    assert sum(sizes) == len(pairs) and set(sizes[:-1]) == {8}


def test_a_student_without_pixels_reads_words_alone(tiny_table, student_processor):
    table = tiny_table["train"].filter(lambda captions: len(captions) > 0, input_columns="captions")
    batch = PairDataset(table, student_processor).__getitems__([0, 1])
    assert set(batch) == {"input_ids", "attention_mask"}


def test_rows_with_nothing_to_read_are_refused(tiny_table, teacher_processor, student_processor):
    train = tiny_table["train"]
    with pytest.raises(
        ValueError, match=r"of 60 rows have nothing to read with modalities 'text' \(first: 'train_005"
    ):
        PairDataset(train, teacher_processor, modalities="text")
    with pytest.raises(ValueError, match="modalities 'image'.*first: 'train_003"):
        PairDataset(train, teacher_processor, modalities="image")
    with pytest.raises(ValueError, match="emocap regions"):
        PairDataset(train.remove_columns("region_features"), teacher_processor)
    with pytest.raises(ValueError, match="'all'; it must be one of both, text, image"):
        PairDataset(train, student_processor, modalities="all")


def test_captions_are_tokenised_in_groups(tiny_table, teacher_processor, monkeypatch):
    whole = PairDataset(tiny_table["train"], teacher_processor)
    monkeypatch.setattr(pairs_module, "CAPTIONS_A_CALL", 7)
    grouped = PairDataset(tiny_table["train"], teacher_processor)
    assert np.array_equal(whole.token_ids, grouped.token_ids)
    assert np.array_equal(whole.token_starts, grouped.token_starts)
    empty = PairDataset(tiny_table["train"].select([]), teacher_processor)
    assert len(empty) == 0 and empty.token_starts.tolist() == [0]


def test_captions_that_are_cut_are_counted_and_those_that_just_fit_are_not(tiny_table, teacher_processor, monkeypatch):
    monkeypatch.setattr(pairs_module, "CAPTIONS_A_CALL", 7)
    texts = [text for own in tiny_table["train"]["captions"][:] for text in own]
    lengths = np.array([len(teacher_processor.tokenizer(text)["input_ids"]) for text in texts])
    middle = int(np.median(lengths))
    assert (lengths == middle).any() and (lengths > middle).any()
    for longest in (middle, lengths.max(), lengths.max() + 1):
        teacher_processor.max_length = int(longest)
        pairs = PairDataset(tiny_table["train"], teacher_processor)
        assert (pairs.num_captions, pairs.num_truncated) == (len(texts), (lengths > longest).sum())
        assert pairs.truncated_captions == (lengths > longest).mean()
    assert PairDataset(tiny_table["train"].select([0]), teacher_processor, modalities="image").truncated_captions == 0


def test_mean_over_captions_equals_a_loop(tiny_table, teacher_processor, rng):
    pairs = PairDataset(tiny_table["train"], teacher_processor)
    values = rng.random((len(pairs), 5), dtype=np.float32)
    means = pairs.mean_over_captions(values)
    assert means.shape == (60, 5) and means.dtype == np.float64
    position = 0
    for row, captions in enumerate(tiny_table["train"]["captions"][:]):
        number = max(len(captions), 1)
        expected = [np.mean([float(values[position + i, label]) for i in range(number)]) for label in range(5)]
        np.testing.assert_allclose(means[row], expected)
        position += number
    assert position == len(pairs)


def test_label_matrix_of_shares_and_of_class_ids(tiny_table, rng):
    for table in rearranged(tiny_table["train"], rng).values():
        for column in ("labels", "soft_labels", "emotions"):
            matrix = label_matrix(table, column)
            assert matrix.dtype == np.float32
            assert len(matrix) == len(table)
            for own, row in zip(matrix, table, strict=True):
                expected = row[column] if column != "emotions" else np.isin(np.arange(5), row["emotions"])
                assert np.array_equal(own, np.array(expected, dtype=np.float32))


def test_a_class_column_may_have_empty_rows():
    features = Features({"emotions": List(ClassLabel(names=["a", "b", "c"]))})
    table = Dataset.from_dict({"emotions": [[2, 0], [], [1]]}, features=features)
    assert label_matrix(table, "emotions").tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_label_columns_that_cannot_serve_are_refused():
    features = Features(
        {
            "labels": List(Value("float32"), length=2),
            "emotions": List(ClassLabel(names=["a", "b"])),
            "image_id": Value("string"),
        }
    )
    rows = {"labels": [[1, 0], None, None], "emotions": [[0], [1], None], "image_id": ["x", "y", "z"]}
    table = Dataset.from_dict(rows, features=features)
    with pytest.raises(ValueError, match="2 of 3 rows have no 'labels'.*emocap label"):
        label_matrix(table, "labels")
    with pytest.raises(ValueError, match="1 of 3 rows have no 'emotions'"):
        label_matrix(table, "emotions")
    with pytest.raises(ValueError, match="no column 'votes' .*image_id"):
        label_matrix(table, "votes")
    with pytest.raises(ValueError, match="Column 'image_id' is .*List of float32"):
        label_matrix(table, "image_id")
    assert label_matrix(table.select([0]), "labels").tolist() == [[1, 0]], "only the rows shown count"
    chosen = table.select(np.array([0]))
    assert label_matrix(chosen, "emotions").tolist() == [[1, 0]]


def png(pixels: np.ndarray, **options) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", **options)
    return content.getvalue()


def test_pixels_equal_photos_resized_by_hand_and_bad_photos_are_masked(tiny_table, tmp_path, caplog, rng):
    table = tiny_table["train"].select(range(6))
    pixels = rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)
    whole, loose = png(pixels), tmp_path / "loose.png"
    Image.fromarray(pixels).save(loose)
    stored = [
        {"bytes": whole, "path": None},
        {"bytes": whole[: len(whole) // 2], "path": None},
        None,
        {"bytes": b"no photo", "path": None},
        {"bytes": None, "path": str(loose)},
        {"bytes": None, "path": str(tmp_path / "gone.png")},
    ]
    rows = {**table.remove_columns("image").to_dict(), "image": stored}
    resized = with_pixels(Dataset.from_dict(rows, features=table.features), 9)
    assert resized["has_pixels"][:] == [True, False, False, False, True, False]
    expected = resize_to_array(Image.fromarray(pixels), 9)
    found = FixedSizeColumn(resized, "pixel_values")[np.arange(6)].reshape(6, 3, 9, 9)
    assert found.dtype == np.uint8
    for row in (0, 4):
        assert np.array_equal(found[row], expected)
    for column in ("image_id", "captions", "labels", "region_features"):
        assert resized[column][:] == table[column][:], column
    assert resized.features["image"] == table.features["image"]


@pytest.mark.parametrize("error", [Image.DecompressionBombError("too big"), EOFError("cut"), IndexError("odd")])
def test_whatever_a_photo_trips_over_only_its_row_is_left_out(tiny_table, monkeypatch, error):
    real, calls = Image.open, []

    def trips(source, *args):
        calls.append(source)
        if len(calls) == 1:
            raise error
        return real(source, *args)

    monkeypatch.setattr("os.process_cpu_count", lambda: 1, raising=False)
    monkeypatch.setattr(Image, "open", trips)
    table = Dataset.from_dict(tiny_table["train"].select(range(3)).to_dict(), tiny_table["train"].features)
    assert sum(with_pixels(table, 7 + len(str(error)))["has_pixels"][:]) == 2


def test_resized_photos_are_cached(tiny_table):
    first, second = (with_pixels(tiny_table["validation"], 11) for _ in range(2))
    assert first.cache_files == second.cache_files and first.cache_files
    assert first._fingerprint == second._fingerprint


def test_has_photos(tiny_table):
    table = tiny_table["train"]
    assert has_photos(table) and not has_photos(table.remove_columns("image"))
    rows = {"image_id": ["a"], "image": [None]}
    features = Features({name: table.features[name] for name in rows})
    assert not has_photos(Dataset.from_dict(rows, features=features))
