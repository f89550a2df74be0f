"""Publishing and loading back through a real Hub endpoint."""

import os
import uuid

import numpy as np
import pytest
import torch
from datasets import load_dataset
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModel, AutoProcessor

from emocap.cli import main
from emocap.data.pairs import FixedSizeColumn
from emocap.data.storage import load_table

pytestmark = [
    pytest.mark.hub,
    pytest.mark.skipif(
        not os.environ.get("HF_ENDPOINT") or not os.environ.get("HF_TOKEN"),
        reason="no Hub to write to: set HF_ENDPOINT and HF_TOKEN before pytest starts",
    ),
]


@pytest.fixture(scope="module")
def run(tiny_table_dir, tiny_body, tmp_path_factory):
    """A finished run's folder."""
    folder = tmp_path_factory.mktemp("hub") / "teacher"
    main([
        "train-teacher", "--dataset", str(tiny_table_dir), "--model_name_or_path", str(tiny_body),
        "--output_dir", str(folder), "--max_steps", "2", "--disable_tqdm", "true",
    ])  # fmt: skip
    return folder


def test_a_run_comes_back_from_the_hub_as_it_was(run, capsys):
    name = f"teacher-{uuid.uuid4().hex[:8]}"
    main(["publish", str(run), "--repo_id", name])
    address = capsys.readouterr().out.strip().splitlines()[-1]
    repo_id = f"{HfApi().whoami()['name']}/{name}"
    assert address.endswith(repo_id)
    model, local = (AutoModel.from_pretrained(source).eval() for source in (repo_id, str(run)))
    inputs = AutoProcessor.from_pretrained(repo_id)(text=["a dog by the sea", "rain"])
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, local(**inputs).logits)
    card = ModelCard.load(repo_id)
    assert repo_id in card.text and card.data.eval_results
    files = HfApi().list_repo_files(repo_id)
    assert not [file for file in files if file.endswith((".bin", ".pt", ".pth", ".pkl")) or "checkpoint" in file]
    commits = len(HfApi().list_repo_commits(repo_id))
    main(["publish", str(run), "--repo_id", name])
    assert len(HfApi().list_repo_commits(repo_id)) == commits  # nothing changed, nothing to commit


def test_a_table_comes_back_from_the_hub_as_it_was(tiny_table_dir):
    repo_id = f"{HfApi().whoami()['name']}/table-{uuid.uuid4().hex[:8]}"
    main(["publish", str(tiny_table_dir), "--repo_id", repo_id, "--private"])
    table, loaded = load_table(tiny_table_dir), load_dataset(repo_id)
    assert HfApi().dataset_info(repo_id).private
    for split in table:
        light = {name: feature for name, feature in table[split].features.items() if "region" not in name}
        assert loaded[split].features == light, "the light table alone, unless more is asked for"
        for column in ("image_id", "captions", "labels", "emotions"):
            assert loaded[split][column][:] == table[split][column][:]
    heavy = load_dataset(repo_id, "regions")
    assert set(heavy["test"].features) == {"image_id", "region_features", "region_boxes", "num_regions"}
    whole = load_table(repo_id)
    for split in table:
        assert dict(whole[split].features) == dict(table[split].features)
        for column in ("image_id", "region_features", "region_boxes", "num_regions"):
            assert whole[split][column][:] == table[split][column][:]
        stored = FixedSizeColumn(whole[split], "region_features")
        expected = FixedSizeColumn(table[split], "region_features")
        assert np.array_equal(stored[np.arange(len(stored))], expected[np.arange(len(expected))])


def test_a_table_goes_to_a_branch_of_its_own(tiny_table_dir):
    repo_id = f"{HfApi().whoami()['name']}/table-{uuid.uuid4().hex[:8]}"
    main(["publish", str(tiny_table_dir), "--repo_id", repo_id, "--revision", "draft"])
    assert load_dataset(repo_id, revision="draft")["test"].num_rows == load_table(tiny_table_dir)["test"].num_rows
    assert not [file for file in HfApi().list_repo_files(repo_id, repo_type="dataset") if file.endswith(".parquet")]


def test_what_is_no_run_and_no_table_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["publish", str(tmp_path), "--repo_id", "nothing"])
    assert stop.value.code == 2 and "neither a finished run" in capsys.readouterr().err
