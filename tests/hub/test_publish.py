"""Publishing and loading back through a real Hub endpoint."""

import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import DatasetCard, HfApi, ModelCard, SpaceCard
from PIL import Image
from transformers import AutoModel, AutoProcessor

from emocap.cli import main
from emocap.data.pairs import FixedSizeColumn
from emocap.data.storage import load_table
from emocap.hub.publishing import publish


def commits(repo_id: str, **options: object) -> int:
    return len(HfApi().list_repo_commits(repo_id, **options))


def texts(repo_id: str, repo_type: str = "model", revision: str | None = None) -> dict[str, str]:
    """Every text file of a repository."""
    api = HfApi()
    return {
        path: Path(api.hf_hub_download(repo_id, path, repo_type=repo_type, revision=revision)).read_text("utf-8")
        for path in api.list_repo_files(repo_id, repo_type=repo_type, revision=revision)
        if path.endswith((".json", ".md", ".py", ".txt"))
    }


def test_a_run_is_one_commit_and_a_second_push_none(family, new_name, capsys, tmp_path):
    repo_id = new_name("teacher")
    main(["publish", str(family / "teacher"), "--repo_id", repo_id.partition("/")[2]])
    assert capsys.readouterr().out.splitlines()[-1].endswith(repo_id)
    assert commits(repo_id) == 2, "the repository's first, and ours"
    model, local = (AutoModel.from_pretrained(source).eval() for source in (repo_id, str(family / "teacher")))
    photo = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    inputs = AutoProcessor.from_pretrained(str(family / "teacher"))(images=photo, text="rain at the party")
    published = AutoProcessor.from_pretrained(repo_id)(images=photo, text="rain at the party")
    assert torch.equal(published["visual_embeds"], inputs["visual_embeds"]), "its extractor came along"
    with torch.inference_mode():
        assert torch.equal(model(**published).logits, local(**inputs).logits)
    assert json.loads(texts(repo_id)["processor_config.json"])["region_extractor"] == "./extractor"
    main(["publish", str(family / "teacher"), "--repo_id", repo_id])
    assert "no commit" in capsys.readouterr().out and commits(repo_id) == 2
    copy = tmp_path / "teacher"
    shutil.copytree(family / "teacher", copy)
    (copy / "trainer_state.json").unlink()
    metrics = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").write_text(json.dumps(metrics | {"map_macro": 0.12345}))
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.md", repo_id=repo_id)
    done = publish(copy, repo_id)
    assert done.added == ["README.md", "metrics.json"] and done.deleted == ["trainer_state.json"]
    files = HfApi().list_repo_files(repo_id)
    assert commits(repo_id) == 4 and "NOTES.md" in files and "trainer_state.json" not in files
    assert "0.123" in texts(repo_id)["README.md"]


def test_no_path_and_no_token_of_this_machine(family, new_name, tiny_table_dir):
    names = {name: new_name(name.replace("+", "")) for name in ("teacher", "labelled", "student", "anb+")}
    for name, repo_id in names.items():
        kind = "dataset" if name == "labelled" else "model"
        publish(family / name, repo_id)
        for path, text in texts(repo_id, kind).items():
            for secret in (str(family), str(Path(tiny_table_dir).parent), "/tmp/", "hf_tester", "pytest-of"):
                assert secret not in text, (name, path, secret)


def test_push_to_hub_is_a_publish(family, new_name, tmp_path, tiny_table_dir, capsys):
    """A run that publishes itself leaves what the command would have sent."""
    repo_id, out = new_name("again"), tmp_path / "anb"
    main(["finetune", "--dataset", tiny_table_dir, "--student", str(family / "student"), "--strategy", "anb",
          "--max_steps", "2", "--disable_tqdm", "true", "--use_cpu", "true", "--output_dir", str(out),
          "--push_to_hub", "true", "--hub_model_id", repo_id, "--hub_private_repo", "true"])  # fmt: skip
    assert commits(repo_id) == 2 and HfApi().model_info(repo_id).private
    assert publish(out, repo_id).commit is None
    assert json.loads(texts(repo_id)["surgery.json"])["after_training"]["moved"] == []
    with pytest.raises(SystemExit):
        main(["finetune", "--dataset", tiny_table_dir, "--student", str(family / "student"), "--output_dir",
              str(tmp_path / "never"), "--push_to_hub", "true", "--hub_token", "hf_wrong_token"])  # fmt: skip
    said = capsys.readouterr().err
    assert "refused the token" in said and "hf_wrong_token" not in said and not (tmp_path / "never").exists()


def test_a_table_comes_back_from_the_hub_as_it_was(tiny_table_dir, new_name):
    repo_id = new_name("table")
    main(["publish", str(tiny_table_dir), "--repo_id", repo_id, "--private"])
    assert HfApi().dataset_info(repo_id).private and commits(repo_id, repo_type="dataset") == 2
    assert publish(tiny_table_dir, repo_id).commit is None
    table, loaded = load_table(tiny_table_dir), load_dataset(repo_id)
    for split in table:
        light = {name: feature for name, feature in table[split].features.items() if "region" not in name}
        assert loaded[split].features == light, "the light table alone, unless more is asked for"
        for column in light:
            if column != "image":
                assert loaded[split][column][:] == table[split][column][:]
        for found, expected in zip(loaded[split]["image"], table[split]["image"], strict=True):
            assert (found is None) == (expected is None)
            assert found is None or np.array_equal(np.asarray(found), np.asarray(expected))
    heavy, whole = load_dataset(repo_id, "regions"), load_table(repo_id)
    assert set(heavy["test"].features) == {"image_id", "region_features", "region_boxes", "num_regions"}
    for split in table:
        assert dict(whole[split].features) == dict(table[split].features)
        for column in ("image_id", "region_features", "region_boxes", "num_regions"):
            assert whole[split][column][:] == table[split][column][:]
        stored = FixedSizeColumn(whole[split], "region_features")
        expected = FixedSizeColumn(table[split], "region_features")
        assert np.array_equal(stored[np.arange(len(stored))], expected[np.arange(len(expected))])


def test_a_table_that_lost_a_split(tiny_table_dir, new_name, tmp_path):
    repo_id, table = new_name("table"), load_table(tiny_table_dir)
    publish(tiny_table_dir, repo_id)
    DatasetDict({"train": table["train"].select(range(9))}).save_to_disk(str(tmp_path / "less"))
    done = publish(tmp_path / "less", repo_id)
    assert done.deleted == [
        f"{config}/{split}-00000-of-00001.parquet"
        for config in ("data", "regions")
        for split in ("test", "validation")
    ]
    loaded = load_dataset(repo_id)
    assert list(loaded) == ["train"] and loaded["train"]["image_id"][:] == table["train"]["image_id"][:9]


def test_photos_outside_of_the_table_come_along_in_shards(tmp_path, new_name, monkeypatch, rng):
    for row in range(30):
        Image.fromarray(rng.integers(0, 255, (30, 30, 3)).astype(np.uint8)).save(tmp_path / f"{row}.png")
    paths = [str(tmp_path / f"{row}.png") for row in range(30)]
    features = datasets.Features({"image_id": datasets.Value("string"), "image": datasets.Image()})
    rows = Dataset.from_dict({"image_id": [str(row) for row in range(30)], "image": paths}, features=features)
    DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "table"))
    monkeypatch.setattr("emocap.hub.tables.SHARD_BYTES", 30_000)
    monkeypatch.setattr("emocap.hub.tables.BATCH_BYTES", 300)
    repo_id = new_name("photos")
    done = publish(tmp_path / "table", repo_id)
    assert len([path for path in done.added if path.endswith(".parquet")]) > 2
    shutil.rmtree(tmp_path / "table")
    loaded = load_dataset(repo_id, split="train")
    for row, path in zip(loaded, paths, strict=True):
        assert np.array_equal(np.asarray(row["image"]), np.asarray(Image.open(path)))
    raw = loaded.cast_column("image", datasets.Image(decode=False))
    assert not [row for row in raw if str(tmp_path) in (row["image"]["path"] or "")]


def test_a_branch_and_a_pull_request(tiny_table_dir, new_name, capsys):
    repo_id = new_name("table")
    main(["publish", str(tiny_table_dir), "--repo_id", repo_id, "--revision", "draft"])
    assert load_dataset(repo_id, revision="draft")["test"].num_rows == load_table(tiny_table_dir)["test"].num_rows
    assert not [file for file in HfApi().list_repo_files(repo_id, repo_type="dataset") if file.endswith(".parquet")]
    capsys.readouterr()
    main(["publish", str(tiny_table_dir), "--repo_id", repo_id, "--create_pr"])
    assert re.search(r"discussions/1$", capsys.readouterr().out.strip())
    found = load_dataset(repo_id, revision="refs/pr/1", split="test")
    assert found["image_id"][:] == load_table(tiny_table_dir)["test"]["image_id"][:]
    assert commits(repo_id, repo_type="dataset") == 1, "main is as it was"
    again = publish(tiny_table_dir, repo_id, create_pr=True)
    assert again.commit is None and again.address.endswith("discussions/1")
    with pytest.raises(SystemExit):
        main(["publish", str(tiny_table_dir), "--repo_id", f"{repo_id}-no", "--create_pr"])
    assert "a pull request needs a repository that exists" in capsys.readouterr().err


def test_a_dry_run_changes_nothing(family, new_name, capsys):
    repo_id = new_name("student")
    main(["publish", str(family / "student"), "--repo_id", repo_id, "--dry_run"])
    printed = capsys.readouterr().out
    size = (family / "student" / "model.safetensors").stat().st_size
    assert re.search(rf"^add +{size:,} model.safetensors$", printed, re.MULTILINE)
    assert not HfApi().repo_exists(repo_id)
    publish(family / "student", repo_id)
    main(["publish", str(family / "student"), "--repo_id", repo_id, "--dry_run"])
    assert re.search(rf"^keep +{size:,} model.safetensors$", capsys.readouterr().out, re.MULTILINE)


def test_the_metric(new_name, capsys):
    repo_id = new_name("emocap_metrics")
    main(["publish", "metric", "--repo_id", repo_id])
    main(["publish", "metric", "--repo_id", repo_id])
    assert "no commit" in capsys.readouterr().out
    card = Path(HfApi().hf_hub_download(repo_id, "README.md", repo_type="space")).read_text()
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["results"]["map_macro"] == 1.0
    SpaceCard(card).validate(repo_type="space")


REFUSED = {"pytorch_model.bin": b"x", "a.pt": b"x", "b.PKL": b"x", "c.pth": b"x", "sub/d.ckpt": b"x"}


@pytest.mark.parametrize("name", REFUSED)
def test_pickles_are_refused(family, tmp_path, capsys, name):
    shutil.copytree(family / "student", tmp_path / "student")
    (tmp_path / "student" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "student" / name).write_bytes(REFUSED[name])
    with pytest.raises(SystemExit) as stop:
        main(["publish", str(tmp_path / "student"), "--repo_id", "tester/never"])
    assert stop.value.code == 2
    assert "Convert it to safetensors" in capsys.readouterr().err and not HfApi().repo_exists("tester/never")


def test_links_that_lead_outside_are_refused(family, tmp_path):
    copy = tmp_path / "student"
    shutil.copytree(family / "student", copy)
    (tmp_path / "secret.txt").write_text("secret")
    (copy / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ValueError, match="leads outside"):
        publish(copy, "tester/never")
    (copy / "notes.txt").unlink()
    (copy / "more").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads outside"):
        publish(copy, "tester/never")
    (copy / "more").unlink()
    (copy / "same.json").symlink_to(copy / "metrics.json")
    assert "same.json" in publish(copy, "tester/never", dry_run=True).added
    (copy / "token.txt").write_text("hf_" + "a" * 34)
    with pytest.raises(ValueError, match="'token.txt' holds an access token"):
        publish(copy, "tester/never")


def test_a_public_repository_is_not_taken_for_a_private_one(family, new_name):
    repo_id = new_name("student")
    publish(family / "student", repo_id)
    with pytest.raises(ValueError, match="is there already, and public"):
        publish(family / "student", repo_id, private=True)


@pytest.mark.parametrize("token", ["hf_wrong_token_123", "hf_reader"])
def test_a_token_that_may_not(family, new_name, token, tmp_path):
    for repo_id in (new_name("student"), "student"):
        with pytest.raises(OSError) as caught:
            publish(family / "student", repo_id, token=token)
        said = str(caught.value)
        assert ("refused the token" in said) if token != "hf_reader" else ("does not let this token write" in said)
        assert token not in said and caught.value.__suppress_context__


def test_what_is_no_run_and_no_table_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["publish", str(tmp_path), "--repo_id", "nothing"])
    assert stop.value.code == 2 and "neither a finished run" in capsys.readouterr().err


def test_cards_are_valid(family, new_name):
    for name, card_class in (("student", ModelCard), ("labelled", DatasetCard), ("extractor", ModelCard)):
        repo_id = new_name(name)
        publish(family / name, repo_id)
        card_class.load(repo_id).validate()
