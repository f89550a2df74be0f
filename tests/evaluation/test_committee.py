"""Several models that answer together, against a slow loop over them; and what they label, killed and distilled."""

import json
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict, Value
from transformers import AutoModel

from emocap.cli import main
from emocap.data.pairs import PairDataset, label_matrix
from emocap.data.storage import load_table
from emocap.evaluation import scoring
from emocap.evaluation.calibration import temper
from emocap.evaluation.evaluate import evaluate
from emocap.evaluation.scoring import Committee, load_model, predict_logits, prepare_table
from emocap.models import EmocapProcessor
from emocap.models.photo_emocap import resize_to_array
from emocap.pseudo_labels import labelling
from emocap.pseudo_labels.labelling import label_tables
from tests.committees import ORDERS, by_hand, make_members
from tests.conftest import EMOTIONS, SEED


@pytest.fixture(scope="module")
def members(tmp_path_factory, tiny_body) -> list[str]:
    return make_members(tmp_path_factory.mktemp("members"), tiny_body, np.random.default_rng([SEED, 7]))


@pytest.fixture
def with_photos(tiny_table) -> DatasetDict:
    """The tiny table's rows that have a photo, which all members read."""
    return DatasetDict(
        {
            name: split.select([row for row, count in enumerate(split["num_regions"]) if count])
            for name, split in tiny_table.items()
        }
    )


def row_by_hand(row: dict, folders: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and spreads `(captions, L)` of one row, one caption and one member at a time."""

    def inputs_of(caption: str | None):
        def inputs(processor: EmocapProcessor, config) -> dict[str, torch.Tensor]:
            reads_text = caption is not None and config.modalities != "image"
            ids = torch.tensor([processor.encode_captions([caption if reads_text else ""])[0]])
            found = {"input_ids": ids, "attention_mask": torch.full_like(ids, reads_text)}
            if processor.image_size is None:
                features = np.array(row["region_features"], dtype=np.float32).reshape(1, 36, -1)
                return found | {"visual_embeds": torch.from_numpy(features[:, : row["num_regions"]])}
            pixels = resize_to_array(row["image"], processor.image_size)
            return found | {"pixel_values": torch.from_numpy(pixels[None].copy())}

        return inputs

    both = [by_hand(folders, inputs_of(caption)) for caption in row["captions"] or [None]]
    return np.array([own for own, _ in both]), np.array([own for _, own in both])


def test_probabilities_are_the_sigmoid_of_the_mean_logit(members, with_photos):
    table = with_photos["test"]
    committee = Committee(members).load()
    scores = committee.score(committee.prepare(table), batch_size=4)
    expected = [row_by_hand(row, members)[0] for row in table]
    np.testing.assert_allclose(scores.probabilities, np.concatenate(expected), atol=3e-6)
    np.testing.assert_allclose(scores.of_rows, [own.mean(axis=0) for own in expected], atol=3e-6)
    assert scores.truncated_captions > 0, "the second member reads five tokens"
    assert np.ptp(scores.probabilities, axis=0).max() > 0.02, "rows differ by far more than the tolerance"


def test_disagreement_is_the_spread_of_what_each_says_alone(members, with_photos):
    table = with_photos["test"]
    committee = Committee(members).load()
    alone = []
    for name, order in zip(members, ORDERS.values(), strict=True):
        one = Committee([name]).load()
        own = one.score(one.prepare(table)).of_rows
        alone.append([own[:, order.index(label)] for label in range(5)])
    together = committee.score(committee.prepare(table))
    np.testing.assert_allclose(together.disagreement, np.std(alone, axis=0).T, atol=1e-6)
    assert together.disagreement.max() > 0.1 and together.disagreement.shape == (len(table), 5)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_one_model_says_bit_for_bit_what_it_says_alone(members, with_photos, kind):
    committee = Committee([members[kind]]).load()
    scores = committee.score(committee.prepare(with_photos["test"]), batch_size=8)
    model, processor = load_model(members[kind])
    pairs = PairDataset(
        prepare_table(with_photos["test"], processor), processor, modalities=model.config.modalities or "both"
    )
    expected = temper(predict_logits(model, pairs, 8), model.config.temperature)
    assert scores.probabilities.tobytes() == expected.tobytes() and scores.disagreement is None
    config = committee.config
    assert config.thresholds == model.config.thresholds and config.modalities == model.config.modalities
    assert config.label_prevalence == model.config.label_prevalence and config.id2label == model.config.id2label


def test_thresholds_and_prevalence_are_means_by_name(members):
    committee = Committee(members)
    for name in ("thresholds", "label_prevalence"):
        values = [dict(zip(own.id2label.values(), getattr(own, name), strict=True)) for own in committee.configs]
        expected = [np.mean([own[emotion] for own in values]) for emotion in EMOTIONS]
        assert getattr(committee.config, name) == pytest.approx(expected)
    committee.configs[1].thresholds = None
    assert committee.config.thresholds is None
    assert committee.config.modalities == "both" and Committee(members[:2]).config.modalities is None


def test_unlike_emotions_are_refused_by_name(members, tmp_path, monkeypatch):
    model = AutoModel.from_pretrained(members[1])
    model.config.id2label, model.config.label2id = (
        dict(enumerate("abcde")),
        {name: at for at, name in enumerate("abcde")},
    )
    model.save_pretrained(tmp_path / "other")
    monkeypatch.setattr(scoring, "load_model", None)
    with pytest.raises(ValueError, match=r"/other' and '.*/first' cannot answer .*only in '.*/first' \['angry'"):
        Committee([members[0], str(tmp_path / "other")])
    with pytest.raises(ValueError, match="different models"):
        Committee([members[0], members[0]])


def test_a_committee_is_measured_like_a_model(members, with_photos, tmp_path, capsys):
    with_photos.save_to_disk(tmp_path / "table")
    main(["evaluate", *members, "--dataset", str(tmp_path / "table"), "--num_resamples", "0", "--output",
          str(tmp_path / "metrics.json")])  # fmt: skip
    printed, metrics = capsys.readouterr().out, json.loads((tmp_path / "metrics.json").read_text())
    committee = Committee(members).load()
    scores = committee.score(committee.prepare(with_photos["test"]))
    labels = np.array(with_photos["test"]["labels"][:])
    assert metrics["brier"] == pytest.approx(np.mean((scores.of_rows - labels) ** 2))
    assert metrics["model_disagreement"] == pytest.approx(scores.disagreement.mean())
    assert metrics["models"] == ", ".join(members) and metrics["decisions"] == "the members' mean"
    assert f"probabilities: {metrics['model_disagreement']:.4f}" in printed
    one = evaluate(members[:1], with_photos, num_resamples=0)
    assert dict(one) == dict(evaluate(members[0], with_photos, num_resamples=0)) and "models" not in one
    assert one.folder == members[0] and evaluate(members, with_photos, num_resamples=0).folder is None
    with pytest.raises(ValueError, match="--controls are measured of a single model"):
        evaluate(members, with_photos, controls=True)


def test_labels_of_several_teachers(members, tiny_table, tmp_path):
    labelled = label_tables(tiny_table, members, str(tmp_path / "out"), batch_size=5, labels_per_image=2)
    read = [row for row in tiny_table["test"] if row["num_regions"]]
    assert [row["image_id"] for row in read] == labelled["test"]["image_id"][:]
    for row, own in zip(read, labelled["test"], strict=True):
        probabilities, _ = row_by_hand(row, members)
        np.testing.assert_allclose(own["emotion_scores"], probabilities.mean(axis=0), atol=3e-6)
        assert len(own["caption_scores"]) == len(row["captions"])
        alone = [row_by_hand(row, [name])[0].mean(axis=0) for name in members]
        assert own["model_disagreement"] == pytest.approx(np.std(alone, axis=0).mean(), abs=3e-6)
    report, statistics = (
        json.loads((tmp_path / "out" / name).read_text()) for name in ("data_report.json", "label_statistics.json")
    )
    for told in (report["selection"], statistics["selection"]):
        assert told["teacher"] == members and len(set(told["revision"])) == 3
        assert told["temperature"] == [1.7, 0.6, None]
    left_out = {problem["image_id"] for problem in report["problems"]}
    assert left_out == {row["image_id"] for split in tiny_table.values() for row in split if not row["num_regions"]}
    one = label_tables(tiny_table, members[0], str(tmp_path / "one"))
    assert "model_disagreement" not in one["test"].features
    again = label_tables(labelled, members[0], str(tmp_path / "again"))
    assert "model_disagreement" not in again["test"].features, "what an earlier committee left is gone"


class Stopped:
    """`predict_logits` that kills its process at its n-th call."""

    def __init__(self, stop_at: int | None = None):
        self.calls, self.stop_at, self.real = 0, stop_at, predict_logits

    def __call__(self, *arguments):
        if self.calls == self.stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1
        return self.real(*arguments)


def score_logits(model, processor, table) -> np.ndarray:
    """The mean logits of each row, without the temperature, which was fitted to other labels."""
    pairs = PairDataset(table, processor)
    return pairs.mean_over_captions(predict_logits(model, pairs))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def label_in_eights(source: str, teachers: list[str], output_dir: str, stop_at: int | None = None) -> None:
    """In shards of eight rows and one thread, whose number changes the last bits of a sum."""
    torch.set_num_threads(1)
    real = labelling.map_in_shards
    labelling.map_in_shards = lambda *own, **options: real(*own, **options, shard_size=8)
    scoring.predict_logits = Stopped(stop_at)
    try:
        label_tables(load_table(source), teachers, output_dir)
    finally:
        labelling.map_in_shards, scoring.predict_logits = real, predict_logits


def test_two_teachers_killed_and_resumed_leave_the_same_bytes(members, tiny_table_dir, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    label_in_eights(tiny_table_dir, members[:2], str(whole))
    processes = multiprocessing.get_context("forkserver")
    job = processes.Process(target=label_in_eights, args=(tiny_table_dir, members[:2], str(out), 2 * 9 + 1))
    job.start()  # it dies between the two teachers, in the tenth of 14 shards
    job.join()
    assert job.exitcode == -signal.SIGKILL and not out.exists()
    counted = Stopped()
    monkeypatch.setattr(scoring, "predict_logits", counted)
    monkeypatch.setattr(labelling, "map_in_shards", partial(labelling.map_in_shards, shard_size=8))
    label_tables(load_table(tiny_table_dir), members[:2], str(out))
    assert counted.calls == 2 * (14 - 9) and content(out) == content(whole)
    label_tables(load_table(tiny_table_dir), members[:2], str(out), labels_per_image=1)
    assert counted.calls == 2 * (14 - 9), "another selection scores nothing again"
    label_tables(load_table(tiny_table_dir), [members[0]], str(out))
    assert counted.calls == 2 * (14 - 9) + 14, "one teacher alone is another job"


def test_a_committee_is_distilled_by_the_command_line(members, tiny_table_dir, tiny_body, tmp_path):
    bare, table = tmp_path / "bare", tmp_path / "labelled"
    human = ("labels", "soft_labels", "votes", "num_annotators", "emotions")
    DatasetDict(
        {name: split.remove_columns(human) for name, split in load_table(tiny_table_dir).items()}
    ).save_to_disk(bare)
    main(["label", str(bare), "--teacher", *members[:2], "--output_dir", str(table)])
    labelled = load_table(table)
    assert labelled["train"].features["model_disagreement"] == Value("float32")
    assert "labels" not in labelled["train"].features
    assert all(Path(name).name in (table / "labels.html").read_text() for name in members[:2])
    main(["train-teacher", "--dataset", str(table), "--label_column", "emotion_scores", "--model_name_or_path",
          tiny_body, "--output_dir", str(tmp_path / "distilled"), "--num_train_epochs", "30", "--learning_rate",
          "3e-3", "--disable_tqdm", "true", "--use_cpu", "true", "--eval_strategy", "no", "--save_strategy", "no",
          "--load_best_model_at_end", "false"])  # fmt: skip
    metrics = json.loads((tmp_path / "distilled" / "metrics.json").read_text())
    assert metrics["truth"] == "emotions", "what it is measured on by default: the committee's best emotions"
    model, processor = load_model(str(tmp_path / "distilled"))
    assert list(model.config.id2label.values()) == EMOTIONS
    wanted = label_matrix(labelled["train"], "emotion_scores")
    found = temper(score_logits(model, processor, labelled["train"]), None)
    assert np.mean((found - wanted) ** 2) < 0.7 * np.mean((wanted.mean(axis=0) - wanted) ** 2)
    main(["evaluate", str(tmp_path / "distilled"), "--dataset", tiny_table_dir, "--num_resamples", "0"])
