"""Training through the command line on a tiny table: what a run leaves behind, and that its numbers hold."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import DatasetDict
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from emocap.arguments import (
    DataArguments,
    EmocapTrainingArguments,
    arguments_to_dict,
    finetune_parser,
    make_arguments,
    teacher_parser,
)
from emocap.cli import main
from emocap.data.pairs import PairDataset, label_matrix
from emocap.data.storage import load_table
from emocap.evaluation.scoring import load_model, score_table
from emocap.metrics import METRIC_KEYS, compute_metrics, compute_with_prior
from emocap.training.rows import read_rows
from emocap.training.trainer import EmocapTrainer

QUICK = ["--use_cpu", "--disable_tqdm", "true", "--num_train_epochs", "1"]
STUDENT = ["--image_size", "16", "--cnn_channels", "8", "16"]


@pytest.fixture
def job(tiny_body, tiny_bert, tiny_table_dir, tiny_student, tiny_teacher):
    """Flags of each training command without its --output_dir."""
    jobs = {
        "teacher": ["train-teacher", "--model_name_or_path", tiny_body],
        "student": ["train-student", "--word_embeddings", tiny_bert, *STUDENT],
        "visualbert student": ["train-student", "--architecture", "visualbert", "--model_name_or_path", tiny_bert],
        "finetuned": ["finetune", "--student", tiny_student, "--teacher", tiny_teacher, "--strategy", "anb"],
    }
    return {name: [*flags, "--dataset", tiny_table_dir, *QUICK] for name, flags in jobs.items()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path, tolerance: float = 0.0) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.allclose(first[name], second[name], atol=tolerance, rtol=0), name


@pytest.mark.parametrize("name", ["teacher", "student", "visualbert student", "finetuned"])
def test_a_run_leaves_a_checkpoint_with_its_metrics_and_card(job, tmp_path, tiny_table, capsys, name):
    out = tmp_path / "run"
    main([*job[name], "--output_dir", str(out)])
    printed = capsys.readouterr().out
    files = {path.name for path in out.iterdir()}
    assert {
        "config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "metrics.json",
        "run_arguments.json", "README.md",
    } <= files  # fmt: skip
    assert ("surgery.json" in files) == (name == "finetuned")
    metrics = json.loads((out / "metrics.json").read_text())
    for key in METRIC_KEYS:
        if key == "entropy_correlation":  # one answer for all has one entropy
            assert metrics["prior/entropy_correlation"] is None
            continue
        assert metrics[f"{key}_low"] <= metrics[key] <= metrics[f"{key}_high"]
        row = rf"^{key} +{metrics[key]:.4f} +{metrics[f'prior/{key}']:.4f} "
        assert re.search(row, printed, re.MULTILINE), key
    assert metrics["num_examples"] == 21 and metrics["split"] == "test" and metrics["truth"] == "labels"
    arguments = json.loads((out / "run_arguments.json").read_text())
    assert arguments["kind"] == name.split()[-1] and arguments["label_column"] == "labels"
    assert arguments["learning_rate"] == (1e-4 if name == "teacher" else 1e-3)
    prevalence = json.loads((out / "config.json").read_text())["label_prevalence"]
    np.testing.assert_allclose(prevalence, np.mean(tiny_table["train"]["labels"][:], axis=0), atol=1e-6)
    check_metrics(out, tiny_table, metrics)
    check_card(out, metrics)


def steady(metrics: dict[str, float]) -> dict[str, float]:
    """Without the correlation of entropies: those of a model that hardly trained differ by rounding alone."""
    return {key: value for key, value in metrics.items() if "entropy_correlation" not in key}


def check_metrics(out: Path, tables: DatasetDict, metrics: dict[str, float]) -> None:
    """metrics.json again from the saved checkpoint: pair by pair, and through `emocap evaluate`."""
    model, processor = load_model(str(out))
    scores = score_table(model, processor, tables["test"], batch_size=1)
    prior = label_matrix(tables["train"], "labels").astype(np.float64).mean(0)
    votes = np.array(tables["test"]["votes"][:])
    thresholds = json.loads((out / "config.json").read_text())["thresholds"]
    asked = np.array(tables["test"]["num_annotators"][:])
    expected = compute_with_prior(scores, label_matrix(tables["test"], "labels"), prior, votes, thresholds, asked)
    for key, value in steady(expected).items():
        assert metrics[key] == pytest.approx(value, abs=1e-6), key
    main(["evaluate", str(out), "--dataset", str(Path(tables["test"].cache_files[0]["filename"]).parents[1]),
          "--output", str(out / "again" / "metrics.json"), "--batch_size", "7"])  # fmt: skip
    again = json.loads((out / "again" / "metrics.json").read_text())
    assert steady(again) == pytest.approx(steady(metrics), abs=1e-6)


def check_card(out: Path, metrics: dict[str, float]) -> None:
    card = ModelCard.load(out / "README.md")
    config = json.loads((out / "config.json").read_text())
    results = {result.metric_type: result for result in card.data.eval_results}
    assert {"map_macro", "lrap", "bce", "jsd"} <= set(results)
    for key, result in results.items():
        assert result.metric_value == pytest.approx(metrics[key], abs=5.1e-5)
        assert result.dataset_split == "test" and result.dataset_name == "tiny"
        row = re.search(rf"^\| {key} \| ([\d.]+) \| [^|]+ \| ([\d.]+) \|", card.text, re.MULTILINE)
        assert row is not None, key
        assert float(row[1]) == pytest.approx(metrics[key], abs=5.1e-4)
        assert float(row[2]) == pytest.approx(metrics[f"prior/{key}"], abs=5.1e-4)
    assert card.data.model_name == "run" and config["model_type"] in card.data.tags
    assert ", ".join(config["id2label"].values()) in card.text
    assert "{{" not in card.content and "{%" not in card.content


def test_the_best_checkpoint_is_what_stays(job, tmp_path, tiny_table):
    out = tmp_path / "run"
    main([*job["student"], "--output_dir", str(out), "--num_train_epochs", "4", "--save_total_limit", "9"])
    state = json.loads((out / "trainer_state.json").read_text())
    scores = {entry["step"]: entry["eval_map_macro"] for entry in state["log_history"] if "eval_map_macro" in entry}
    assert len(scores) >= 2 and state["best_metric"] == max(scores.values())
    best = max(scores, key=lambda step: (scores[step], -step))
    assert_same_weights(out, out / f"checkpoint-{best}")
    model, processor = load_model(str(out))
    validation = score_table(model, processor, tiny_table["validation"])
    found = compute_with_prior(validation, label_matrix(tiny_table["validation"], "labels"), np.full(5, 0.5))
    assert found["map_macro"] == pytest.approx(max(scores.values()), abs=1e-6)


@pytest.mark.parametrize("key", ["bce", "ece", "brier", "jsd", "lrap", "loss", "eval_jaccard"])
def test_the_best_checkpoint_goes_by_any_metric_in_its_own_direction(job, tmp_path, tiny_table, key):
    out = tmp_path / "run"
    main([*job["student"], "--output_dir", str(out), "--num_train_epochs", "5", "--save_total_limit", "9",
          "--learning_rate", "0.05", "--metric_for_best_model", key, "--early_stopping_patience", "0"])  # fmt: skip
    state = json.loads((out / "trainer_state.json").read_text())
    name = f"eval_{key.removeprefix('eval_')}"
    scores = {entry["step"]: entry[name] for entry in state["log_history"] if name in entry}
    assert len(scores) == 5 and len(set(scores.values())) > 1
    lower = key in ("bce", "ece", "brier", "jsd", "loss")
    assert state["best_metric"] == (min if lower else max)(scores.values())
    assert_same_weights(out, out / f"checkpoint-{min(s for s in scores if scores[s] == state['best_metric'])}")
    arguments = json.loads((out / "run_arguments.json").read_text())
    assert arguments["greater_is_better"] is not lower
    if key == "jsd":  # against the votes, as one reaction's
        model, processor = load_model(str(out))
        model.config.temperature = None
        table = tiny_table["validation"]
        votes, asked = np.array(table["votes"][:]), np.array(table["num_annotators"][:])
        found = compute_metrics(
            score_table(model, processor, table), label_matrix(table, "labels"), votes, num_annotators=asked
        )
        assert found["jsd"] == pytest.approx(state["best_metric"], abs=1e-5)


def test_the_best_checkpoint_goes_by_what_can_be_measured(job, tmp_path, tiny_table, capsys):
    without = DatasetDict({name: split.remove_columns("votes") for name, split in tiny_table.items()})
    without.save_to_disk(str(tmp_path / "table"))
    for flags, message in (
        (["--metric_for_best_model", "accuracy"], "--metric_for_best_model 'accuracy' is no metric"),
        (["--metric_for_best_model", "jsd", "--dataset", str(tmp_path / "table")], "'jsd' needs votes"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*job["student"], "--output_dir", str(tmp_path / "run"), *flags])
        assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_new_layers_may_stand_still_while_others_learn(job, tmp_path):
    """A head's learning rate of 0 is 0, and not that of the others."""
    main([*job["teacher"], "--output_dir", str(tmp_path / "run"), "--head_learning_rate", "0", "--learning_rate",
          "0.001", "--weight_decay", "0", "--metric_for_best_model", "loss"])  # fmt: skip
    main([*job["teacher"], "--output_dir", str(tmp_path / "still"), "--head_learning_rate", "0", "--learning_rate",
          "0", "--weight_decay", "0"])  # fmt: skip
    moved, still = weights(tmp_path / "run"), weights(tmp_path / "still")
    assert torch.equal(moved["classifier.weight"], still["classifier.weight"])
    assert not torch.equal(
        moved["visual_bert.embeddings.word_embeddings.weight"], still["visual_bert.embeddings.word_embeddings.weight"]
    )


def test_the_reported_loss_is_the_mean_cross_entropy(job, tmp_path, tiny_table):
    out = tmp_path / "run"
    main([*job["visualbert student"], "--output_dir", str(out), "--learning_rate", "0"])
    state = json.loads((out / "trainer_state.json").read_text())
    reported = next(entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry)
    model, processor = load_model(str(out))
    pairs = PairDataset(tiny_table["validation"], processor, "labels")
    with torch.no_grad():
        losses = [model(**pairs.__getitems__([pair])).loss.item() for pair in range(len(pairs))]
    assert reported == pytest.approx(np.mean(losses), abs=1e-3)


def without_dropout(folder: str, target: Path) -> str:
    """A copy of a checkpoint whose dropouts are 0."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config |= dict.fromkeys(("dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    (target / "config.json").write_text(json.dumps(config))
    return str(target)


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_accumulated_gradients_equal_large_batches(tmp_path, tiny_table_dir, tiny_body, tiny_student, kind):
    start = without_dropout(tiny_body if kind == "teacher" else tiny_student, tmp_path / "start")
    states = {}
    for batch, steps in ((8, 1), (4, 2), (1, 8)):
        out = tmp_path / f"{batch}x{steps}"
        main([
            f"train-{kind}", "--model_name_or_path", start, "--dataset", tiny_table_dir, "--output_dir", str(out),
            "--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(steps),
            "--max_steps", "4", "--optim", "sgd", "--learning_rate", "0.5", "--head_learning_rate", "0.5",
            "--max_grad_norm", "0", "--warmup_steps", "0", "--eval_strategy", "no", "--save_strategy", "no",
            "--load_best_model_at_end", "false", "--logging_strategy", "steps", "--logging_steps", "1", *QUICK,
        ])  # fmt: skip
        history = json.loads((out / "trainer_state.json").read_text())["log_history"]
        states[batch] = [entry["loss"] for entry in history if "loss" in entry]
    assert len(states[8]) == 4
    for batch in (4, 1):
        assert states[batch] == pytest.approx(states[8], abs=2e-4)
        assert_same_weights(tmp_path / "8x1", tmp_path / f"{batch}x{8 // batch}", tolerance=1e-5)
    moved, first = weights(tmp_path / "8x1"), weights(Path(start))
    prefix = "visual_bert." if kind == "teacher" else ""
    assert all(not torch.equal(moved[f"{prefix}{name}"], first[name]) for name in first if "LayerNorm.weight" in name)
    assert any((moved[f"{prefix}{name}"] - values).abs().max() > 1e-3 for name, values in first.items())


@pytest.mark.parametrize("name", ["teacher", "student", "finetuned"])
def test_a_resumed_run_ends_like_one_without_a_break(job, tmp_path, name):
    steps = ["--max_steps", "6", "--per_device_train_batch_size", "8", "--save_strategy", "steps", "--save_steps", "2",
             "--eval_strategy", "no", "--load_best_model_at_end", "false", "--save_total_limit", "9"]  # fmt: skip
    main([*job[name], *steps, "--output_dir", str(tmp_path / "whole")])
    (tmp_path / "broken").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "broken" / "checkpoint-4")
    main([*job[name], *steps, "--output_dir", str(tmp_path / "broken"), "--resume_from_checkpoint", "true"])
    assert_same_weights(tmp_path / "broken", tmp_path / "whole")
    checkpoint = str(tmp_path / "whole" / "checkpoint-2")
    main([*job[name], *steps, "--output_dir", str(tmp_path / "named"), "--resume_from_checkpoint", checkpoint])
    assert_same_weights(tmp_path / "named", tmp_path / "whole")
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "broken", "named")]
    assert metrics[0] == metrics[1] == metrics[2]


@pytest.mark.parametrize("name", ["teacher", "student", "finetuned"])
def test_one_seed_one_model(job, tmp_path, name):
    for run, seed in (("first", "7"), ("second", "7"), ("third", "8")):
        main([*job[name], "--output_dir", str(tmp_path / run), "--seed", seed])
    assert_same_weights(tmp_path / "first", tmp_path / "second")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "first", tmp_path / "third")


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_run_file_with_flags_after_it(job, tmp_path, tiny_table_dir, tiny_bert, suffix):
    content = {
        "dataset": tiny_table_dir, "word_embeddings": tiny_bert, "image_size": 16, "cnn_channels": [8, 16],
        "use_cpu": True, "disable_tqdm": True, "num_train_epochs": 1, "learning_rate": 0.002, "seed": 3,
        "freeze_word_embeddings": False, "max_train_samples": None, "output_dir": str(tmp_path / "from file"),
    }  # fmt: skip
    path = tmp_path / f"run.{suffix}"
    path.write_text(yaml.safe_dump(content) if suffix == "yaml" else json.dumps(content))
    main(["train-student", str(path), "--seed", "5", "--output_dir", str(tmp_path / "run")])
    arguments = json.loads((tmp_path / "run" / "run_arguments.json").read_text())
    assert not (tmp_path / "from file").exists()
    assert arguments["seed"] == 5 and arguments["learning_rate"] == 0.002 and arguments["cnn_channels"] == [8, 16]
    assert arguments["freeze_word_embeddings"] is False and arguments["max_train_samples"] is None
    assert json.loads((tmp_path / "run" / "config.json").read_text())["cnn_channels"] == [8, 16]


def test_resume_may_stand_in_a_run_file(job, tmp_path):
    main([*job["teacher"], "--output_dir", str(tmp_path / "run")])
    before = (tmp_path / "run" / "metrics.json").read_text()
    flags = {job["teacher"][i][2:]: job["teacher"][i + 1] for i in range(1, 5, 2)}
    content = {**flags, "use_cpu": True, "num_train_epochs": 1, "resume_from_checkpoint": True}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**content, "output_dir": str(tmp_path / "run")}))
    main(["train-teacher", str(tmp_path / "run.yaml")])
    assert (tmp_path / "run" / "metrics.json").read_text() == before


def test_a_frozen_body_does_not_move(job, tmp_path, tiny_body):
    main([*job["teacher"], "--output_dir", str(tmp_path / "run"), "--freeze_body"])
    trained, body = weights(tmp_path / "run"), weights(Path(tiny_body))
    for name, values in body.items():
        assert torch.equal(trained[f"visual_bert.{name}"], values), name


def test_new_layers_have_a_learning_rate_of_their_own(tiny_teacher, tmp_path):
    model = AutoModel.from_pretrained(tiny_teacher)
    arguments = EmocapTrainingArguments(
        str(tmp_path), learning_rate=1e-4, head_learning_rate=1e-2, use_cpu=True, eval_strategy="no",
        load_best_model_at_end=False,
    )  # fmt: skip
    trainer = EmocapTrainer(model, arguments, fresh={"classifier.weight", "classifier.bias"})
    places = {value.data_ptr(): name for name, value in model.named_parameters()}
    rates = {}
    for group in trainer.create_optimizer().param_groups:
        for value in group["params"]:
            rates[places[value.data_ptr()]] = (group["lr"], group["weight_decay"])
    assert len(rates) == len(places)
    assert rates["classifier.weight"] == (1e-2, 0.01) and rates["classifier.bias"] == (1e-2, 0.0)
    assert rates["visual_bert.pooler.dense.weight"] == (1e-4, 0.01)
    assert rates["visual_bert.embeddings.LayerNorm.weight"] == (1e-4, 0.0)


def test_a_teacher_from_bert_learns_a_projection_of_normalised_regions(job, tmp_path, tiny_bert, tiny_table):
    flags = [tiny_bert if flag == job["teacher"][2] else flag for flag in job["teacher"]]
    main([*flags, "--output_dir", str(tmp_path / "run")])
    model = AutoModel.from_pretrained(tmp_path / "run")
    assert model.config.visual_embedding_dim == 16 and model.config.pooling == "mean"
    rows = [
        np.array(row["region_features"], dtype=np.float64).reshape(36, 16)[: row["num_regions"]]
        for row in tiny_table["train"]
    ]
    features = torch.from_numpy(np.concatenate(rows)).float()
    out = model.region_normalizer(features)
    torch.testing.assert_close(out.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(0), torch.full((16,), 0.1), atol=1e-4, rtol=0)


def test_the_head_starts_at_the_prior(job, tmp_path, tiny_table):
    main(
        [
            *job["student"],
            "--output_dir",
            str(tmp_path / "run"),
            "--learning_rate",
            "0",
            "--label_column",
            "soft_labels",
        ]
    )
    prior = np.array(tiny_table["train"]["soft_labels"][:]).mean(0)
    bias = AutoModel.from_pretrained(tmp_path / "run").fc2.bias.detach()
    np.testing.assert_allclose(bias.sigmoid().numpy(), prior, atol=1e-5)


def test_training_learns_something(job, tmp_path):
    main([*job["student"], "--output_dir", str(tmp_path / "run"), "--num_train_epochs", "12",
          "--learning_rate", "0.01", "--no_freeze_word_embeddings"])  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["map_macro"] > metrics["chance/map_macro"] + 0.15 > metrics["prior/map_macro"] + 0.15
    assert metrics["bce"] < metrics["prior/bce"] - 0.02


def test_a_table_with_train_rows_alone_lends_some_for_validation(job, tmp_path, tiny_table):
    DatasetDict({"train": tiny_table["train"]}).save_to_disk(str(tmp_path / "table"))
    main([*job["student"], "--output_dir", str(tmp_path / "run"), "--dataset", str(tmp_path / "table")])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["split"] == "validation" and 0 < metrics["num_examples"] < 20


def test_a_student_of_pseudo_labels_is_measured_on_people(job, tmp_path, tiny_table):
    human = ["labels", "votes", "num_annotators", "soft_labels"]
    tables = DatasetDict(
        {"source": tiny_table["train"].remove_columns(human), "validation": tiny_table["validation"],
         "test": tiny_table["test"]}
    )  # fmt: skip
    tables.save_to_disk(str(tmp_path / "table"))
    main([*job["student"], "--output_dir", str(tmp_path / "run"), "--dataset", str(tmp_path / "table"),
          "--train_split", "source"])  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    arguments = json.loads((tmp_path / "run" / "run_arguments.json").read_text())
    assert arguments["label_column"] == "emotions" and metrics["truth"] == "labels"
    prior = label_matrix(tables["source"], "emotions").astype(np.float64).mean(0)
    truth = label_matrix(tables["test"], "labels")
    expected = compute_with_prior(np.broadcast_to(prior, truth.shape), truth, prior)["prior/bce"]
    assert metrics["prior/bce"] == pytest.approx(expected)


@pytest.mark.parametrize("modalities", ["text", "image"])
@pytest.mark.parametrize("name", ["teacher", "student"])
def test_what_a_model_was_trained_to_read_is_what_it_is_measured_on(job, tmp_path, tiny_table, name, modalities):
    tables = tiny_table.filter(lambda row: len(row["captions"]) > 0 and row["num_regions"] > 0)
    tables.save_to_disk(str(tmp_path / "table"))
    flags = [*job[name], "--dataset", str(tmp_path / "table"), "--modalities", modalities]
    main([*flags, "--output_dir", str(tmp_path / "run")])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for rest in ([], ["--modalities", modalities], ["--modalities", "both"]):
        main(["evaluate", str(tmp_path / "run"), "--dataset", str(tmp_path / "table"), *rest,
              "--output", str(tmp_path / "again.json")])  # fmt: skip
        again = json.loads((tmp_path / "again.json").read_text())
        assert (steady(again) == pytest.approx(steady(metrics), abs=1e-6)) == (rest[-1:] != ["both"])


def test_selected_rows_and_limits(job, tmp_path, tiny_table):
    chosen = [[0] if row % 3 == 0 else [] for row in range(60)]
    train = tiny_table["train"].add_column("selected_for", chosen)
    train = train.cast_column("selected_for", tiny_table["train"].features["emotions"])
    DatasetDict({**tiny_table, "train": train}).save_to_disk(str(tmp_path / "table"))
    tables = load_table(tmp_path / "table")
    splits = read_rows(tables, DataArguments("t", selected_only=True, max_eval_samples=4)).splits
    assert splits["train"]["image_id"][:] == [f"train_{row:03d}.jpg" for row in range(0, 60, 3)]
    assert len(splits["validation"]) == len(splits["test"]) == 4
    assert len(read_rows(tables, DataArguments("t", max_train_samples=7)).splits["train"]) == 7


def test_a_student_checkpoint_may_go_on(job, tmp_path, tiny_student, tiny_table_dir):
    main(["train-student", "--model_name_or_path", tiny_student, "--dataset", tiny_table_dir, *QUICK,
          "--output_dir", str(tmp_path / "run"), "--learning_rate", "0"])  # fmt: skip
    assert_same_weights(tmp_path / "run", Path(tiny_student))
    assert AutoProcessor.from_pretrained(tmp_path / "run").image_size == 16


def test_an_unknown_preset_or_key_is_refused(job, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train-teacher", "no_such_preset", "--output_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "'no_such_preset' is neither a YAML or JSON file nor a preset (presets: " in capsys.readouterr().err
    (tmp_path / "run.yaml").write_text("learning_rat: 0.1\n")
    with pytest.raises(SystemExit) as stop:
        main(["train-teacher", str(tmp_path / "run.yaml"), *job["teacher"][1:], "--output_dir", str(tmp_path / "run")])
    assert stop.value.code == 2 and "learning_rat" in capsys.readouterr().err
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(SystemExit) as stop:
        main(["train-teacher", str(tmp_path / "list.yaml")])
    assert stop.value.code == 2 and "holds a list; expected names and values" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_presets_of_the_study_say_what_it_did(tmp_path):
    def read(parser, name: str) -> dict:
        flags = [*parser.file_flags(name), "--dataset", "t", "--bf16", "false", "--output_dir", str(tmp_path)]
        return arguments_to_dict(*make_arguments(parser, parser.given(flags)))

    teacher, tuned = read(teacher_parser(), "paper_teacher"), read(finetune_parser(), "paper_finetune")
    for own, rate in ((teacher, 0.01), (tuned, 0.1)):
        assert (own["optim"], own["weight_decay"], own["learning_rate"]) == ("adamw_torch", 0, rate)
        assert (own["lr_scheduler_type"], own["warmup_steps"], own["max_length"]) == ("constant", 0, 32)
    assert teacher["head_learning_rate"] == 0.01 and teacher["freeze_body"] and teacher["loss"] == "bce"
    assert (teacher["num_train_epochs"], teacher["per_device_train_batch_size"]) == (50, 64)
    assert not teacher["early_stopping_patience"] and not teacher["load_best_model_at_end"]
    assert (tuned["strategy"], tuned["num_layers"], tuned["head_init"]) == ("anb", "all", "collapse")


def test_captions_that_are_cut_are_said_measured_and_in_the_card(job, tmp_path, tiny_table, tiny_table_dir, caplog):
    main([*job["teacher"], "--output_dir", str(tmp_path / "run"), "--max_length", "5", *QUICK])
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "run").tokenizer

    def cut(split: str) -> list[bool]:
        return [len(tokenizer(text)["input_ids"]) > 5 for own in tiny_table[split]["captions"][:] for text in own]

    counts = {name: cut(name) for name in ("train", "validation", "test")}
    assert all(0 < sum(own) < len(own) for own in counts.values())
    said = [record.message for record in caplog.records if "Captions cut at 5 tokens" in record.message]
    assert len(said) == 1
    for name, own in counts.items():
        assert f"{name} {sum(own):,} of {len(own):,} ({sum(own) / len(own):.1%})" in said[0]
    share = sum(counts["test"]) / len(counts["test"])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["truncated_captions"] == pytest.approx(share)
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"| captions cut at 5 tokens, test | {100 * share:.1f} % |" in card
    main(["evaluate", str(tmp_path / "run"), "--dataset", tiny_table_dir, "--output", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text())["truncated_captions"] == pytest.approx(share)


@pytest.mark.parametrize("name", ["oasis_teacher", "paper_teacher", "socratis_teacher", "socratis_text_teacher"])
def test_presets_of_teachers_are_understood_and_flags_after_them_win(name, tmp_path):
    parser = teacher_parser()
    flags = [*parser.file_flags(name), "--model_name_or_path", "body", "--dataset", "table", "--learning_rate", "0.5",
             "--bf16", "false", "--output_dir", str(tmp_path)]  # fmt: skip
    data_args, model_args, training_args = make_arguments(parser, parser.given(flags))
    assert (data_args.dataset, model_args.model_name_or_path, training_args.learning_rate) == ("table", "body", 0.5)
    assert training_args.head_learning_rate >= 1e-3 and model_args.pooling in ("mean", "pooler")
