"""A whole family on the Hub, and each piece of it where emocap is not installed."""

import io
import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard, HfApi, ModelCard
from PIL import Image
from transformers import AutoModel, AutoProcessor

from emocap.cli import main
from emocap.data.storage import load_table
from emocap.evaluation.controls import body_of_run
from emocap.hub.family import publish_family

NAMES = ("extractor", "teacher", "labelled", "student", "anb-plus")


@pytest.fixture(scope="module")
def published(family) -> dict[str, str]:
    """Repositories by part, published under an organisation by one command."""
    prefix = f"f{os.urandom(4).hex()}"
    main(["publish-family", str(family), "--namespace", "acme", "--prefix", prefix])
    return {name: f"acme/{prefix}-{name}" for name in NAMES}


def kind(name: str) -> str:
    return "dataset" if name == "labelled" else "model"


def test_each_is_one_commit_and_a_second_time_none(published, family, capsys):
    count = {name: len(HfApi().list_repo_commits(own, repo_type=kind(name))) for name, own in published.items()}
    assert set(count.values()) == {2}
    prefix = published["teacher"].partition("/")[2].removesuffix("-teacher")
    assert all(again.commit is None for again in publish_family(family, namespace="acme", prefix=prefix))
    for name, own in published.items():
        assert len(HfApi().list_repo_commits(own, repo_type=kind(name))) == 2


def test_the_cards_name_each_other(published):
    cards = {name: (DatasetCard if name == "labelled" else ModelCard).load(own) for name, own in published.items()}
    for name, card in cards.items():
        card.validate()
        for other, repo_id in published.items():
            link = f"/datasets/{repo_id})" if other == "labelled" else f"/{repo_id})"
            assert (link in card.text) == (other != name), (name, other)
    assert cards["student"].data.datasets == [published["labelled"]]
    assert cards["student"].data.base_model == [published["teacher"]]
    assert cards["anb-plus"].data.base_model == [published["student"]]
    for name in ("teacher", "student", "anb-plus"):
        assert {result.metric_type for result in cards[name].data.eval_results} >= {"map_macro", "bce", "lrap"}
        first = next(result for result in cards[name].data.eval_results if result.metric_type == "lrap")
        low, high = first.metric_args["interval_95"]
        assert low <= first.metric_value <= high
    config = json.loads(Path(HfApi().hf_hub_download(published["teacher"], "processor_config.json")).read_text())
    assert config["region_extractor"] == published["extractor"]


LOADS = """
import io, json, os, torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline
from datasets import load_dataset

ask = json.loads(sys.argv[1])
photo, found = Image.open(io.BytesIO(bytes.fromhex(ask["photo"]))), {}
for name, revision in ask["models"].items():
    options = {"trust_remote_code": True, "revision": revision}
    processor = AutoProcessor.from_pretrained(ask["ids"][name], **options)
    model = AutoModel.from_pretrained(ask["ids"][name], **options).eval()
    with torch.inference_mode():
        found[name] = model(**processor(images=photo, text="rain at the party")).logits.tolist()
    pipe = pipeline(model=ask["ids"][name], trust_remote_code=True)
    found[name + " pipeline"] = pipe({"image": photo, "text": "rain at the party"}, top_k=None)
extractor = AutoModel.from_pretrained(ask["ids"]["extractor"], trust_remote_code=True).eval()
found["extractor"] = extractor.extract([photo]).region_features[0].float().tolist()
table = load_dataset(ask["ids"]["labelled"], split="test")
found["rows"] = {name: table[name][:] for name in ("image_id", "captions", "emotions", "emotion_scores")}
found["names"] = table.features["emotions"].feature.names
if not os.environ.get("HF_HUB_OFFLINE"):
    photos = load_dataset(ask["ids"]["labelled"], "photos", split="test", streaming=True)
    found["sizes"] = [row["image"] and list(row["image"].size) for row in photos]
    regions = next(iter(load_dataset(ask["ids"]["labelled"], "regions", split="test", streaming=True)))
    found["regions"] = regions["region_features"]
assert "emocap" not in sys.modules
print("RESULT" + json.dumps(found))
"""


def test_each_piece_where_emocap_is_not_installed(published, family, run_without_emocap, monkeypatch):
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 60, 3)).astype(np.uint8))
    content = io.BytesIO()
    photo.save(content, "PNG")
    models = ("teacher", "student", "anb-plus")
    ask = {
        "ids": published,
        "models": {name: HfApi().model_info(published[name]).sha for name in models},
        "photo": content.getvalue().hex(),
    }
    found = run_without_emocap(LOADS, ask)
    folders = {"teacher": family / "teacher", "student": family / "student", "anb-plus": family / "anb+"}
    for name, folder in folders.items():
        inputs = AutoProcessor.from_pretrained(folder)(images=photo, text="rain at the party")
        model = AutoModel.from_pretrained(folder).eval()
        with torch.inference_mode():
            logits = model(**inputs).logits
        torch.testing.assert_close(torch.tensor(found[name]), logits)
        best = (logits[0] / model.config.temperature).sigmoid().max()
        assert found[f"{name} pipeline"][0]["score"] == pytest.approx(float(best), abs=1e-5)
    table = load_table(family / "labelled")["test"]
    assert found["rows"] == {name: table[name][:] for name in found["rows"]}
    assert found["names"] == table.features["emotions"].feature.names
    assert found["sizes"] == [None if image is None else list(image.size) for image in table["image"]]
    assert found["regions"] == table[0]["region_features"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = run_without_emocap(LOADS, ask | {"models": {"student": ask["models"]["student"]}})
    assert len(offline) == 5 and offline == {name: found[name] for name in offline}


def test_the_snippets_of_the_cards_run(published, run_without_emocap, tmp_path):
    Image.effect_noise((60, 40), 90).save(tmp_path / "party.jpg")
    blocks = []
    for name, own in published.items():
        card = (DatasetCard if name == "labelled" else ModelCard).load(own)
        blocks += re.findall(r"^```python\n(.*?)^```", card.text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8
    code = "\n".join(blocks) + "\nimport json\nprint('RESULT' + json.dumps(len(best)))"
    assert run_without_emocap(code, None) == 3


def test_the_next_steps_start_from_the_hub(published, tmp_path, tiny_table_dir):
    """Ids stand wherever a folder does."""
    quick = ["--max_steps", "1", "--disable_tqdm", "true", "--use_cpu", "true", "--eval_strategy", "no",
             "--save_strategy", "no", "--load_best_model_at_end", "false"]  # fmt: skip
    main(["train-student", "--dataset", published["labelled"], "--word_embeddings", published["teacher"], *quick,
          "--cnn_channels", "8", "--image_size", "16", "--output_dir", str(tmp_path / "student")])  # fmt: skip
    assert json.loads((tmp_path / "student" / "config.json").read_text())["modalities"] == "both", "photos came along"
    main(["finetune", "--dataset", tiny_table_dir, "--student", published["student"], "--teacher",
          published["teacher"], "--strategy", "anb", "--num_layers", "all", "--head_init", "ridge", "--source_dataset",
          published["labelled"], *quick, "--output_dir", str(tmp_path / "anb")])  # fmt: skip
    main(["train-teacher", "--dataset", tiny_table_dir, "--mix_dataset", published["labelled"], *quick,
          "--model_name_or_path", published["teacher"], "--output_dir", str(tmp_path / "teacher")])  # fmt: skip
    main(["regions", published["labelled"], "--extractor", published["extractor"], "--output_dir",
          str(tmp_path / "regions")])  # fmt: skip
    main(["evaluate", published["student"], "--dataset", tiny_table_dir, "--num_resamples", "0"])
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert card.data.datasets == [published["labelled"]] and card.data.base_model == [published["teacher"]]


def test_studies_and_tools_start_from_the_hub(published, family, new_name, tmp_path, tiny_table_dir, capsys):
    human = new_name("human")
    main(["publish", tiny_table_dir, "--repo_id", human])
    common = ["--word_embeddings", published["teacher"], "--image_size", "16", "--cnn_channels", "8", "--hidden_size",
              "8", "--max_steps", "2", "--num_seeds", "2", "--source_dataset", published["labelled"],
              "--target_dataset", human]  # fmt: skip
    main(["label-study", *common, "--images_per_label", "3", "--num_target", "20", "--pretrain_steps", "2",
          "--selections", "selected", "--targets", "soft", "--output_dir", str(tmp_path / "labels")])  # fmt: skip
    main(["transfer-study", *common, "--sizes", "20", "--base_steps", "2", "--strategies", "anb", "--num_layers",
          "all", "--directions", "source_to_target", "--no_freeze_word_embeddings", "--output_dir",
          str(tmp_path / "transfer")])  # fmt: skip
    main(["cross-validate", "--dataset", human, "--model_name_or_path", published["teacher"], "--num_folds", "2",
          "--max_steps", "1", "--disable_tqdm", "true", "--use_cpu", "true", "--output_dir",
          str(tmp_path / "folds")])  # fmt: skip
    assert all((tmp_path / name).is_dir() for name in ("labels", "transfer", "folds"))
    capsys.readouterr()
    main(["predict", published["student"], "--caption", "rain", "--top_k", "2", "--explain"])
    assert "explanation" in capsys.readouterr().out
    if find_spec("onnxscript") and find_spec("onnxruntime"):
        main(["export", published["student"], "--output", str(tmp_path / "student.onnx"), "--dataset", human])
        assert (tmp_path / "student.onnx").is_file()
    with pytest.raises(SystemExit):
        main(["calibrate", published["student"], "--dataset", human])
    assert "give a local folder: its config.json changes" in capsys.readouterr().err


def test_a_run_on_the_hub_says_what_it_was_made_from(published, family, new_name, tmp_path, tiny_table_dir, capsys):
    """`ridge` finds the student's data, the controls its body and a report its figures by the Hub id alone; where the
    record names a folder of the machine that published it, the message names the flag."""
    quick = ["--max_steps", "1", "--disable_tqdm", "true", "--use_cpu", "true", "--eval_strategy", "no",
             "--save_strategy", "no", "--load_best_model_at_end", "false"]  # fmt: skip
    ridge = ["finetune", "--dataset", tiny_table_dir, "--teacher", published["teacher"], "--strategy", "anb+",
             "--head_init", "ridge", *quick, "--output_dir", str(tmp_path / "ridge")]  # fmt: skip
    alone = new_name("alone")
    main(["publish", str(family / "student"), "--repo_id", alone])
    with pytest.raises(SystemExit):
        main([*ridge, "--student", alone])
    said = capsys.readouterr().err
    assert alone in said and "Give --source_dataset" in said and not (tmp_path / "ridge").exists()
    main([*ridge, "--student", published["student"]])
    surgery = json.loads((tmp_path / "ridge" / "surgery.json").read_text())
    assert surgery["tensors"]["classifier.weight"]["origin"] == f"ridge of {published['student']}"

    found = {}
    for name in ("student", "teacher"):
        path = tmp_path / f"{name}.json"
        main(["evaluate", published[name], "--dataset", tiny_table_dir, "--controls", "--num_resamples", "20",
              "--output", str(path)])  # fmt: skip
        found[name] = json.loads(path.read_text())
    assert "encoder/map_macro" in found["student"], "the published teacher's body"
    assert "encoder/map_macro" not in found["teacher"] and "tfidf/map_macro" in found["teacher"]

    runs = [f"{name}={run}" for name, run in (("teacher", published["teacher"]), ("AnB+", str(family / "anb+")))]
    main(["report", *runs, "--output", str(tmp_path / "report.html")])
    local = ["report", f"teacher={family / 'teacher'}", f"AnB+={published['anb-plus']}", "--output"]
    main([*local, str(tmp_path / "local.html")])
    assert (tmp_path / "report.html").read_text() == (tmp_path / "local.html").read_text()
    with pytest.raises(SystemExit):
        main(["report", f"gone={alone}-gone", "--output", str(tmp_path / "never.html")])
    assert f"'{alone}-gone' is neither a folder nor a model on the Hub" in capsys.readouterr().err


def test_a_body_that_is_not_at_hand_is_asked_for(published, family, monkeypatch):
    said = []
    monkeypatch.setattr("emocap.evaluation.controls.logger.warning", said.append)
    assert body_of_run(published["student"]) == published["teacher"]
    assert body_of_run(published["teacher"]) is None and body_of_run(published["extractor"]) is None
    assert body_of_run(str(family / "student")) == str(family / "teacher")
    assert len(said) == 2 and all("give --encoder" in line for line in said)


def test_a_private_family_is_refused_to_a_stranger(family, monkeypatch, tmp_path, capsys):
    prefix = f"p{os.urandom(4).hex()}"
    main(["publish-family", str(family), "--prefix", prefix, "--private"])
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    for name, command in (
        ("student", ["predict", f"tester/{prefix}-student", "--caption", "rain"]),
        ("labelled", ["label", f"tester/{prefix}-labelled", "--teacher", "x/y", "--output_dir", str(tmp_path / "o")]),
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        said = capsys.readouterr().err
        assert stop.value.code == 2 and "hf_reader" not in said and f"tester/{prefix}-{name}" in said


def test_an_empty_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["publish-family", str(tmp_path), "--namespace", "acme"])
    assert "holds no folder of a finished run" in capsys.readouterr().err
