"""The transfer study on tiny tables: what runs, what is never repeated, what table and figure say."""

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict, concatenate_datasets
from scipy.stats import t as student_t
from torch.nn.functional import binary_cross_entropy

from emocap.cli import main
from emocap.commands.studies import TransferStudy as TransferCommand
from emocap.data.storage import load_table
from emocap.evaluation.scoring import load_model
from emocap.metrics import Bootstrap, compute_metrics, intervals, resampled_metrics
from emocap.metrics.seeds import t_interval, t_quantile
from emocap.studies import scenes_corpus as study_corpus
from emocap.studies.options import TransferArguments
from emocap.studies.runs import Part, Recipe, fit, part_probabilities
from emocap.studies.skeleton import paired_gain
from emocap.studies.transfer_report import BASES, study_rows, study_table
from emocap.studies.transfer_study import Run, TransferStudy
from tests.report.test_report import Page

RECIPE = Recipe(30, 10, 5, 0.01, 16, 0.01, "map_macro")


@pytest.fixture(scope="module")
def source(tmp_path_factory, tiny_table_dir) -> str:
    """A source of pseudo-labels in one split, as `emocap label` writes it."""
    table = concatenate_datasets(list(load_table(tiny_table_dir).values()))
    scores = (0.8 * np.array(table["labels"][:]) + 0.1).astype(np.float32)
    table = table.remove_columns(["labels", "votes", "num_annotators", "soft_labels"])
    table = table.add_column(
        "emotion_scores", list(scores), feature=load_table(tiny_table_dir)["train"].features["labels"]
    )
    folder = str(tmp_path_factory.mktemp("source"))
    DatasetDict({"train": table}).save_to_disk(folder)
    return folder


@pytest.fixture
def settings(source, tiny_table_dir, tiny_bert, tmp_path) -> dict[str, object]:
    return {
        "output_dir": str(tmp_path / "study"), "source_dataset": source, "target_dataset": tiny_table_dir,
        "word_embeddings": tiny_bert, "image_size": 16, "cnn_channels": [8], "hidden_size": 16, "sizes": [20, 30],
        "layer_sizes": [30], "num_layers": ["1", "all"], "num_seeds": 2, "max_steps": 6, "base_steps": 8,
        "num_evaluations": 2,
    }  # fmt: skip


def flags(settings: dict[str, object]) -> list[str]:
    return [
        part
        for name, value in settings.items()
        for part in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
    ]


def files_of(study: TransferStudy) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in study.runs_dir.iterdir()}


def test_a_study_from_the_command_line_resumes_and_grows(settings, tmp_path, capsys):
    readme = tmp_path / "readme.md"
    readme.write_text("before\n<!-- transfer -->\nold\n<!-- /transfer -->\nafter\n")
    main(["transfer-study", *flags(settings), "--readme", str(readme)])
    study = TransferStudy(TransferArguments(**settings))
    runs = [run for stage in study.stages() for run in stage]
    # two directions and seeds; at 20 rows all layers of 6 strategies, at 30 also one; a base network of A's and, at
    # each size, scratch and one of matched length
    assert len(runs) == 2 * 2 * (1 + 2 * 2 + 6 + 2 * 6) == len(set(runs)) == len(set(map(study.key, runs)))
    assert len(list(study.runs_dir.glob("*.json"))) == len(list(study.runs_dir.glob("*.npy"))) == len(runs)
    assert {run.num_layers for run in runs if run.strategy == "random"} == {"1", "4"}
    assert {run.num_layers for run in runs if run.strategy == "anb"} == {"1", "5"}
    rows = json.loads((study.output_dir / "study.json").read_text())["rows"]
    assert len(rows) == 2 * (2 * 2 + 6 + 2 * 6)
    table = (study.output_dir / "study.md").read_text()
    assert table.strip() in capsys.readouterr().out and table.count("\n| 30 | AnB+ | 5 |") == 2
    assert "pseudo-labels" in table and "crowd labels" in table
    page = Page((study.output_dir / "report.html").read_text("utf-8"))
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    of_page = [[text for text, _ in line] for _, found in page.tables for line in found]
    assert of_page == [[cell.strip("*") for cell in line] for line in lines], "the page holds the same table"
    bold = [[is_bold for _, is_bold in line] for _, found in page.tables for line in found]
    assert bold == [[cell.startswith("**") for cell in line] for line in lines]
    assert all(("over_anb_plus" in row) == (row["strategy"] == "anb") for row in rows)
    last = [row for row in rows if row["num_layers"] == 5]
    matched = {row["strategy"] for row in last if "over_bnb_plus_matched" in row}
    assert matched == {"anb", "anb+", "bnb"} and {row["strategy"] for row in last} == matched | {
        "bnb+",
        "bnb+ matched",
    }
    short = readme.read_text()
    assert short.startswith("before\n") and short.endswith("after\n") and "| 30 | AnB+ | 1 |" not in short
    assert "| 30 | AnB+ | 5 |" in short and "| 20 | scratch | – |" in short and "\nold\n" not in short
    assert "| gain over BnB+ matched |" in short and "| 20 | BnB+" not in short
    assert "| 20 | BnB+ matched | 5 | 8 + " in table
    svg = ElementTree.parse(study.output_dir / "figure.svg").getroot()
    assert svg.get("aria-label") == "map_macro by layers passed"
    tips = [title.text for title in svg.findall(".//{http://www.w3.org/2000/svg}g/{http://www.w3.org/2000/svg}title")]
    assert len(tips) == len(rows)

    before = files_of(study)
    main(["transfer-study", *flags(settings)])
    assert files_of(study) == before, "nothing is repeated"
    gone = runs[-1]
    (study.runs_dir / f"{study.key(gone)}.json").unlink()
    main(["transfer-study", *flags(settings | {"sizes": [20, 30, 31]})])
    after = files_of(study)
    changed = {name for name, time in before.items() if after[name] != time}
    assert changed == {f"{study.key(gone)}.json", f"{study.key(gone)}.npy"}
    assert len(after) == len(before) + 2 * 2 * 2 * (2 + 6)


def test_what_a_run_is(settings):
    study = TransferStudy(TransferArguments(**settings))
    study.prepare()
    base, scratch = Run("source", None, 1, "scratch", "0"), Run("target", 20, 1, "scratch", "0")
    for run in (base, scratch):
        study.perform(run)
    contents = {}
    for strategy, layers in (("anb", "3"), ("bnb", "3"), ("anb+", "5"), ("random", "2")):
        run = Run("target", 20, 1, strategy, layers)
        study.perform(run)
        contents[strategy] = json.loads((study.runs_dir / f"{study.key(run)}.json").read_text())
        probabilities = np.load(study.runs_dir / f"{study.key(run)}.npy")
        truth = study.part("target", "test").truth.labels
        assert contents[strategy]["metrics"] == pytest.approx(compute_metrics(probabilities, truth), abs=1e-5)
    origins = {name: content["surgery"]["tensors"] for name, content in contents.items()}
    assert origins["anb"]["gru.weight_ih_l0"]["origin"] == f"copied from {study.checkpoint(base)}"
    assert origins["bnb"]["gru.weight_ih_l0"]["origin"] == f"copied from {study.checkpoint(scratch)}"
    assert origins["anb"]["fc1.weight"]["sha256"] == origins["bnb"]["fc1.weight"]["sha256"], "fresh layers are shared"
    drawn = study.content(scratch)["surgery"]["tensors"]["fc1.weight"]["sha256"]
    assert drawn != origins["bnb"]["fc1.weight"]["sha256"], "not those that the copied layers grew up with"
    assert origins["anb+"]["fc2.weight"]["origin"] == f"copied from {study.checkpoint(base)}"
    assert origins["random"]["gru.weight_ih_l0"]["frozen"] and not origins["random"]["fc1.weight"]["frozen"]
    assert contents["anb"]["surgery"]["after_training"]["moved"] == []
    teacher = load_model(study.checkpoint(scratch))[0].state_dict()
    assert not torch.equal(teacher["fc1.weight"], load_model(study.checkpoint(base))[0].state_dict()["fc1.weight"])


def test_the_matched_control_is_trained_as_long_as_a(settings, monkeypatch):
    """A's base network stops by patience; BnB+ matched takes as many steps on B's rows, whatever patience says."""
    long = {"base_steps": 60, "max_steps": 12, "num_evaluations": 6, "patience": 1, "sizes": [20], "layer_sizes": []}
    chosen = {
        "directions": ["source_to_target"],
        "strategies": ["anb+", "bnb+", "bnb+ matched"],
        "num_layers": ["all"],
    }
    study = TransferStudy(TransferArguments(**settings | long | chosen))
    seen = {}

    def follow(model, train, validation, recipe, seed, steps=None):
        history = fit(model, train, validation, recipe, seed, steps)
        seen[recipe.max_steps, len(train), seed, steps is not None] = history
        return history

    monkeypatch.setattr("emocap.studies.transfer_study.fit", follow)
    study.perform_all()
    for seed in (0, 1):
        run = Run("target", 20, seed, "bnb+ matched", "5")
        base, own = study.base_of(run), study.start_of(run)
        assert own == Run("target", 20, seed, "scratch matched", "0") and base.side == "source"
        assert (
            study.steps_of(own) == study.steps_of(base) > study.steps_of(study.start_of(run._replace(strategy="bnb+")))
        )
        history = study.content(own)["history"]
        assert study.content(own)["settings"]["recipe"] == study.content(base)["settings"]["recipe"]
        assert history["best_step"] <= history["steps"]
        origins = study.content(run)["surgery"]["tensors"]
        assert {entry["origin"] for entry in origins.values()} == {f"copied from {study.checkpoint(own)}"}
    assert any(key[3] for key in seen) and any(history["steps"] < 60 for history in seen.values())
    rows = {row["strategy"]: row for row in study_rows(study)}
    assert rows["bnb+ matched"]["base_steps"] == rows["anb+"]["base_steps"] == rows["scratch matched"]["steps"]
    assert rows["bnb+"]["base_steps"] == rows["scratch"]["steps"] and rows["scratch"]["base_steps"] is None
    means = [f"{np.mean(rows['anb+'][name]):,.0f}" for name in ("base_steps", "steps")]
    assert f"| 20 | AnB+ | 5 | {' + '.join(means)} |" in study_table(list(rows.values()), "map_macro")


def test_a_given_number_of_steps_is_taken_whatever_patience_says(tiny_table, tiny_student):
    recipe = RECIPE._replace(max_steps=400, eval_steps=5, patience=1, learning_rate=0.05)
    taken = {}
    for steps in (None, 93):
        model, processor = load_model(tiny_student)
        train, validation = (Part(tiny_table[name], processor, "labels", "labels") for name in ("train", "validation"))
        taken[steps] = fit(model, train, validation, recipe, 0, steps)
    assert taken[93]["steps"] == 93 > taken[None]["steps"], "patience would have ended it"


@pytest.mark.parametrize("freeze", [True, False])
def test_every_network_has_the_published_word_embeddings_frozen_or_its_own(settings, freeze, tiny_bert):
    study = TransferStudy(TransferArguments(**settings | {"freeze_word_embeddings": freeze}))
    study.prepare()
    runs = [Run("source", None, 0, "scratch", "0"), Run("target", 20, 0, "scratch", "0"),
            Run("target", 20, 0, "random", "1"), Run("target", 20, 0, "anb+", "5")]  # fmt: skip
    published = load_model(str(study.architecture))[0].get_input_embeddings().weight
    for run in runs:
        study.perform(run)
        content = study.content(run)
        words = content["surgery"]["tensors"]["word_embeddings.weight"]
        assert words["frozen"] == (freeze or run.strategy == "random")
        if run.is_base:
            own = load_model(study.checkpoint(run))[0].get_input_embeddings().weight
            assert torch.equal(own, published) == freeze and words["origin"].startswith("given") == freeze
    assert study.checkpoint(runs[0]) in content["surgery"]["tensors"]["gru.weight_ih_l0"]["origin"]
    frozen = [name for name, entry in content["surgery"]["tensors"].items() if entry["frozen"]]
    assert frozen == (["word_embeddings.weight"] if freeze else [])


def test_rows_are_nested_and_drawn_by_the_seed(settings, monkeypatch):
    study, seen = TransferStudy(TransferArguments(**settings)), {}
    study.prepare()
    of_rows = Part.of_rows
    monkeypatch.setattr(
        Part, "of_rows", lambda part, rows: seen.setdefault(len(seen), rows) is None or of_rows(part, rows)
    )
    for size, seed in ((20, 0), (30, 0), (20, 1)):
        study.perform(Run("target", size, seed, "scratch", "0"))
    assert len(set(seen[0])) == 20 and set(seen[0]) < set(seen[1]) and set(seen[0]) != set(seen[2])


@pytest.mark.slow
def test_processes_give_what_one_gives(settings, tmp_path):
    one = settings | {"sizes": [20], "layer_sizes": [], "directions": ["source_to_target"], "strategies": ["anb+"]}
    rows = []
    for jobs in (1, 2):
        study = TransferStudy(TransferArguments(**one | {"jobs": jobs, "output_dir": str(tmp_path / str(jobs))}))
        study.perform_all()
        rows.append(study_rows(study))
    assert [row["values"] for row in rows[0]] == [row["values"] for row in rows[1]]


def test_a_frozen_body_is_passed_through_once(tiny_table, tiny_student, monkeypatch):
    model, processor = load_model(tiny_student)
    model.requires_grad_(False)
    model.fc2.requires_grad_(True)
    train, validation = (Part(tiny_table[name], processor, "labels", "labels") for name in ("train", "validation"))
    calls, pooled_outputs = [], type(model).pooled_outputs
    monkeypatch.setattr(type(model), "pooled_outputs", lambda *a, **k: calls.append(1) or pooled_outputs(*a, **k))
    before = part_probabilities(model, validation)
    calls.clear()
    history = fit(model, train, validation, RECIPE, seed=0)
    assert history["steps"] == 30 and len(calls) == 2, "once for each part"
    after = part_probabilities(model, validation)
    score = compute_metrics(after, validation.truth.labels)["map_macro"]
    assert history["validation_map_macro"] == pytest.approx(score, abs=1e-6)
    assert score > compute_metrics(before, validation.truth.labels)["map_macro"]
    pooled = validation.with_pooled_outputs(model)
    np.testing.assert_allclose(part_probabilities(model, pooled), after, atol=1e-6)


def test_fit_keeps_the_best_state_and_stops_by_patience(tiny_table, tiny_student):
    model, processor = load_model(tiny_student)
    train, validation = (Part(tiny_table[name], processor, "labels", "labels") for name in ("train", "validation"))
    recipe = RECIPE._replace(max_steps=400, eval_steps=5, patience=2, metric="bce")
    history = fit(model, train, validation, recipe, seed=0)
    assert history["best_step"] == history["steps"] - 10 < 390
    probabilities = part_probabilities(model, validation)
    bce = binary_cross_entropy(
        torch.from_numpy(probabilities), torch.from_numpy(validation.truth.labels).double()
    ).item()
    assert history["validation_bce"] == pytest.approx(bce, abs=1e-5)


def test_probabilities_are_those_of_pair_after_pair(tiny_table, tiny_student):
    model, processor = load_model(tiny_student)
    part = Part(tiny_table["test"], processor, "labels", "labels")
    with torch.no_grad():
        rows = {}
        for pair, row in enumerate(part.pairs.row_of_pair):
            batch = part.pairs.__getitems__([pair])
            rows.setdefault(row, []).append(model(**batch).logits[0].sigmoid().double().numpy())
    expected = np.array([np.mean(own, axis=0) for _, own in sorted(rows.items())])
    np.testing.assert_allclose(part_probabilities(model, part), expected, atol=1e-5)


@pytest.mark.parametrize("degrees", [*range(1, 16), 30])
def test_t_quantiles(degrees):
    assert t_quantile(0.975, degrees) == pytest.approx(student_t.ppf(0.975, degrees), rel=2e-4)


def test_t_intervals():
    values = np.random.default_rng(0).normal(size=5)
    low, high = student_t.interval(0.95, 4, loc=values.mean(), scale=values.std(ddof=1) / 5**0.5)
    assert t_interval(values) == pytest.approx((values.mean(), low, high), rel=1e-3)
    assert t_interval(values[:1]) == (values[0], None, None)


def test_gains_are_paired_by_seed_and_by_image():
    base, images = np.array([0.1, 0.5, 0.3]), np.random.default_rng(1).normal(0.3, 0.1, 500)
    assert paired_gain((base + 0.02) - base, (images + 0.02) - images) == pytest.approx([0.02] * 5)


def test_every_comparison_of_a_study_is_paired(settings):
    """Differences of the same seed, and of the same resamples, for every pair of strategies that is compared."""
    study = TransferStudy(
        TransferArguments(**settings | {"directions": ["source_to_target"], "sizes": [20], "num_seeds": 3})
    )
    study.perform_all()
    rows = {(row["strategy"], row["num_layers"]): row for row in study_rows(study)}
    truth, draws = study.part("target", "test").truth, {}
    for strategy, layers in rows:
        runs = [Run("target", 20, seed, strategy, str(layers)) for seed in range(3)]
        values = [study.content(run)["metrics"]["map_macro"] for run in runs]
        assert rows[strategy, layers]["values"] == values
        arrays = [np.load(study.runs_dir / f"{study.key(run)}.npy") for run in runs]
        how = {"bootstrap": Bootstrap(500, groups=truth.groups), "keys": ("map_macro",)}
        draws[strategy, layers] = np.mean(
            [resampled_metrics(array, truth.labels, **how)["map_macro"] for array in arrays], axis=0
        )
    compared = {(strategy, name) for (strategy, _), row in rows.items() for name in BASES.values() if name in row}
    assert {("anb", "over_anb_plus"), ("anb+", "over_bnb_plus_matched"), ("bnb+ matched", "over_bnb_plus")} < compared
    assert ("bnb+", "over_bnb_plus_matched") not in compared, "each pair once"
    for (strategy, layers), row in rows.items():
        for base, name in BASES.items():
            if name in row:
                other = (base, 0 if base == "scratch" else layers)
                mean, low, high = t_interval(np.subtract(row["values"], rows[other]["values"]))
                found = intervals({"gain": draws[strategy, layers] - draws[other]}).values()
                assert list(row[name].values()) == pytest.approx([mean, low, high, *found])


def test_the_table_marks_gains_clear_of_zero():
    clear = {"mean": 0.05, "low": 0.04, "high": 0.06, "low_images": 0.01, "high_images": 0.09}
    row = {
        "direction": "source_to_target", "size": 1000, "strategy": "anb+", "num_layers": 5, "truth": "labels",
        "prior": 0.1, "values": [0.2, 0.3], "mean": 0.25, "low": 0.2, "high": 0.3, "over_scratch": clear,
        "over_bnb_plus": clear | {"low_images": -0.01}, "steps": [300, 401], "base_steps": [1500, 1200],
        "given_word_embeddings": True,
    }  # fmt: skip
    *head, line, _, counts = study_table([row], "map_macro").splitlines()
    cells = line.strip("| ").split(" | ")
    assert cells[:5] == ["1,000", "AnB+", "5", "1,350 + 350", "0.250 ± 0.050"]
    assert cells[5:] == ["**+0.050 ± 0.010 [+0.010, +0.090]**", "+0.050 ± 0.010 [-0.010, +0.090]", "–", "–"]
    assert "Word embeddings: given to every network and frozen." in head[0]
    assert counts.startswith("Bold, both intervals clear of 0: 1 of 2 gains.") and "about 0.1 of 2 intervals" in counts
    single = clear | {"low": None, "high": None}
    alone = study_table([row | {"over_scratch": single, "over_bnb_plus": single}], "map_macro")
    assert alone.endswith("No gain has an interval over seeds, so none can be bold.") and "**" not in alone


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": [20, 61]}, "--sizes has 61, but the target has 60 training rows"),
        ({"strategies": ["anb", "abn"]}, "--strategies has abn; expected some of anb, anb\\+"),
        ({"num_layers": ["6"]}, "'6'; expected 'all' or a number from 0 to 5"),
        ({"word_embeddings": "a teacher"}, "is a model trained on emotions: scratch, given its word embeddings"),
        ({"num_seeds": 0}, "--num_seeds is 0; it must be 1 or more"),
        ({"metric": "jsd"}, "--metric 'jsd' needs votes, which are not known here; choose among top1_accuracy"),
        ({"metric": "accuracy"}, "--metric 'accuracy' is no metric"),
        ({"source_dataset": "gone"}, "no data set folder at 'gone'"),
    ],
)
def test_settings_that_cannot_run(settings, changes, message, tiny_teacher):
    changes = {name: tiny_teacher if value == "a teacher" else value for name, value in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TransferStudy(TransferArguments(**settings | changes))
    assert not Path(settings["output_dir"]).exists()


def test_tables_of_other_emotions(settings, tiny_table_dir, tmp_path):
    shutil.copytree(tiny_table_dir, tmp_path / "other")
    for split in ("train", "validation", "test"):
        path = tmp_path / "other" / split / "dataset_info.json"
        path.write_text(path.read_text().replace('"happy"', '"amused"'))
    with pytest.raises(ValueError, match="one set of emotions in one order: .* \\(happy, .* \\(amused, "):
        TransferStudy(TransferArguments(**settings | {"target_dataset": str(tmp_path / "other")}))


def test_presets_and_flags():
    (scenes,) = TransferCommand.parser().read(["--preset", "scenes", "--output_dir", "x", "--num_seeds", "2"])
    assert scenes.preset == "scenes" and scenes.num_seeds == 2 and scenes.sizes == [100, 300, 1000]
    assert not scenes.freeze_word_embeddings
    (real,) = TransferCommand.parser().read(["--preset", "real", "--output_dir", "x", "--target_dataset", "b"])
    assert real.freeze_word_embeddings and real.hidden_size == 128
    with pytest.raises(ValueError, match="needs --source_dataset, --word_embeddings, or --preset scenes"):
        real.run()


def test_the_built_in_corpus_is_made_once(tmp_path, monkeypatch):
    made, make_corpus = [], study_corpus.make_corpus

    def make_small(folder, settings):
        made.append(settings)
        teacher = settings["teacher"] | {"num_train_epochs": 1, "disable_tqdm": True, "use_cpu": True}
        make_corpus(folder, settings | {"scenes": {"num_target": 40, "num_source": 40}, "teacher": teacher})

    monkeypatch.setattr(study_corpus, "make_corpus", make_small)
    given = study_corpus.scenes_corpus(tmp_path / "corpus")
    assert study_corpus.scenes_corpus(tmp_path / "corpus") == given and len(made) == 1
    assert made[0]["scenes"] == {"num_target": 4000, "num_source": 4000, "seed": 0}
    arguments = TransferArguments(output_dir=str(tmp_path / "study"), sizes=[10], **given)
    study = TransferStudy(arguments)
    assert study.sides["source"].label_column == "emotion_scores" and study.sides["target"].truth_column == "labels"
    splits = study.sides["source"].splits
    assert sum(map(len, splits.values())) == 40, "one split, divided by image"


def test_a_killed_study_leaves_no_half_run(settings, monkeypatch):
    study = TransferStudy(TransferArguments(**settings))
    study.prepare()
    run = Run("target", 20, 0, "scratch", "0")

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        study.perform(run)
    assert not study.is_finished(run)
