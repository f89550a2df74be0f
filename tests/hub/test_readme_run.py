"""The README's staged run from Hub ids to Hub ids: its own lines, one after the other, on tiny data."""

import base64
import json
import re
import shlex
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCard, HfApi, ModelCard
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoTokenizer, VisualBertModel

from emocap.cli import main
from emocap.data.storage import load_table
from emocap.models import BottomUpConfig, BottomUpDetector
from emocap.models.configuration_bottom_up import PUBLISHED_ARCHITECTURE, PUBLISHED_NAMES

ROOT = Path(__file__).parents[2]
SECTION = re.search(r"^## The real run\n(.*?)^##", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
BLOCK = re.search(r"^```bash\n(.*?)^```", SECTION[1], re.MULTILINE | re.DOTALL)[1]
COMMANDS = [line for line in BLOCK.splitlines() if line and not line.startswith("#")]
SCRIPTS = {"train_teacher.py": "train-teacher", "train_student.py": "train-student", "finetune.py": "finetune"}

EMOTIONS = ["happy", "sad", "excited", "curious"]
WIDTH = 64
"""Of the tiny detector's features."""

QUICK = ["--max_steps", "2", "--disable_tqdm", "true", "--use_cpu", "true", "--eval_strategy", "no",
         "--save_strategy", "no", "--load_best_model_at_end", "false"]  # fmt: skip
STUDENT = ["--image_size", "16", "--cnn_channels", "8"]
SMALLER = {
    "data socratis": ["--min_count", "1"],
    "train-teacher": QUICK,
    "train-student": [*QUICK, *STUDENT, "--gru_hidden_size", "8", "--fc_hidden_size", "8"],
    "finetune": QUICK,
    "transfer-study": [*STUDENT, "--hidden_size", "8", "--sizes", "20", "--layer_sizes", "20", "--strategies", "anb",
                       "--num_layers", "all", "--num_seeds", "2", "--max_steps", "2", "--base_steps", "2", "--jobs",
                       "1"],
    "evaluate": ["--num_resamples", "20"],
}  # fmt: skip
"""Sizes of the test, after a command's own flags."""


def write_socratis(folder: Path, rng: np.random.Generator) -> None:
    """`socratis.json`, as its authors give it out, and `photos`."""
    (folder / "photos").mkdir()
    raw = {}
    for number in range(60):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(folder / "photos" / f"{number}.png")
        words = [rng.choice(EMOTIONS, 2, replace=False).tolist() for _ in range(3)]
        raw[str(number)] = [[f"{number}.png", f"the dog at house {number}", own, ["why"] * 2, {}] for own in words]
    (folder / "socratis.json").write_text(json.dumps(raw))


def write_features(path: Path, rng: np.random.Generator) -> None:
    """COCO's region features in the layout of bottom-up attention."""

    def encoded(values: np.ndarray) -> str:
        return base64.b64encode(values.astype("<f4").tobytes()).decode()

    rows = []
    for number in range(40):
        boxes = rng.uniform(0, 20, (5, 4)) + [0, 0, 20, 20]
        rows.append(f"{number}\t60\t60\t5\t{encoded(boxes)}\t{encoded(rng.normal(size=(5, WIDTH)))}\n")
    path.write_text("".join(rows))


def push_coco(repo_id: str) -> None:
    numbers = range(40)
    columns = {
        "license": [1 + number % 8 for number in numbers],
        "file_name": [f"{number:012d}.jpg" for number in numbers],
        "coco_url": [f"http://images.cocodataset.org/{number}" for number in numbers],
        "image_id": list(numbers),
        "ids": [[5 * number + k for k in range(5)] for number in numbers],
        "captions": [[f"a child with the dog {k}" for k in range(5)] for _ in numbers],
    }
    DatasetDict({"train": Dataset.from_dict(columns)}).push_to_hub(repo_id)


def push_detector(repo_id: str, folder: Path) -> None:
    """The two files of the published bottom-up detector, at the width of a test."""
    config = BottomUpConfig(depths=(3, 4, 6, 3), stem_channels=4, bottleneck_channels=4, res2_channels=8,
                            rpn_channels=8, shortest_edge=32, longest_edge=48, num_classes=7, num_attributes=5,
                            num_proposals=60)  # fmt: skip
    settings = {name: getattr(config, field) for field, name in PUBLISHED_NAMES.items()} | PUBLISHED_ARCHITECTURE
    settings |= {"resnets.depth": 50, "roi_heads.nms_thresh_test": [0.9]}
    settings |= {"anchor_generator.sizes": [[8, 16]], "anchor_generator.aspect_ratios": [[0.5, 1.0, 2.0]]}
    content = {}
    for name, value in settings.items():
        *sections, key = name.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = list(value) if isinstance(value, tuple) else value
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    torch.manual_seed(0)
    weights = BottomUpDetector(BottomUpConfig.from_pretrained(folder)).state_dict()
    for name, value in weights.items():
        value.mul_(0.1 if "conv3.norm.weight" in name else 1)  # else untrained blocks add up
    torch.save(weights, folder / "pytorch_model.bin")
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_body, tiny_bert) -> tuple[str, Path, list[list[str]]]:
    """Start of the published names, the folder of the run, and what was called."""
    folder, unique = tmp_path_factory.mktemp("real_run"), uuid.uuid4().hex[:8]
    account, rng = HfApi().whoami()["name"], np.random.default_rng(0)
    ids = {name: f"{account}/{name}-{unique}" for name in ("coco", "detector", "bert", "body")}
    write_socratis(folder, rng)
    write_features(folder / "train2014_obj36.tsv", rng)
    push_coco(ids["coco"])
    push_detector(ids["detector"], folder / "detector")
    AutoModel.from_pretrained(tiny_bert).push_to_hub(ids["bert"])
    config = AutoConfig.from_pretrained(tiny_body, visual_embedding_dim=WIDTH)
    VisualBertModel(config).push_to_hub(ids["body"])
    for name in ("bert", "body"):
        AutoTokenizer.from_pretrained(tiny_bert).push_to_hub(ids[name])
    public = {
        "phiyodr/coco2017": ids["coco"],
        "unc-nlp/frcnn-vg-finetuned": ids["detector"],
        "google-bert/bert-base-uncased": ids["bert"],
    }
    of_presets = {
        "socratis_teacher": ["--model_name_or_path", ids["body"]],
        "coco_student": ["--word_embeddings", ids["bert"]],
    }
    called = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in COMMANDS:
            first, *words = shlex.split(line)
            if first == "python":
                words[0] = SCRIPTS[words[0]]
            else:
                assert first == "emocap", line
            words = [public.get(word, word).replace("me/emocap-", f"{account}/{unique}-") for word in words]
            if words[0] == "publish-family":
                words = [*[account if word == "me" else word for word in words], "--prefix", unique]
            words += SMALLER.get(words[0], SMALLER.get(" ".join(words[:2]), []))
            words += next((flags for preset, flags in of_presets.items() if preset in words), [])
            main(words)
            called.append(words)
    return f"{account}/{unique}", folder, called


def test_every_step_reads_ids_alone(run):
    """Nothing but raw files, and the folders to publish, is read from this machine."""
    raw = {"socratis.json", "photos", "train2014_obj36.tsv", "runs/study"}
    for words in run[2]:
        if words[0].startswith("publish"):
            continue
        written = {words[place + 1] for place, word in enumerate(words) if word in ("--output_dir", "--output")}
        local = {word for word in words if (run[1] / word.partition("=")[2]).exists() and "=" in word}
        local |= {word for word in words if (run[1] / word).exists() and word not in (".", "")}
        assert local - written <= raw, words


def test_each_step_published_what_the_next_one_read(run):
    start, folder, _ = run
    teacher, student, again = (
        json.loads((folder / "runs" / name / "run_arguments.json").read_text())
        for name in ("teacher", "student", "anb-plus")
    )
    assert teacher["dataset"] == again["dataset"] == f"{start}-socratis"
    assert student["dataset"] == f"{start}-coco-emotions" and again["student"] == f"{start}-student"
    statistics = json.loads((folder / "runs" / "coco-emotions" / "label_statistics.json").read_text())
    assert statistics["selection"]["teacher"] == f"{start}-teacher"
    card = ModelCard.load(f"{start}-anb-plus")
    assert card.data.base_model == [f"{start}-student"] and card.data.datasets == [f"{start}-socratis"]
    for name in ("teacher", "coco-emotions", "student", "scratch"):
        assert f"/{start}-{name})" in card.text, "publish-family links what was published before"
    assert HfApi().model_info(f"{start}-student").private
    assert HfApi().dataset_info(f"{start}-coco-emotions").private
    data = DatasetCard.load(f"{start}-coco-emotions").data
    assert {config["config_name"] for config in data["configs"]} == {"captions", "labels", "regions"}
    assert "text_only/map_macro" in json.loads(Path(HfApi().hf_hub_download(
        f"{start}-teacher", "metrics.json")).read_text()), "its controls came along"  # fmt: skip


def test_pictures_and_words_were_read(run):
    start, folder, _ = run
    for name in ("socratis", "coco"):
        table = load_table(f"{start}-{name}")["train"]
        assert table.features["region_features"].length == 36 * WIDTH
        assert min(table["num_regions"]) > 0 and np.isfinite(table[0]["region_features"]).all()
    assert AutoConfig.from_pretrained(f"{start}-teacher").modalities == "both"
    assert AutoConfig.from_pretrained(f"{start}-student").modalities == "text", "COCO's photos are not on the Hub"
    assert AutoConfig.from_pretrained(f"{start}-scratch").modalities == "both"
    page = (folder / "runs" / "report.html").read_text()
    assert all(name in page for name in ("teacher", "scratch", "AnB+")) and "text only" in page


def test_the_presets_name_the_ids_that_the_section_names():
    for preset, key in (("socratis_teacher", "model_name_or_path"), ("coco_student", "word_embeddings")):
        named = yaml.safe_load((ROOT / "emocap" / "presets" / f"{preset}.yaml").read_text())[key]
        assert re.search(rf"{re.escape(named)}[,.]", BLOCK), "said in a comment of the section"
