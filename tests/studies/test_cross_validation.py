"""Nested cross-validation on the tiny table: who saw which image, what is chosen, what is reported, what resumes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from datasets import DatasetDict

from emocap.arguments import arguments_to_dict, make_arguments, teacher_parser
from emocap.cli import main
from emocap.data.pairs import label_matrix
from emocap.data.storage import load_table
from emocap.metrics import METRIC_KEYS, chance_map_macro, compute_metrics
from emocap.studies import cross_validation
from emocap.studies.cross_validation import fold_of
from tests.report.test_report import Page


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_body, tiny_table_dir):
    """A finished grid of two learning rates by three folds, and what each training was given."""
    out = tmp_path_factory.mktemp("cv") / "run"
    flags = ["cross-validate", "--dataset", tiny_table_dir, "--model_name_or_path", tiny_body, "--num_folds", "3",
             "--vary", "learning_rate=1e-9,5e-3", "--head_learning_rate", "1e-9", "--num_train_epochs", "2",
             "--early_stopping_patience", "0", "--use_cpu", "true", "--disable_tqdm", "true",
             "--output_dir", str(out)]  # fmt: skip
    seen, original = [], cross_validation.train_teacher

    def spy(tables, output_dir, **options):
        seen.append((output_dir, {name: set(split["image_id"][:]) for name, split in tables.items()}))
        return original(tables, output_dir=output_dir, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_validation, "train_teacher", spy)
        main(flags)
    return out, flags, seen


def test_no_model_saw_or_was_chosen_on_the_images_that_it_scores(done, tiny_table):
    _, _, seen = done
    everything = {image for split in tiny_table.values() for image in split["image_id"][:]}
    assert len(seen) == 6
    for output_dir, parts in seen:
        fold = int(str(output_dir).split("fold")[1][0])
        test = {image for image in everything if fold_of(image, 3) == fold}
        assert set(parts) == {"train", "validation"} and not parts["train"] & parts["validation"]
        assert parts["train"] | parts["validation"] == everything - test and test and parts["validation"]


def test_the_choice_is_the_best_on_validation_rows_and_becomes_a_preset(done):
    out, _, _ = done
    rows = json.loads((out / "settings.json").read_text())
    assert [row["learning_rate"] for row in rows] == ["1e-9", "5e-3"] and sum(row["times_chosen"] for row in rows) == 3
    for fold in range(3):
        chosen = json.loads((out / f"fold{fold}" / "chosen.json").read_text())
        scores = [
            json.loads((out / f"fold{fold}/setting{index}_seed0/metrics.json").read_text())["map_macro"]
            for index in range(2)
        ]
        best = int(np.argmax(scores))
        assert chosen["setting"] == {"learning_rate": rows[best]["learning_rate"]}
        kept = [(out / f"fold{fold}/setting{index}_seed0/model.safetensors").is_file() for index in range(2)]
        assert kept == [index == best for index in range(2)]
    preset = yaml.safe_load((out / "preset.yaml").read_text())
    most = max(rows, key=lambda row: row["times_chosen"])["learning_rate"]
    assert float(preset["learning_rate"]) == float(most) and preset["num_train_epochs"] == 2
    assert not {"dataset", "output_dir", "model_name_or_path"} & set(preset)


def test_figures_are_means_over_folds_of_scores_written_once(done, tiny_table_dir):
    out, _, _ = done
    metrics = json.loads((out / "metrics.json").read_text())
    table = cross_validation.labelled_rows(load_table(tiny_table_dir))
    folds = np.array([fold_of(image, 3) for image in table["image_id"][:]])
    labels, votes = label_matrix(table, "labels"), np.array(table["votes"][:])
    for name, prefix in (("seed0", ""), ("prior", "prior/"), ("tfidf", "tfidf/"), ("encoder", "encoder/")):
        measured = []
        for fold in range(3):
            with np.load(out / f"fold{fold}" / "scores.npz") as scores:
                probabilities, cut = scores[f"{name}/probabilities"], scores[f"{name}/thresholds"]
            rows = folds == fold
            asked = np.full(rows.sum(), 7)
            measured.append(compute_metrics(probabilities, labels[rows], votes[rows], cut, asked))
        for key in METRIC_KEYS:
            if key != "entropy_correlation":
                expected = np.mean([own[key] for own in measured])
                assert metrics[prefix + key] == pytest.approx(expected), prefix + key
                assert metrics[f"{prefix}{key}_low"] <= metrics[f"{prefix}{key}_high"]
    for name in ("prior", "tfidf", "encoder"):
        for key, sign in (("map_macro", 1), ("lrap", 1), ("bce", -1)):
            gain = sign * (metrics[key] - metrics[f"{name}/{key}"])
            assert metrics[f"{name}/{key}_gain"] == pytest.approx(gain), (name, key)
            assert metrics[f"{name}/{key}_gain_low"] <= gain + 1e-12
            assert metrics[f"{name}/{key}_gain_high"] >= gain - 1e-12
    chance = np.mean([chance_map_macro(labels[folds == fold]) for fold in range(3)])
    assert metrics["chance/map_macro"] == pytest.approx(chance)
    assert metrics["num_examples"] == 101 and metrics["split"] == "3 folds"
    tables = dict(Page((out / "report.html").read_text("utf-8")).tables)
    told = {row[0][0]: row[1][0][:5] for row in tables["results"][1:]}
    assert told["teacher"] == f"{metrics['map_macro']:.3f}" and told["prior"] == f"{metrics['prior/map_macro']:.3f}"
    leads = {row[0][0]: row[2][0] for row in tables["controls"][1:]}
    assert all(leads[name].startswith(f"{metrics[f'{name}/map_macro_gain']:.3f}") for name in ("tfidf", "encoder"))


def test_models_of_two_runs_answer_together_by_the_mean_of_their_logits(done, tiny_table_dir, tmp_path):
    out, flags, _ = done
    plain = [flag for flag in flags if flag not in ("--vary", "learning_rate=1e-9,5e-3")]
    again = [*plain[:-1], str(tmp_path / "again"), "--num_seeds", "2", "--together", str(out)]
    main(again)
    metrics = json.loads((tmp_path / "again" / "metrics.json").read_text())
    table = cross_validation.labelled_rows(load_table(tiny_table_dir))
    folds, labels = np.array([fold_of(image, 3) for image in table["image_id"][:]]), label_matrix(table, "labels")
    measured = []
    for fold in range(3):
        answers = []
        for folder, seeds in ((out, ("seed0",)), (tmp_path / "again", ("seed0", "seed1"))):
            with np.load(folder / f"fold{fold}" / "scores.npz") as scores:
                answers += [scores[f"{seed}/probabilities"].astype(np.float64) for seed in seeds]
        logits = sum(np.log(own / (1 - own)) for own in answers) / 3
        measured.append(compute_metrics(1 / (1 + np.exp(-logits)), labels[folds == fold]))
    for key in ("map_macro", "lrap", "bce"):
        assert metrics[f"committee/{key}"] == pytest.approx(np.mean([own[key] for own in measured])), key
    assert "committee/map_macro" not in json.loads((out / "metrics.json").read_text()), "one model is no committee"


@pytest.mark.parametrize("folds, message", [("3", "holds no finished"), ("2", "has 3 folds, this run 2")])
def test_another_run_has_to_be_finished_and_of_the_same_folds(done, tmp_path, capsys, folds, message):
    out, flags, _ = done
    (tmp_path / "begun").mkdir()
    other = str(tmp_path / "begun" if folds == "3" else out)
    with pytest.raises(SystemExit):
        main([*flags[:-1], str(tmp_path / "new"), "--num_folds", folds, "--together", other])
    assert message in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_finished_fold_is_not_trained_again_and_other_settings_are_refused(done, monkeypatch, capsys):
    out, flags, _ = done
    before = (out / "metrics.json").read_text()
    monkeypatch.setattr(cross_validation, "train_teacher", lambda *_, **__: pytest.fail("trained again"))
    main(flags)
    assert (out / "metrics.json").read_text() == before
    with pytest.raises(SystemExit):
        main([*flags, "--weight_decay", "0.5"])
    assert "other settings (flags)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_cross_validation_goes_on_and_ends_alike(done, tmp_path, monkeypatch):
    whole, flags, _ = done
    out, flags = tmp_path / "run", [*flags[:-1], str(tmp_path / "run")]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as the suite: several add in an order of their own
    process = subprocess.Popen([sys.executable, "-c", "from emocap.cli import main; main()", *flags], env=one_thread)
    stopped = out / "fold1" / "setting1_seed0"  # at a rate that moves the figures
    while not list(stopped.glob("checkpoint-*/trainer_state.json")):  # the last file of a checkpoint
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (stopped / "metrics.json").exists()
    folders = out / "fold0", out / "fold1" / "setting0_seed0"
    files = [path for own in folders for path in own.iterdir() if path.suffix != ".safetensors"]  # losers' weights go
    finished = {path: path.stat().st_mtime_ns for path in files}
    begun, original = [], cross_validation.train_teacher

    def spy(tables, **options):
        begun.append((options["output_dir"], "resume_from_checkpoint" in options))
        return original(tables, **options)

    monkeypatch.setattr(cross_validation, "train_teacher", spy)
    main(flags)
    others = [(out / "fold2" / f"setting{index}_seed0", False) for index in range(2)]
    assert begun == [(stopped, True), *others] and {*folders} == {path.parent for path in finished}
    assert {path: path.stat().st_mtime_ns for path in files} == finished
    for name in ("metrics.json", "settings.json", "preset.yaml"):
        assert (out / name).read_text() == (whole / name).read_text(), name
    logs = [json.loads((own / "fold1/setting1_seed0/trainer_state.json").read_text()) for own in (out, whole)]
    losses = [[entry["eval_loss"] for entry in log["log_history"] if "eval_loss" in entry] for log in logs]
    assert losses[0] == losses[1] and len(losses[0]) >= 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--vary", "learning_rate"], "expected FLAG=VALUE,VALUE"),
        (["--vary", "no_such_flag=1"], "no_such_flag"),
        (["--num_folds", "1"], "--num_folds is 1; it must be 2 or more"),
        (["--num_folds", "60"], "give fewer folds"),
        (["--choose_by", "accuracy"], "--choose_by 'accuracy' is no metric"),
        (["--num_seeds", "0"], "--num_seeds is 0; it must be 1 or more"),
        (["--metric_for_best_model", "accuracy"], "--metric_for_best_model 'accuracy' is no metric"),
    ],
)
def test_bad_settings_are_refused_before_any_training(
    extra, message, tiny_body, tiny_table_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(cross_validation, "train_teacher", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(SystemExit) as stop:
        main(["cross-validate", "--dataset", tiny_table_dir, "--model_name_or_path", tiny_body,
              "--output_dir", str(tmp_path / "run"), *extra])  # fmt: skip
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("key", METRIC_KEYS)
def test_the_best_setting_is_the_lowest_where_lower_is_better(key):
    lower = key in ("bce", "brier", "ece", "jsd")
    assert cross_validation.best_of([0.4, 0.2, 0.9, 0.3], key) == (1 if lower else 2)


def test_choosing_by_votes_needs_votes(tiny_table, tiny_body, tmp_path, capsys):
    without = DatasetDict({name: split.remove_columns("votes") for name, split in tiny_table.items()})
    without.save_to_disk(str(tmp_path / "table"))
    with pytest.raises(SystemExit):
        main(["cross-validate", "--dataset", str(tmp_path / "table"), "--model_name_or_path", tiny_body,
              "--output_dir", str(tmp_path / "run"), "--choose_by", "jsd"])  # fmt: skip
    assert "--choose_by 'jsd' needs votes" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_help_explains_its_own_flags_and_those_of_training(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["cross-validate", "--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and "--num_folds" in printed and "--learning_rate" in printed


def test_the_preset_is_what_was_measured(tmp_path):
    paths = ["--dataset", "d", "--model_name_or_path", "m", "--output_dir", str(tmp_path)]
    flags = [*paths, "--freeze_body", "--bf16", "--use_cpu=true", "--pooling=mean", "--pooled_layers", "3", "4", "5",
             "--weight_decay", "1e-5", "--learning_rate", "0.5", "--lr_scheduler_kwargs", '{"num_cycles": 2}',
             "--no_cache_frozen_outputs", "--optim", "adamw_torch"]  # fmt: skip
    settings = [{"learning_rate": "1e-4"}, {"learning_rate": "3e-4"}]
    fold = cross_validation.Fold({"setting": settings[1], "validation": [0.1, 0.2]}, None, {})
    cross_validation.write_choice(tmp_path, [fold], settings, flags)
    preset = yaml.safe_load((tmp_path / "preset.yaml").read_text())
    assert preset["freeze_body"] is True and preset["bf16"] is True and preset["pooled_layers"] == [3, 4, 5]
    assert preset["learning_rate"] == 3e-4 and len(preset) == 10
    parser = teacher_parser()
    measured, again = (
        arguments_to_dict(*make_arguments(parser, parser.given(own)))
        for own in ([*flags, "--learning_rate", "3e-4"], [str(tmp_path / "preset.yaml"), *paths])
    )
    assert again == measured
