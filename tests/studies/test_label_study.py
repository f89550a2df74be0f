"""The label study on tiny tables: arms, resumption, intervals against scipy, agreement against loops."""

import json

import numpy as np
import pytest
from datasets import DatasetDict, List, Value
from scipy import stats

from emocap.cli import main
from emocap.data.pairs import label_matrix
from emocap.data.storage import load_table, save_table
from emocap.pseudo_labels.labelling import label_tables
from emocap.report.figures import gain_figure
from emocap.studies.label_report import format_study, summarize_study
from emocap.studies.label_study import LabelRun, LabelStudy, label_agreement
from emocap.studies.options import LabelStudyArguments

HUMAN = ["labels", "soft_labels", "votes", "num_annotators"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_table_dir, tiny_teacher):
    """A labelled source without human labels, and the flags of a study."""
    folder = tmp_path_factory.mktemp("study")
    source = DatasetDict({"train": load_table(tiny_table_dir)["train"]})
    labelled = label_tables(source, tiny_teacher, str(folder / "with_people"), labels_per_image=2)
    save_table(labelled.remove_columns(HUMAN), folder / "source")
    return folder


@pytest.fixture
def flags(folder, tiny_table_dir, tiny_bert):
    return [
        "--source_dataset", str(folder / "source"), "--target_dataset", tiny_table_dir, "--word_embeddings", tiny_bert,
        "--images_per_label", "3", "8", "--num_target", "20", "--num_seeds", "2", "--image_size", "16",
        "--cnn_channels", "8", "--pretrain_steps", "6", "--max_steps", "4", "--num_evaluations", "2",
        "--batch_size", "8",
    ]  # fmt: skip


def make_study(flags, output_dir) -> LabelStudy:
    return LabelStudy(*LabelStudyArguments.parser().read([*flags, "--output_dir", str(output_dir)]))


def test_the_command_runs_every_arm_once(tmp_path, flags, capsys, monkeypatch):
    flags += ["--num_seeds", "1"]
    main(["label-study", *flags, "--output_dir", str(tmp_path)])
    summary = json.loads((tmp_path / "label_study.json").read_text())
    kinds = [(arm["selection"], arm["targets"], arm["images_per_label"]) for arm in summary["arms"]]
    assert kinds == [
        ("scratch", None, None), ("all", "soft", None), ("all", "hard", None),
        *((selection, targets, number) for number in (3, 8) for selection in ("selected", "random")
          for targets in ("soft", "hard")),
    ]  # fmt: skip
    assert all(arm["seeds"] == 1 and 0 < arm["mean"] <= 1 for arm in summary["arms"])
    assert format_study(summary) in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 1 and "selected, soft" in page and summary["agreement"] is None
    before = {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    assert len(before) == 2 * len(kinds)
    monkeypatch.setattr(LabelStudy, "perform", None)  # nothing is done again
    readme = tmp_path / "README.md"
    readme.write_text("before <!-- worth --> old <!-- /worth --> after")
    main(["label-study", *flags, "--output_dir", str(tmp_path), "--readme", str(readme), "--block", "worth"])
    assert format_study(summary) in readme.read_text() and " old " not in readme.read_text()
    assert {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()} == before
    assert json.loads((tmp_path / "label_study.json").read_text()) == summary


def test_a_stopped_study_goes_on_and_ends_alike(tmp_path, flags):
    whole, broken = make_study(flags, tmp_path / "whole"), make_study(flags, tmp_path / "broken")
    short = [LabelRun("scratch", None, None, 0), LabelRun("selected", "soft", 3, 0), LabelRun("random", "hard", 8, 1)]
    for run in short:
        whole.runs_dir.mkdir(parents=True, exist_ok=True)
        whole.perform(run)
    broken.runs_dir.mkdir(parents=True)
    broken.path(short[0]).with_suffix(".npy.partial").write_bytes(b"half")
    for run in reversed(short):  # another order, a fresh process's parts
        broken.parts = {}
        broken.perform(run)
    for run in short:
        first, second = (json.loads(study.path(run).read_text()) for study in (whole, broken))
        assert first["metrics"] == pytest.approx(second["metrics"], nan_ok=True)
    assert not list(broken.runs_dir.glob("*.partial"))


def test_two_processes_find_what_one_does(tmp_path, flags):
    flags += ["--num_seeds", "1", "--images_per_label", "3", "--selections", "selected"]
    for jobs in ("1", "2"):
        main(["label-study", *flags, "--output_dir", str(tmp_path / jobs), "--jobs", jobs])
    alone, together = ((tmp_path / jobs / "label_study.json").read_text() for jobs in ("1", "2"))
    assert alone == together and len(json.loads(alone)["arms"]) == 5
    arrays = [sorted((tmp_path / jobs / "runs").glob("*.npy")) for jobs in ("1", "2")]
    assert [path.name for path in arrays[0]] == [path.name for path in arrays[1]] and len(arrays[0]) == 5
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*arrays, strict=True))


def test_arms_learn_from_the_rows_they_say(tmp_path, flags):
    study = make_study(flags, tmp_path)
    scores, emotions = study.source["emotion_scores"][:], study.source["emotions"][:]
    for number in (3, 8):
        selected = study.source_rows(LabelRun("selected", "soft", number, 0))
        expected = set()
        for label in range(5):
            own = [row for row in study.taught if label in emotions[row]]
            expected |= set(sorted(own, key=lambda row: -scores[row][label])[:number])
        assert selected.tolist() == sorted(expected)
        drawn = [study.source_rows(LabelRun("random", "soft", number, seed)).tolist() for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == len(selected)
    assert not set(study.held_out) & set(study.source_rows(LabelRun("all", "soft", None, 0)))
    assert len(study.held_out) + len(study.taught) == 60


def test_gains_are_paired_and_their_intervals_students(tmp_path, flags, rng):
    study = make_study(flags, tmp_path)
    study.runs_dir.mkdir()
    truth = label_matrix(study.target["test"], "labels")
    values = {}
    for seed in range(2):
        for run in (LabelRun("scratch", None, None, seed), LabelRun("selected", "hard", 3, seed)):
            values[run] = rng.random()
            np.save(study.path(run).with_suffix(".npy"), rng.random(truth.shape).astype(np.float32))
            content = {"metrics": {"map_macro": values[run]}, "metrics_before": {"map_macro": 0.5}, "images": 12}
            study.path(run).write_text(json.dumps(content))
    scratch, arm = summarize_study(study)["arms"]
    own = [values[LabelRun("selected", "hard", 3, seed)] - values[LabelRun("scratch", None, None, seed)]
           for seed in range(2)]  # fmt: skip
    interval = stats.t.interval(0.95, 1, loc=np.mean(own), scale=stats.sem(own))
    assert arm["gain"] == pytest.approx(np.mean(own))
    assert (arm["gain_low"], arm["gain_high"]) == pytest.approx(interval, rel=1e-3)
    assert arm["images_low"] < arm["images_high"] and arm["before"] == 0.5 and "gain" not in scratch
    figure = gain_figure([scratch, arm])
    assert figure.axes[0].get_lines()[1].get_xydata().tolist() == [[12, pytest.approx(arm["gain"])]]


def test_agreement_with_the_true_process_equals_loops(folder, rng):
    source = load_table(folder / "source")["train"]
    truth = rng.random((60, 5)).astype(np.float32)
    feature = List(Value("float32"), length=5)
    source = source.add_column("bayes_probabilities", list(truth), feature=feature)
    agreement = label_agreement(source)
    scores, kept = source["emotion_scores"][:], source["emotions"][:]
    for k in (1, 2, 3, 4):
        expected = [
            truth[row, sorted(range(5), key=lambda label: -scores[row][label])[:k]].mean() for row in range(60)
        ]
        assert agreement["precision_at"]["labels"][str(k)] == pytest.approx(np.mean(expected), abs=1e-6)
        ceiling = [sorted(own, reverse=True)[:k] for own in truth]
        assert agreement["precision_at"]["ceiling"][str(k)] == pytest.approx(np.mean(ceiling), abs=1e-6)
    carried = [truth[row, label] for row in range(60) for label in kept[row]]
    assert agreement["precision"] == pytest.approx(np.mean(carried), abs=1e-6)
    assert agreement["recall"] == pytest.approx(np.sum(carried) / truth.sum(), abs=1e-6)
    assert agreement["map_macro"]["ceiling"] > agreement["map_macro"]["labels"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--num_target": "61"}, "--num_target is 61; the target has 60 rows"),
        ({"--source_split": "test"}, r"no split 'test' \(splits: train\)"),
        ({"--num_seeds": "0"}, "--num_seeds is 0; it must be 1 or more"),
        ({"--metric": "jsd"}, "--metric 'jsd' needs votes"),
    ],
)
def test_what_cannot_run_is_said_first(tmp_path, flags, changed, message):
    with pytest.raises(ValueError, match=message):
        make_study([*flags, *(part for pair in changed.items() for part in pair)], tmp_path)


def test_tables_must_fit(tmp_path, flags, folder, tiny_table_dir):
    place = flags.index("--source_dataset") + 1
    with pytest.raises(ValueError, match="lacks emotion_scores"):
        make_study([*flags[:place], tiny_table_dir, *flags[place + 1 :]], tmp_path)
    place = flags.index("--target_dataset") + 1
    with pytest.raises(ValueError, match=r"lacks the split\(s\) validation, test"):
        make_study([*flags[:place], str(folder / "source"), *flags[place + 1 :]], tmp_path)
