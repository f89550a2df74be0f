"""What `emocap label` writes where the features are wide: labels alone, also after a stop and for a new selection."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, concatenate_datasets
from transformers import AutoModel

from emocap.cli import main
from emocap.data.schema import region_columns
from emocap.data.storage import load_table, save_table
from emocap.evaluation import scoring
from emocap.hub.tables import table_configs, write_configs
from emocap.models import EmocapProcessor
from emocap.pseudo_labels import labelling

DIM, FEATURE_BYTES = 1024, 36 * 1024 * 2


@pytest.fixture(scope="module")
def text_teacher(tmp_path_factory, tiny_teacher) -> str:
    """It reads captions alone, so that features may have any width."""
    folder, model = tmp_path_factory.mktemp("text") / "teacher", AutoModel.from_pretrained(tiny_teacher)
    model.config.modalities = "text"
    model.save_pretrained(folder)
    EmocapProcessor.from_pretrained(tiny_teacher).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def wide_dir(tmp_path, tiny_table) -> Path:
    """The rows of the tiny table that have a caption, with wide features."""
    rng, wide = np.random.default_rng(0), DatasetDict()
    for name, split in tiny_table.items():
        captioned = split.filter(lambda row: bool(row["captions"])).remove_columns("region_features")
        values = rng.standard_normal((len(captioned), 36 * DIM), dtype=np.float32).astype(np.float16)
        kind = {"region_features": region_columns(DIM)["region_features"]}
        features = Dataset.from_dict({"region_features": list(values)}, Features(kind))
        wide[name] = concatenate_datasets([captioned, features], axis=1)
    save_table(wide, tmp_path / "wide")
    return tmp_path / "wide"


def label(source: Path, teacher: str, output: Path, *options: str) -> DatasetDict:
    main(["label", str(source), "--teacher", teacher, "--output_dir", str(output), *options])
    return load_table(output)


def content(folder: Path) -> dict[str, bytes]:
    """Every file by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def new_bytes(folder: Path, before: set[int]) -> int:
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(size for inode, size in files.items() if inode not in before)


def inodes(*folders: Path) -> set[int]:
    return {path.stat().st_ino for folder in folders for path in folder.rglob("*") if path.is_file()}


def features_of(tables: DatasetDict) -> dict[str, np.ndarray]:
    return {name: np.array(split["region_features"][:], np.float16) for name, split in tables.items()}


def test_labels_and_each_new_selection_cost_little(tmp_path, wide_dir, text_teacher):
    expected, rows = features_of(load_table(wide_dir)), sum(map(len, load_table(wide_dir).values()))
    before = inodes(wide_dir)
    labelled = label(wide_dir, text_teacher, tmp_path / "out")
    columns = sum(split.select_columns(list(labelling.OWN_COLUMNS)).data.nbytes for split in labelled.values())
    # beside the labels: captions and human labels once more, a page with a few photos, JSON
    assert columns < new_bytes(tmp_path / "out", before) < 10 * columns + 200_000 < rows * FEATURE_BYTES / 20
    first = [path.stat().st_ino for path in sorted((tmp_path / "out").rglob("heavy-columns/*/*.arrow"))]
    assert len(first) == 3 and set(first) <= before
    options = ("--images_per_label", "5")
    again = label(wide_dir, text_teacher, tmp_path / "out", *options)
    assert new_bytes(tmp_path / "out", before) < rows * FEATURE_BYTES / 20
    shutil.rmtree(wide_dir)
    assert features_of(load_table(tmp_path / "out")).keys() == expected.keys()
    for name, values in features_of(load_table(tmp_path / "out")).items():
        assert np.array_equal(values.view(np.uint16), expected[name].view(np.uint16))
    assert again["train"]["selected_for"][:] != labelled["train"]["selected_for"][:]
    anew = label(tmp_path / "out", text_teacher, tmp_path / "anew", *options)  # labels of a labelled table
    assert new_bytes(tmp_path / "anew", before) < rows * FEATURE_BYTES / 20
    for name, split in again.items():
        assert split.column_names == anew[name].column_names
        assert all(anew[name][column][:] == split[column][:] for column in labelling.OWN_COLUMNS)


def test_a_stopped_job_gives_the_same_bytes(tmp_path, wide_dir, text_teacher, monkeypatch):
    label(wide_dir, text_teacher, tmp_path / "out")
    whole = content((tmp_path / "out").rename(tmp_path / "whole"))
    real, calls = os.link, []

    def stopped(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", stopped)
        with pytest.raises(KeyboardInterrupt):
            labelling.label_tables(load_table(wide_dir), text_teacher, str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.scores", "whole", "wide"]
    monkeypatch.setattr(scoring, "predict_logits", None)  # the scores are there
    label(wide_dir, text_teacher, tmp_path / "out")
    assert content(tmp_path / "out") == whole


def test_a_new_selection_does_not_copy_what_was_copied_before(tmp_path, wide_dir, text_teacher, monkeypatch):
    real = os.link

    def link(source, target):
        if Path(source).is_relative_to(wide_dir):
            raise OSError(18, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    label(wide_dir, text_teacher, tmp_path / "out")
    copied = inodes(tmp_path / "out" / "heavy-columns")
    assert not copied & inodes(wide_dir)
    label(wide_dir, text_teacher, tmp_path / "out", "--labels_per_image", "2")
    heavy = {path.stat().st_ino for path in (tmp_path / "out" / "heavy-columns").rglob("*.arrow")}
    assert len(heavy) == 3 and heavy <= copied


def test_what_is_published_is_the_same_in_one_piece_and_apart(tmp_path, wide_dir, text_teacher):
    label(wide_dir, text_teacher, tmp_path / "apart")
    save_table(load_table(tmp_path / "apart"), tmp_path / "whole")
    assert not (tmp_path / "whole" / "heavy-columns").exists() and (tmp_path / "apart" / "heavy-columns").exists()
    cards = []
    for name in ("apart", "whole"):
        cards.append(write_configs(table_configs(load_table(tmp_path / name)), tmp_path / f"{name} for the Hub"))
    published = content(tmp_path / "apart for the Hub")
    assert {Path(name).parent.name for name in published} == {"labels", "captions", "regions", "photos"}
    assert published == content(tmp_path / "whole for the Hub") and cards[0] == cards[1]
