"""The labelling job against a slow loop, what it keeps of the table, and going on after a stop."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, DatasetDict, List, Value
from transformers import AutoModel

from emocap import labelling
from emocap.cli import main
from emocap.data import shards
from emocap.data.storage import load_table
from emocap.labelling import label_tables
from emocap.models import EmocapProcessor
from emocap.models.photo_emocap import resize_to_array
from emocap.pseudo_labels import select_pseudo_labels

EMOTIONS = ["happy", "sad", "excited", "curious", "angry"]
HUMAN = ("labels", "soft_labels", "votes", "num_annotators")


@torch.no_grad()
def slow_scores(row: dict, model: torch.nn.Module, processor: EmocapProcessor) -> np.ndarray:
    """Mean probability over the captions of one row, one caption at a time."""
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
    return np.mean(scores, axis=0)


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
        expected = np.array([slow_scores(row, model, processor) for row in tiny_table[name]])
        np.testing.assert_allclose(scores, expected, atol=2e-6)
        selection = select_pseudo_labels(scores, **options)
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
    assert report["selection"] == {
        "teacher": tiny_teacher, "labels_per_image": 2, "images_per_label": 3, "threshold": None,
    }  # fmt: skip
    assert report["counts"]["rows in test"] == 21
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no work folder stays"


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of eight rows."""

    def in_eights(*arguments, **options):
        return shards.map_in_shards(*arguments, **{**options, "shard_size": 8})

    monkeypatch.setattr(labelling, "map_in_shards", in_eights)


class StoppingScores:
    """`score_table` that counts its calls and is interrupted at one of them."""

    def __init__(self, stop_at: int | None = None):
        self.calls, self.stop_at, self.real = 0, stop_at, labelling.score_table

    def __call__(self, *arguments):
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.calls += 1
        return self.real(*arguments)


def test_a_stopped_job_goes_on(tmp_path, tiny_table, tiny_teacher, monkeypatch, small_shards):
    whole = label_tables(tiny_table, tiny_teacher, str(tmp_path / "whole"))
    first, second = StoppingScores(9), StoppingScores()
    monkeypatch.setattr(labelling, "score_table", first)
    with pytest.raises(KeyboardInterrupt):  # in the second split
        label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(labelling, "score_table", second)
    resumed = label_tables(tiny_table, tiny_teacher, str(tmp_path / "out"))
    assert (first.calls, second.calls) == (9, 14 - 9)  # 8, 3 and 3 shards
    for name in whole:
        for column in ("emotion_scores", "emotions", "selected_for", "image_id"):
            assert resumed[name][column][:] == whole[name][column][:]


@pytest.mark.parametrize("change", ["parameter", "buffer"])
def test_another_teacher_under_the_same_name_starts_afresh(
    tmp_path, tiny_table, tiny_teacher, monkeypatch, small_shards, change
):
    folder = str(tmp_path / "teacher")
    model = AutoModel.from_pretrained(tiny_teacher)
    model.save_pretrained(folder)
    EmocapProcessor.from_pretrained(tiny_teacher).save_pretrained(folder)
    first, second = StoppingScores(5), StoppingScores()
    monkeypatch.setattr(labelling, "score_table", first)
    with pytest.raises(KeyboardInterrupt):
        label_tables(tiny_table, folder, str(tmp_path / "out"))
    with torch.no_grad():
        (model.classifier.bias if change == "parameter" else model.region_normalizer.shift).add_(1.0)
    model.save_pretrained(folder)
    monkeypatch.setattr(labelling, "score_table", second)
    label_tables(tiny_table, folder, str(tmp_path / "out"))
    assert second.calls == 14
