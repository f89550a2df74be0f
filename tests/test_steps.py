"""The front door: tables in memory give what the commands give, options are checked, results say what they hold."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file

import emocap
from emocap.cli import main
from emocap.data import pairs, truth
from emocap.data.pairs import label_matrix
from emocap.records import Gain, Result
from emocap.training import rows

QUICK = {"use_cpu": True, "disable_tqdm": True, "num_train_epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_body, tiny_table_dir) -> tuple[Result, Path]:
    """A teacher of a table in memory, and the folder of one that the command trained on the same table."""
    folder = tmp_path_factory.mktemp("steps")
    tables = DatasetDict.load_from_disk(tiny_table_dir)
    result = emocap.train_teacher(tables, tiny_body, folder / "memory", seed=3, **QUICK)
    main(["train-teacher", "--model_name_or_path", tiny_body, "--dataset", tiny_table_dir, "--seed", "3", "--use_cpu",
          "--disable_tqdm", "true", "--num_train_epochs", "1", "--output_dir", str(folder / "command")])  # fmt: skip
    return result, folder / "command"


def test_a_table_in_memory_gives_the_command_s_model_and_figures(trained, tiny_table_dir):
    result, command = trained
    own, other = (load_file(Path(folder) / "model.safetensors") for folder in (result, command))
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    assert result == json.loads((command / "metrics.json").read_text()) == Result.read(result) == Result.read(command)
    arguments = [json.loads((Path(folder) / "run_arguments.json").read_text()) for folder in (result, command)]
    assert {name for name in arguments[0] if arguments[0][name] != arguments[1][name]} == {"dataset", "output_dir"}
    assert arguments[0]["dataset"] is None and arguments[1]["dataset"] == tiny_table_dir
    assert "a table in memory" in (Path(result) / "README.md").read_text()


def test_every_step_takes_the_results_before_it(trained, tiny_bert, tiny_table, tmp_path):
    teacher, _ = trained
    again = emocap.evaluate(teacher, tiny_table, num_resamples=0)
    assert again["map_macro"] == pytest.approx(teacher["map_macro"], abs=1e-6) and again.interval("map_macro") is None
    source = DatasetDict({"train": tiny_table["train"].remove_columns(["labels", "votes", "num_annotators",
                                                                      "soft_labels"])})  # fmt: skip
    labelled = emocap.label(source, teacher, tmp_path / "labelled", labels_per_image=2)
    assert (tmp_path / "labelled" / "labels.html").is_file() and len(labelled["train"]["emotions"][0]) == 2
    small = {"image_size": 16, "cnn_channels": [8]}
    student = emocap.train_student(labelled, tmp_path / "student", word_embeddings=tiny_bert, **small, **QUICK)
    assert student["truth"] == "emotions" and student["split"] == "validation"
    tuned = emocap.finetune(tiny_table, tmp_path / "tuned", student=student, strategy="anb", **QUICK)
    surgery = json.loads((tmp_path / "tuned" / "surgery.json").read_text())
    assert surgery["tensors"]["gru.weight_ih_l0"]["origin"] == f"copied from {tmp_path / 'student'}"
    inputs = tuned.processor()(text="a dog", return_tensors="pt")
    assert tuned.model()(**inputs).logits.shape == (1, 5) and not tuned.model().training
    with pytest.raises(ValueError, match="Give --source_dataset"):  # nobody can say where that table lay
        emocap.finetune(tiny_table, tmp_path / "ridge", student=student, teacher=teacher, head_init="ridge",
                        **QUICK)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rat": 0.1}, TypeError, "`emocap train-teacher` has no option 'learning_rat'. .* 'learning_rate'"),
        ({"fusion": "earley"}, ValueError, "--fusion is 'earley'; it must be one of early, late"),
        ({"max_train_samples": 0}, ValueError, "--max_train_samples is 0; it must be 1 or more"),
        ({"train_split": "trian"}, ValueError, r"The data set has no split 'trian' \(splits: train, validation, test"),
    ],
)
def test_options_are_checked_at_the_door(tiny_table, tiny_body, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        emocap.train_teacher(tiny_table, tiny_body, tmp_path / "run", **QUICK, **options)
    assert not (tmp_path / "run").exists()


def test_a_selection_that_does_not_exist_is_refused(tiny_table, tiny_teacher, tmp_path):
    with pytest.raises(TypeError, match="has no option 'labels_an_image'. Did you mean 'labels_per_image'"):
        emocap.label(tiny_table, tiny_teacher, tmp_path / "out", labels_an_image=3)
    with pytest.raises(ValueError, match="The data set has no split 'val'"):
        emocap.label(tiny_table, tiny_teacher, tmp_path / "out", split=["val"])


def test_what_a_result_says():
    metrics = {"map_macro": 0.5, "map_macro_low": 0.4, "map_macro_high": 0.6, "prior/map_macro": 0.2, "bce": 0.3,
               "prior/bce": 0.35, "chance/map_macro": 0.25, "tfidf/map_macro": 0.4, "tfidf/map_macro_gain": 0.1,
               "tfidf/map_macro_gain_low": 0.02, "tfidf/map_macro_gain_high": 0.18, "jsd": None, "num_examples": 60,
               "split": "test"}  # fmt: skip
    result = Result(metrics)
    assert dict(result) == metrics and result["split"] == "test" and result.figure("split") is None
    assert result.interval("map_macro") == (0.4, 0.6) and result.interval("bce") is None
    assert (result.prior("bce"), result.chance, result.figure("jsd"), result.prior("jsd")) == (0.35, 0.25, None, None)
    assert result.gain("tfidf", "map_macro") == Gain(0.1, 0.02, 0.18) and result.gain("encoder", "bce") is None
    assert result.gain("prior", "bce").value == pytest.approx(0.05), "less is better"
    assert result.controls == ["tfidf"] and not result.is_few and Result(metrics | {"num_groups": 9}).is_few
    with pytest.raises(ValueError, match="no folder of its own"):
        result.model()


def test_labels_of_a_run_are_read_once(tiny_table, tiny_body, tmp_path, monkeypatch):
    read = []

    def watched(table, column):
        read.append((len(table), column))
        return label_matrix(table, column)

    for module in (pairs, truth, rows):
        monkeypatch.setattr(module, "label_matrix", watched)
    emocap.train_teacher(tiny_table, tiny_body, tmp_path / "run", label_column="soft_labels", **QUICK)
    sizes = {name: len(split) for name, split in tiny_table.items()}
    assert sorted(read) == sorted([(sizes["train"], "soft_labels"), (sizes["train"], "labels"),
                                   (sizes["validation"], "labels"), (sizes["test"], "labels")])  # fmt: skip
    prevalence = json.loads((tmp_path / "run" / "config.json").read_text())["label_prevalence"]
    np.testing.assert_allclose(prevalence, label_matrix(tiny_table["train"], "soft_labels").mean(0), atol=1e-5)
