"""Rows of one group, such as photos of one theme, never stand in two splits, folds or resamples."""

import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Value

from emocap.arguments import DataArguments
from emocap.cli import main
from emocap.data.schema import group_keys, pair_features, to_dataset_dict
from emocap.data.storage import load_table
from emocap.data.truth import read_truth, row_groups
from emocap.evaluation.baselines import held_out_rows
from emocap.evaluation.evaluate import measure
from emocap.evaluation.valence import correlations, spearman
from emocap.metrics import Bootstrap, compute_metrics, intervals
from emocap.studies import cross_validation
from emocap.studies.cross_validation import fold_of, is_validation
from emocap.studies.label_study import LabelStudy, LabelStudyArguments
from emocap.studies.transfer_study import load_side
from emocap.training.rows import read_rows


def with_groups(table: Dataset, groups: list[str | None]) -> Dataset:
    features = Features({**table.features, "group": Value("string")})
    return Dataset.from_dict({**table.with_format("arrow")[:].to_pydict(), "group": groups}, features)


def grouped(table: Dataset, rng: np.random.Generator, number: int, name: str = "g") -> Dataset:
    """The table with so many groups, and a tenth of the rows in none."""
    groups = [None if rng.random() < 0.1 else f"{name}{i}" for i in rng.integers(0, number, len(table))]
    return with_groups(table, groups)


def check_apart(*parts: Dataset) -> None:
    """No group in two parts; and there are rows that share one, so that the check means something."""
    groups = [set(filter(None, part["group"][:])) for part in parts]
    for place, own in enumerate(groups):
        for other in groups[place + 1 :]:
            assert not own & other
    assert sum(len(part) for part in parts) > 1.2 * sum(map(len, groups))
    assert all(len(part) for part in parts)


def save(tmp_path, table: Dataset, **splits: Dataset) -> str:
    DatasetDict({"train": table, **splits}).save_to_disk(str(tmp_path / "table"))
    return str(tmp_path / "table")


def test_a_row_without_a_group_is_its_own():
    features = Features({"image_id": Value("string"), "group": Value("string")})
    table = Dataset.from_dict({"image_id": ["a", "b", "c", "d"], "group": ["x", None, "x", ""]}, features)
    assert group_keys(table) == ["x", "b", "x", "d"]
    groups = row_groups(table)
    assert groups[0] == groups[2] and len(set(groups.tolist())) == 3
    assert row_groups(table.remove_columns("group")) is None


def test_new_tables_keep_groups_in_one_split(rng):
    features = pair_features(None, extra={"group": Value("string")})
    rows = [
        {"image_id": f"{i}.jpg", "image": None, "captions": ["x"], "group": None if i % 9 == 0 else f"g{group}"}
        for i, group in enumerate(rng.integers(0, 120, 600))
    ]
    tables = to_dataset_dict(rows, features)
    check_apart(*tables.values())
    assert sum(map(len, tables.values())) == 600


def test_held_out_rows_of_training_and_controls_keep_groups(rng, tiny_table, tmp_path):
    table = grouped(tiny_table["train"], rng, 25, "theme")
    check_apart(*held_out_rows(table))
    splits = read_rows(load_table(save(tmp_path, table)), DataArguments(None)).splits
    check_apart(splits["train"], splits["validation"])
    assert len(splits["train"]) + len(splits["validation"]) == 60
    for own, expected in zip(held_out_rows(table), (splits["train"], splits["validation"]), strict=True):
        assert own["image_id"][:] == expected["image_id"][:]


def test_the_transfer_study_s_own_splits_keep_groups(rng, tiny_table, tmp_path):
    side = load_side(save(tmp_path, grouped(tiny_table["train"], rng, 45, "theme")), None, None)
    check_apart(*(side.splits[name] for name in ("train", "validation", "test")))


@pytest.fixture
def label_study(rng, labelled_table, tiny_table, tiny_bert, tmp_path) -> LabelStudy:
    target = grouped(tiny_table["test"], rng, 6)
    tiny_table["test"] = target
    tiny_table.save_to_disk(str(tmp_path / "target"))
    source = DatasetDict({"train": grouped(load_table(labelled_table)["train"], rng, 25, "theme")})
    source.save_to_disk(str(tmp_path / "source"))
    return LabelStudy(
        LabelStudyArguments(
            source_dataset=str(tmp_path / "source"),
            target_dataset=str(tmp_path / "target"),
            word_embeddings=tiny_bert,
            output_dir=str(tmp_path / "study"),
            num_target=10,
        )
    )


def test_the_label_study_keeps_groups_apart_and_draws_them_whole(rng, label_study):
    check_apart(label_study.source.select(label_study.taught), label_study.source.select(label_study.held_out))
    truth = read_truth(label_study.target["test"])
    label_study.runs_dir.mkdir(parents=True)
    label_study.arguments.metric, run = "bce", label_study.stages()[0][0]
    probabilities = rng.random(truth.labels.shape)
    np.save(label_study.path(run).with_suffix(".npy"), probabilities)
    found = label_study.resampled(run, truth, 1000)
    check_drawn(found, probabilities, truth.labels, truth.groups)


def check_drawn(found: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
    """Centred bce of whole groups drawn by hand from seed 0."""
    rng, number = np.random.default_rng(0), groups.max() + 1
    assert number < len(groups)
    expected = []
    for _ in range(len(found)):
        rows = np.concatenate([np.flatnonzero(groups == own) for own in rng.integers(number, size=number)])
        expected.append(compute_metrics(probabilities[rows], labels[rows])["bce"])
    expected += compute_metrics(probabilities, labels)["bce"] - np.mean(expected)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_evaluate_and_folds_draw_groups_whole(rng, tiny_table):
    table = grouped(tiny_table["test"], rng, 5)
    truth = read_truth(table)
    probabilities = rng.random(truth.labels.shape)
    prior = np.full(5, 0.3)
    metrics = measure(probabilities, table, truth, prior)
    assert metrics["num_groups"] == len(set(group_keys(table))) < metrics["num_examples"] == 21
    _, drawn = cross_validation.measure(table, probabilities, np.full(5, 0.5))
    check_drawn(drawn["bce"], probabilities, truth.labels, truth.groups)
    bounds = intervals(drawn, metrics)
    assert metrics["bce_low"] == pytest.approx(bounds["bce_low"])
    assert metrics["bce_high"] == pytest.approx(bounds["bce_high"])
    alone = read_truth(tiny_table["test"])
    assert "num_groups" not in measure(probabilities, tiny_table["test"], alone, prior, num_resamples=0)


def test_correlations_with_people_draw_groups_whole(rng):
    people, groups = rng.normal(size=60), rng.integers(0, 9, 60)
    groups = np.unique(groups, return_inverse=True)[1]
    scores = {"both": people + rng.normal(size=60), "text": rng.normal(size=60)}
    found = correlations(scores, people, Bootstrap(80, 4, groups))
    draws, number = np.random.default_rng(4), groups.max() + 1
    drawn = []
    for _ in range(80):
        rows = np.concatenate([np.flatnonzero(groups == own) for own in draws.integers(number, size=number)])
        drawn.append(spearman(scores["both"][rows], people[rows]) - spearman(scores["text"][rows], people[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    estimate = found["spearman/both_over_text"]
    assert found["spearman/both_over_text_low"] == pytest.approx(min(low, estimate))
    assert found["spearman/both_over_text_high"] == pytest.approx(max(high, estimate))


def test_the_commands_say_how_many_groups_and_that_they_are_few(rng, tiny_table, tiny_teacher, tmp_path, capsys):
    test = grouped(tiny_table["test"], rng, 5)
    test = test.add_column("valence_mean", rng.uniform(1, 7, len(test)).tolist())
    dataset = save(tmp_path, tiny_table["train"], test=test)
    common = ["evaluate", tiny_teacher, "--dataset", dataset, "--num_resamples", "20"]
    main([*common, "--output", str(tmp_path / "metrics.json")])
    number = len(set(group_keys(test)))
    assert json.loads((tmp_path / "metrics.json").read_text())["num_groups"] == number
    printed = capsys.readouterr().out
    assert f"Intervals are over {number} groups of images, each drawn whole." in printed
    assert f"{number} groups of images are few: intervals from fewer than 50 are too narrow." in printed
    norms = tmp_path / "norms.csv"
    norms.write_text("Word,V.Mean.Sum\nhappy,8\nsad,2\nexcited,8\ncurious,6\nangry,2\n")
    main([*common, "--valence_norms", str(norms), "--output", str(tmp_path / "valence.json")])
    found = json.loads((tmp_path / "valence.json").read_text())
    assert 1 < found["num_groups"] < found["num_examples"]
    assert f"{found['num_groups']} groups of images are few" in capsys.readouterr().out
    with_many = DatasetDict({"train": tiny_table["train"], "test": tiny_table["train"]})
    with_many.save_to_disk(str(tmp_path / "many"))
    main(["evaluate", tiny_teacher, "--dataset", str(tmp_path / "many"), "--num_resamples", "20"])
    printed = capsys.readouterr().out
    assert "few" not in printed and "groups" not in printed


def test_folds_and_their_validation_rows_keep_groups(rng, tiny_table, tiny_body, tmp_path, monkeypatch):
    """As far as the first fold's training, which is given its own table."""
    names = [f"theme{i}" for i in range(400)]
    chosen = [name for name in names if is_validation(name)][:10] + [name for name in names if fold_of(name, 2)][:15]
    groups = [None if rng.random() < 0.1 else str(rng.choice(chosen)) for _ in range(81)]
    train, test = (with_groups(tiny_table[name], own) for name, own in (("train", groups[:60]), ("test", groups[60:])))
    dataset = save(tmp_path, train, test=test)
    seen = []

    def stop(folder, tables, options):
        seen.append(tables)
        raise ValueError("seen enough")

    monkeypatch.setattr(cross_validation, "train_once", stop)
    with pytest.raises(SystemExit):
        main(["cross-validate", "--dataset", dataset, "--model_name_or_path", tiny_body, "--num_folds", "2",
              "--output_dir", str(tmp_path / "cv")])  # fmt: skip
    everything = cross_validation.labelled_rows(load_table(dataset))
    folds = np.array([fold_of(key, 2) for key in group_keys(everything)])
    check_apart(seen[0]["train"], seen[0]["validation"], everything.select(np.flatnonzero(folds == 0)))


def test_a_fold_of_one_group_is_refused(tiny_table, tiny_body, tmp_path, capsys):
    dataset = save(tmp_path, with_groups(tiny_table["train"], [f"g{row % 2}" for row in range(60)]))
    with pytest.raises(SystemExit):
        main(["cross-validate", "--dataset", dataset, "--model_name_or_path", tiny_body, "--num_folds", "2",
              "--output_dir", str(tmp_path / "cv")])  # fmt: skip
    assert "give fewer folds" in capsys.readouterr().err and not (tmp_path / "cv").exists()
