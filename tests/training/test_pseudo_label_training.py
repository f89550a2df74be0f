"""A student of pseudo-labels: its targets, its loss, and the human-labelled rows beside them."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, DatasetDict, List

from emocap.arguments import DataArguments
from emocap.cli import main
from emocap.data.storage import load_table
from emocap.training import jobs
from emocap.training.rows import TrainingRows, read_rows

HUMAN = ["labels", "votes", "num_annotators", "soft_labels"]


@pytest.fixture(scope="module")
def source(tmp_path_factory, labelled_table) -> str:
    """Pseudo-labels alone, as COCO has them."""
    tables = load_table(labelled_table)
    folder = str(tmp_path_factory.mktemp("tables") / "source")
    DatasetDict({name: table.remove_columns(HUMAN) for name, table in tables.items()}).save_to_disk(folder)
    return folder


def read(folder: str, seed: int = 0, **fields) -> TrainingRows:
    return read_rows(load_table(folder), DataArguments(folder, **fields), seed)


def train(out, source: str, student: str, *flags: str) -> tuple[dict, dict, dict]:
    main(["train-student", "--model_name_or_path", student, "--dataset", source, "--output_dir", str(out),
          "--use_cpu", "--disable_tqdm", "true", "--num_train_epochs", "1", "--captions", "random",
          *flags])  # fmt: skip
    return tuple(
        json.loads((out / name).read_text()) for name in ("metrics.json", "config.json", "trainer_state.json")
    )


@pytest.mark.parametrize("targets", ["emotions", "emotion_scores", "ranked_emotions"])
def test_hard_soft_and_ranked_targets(tmp_path, source, tiny_student, targets):
    metrics, config, state = train(tmp_path / "run", source, tiny_student, "--label_column", targets)
    table = load_table(source)["train"]
    expected = np.zeros((60, 5))
    for row, (emotions, scores) in enumerate(zip(table["emotions"][:], table["emotion_scores"][:], strict=True)):
        for rank, label in enumerate(emotions, start=1):
            expected[row, label] = 1 / rank if targets == "ranked_emotions" else 1
        if targets == "emotion_scores":
            expected[row] = scores
    np.testing.assert_allclose(config["label_prevalence"], expected.mean(0), atol=1e-5)
    assert metrics["truth"] == "emotions", "measured on the hard labels, whatever it trained on"
    assert state["max_steps"] == 2, "60 images in batches of 32, one caption each"


def test_human_rows_beside_pseudo_labels(tmp_path, source, tiny_student, tiny_table_dir):
    flags = ["--label_column", "emotion_scores", "--mix_dataset", tiny_table_dir, "--mix_share", "0.2"]
    metrics, config, state = train(tmp_path / "run", source, tiny_student, *flags)
    pseudo = np.array(load_table(source)["train"]["emotion_scores"][:]).mean(0)
    human = np.array(load_table(tiny_table_dir)["train"]["labels"][:]).mean(0)
    np.testing.assert_allclose(config["label_prevalence"], 0.8 * pseudo + 0.2 * human, atol=1e-5)
    assert state["max_steps"] == 3, "60 images of the one table, 15 of the other"


def test_the_loss_of_a_run_stands_in_its_configuration(tmp_path, source, tiny_student):
    flags = ["--loss", "bce", "--pos_weight", "6", "--label_smoothing", "0.05"]
    _, config, _ = train(tmp_path / "first", source, tiny_student, *flags)
    assert (config["loss"], config["pos_weight"], config["label_smoothing"]) == ("bce", 6, 0.05)
    _, config, state = train(tmp_path / "second", source, str(tmp_path / "first"), "--loss", "db")
    assert (config["loss"], config["pos_weight"], config["label_smoothing"]) == ("db", None, 0)
    assert np.isfinite([entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]).all()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--loss", "asl", "--pos_weight", "2"], "pos_weight is 2.0 with loss 'asl'"),
        (["--label_smoothing", "1"], "--label_smoothing is 1.0; it must lie from 0 to 1 (without it)"),
        (["--loss", "db", "--sampling", "shuffle"], "--sampling is shuffle with --loss db"),
        (["--train_fraction", "0"], "--train_fraction is 0.0; it must lie from 0 (without it) to 1"),
        (["--train_fraction", "1.5"], "--train_fraction is 1.5; it must lie from 0 (without it) to 1"),
        (["--label_smoothing_factor", "0.1"], "use --label_smoothing"),
    ],
)
def test_loss_settings_are_refused_at_the_door(tmp_path, source, tiny_student, capsys, flags, words):
    with pytest.raises(SystemExit):
        train(tmp_path / "run", source, tiny_student, *flags)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("loss", "sampling"), [("db", "class_balanced"), ("bce", "shuffle"), ("asl", "shuffle")])
def test_a_loss_brings_the_sampling_that_it_presupposes(
    tmp_path, labelled_table, tiny_student, monkeypatch, loss, sampling
):
    drawn = {}
    plain = jobs.PairSampler

    def watched(*args, **kwargs):
        drawn["rows_of_labels"] = kwargs["rows_of_labels"]
        return plain(*args, **kwargs)

    monkeypatch.setattr(jobs, "PairSampler", watched)
    train(tmp_path / "run", labelled_table, tiny_student, "--loss", loss)
    arguments = json.loads((tmp_path / "run" / "run_arguments.json").read_text())
    assert (arguments["loss"], arguments["sampling"]) == (loss, sampling)
    assert (drawn["rows_of_labels"] is not None) == (loss == "db")


def test_a_share_of_the_training_rows_is_drawn_by_the_seed_before_a_limit(labelled_table):
    def ids(seed: int = 0, **fields) -> list[str]:
        return read(labelled_table, seed, **fields).splits["train"]["image_id"][:]

    whole, tenth = ids(), ids(train_fraction=0.4)
    assert len(whole) == 60 and len(tenth) == 24 and tenth == sorted(tenth) and set(tenth) <= set(whole)
    assert tenth == ids(train_fraction=0.4) != ids(1, train_fraction=0.4) and tenth != whole[:24]
    assert ids(train_fraction=0.4, max_train_samples=5) == tenth[:5]
    splits = read(labelled_table, train_fraction=0.4).splits
    assert len(splits["validation"]) == 20 and len(splits["test"]) == 21
    with pytest.raises(ValueError, match="train split of .* is empty"):
        ids(train_fraction=0.001)


def test_a_table_to_mix_that_does_not_fit_is_refused(tmp_path, source, labelled_table, tiny_table_dir):
    tables = load_table(tiny_table_dir)
    names = tables["train"].features["emotions"].feature.names
    others = tables["train"].cast_column("emotions", List(ClassLabel(names=names[::-1])))
    wide = tables["train"].remove_columns("region_features")
    wide = wide.add_column("region_features", [np.zeros(36 * 3, dtype=np.float16)] * 60)
    wide = wide.cast_column("region_features", List(wide.features["region_features"].feature, length=36 * 3))
    folders = {"source": source}
    for name, table in {"others": others, "wide": wide}.items():
        folders[name] = str(tmp_path / name)
        DatasetDict({"train": table}).save_to_disk(folders[name])
    for name, words in (
        ("source", "needs a split 'train' with human labels in every row"),
        ("others", "has other emotions, or another order"),
        ("wide", "region features of different detectors"),
    ):
        with pytest.raises(ValueError, match=words):
            read(source, mix_dataset=folders[name])
    with pytest.raises(ValueError, match="--mix_share is 1.0; it must lie from 0"):
        read(source, mix_dataset=tiny_table_dir, mix_share=1.0)
    assert read(source, mix_dataset=labelled_table).splits["mix"].num_rows == 60
