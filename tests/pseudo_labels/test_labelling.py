"""The labelling job against a slow loop, what it keeps of the table, and going on after a stop."""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, DatasetDict, List, Value
from datasets.arrow_writer import ArrowWriter
from transformers import AutoModel

from emocap.cli import main
from emocap.data import shards
from emocap.data.storage import load_table
from emocap.evaluation import scoring
from emocap.models import EmocapProcessor
from emocap.models.photo_emocap import resize_to_array
from emocap.pseudo_labels import labelling
from emocap.pseudo_labels.labelling import label_tables
from emocap.pseudo_labels.selection import select_pseudo_labels

EMOTIONS = ["happy", "sad", "excited", "curious", "angry"]
HUMAN = ("labels", "soft_labels", "votes", "num_annotators")


@torch.no_grad()
def slow_scores(row: dict, model: torch.nn.Module, processor: EmocapProcessor) -> list[np.ndarray]:
    """Probabilities of each caption of one row, one caption at a time."""
    inputs = {}
    if processor.image_size is None and row["num_regions"]:
        features = np.array(row["region_features"], dtype=np.float32).reshape(1, 36, -1)[:, : row["num_regions"]]
        inputs["visual_embeds"] = torch.from_numpy(features)
    elif processor.image_size is not None and row["image"] is not None:
        inputs["pixel_values"] = torch.from_numpy(resize_to_array(row["image"], processor.image_size)[None].copy())
    scores = []
    for caption in row["captions"] or [None]:
        ids = torch.tensor([processor.tokenizer(caption or "", truncation=True, max_length=32)["input_ids"]])
        mask = torch.full_like(ids, caption is not None)
        scores.append(model(input_ids=ids, attention_mask=mask, **inputs).logits[0].double().sigmoid().numpy())
    return scores


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_scores_are_means_over_captions_and_the_selection_follows(
    tmp_path, tiny_table, tiny_teacher, tiny_student, kind
):
    folder = tiny_teacher if kind == "teacher" else tiny_student
    options = {"labels_per_image": 3, "images_per_label": 6, "threshold": 0.4}
    labelled = label_tables(tiny_table, folder, str(tmp_path / "out"), batch_size=5, **options)
    model, processor = AutoModel.from_pretrained(folder).eval(), EmocapProcessor.from_pretrained(folder)
    for name, split in labelled.items():
        scores = np.array(split["emotion_scores"][:], dtype=np.float32)
        by_caption = [slow_scores(row, model, processor) for row in tiny_table[name]]
        np.testing.assert_allclose(scores, [np.mean(own, axis=0) for own in by_caption], atol=2e-6)
        for row, own in zip(split, by_caption, strict=True):
            assert len(row["caption_scores"]) == len(row["captions"])
            if row["captions"]:
                np.testing.assert_allclose(row["caption_scores"], own, atol=2e-6)
            spread = row["caption_disagreement"]
            assert (spread is None) == (len(row["captions"]) < 2)
            assert spread is None or spread == pytest.approx(np.std(own, axis=0).mean(), abs=2e-6)
        selection = select_pseudo_labels(scores, **options, image_ids=split["image_id"][:])
        assert split["emotions"][:] == selection.image_labels
        for row, own in enumerate(split["selected_for"][:]):
            assert own == [label for label in range(5) if row in selection.label_images[label]]
            assert set(own) <= set(split["emotions"][row])
        assert max(map(len, selection.label_images)) == 6 or name != "train"


def test_columns_and_human_labels(tmp_path, tiny_table, tiny_teacher):
    labelled = label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    for name, split in labelled.items():
        assert split.features["emotion_scores"] == List(Value("float32"), length=5)
        assert split.features["emotions"] == split.features["selected_for"] == List(ClassLabel(names=EMOTIONS))
        for column in (*HUMAN, "image_id", "captions", "region_features", "region_boxes", "num_regions"):
            assert split[column][:] == tiny_table[name][column][:], column
        assert split.features["image"] == tiny_table[name].features["image"]
        assert [len(own) for own in split["emotions"]] == [4] * len(split)
        assert [sorted(own) for own in split["selected_for"]] == [sorted(own) for own in split["emotions"]]
    again = label_tables(labelled, tiny_teacher, str(tmp_path / "again"), labels_per_image=1)
    assert again["test"].column_names.count("emotions") == 1 and len(again["test"][0]["emotions"]) == 1
    assert again["test"]["emotion_scores"][:] == labelled["test"]["emotion_scores"][:]


def test_columns_of_human_labels_without_any_are_left_out(tmp_path, tiny_table, tiny_teacher):
    empty = {column: [None] * len(tiny_table["test"]) for column in HUMAN}
    rows = type(tiny_table["test"]).from_dict({**tiny_table["test"].to_dict(), **empty}, tiny_table["test"].features)
    tables = DatasetDict({"train": tiny_table["train"], "source": rows})
    labelled = label_tables(tables, tiny_teacher, str(tmp_path / "out"))
    assert not set(HUMAN) & set(labelled["source"].features) and set(HUMAN) < set(labelled["train"].features)
    bare = DatasetDict({"train": tiny_table["train"].remove_columns([*HUMAN, "emotions"])})
    assert "emotions" in label_tables(bare, tiny_teacher, str(tmp_path / "bare"))["train"].features


def test_the_command_writes_table_and_settings(tmp_path, tiny_table_dir, tiny_teacher):
    out = tmp_path / "out"
    main(["label", tiny_table_dir, "--teacher", tiny_teacher, "--output_dir", str(out), "--split", "test",
          "--labels_per_image", "2", "--images_per_label", "3"])  # fmt: skip
    labelled = load_table(out)
    assert list(labelled) == ["test"] and [len(own) for own in labelled["test"]["emotions"]] == [2] * 21
    selected = [label for own in labelled["test"]["selected_for"] for label in own]
    assert max(map(selected.count, range(5))) == 3
    report = json.loads((out / "data_report.json").read_text())
    selection = report["selection"]
    assert re.fullmatch("sha256:[0-9a-f]{16}", selection.pop("revision"))
    assert selection == {
        "teacher": tiny_teacher, "modalities": None, "temperature": None,
        "labels_per_image": 2, "images_per_label": 3, "threshold": None,
        "label_shares": None, "min_confidence": None, "max_disagreement": None,
    }  # fmt: skip
    assert report["counts"]["rows in test"] == 21
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no work folder stays"


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of eight rows."""

    def in_eights(*arguments, **options):
        return shards.map_in_shards(*arguments, **{**options, "shard_size": 8})

    monkeypatch.setattr(labelling, "map_in_shards", in_eights)


class CountedScores:
    """`predict_probabilities` that counts its calls; at one of them it is interrupted, or gives a NaN."""

    def __init__(self, stop_at: int | None = None, nan_at: int | None = None):
        self.calls, self.stop_at, self.nan_at, self.real = 0, stop_at, nan_at, scoring.predict_logits

    def __call__(self, *arguments):
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.calls += 1
        probabilities = self.real(*arguments)
        if self.calls - 1 == self.nan_at:
            probabilities[3, 1] = np.nan
        return probabilities


def same_tables(first: DatasetDict, second: DatasetDict) -> None:
    for name in first:
        for column in ("image_id", *labelling.OWN_COLUMNS):
            assert first[name][column][:] == second[name][column][:], column


def test_a_stopped_job_goes_on(tmp_path, tiny_table, tiny_teacher, monkeypatch, small_shards):
    whole = label_tables(tiny_table, tiny_teacher, str(tmp_path / "whole"))
    first, second = CountedScores(stop_at=9), CountedScores()
    monkeypatch.setattr(scoring, "predict_logits", first)
    with pytest.raises(KeyboardInterrupt):  # in the second split
        label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(scoring, "predict_logits", second)
    resumed = label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    assert (first.calls, second.calls) == (9, 14 - 9)  # 8, 3 and 3 shards
    same_tables(resumed, whole)


@pytest.mark.parametrize("change", ["parameter", "buffer"])
def test_another_teacher_under_the_same_name_starts_afresh(
    tmp_path, tiny_table, tiny_teacher, monkeypatch, small_shards, change
):
    folder = str(tmp_path / "teacher")
    model = AutoModel.from_pretrained(tiny_teacher)
    model.save_pretrained(folder)
    EmocapProcessor.from_pretrained(tiny_teacher).save_pretrained(folder)
    first, second = CountedScores(stop_at=5), CountedScores()
    monkeypatch.setattr(scoring, "predict_logits", first)
    with pytest.raises(KeyboardInterrupt):
        label_tables(tiny_table, folder, str(tmp_path / "out"))
    with torch.no_grad():
        (model.classifier.bias if change == "parameter" else model.region_normalizer.shift).add_(1.0)
    model.save_pretrained(folder)
    monkeypatch.setattr(scoring, "predict_logits", second)
    label_tables(tiny_table, folder, str(tmp_path / "out"))
    assert second.calls == 14


def test_another_selection_scores_nothing_again(tmp_path, tiny_table_dir, tiny_teacher, monkeypatch):
    out, fresh, counted = str(tmp_path / "out"), str(tmp_path / "fresh"), CountedScores()
    options = {"labels_per_image": 2, "label_shares": "balanced"}
    expected = label_tables(load_table(tiny_table_dir), tiny_teacher, fresh, **options)
    label_tables(load_table(tiny_table_dir), tiny_teacher, out)
    monkeypatch.setattr(scoring, "predict_logits", counted)
    again = label_tables(load_table(tiny_table_dir), tiny_teacher, out, **options)
    assert counted.calls == 0
    same_tables(again, expected)
    for name in ("data_report.json", "label_statistics.json"):
        assert Path(out, name).read_text() == Path(fresh, name).read_text()
    label_tables(load_table(tiny_table_dir), tiny_teacher, out, bf16=True, **options)
    assert counted.calls == 3


@pytest.mark.parametrize("content", [b"", b"half of a shard"])
def test_a_shard_without_its_content_is_scored_again(
    tmp_path, tiny_table, tiny_teacher, monkeypatch, small_shards, content
):
    whole = label_tables(tiny_table, tiny_teacher, str(tmp_path / "whole"))
    first, second = CountedScores(stop_at=9), CountedScores()
    monkeypatch.setattr(scoring, "predict_logits", first)
    with pytest.raises(KeyboardInterrupt):
        label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    next(tmp_path.glob(".out.scores/train/**/000003.arrow")).write_bytes(content)
    monkeypatch.setattr(scoring, "predict_logits", second)
    same_tables(label_tables(tiny_table, tiny_teacher, str(tmp_path / "out")), whole)
    assert second.calls == 14 - 9 + 1


def test_scores_that_are_no_numbers_stop_the_job_which_goes_on(
    tmp_path, tiny_table, tiny_teacher, monkeypatch, small_shards
):
    first, second = CountedScores(nan_at=4), CountedScores()
    monkeypatch.setattr(scoring, "predict_logits", first)
    with pytest.raises(ValueError, match=r"1 of 8 images scores that are not numbers, first to 'train_0\d\d.jpg'"):
        label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(scoring, "predict_logits", second)
    label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    assert second.calls == 14 - 4


def test_weights_that_are_no_numbers_are_refused(tmp_path, tiny_table, tiny_teacher):
    model = AutoModel.from_pretrained(tiny_teacher)
    with torch.no_grad():
        model.classifier.weight[2, 3] = float("nan")
    model.save_pretrained(tmp_path / "teacher")
    EmocapProcessor.from_pretrained(tiny_teacher).save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="'classifier.weight' holds NaN or infinite values"):
        label_tables(tiny_table, str(tmp_path / "teacher"), str(tmp_path / "out"))


def test_a_full_disk_leaves_nothing_half_written(tmp_path, tiny_table, tiny_teacher, monkeypatch, small_shards):
    whole = label_tables(tiny_table, tiny_teacher, str(tmp_path / "whole"))
    full = OSError(errno.ENOSPC, "No space left on device")
    calls = []

    class FillingWriter(shards.ArrowWriter):
        def write_table(self, *arguments):
            calls.append(arguments)
            if len(calls) == 6:
                self.stream.write(b"half of a shard")
                raise full
            super().write_table(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "ArrowWriter", FillingWriter)
        with pytest.raises(OSError, match="No space left"):
            label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("*.partial"))

    def fill(self, folder):  # the shards fit, the table does not
        Path(folder).mkdir()
        Path(folder, "data.arrow").write_bytes(b"half of a table")
        raise full

    again = CountedScores()
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "predict_logits", again)
        patch.setattr(DatasetDict, "save_to_disk", fill)
        with pytest.raises(OSError, match="No space left"):
            label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    assert again.calls == 14 - 5
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out.partial"))
    last = CountedScores()
    monkeypatch.setattr(scoring, "predict_logits", last)
    same_tables(label_tables(tiny_table, tiny_teacher, str(tmp_path / "out")), whole)
    assert last.calls == 0 and sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_device_says_so(tmp_path, tiny_table, tiny_teacher, monkeypatch):
    monkeypatch.setattr(shards, "ArrowWriter", lambda features, path: ArrowWriter(features=features, path="/dev/full"))
    with pytest.raises(OSError, match="No space left on device"):
        label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_rows_that_the_teacher_cannot_read_are_left_out_and_listed(tmp_path, tiny_table, tiny_teacher):
    model = AutoModel.from_pretrained(tiny_teacher)
    model.config.modalities = "text"
    model.save_pretrained(tmp_path / "teacher")
    EmocapProcessor.from_pretrained(tiny_teacher).save_pretrained(tmp_path / "teacher")
    labelled = label_tables(tiny_table, str(tmp_path / "teacher"), str(tmp_path / "out"))
    silent = [row["image_id"] for split in tiny_table.values() for row in split if not row["captions"]]
    assert len(silent) > 5
    report = json.loads((tmp_path / "out/data_report.json").read_text())
    assert [problem["image_id"] for problem in report["problems"]] == silent
    assert report["counts"]["row left out"] == len(silent)
    for name, split in labelled.items():
        expected = [row["image_id"] for row in tiny_table[name] if row["captions"]]
        assert split["image_id"][:] == expected
        again = label_tables(DatasetDict({name: tiny_table[name].filter(lambda row: bool(row["captions"]))}),
                             str(tmp_path / "teacher"), str(tmp_path / f"only_{name}"))[name]  # fmt: skip
        np.testing.assert_allclose(again["emotion_scores"][:], split["emotion_scores"][:], atol=1e-6)


def test_an_empty_split_is_passed_over_and_an_empty_table_refused(tmp_path, tiny_table, tiny_teacher):
    tables = DatasetDict({"train": tiny_table["train"].select([]), "test": tiny_table["test"]})
    assert list(label_tables(tables, tiny_teacher, str(tmp_path / "out"))) == ["test"]
    with pytest.raises(ValueError, match="has no rows to label"):
        label_tables(DatasetDict({"train": tables["train"]}), tiny_teacher, str(tmp_path / "none"))


def test_human_labels_in_another_order_are_refused(tmp_path, tiny_table, tiny_teacher):
    model = AutoModel.from_pretrained(tiny_teacher)
    names = [*EMOTIONS[1:], EMOTIONS[0]]
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    model.save_pretrained(tmp_path / "teacher")
    EmocapProcessor.from_pretrained(tiny_teacher).save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="5 emotions in another order"):
        label_tables(tiny_table, str(tmp_path / "teacher"), str(tmp_path / "out"))
    labelled = label_tables(tiny_table, tiny_teacher, str(tmp_path / "first")).remove_columns(list(HUMAN))
    again = label_tables(labelled, str(tmp_path / "teacher"), str(tmp_path / "out"))
    assert again["test"].features["emotions"].feature.names == names  # pseudo-labels of another teacher are replaced
    np.testing.assert_array_equal(again["test"]["emotion_scores"][:], labelled["test"]["emotion_scores"][:])


def with_prevalence(folder: Path, teacher: str, prevalence: list[float]) -> str:
    model = AutoModel.from_pretrained(teacher)
    model.config.label_prevalence = prevalence
    model.save_pretrained(folder)
    EmocapProcessor.from_pretrained(teacher).save_pretrained(folder)
    return str(folder)


def test_shares_follow_the_teachers_training_set(tmp_path, tiny_table, tiny_teacher):
    prevalence = [0.7, 0.5, 0.2, 0.05, 0.0]
    teacher = with_prevalence(tmp_path / "teacher", tiny_teacher, prevalence)
    labelled = label_tables(tiny_table, teacher, str(tmp_path / "out"), label_shares="prevalence")
    for split in labelled.values():
        carried = [label for own in split["emotions"] for label in own]
        assert [carried.count(label) for label in range(5)] == [round(share * len(split)) for share in prevalence]
    balanced = label_tables(
        tiny_table, teacher, str(tmp_path / "balanced"), label_shares="balanced", labels_per_image=2
    )["train"]
    carried = [label for own in balanced["emotions"] for label in own]
    assert [carried.count(label) for label in range(5)] == [60 * 2 / 5] * 5
    with pytest.raises(ValueError, match="has no label_prevalence"):
        label_tables(tiny_table, tiny_teacher, str(tmp_path / "none"), label_shares="prevalence")


def test_unsure_and_disputed_images_get_no_labels(tmp_path, tiny_table, tiny_teacher):
    scored = label_tables(tiny_table, tiny_teacher, str(tmp_path / "all"))["train"]
    best = np.max(scored["emotion_scores"][:], axis=1)
    disagreement = np.array(scored["caption_disagreement"][:], dtype=np.float32)  # null becomes NaN
    sure, agreed = float(np.median(best)), float(np.nanmedian(disagreement))
    options = {"min_confidence": sure, "max_disagreement": agreed}
    filtered = label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"), **options)["train"]
    expected = (best.astype(np.float64) >= sure) & ~(disagreement > agreed)
    assert 0 < expected.sum() < 40 and np.isnan(disagreement).any()
    assert [len(own) == 4 for own in filtered["emotions"]] == expected.tolist()
    assert [len(own) > 0 for own in filtered["selected_for"]] == expected.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_confidence": 1.5}, "min_confidence is 1.5; expected a number in 0..1"),
        ({"max_disagreement": -1}, "max_disagreement is -1"),
        ({"label_shares": "fair"}, "label_shares is 'fair'; expected one of prevalence, balanced"),
        ({"label_shares": "balanced", "labels_per_image": None}, "'balanced' needs 1 to 5"),
        ({"labels_per_image": 0}, "labels_per_image is 0"),
    ],
)
def test_bad_settings_are_refused_before_the_teacher_is_loaded(
    tmp_path, tiny_table, tiny_teacher, monkeypatch, options, message
):
    monkeypatch.setattr(labelling, "AutoModel", None)
    with pytest.raises(ValueError, match=message):
        label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"), **options)


def test_the_teachers_temperature_comes_before_the_mean_over_captions(tmp_path, tiny_table, tiny_teacher):
    model = AutoModel.from_pretrained(tiny_teacher)
    model.config.temperature = 0.25
    model.save_pretrained(tmp_path / "teacher")
    EmocapProcessor.from_pretrained(tiny_teacher).save_pretrained(tmp_path / "teacher")
    plain = label_tables(tiny_table, tiny_teacher, str(tmp_path / "plain"))["test"]
    sharp = label_tables(tiny_table, str(tmp_path / "teacher"), str(tmp_path / "sharp"))["test"]
    for before, after in zip(plain, sharp, strict=True):
        own = np.array(before["caption_scores"])
        if len(own):
            odds = (own / (1 - own)) ** 4
            np.testing.assert_allclose(after["emotion_scores"], (odds / (1 + odds)).mean(axis=0), atol=1e-5)
    assert json.loads((tmp_path / "sharp/label_statistics.json").read_text())["selection"]["temperature"] == 0.25


def test_bfloat16_scores_are_near(tmp_path, tiny_table, tiny_teacher):
    full = label_tables(tiny_table, tiny_teacher, str(tmp_path / "full"), bf16=False)["train"]
    half = label_tables(tiny_table, tiny_teacher, str(tmp_path / "half"), bf16=True)["train"]
    difference = np.abs(np.array(full["emotion_scores"][:]) - np.array(half["emotion_scores"][:]))
    assert 0 < difference.max() < 0.02
