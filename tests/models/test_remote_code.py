"""Checkpoints beside their code: what travels, and that it works where emocap is not installed."""

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSequenceClassification, AutoProcessor

import emocap.models
from emocap.cli import main
from emocap.models import (
    BottomUpConfig,
    BottomUpDetector,
    EmocapGridConfig,
    EmocapGridExtractor,
    EmocapProcessor,
    EmocapRegionConfig,
    EmocapRegionExtractor,
    EmocapStudentForMultiLabelClassification,
    EmocapTeacherForMultiLabelClassification,
)

ALLOWED = {"torch", "torchvision", "transformers", "huggingface_hub", "PIL", "numpy", "yaml"}

KINDS = ["teacher", "student", "regions", "bottom_up", "grid"]

LOADS = """
import json
import numpy as np, torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSequenceClassification, AutoProcessor
from transformers import pipeline

torch.set_num_threads(1)
folders = json.loads(sys.argv[1])
photo, captions, found = Image.open(folders.pop("photo")), ["the dog at a party", "rain"], {}
for name in ("teacher", "student"):
    processor = AutoProcessor.from_pretrained(folders[name], trust_remote_code=True)
    inputs = processor(images=[photo, None], text=captions)
    for auto_class in (AutoModel, AutoModelForSequenceClassification):
        model = auto_class.from_pretrained(folders[name], trust_remote_code=True).eval()
        with torch.no_grad():
            found[f"{name} {auto_class.__name__}"] = model(**inputs).logits.tolist()
    config = AutoConfig.from_pretrained(folders[name], trust_remote_code=True)
    assert type(config).__name__ == type(model.config).__name__
    model.save_pretrained(folders[name] + "_again")
    processor.save_pretrained(folders[name] + "_again")
    pair = {"image": photo, "text": captions[0]}
    pipe = pipeline(model=folders[name], trust_remote_code=True)
    found[f"{name} pipeline"] = pipe(pair)
    assert found[f"{name} pipeline"] == pipeline("emotion-recognition", folders[name], trust_remote_code=True)(pair)
    assert len(pipe(pair, explain=True)[0]["explanation"]["boxes"])
    pipe.save_pretrained(folders[name] + "_piped")
texts = pipeline("text-classification", folders["student"], trust_remote_code=True)(captions, top_k=None)
found["texts"] = [{row["label"]: row["score"] for row in rows} for rows in texts]
pixels = AutoImageProcessor.from_pretrained(folders["student"], trust_remote_code=True)(photo)["pixel_values"]
found["pixels"] = pixels.tolist()
weightless = AutoProcessor.from_pretrained(folders["teacher"], trust_remote_code=True)
weightless.region_extractor = "torchvision:fasterrcnn_resnet50_fpn_v2"
try:
    weightless(images=photo)
except ImportError as error:
    assert "pip install emocap" in str(error)
for name in ("regions", "bottom_up", "grid"):
    extractor = AutoModel.from_pretrained(folders[name], trust_remote_code=True).eval()
    inputs = AutoImageProcessor.from_pretrained(folders[name], trust_remote_code=True)(photo, return_tensors="pt")
    regions = extractor(**inputs)
    found[name] = torch.cat((regions.region_boxes, regions.region_features), 2).tolist()
assert "emocap" not in sys.modules and not any(name.startswith("emocap.") for name in sys.modules)
print("RESULT" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_teacher, tiny_student) -> dict[str, str]:
    """Folders of a teacher with its extractor, a student, the region extractors, and a photo."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(4)
    regions = EmocapRegionConfig(
        backbone_channels=[8], anchor_sizes=[8], feature_dim=16, image_size=32, num_proposals=20, num_regions=9
    )
    EmocapRegionExtractor(regions).eval().save_pretrained(folder / "regions")
    bottom_up = BottomUpConfig(
        shortest_edge=64, longest_edge=96, depths=(1, 1, 1, 1), stem_channels=4, bottleneck_channels=4,
        res2_channels=8, rpn_channels=8, anchor_sizes=(16, 32), num_proposals=20, pool_size=2, num_classes=5,
        num_attributes=3, min_regions=4, num_regions=6,
    )  # fmt: skip
    BottomUpDetector(bottom_up).eval().save_pretrained(folder / "bottom_up")
    vit = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56}
    grid = EmocapGridConfig(vision_config={**vit, "patch_size": 8}, image_size=(56, 56), feature_dim=16)
    EmocapGridExtractor(grid).eval().save_pretrained(folder / "grid")
    teacher = EmocapTeacherForMultiLabelClassification.from_pretrained(tiny_teacher)
    teacher.config.region_extractor = str(folder / "regions")
    teacher.save_pretrained(folder / "teacher")
    processor = EmocapProcessor.from_pretrained(tiny_teacher)
    processor.region_extractor = str(folder / "regions")
    processor.save_pretrained(folder / "teacher")
    EmocapStudentForMultiLabelClassification.from_pretrained(tiny_student).save_pretrained(folder / "student")
    EmocapProcessor.from_pretrained(tiny_student).save_pretrained(folder / "student")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    return {path.stem: str(path) for path in folder.iterdir()}


@torch.no_grad()
def test_without_emocap_everything_loads_and_gives_the_same_numbers(checkpoints, run_without_emocap):
    found = run_without_emocap(LOADS, checkpoints)
    photo, captions = Image.open(checkpoints["photo"]), ["the dog at a party", "rain"]
    for name in ("teacher", "student"):
        inputs = AutoProcessor.from_pretrained(checkpoints[name])(images=[photo, None], text=captions)
        expected = AutoModel.from_pretrained(checkpoints[name]).eval()(**inputs).logits
        for auto_class in ("AutoModel", "AutoModelForSequenceClassification"):
            torch.testing.assert_close(torch.tensor(found[f"{name} {auto_class}"]), expected)
        names = AutoConfig.from_pretrained(checkpoints[name]).id2label
        scores = {names[label]: score for label, score in enumerate(expected[0].sigmoid())}
        ranked = [row["score"] for row in found[f"{name} pipeline"]]
        assert ranked == sorted(ranked, reverse=True)
        for row in found[f"{name} pipeline"]:
            assert row["score"] == pytest.approx(scores.pop(row["label"]).item(), abs=1e-6)
        assert not scores
    for name in ("regions", "bottom_up", "grid"):
        regions = AutoModel.from_pretrained(checkpoints[name]).eval().extract([photo])
        expected = torch.cat((regions.region_boxes, regions.region_features), 2)
        torch.testing.assert_close(torch.tensor(found[name]), expected)
    student = AutoModel.from_pretrained(checkpoints["student"]).eval()
    logits = student(**AutoProcessor.from_pretrained(checkpoints["student"])(text=captions)).logits
    for texts, scores in zip(found["texts"], logits.sigmoid(), strict=True):
        assert texts == pytest.approx(
            dict(zip(student.config.id2label.values(), scores.tolist(), strict=True)), abs=1e-6
        )
    pixels = AutoImageProcessor.from_pretrained(checkpoints["student"])(photo)["pixel_values"]
    assert found["pixels"] == pixels.tolist()
    for name in ("teacher", "student"):  # saved anew from there, nothing is lost
        first = Path(checkpoints[name])
        for suffix in ("_again", "_piped"):
            second = Path(checkpoints[name] + suffix)
            assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
            for path in [*first.glob("*.py"), first / "config.json"]:
                assert path.read_bytes() == (second / path.name).read_bytes()


def test_few_files_lie_beside_a_checkpoint_and_no_detector_beside_a_student(checkpoints):
    files = {name: {path.name for path in Path(checkpoints[name]).glob("*.py")} for name in KINDS}
    assert max(map(len, files.values())) <= 6
    for name in ("teacher", "student"):
        for file in files[name]:
            source = (Path(checkpoints[name]) / file).read_text()
            assert "torchvision.models.detection" not in source and "torchvision.ops" not in source, file


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_holds_the_code_that_it_names_and_no_more(checkpoints, name):
    assert_code_is_whole(Path(checkpoints[name]))


def test_every_folder_that_training_writes_holds_its_code(tmp_path, tiny_table_dir, tiny_student, tiny_bert):
    start = {"train-student": ["--word_embeddings", tiny_bert, "--image_size", "16", "--cnn_channels", "8"]}
    start["finetune"] = ["--student", tiny_student, "--strategy", "anb+"]
    for job, flags in start.items():
        folder = tmp_path / job
        steps = ["--max_steps", "2", "--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1"]
        quiet = ["--use_cpu", "--disable_tqdm", "true", "--dataset", tiny_table_dir, "--output_dir", str(folder)]
        main([job, *flags, *steps, "--save_strategy", "steps", *quiet])
        written = [folder, *folder.glob("checkpoint-*")]
        assert len(written) >= 2
        for own in written:
            assert_code_is_whole(own)
            assert json.loads((own / "config.json").read_text())["custom_pipelines"].keys() == {"emotion-recognition"}


def assert_code_is_whole(folder: Path) -> None:
    """The modules that the folder's JSON files name, what these import, and no other, as they are in emocap."""
    named, seen = set(), set()
    for file in folder.glob("*.json"):
        if file.name in ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
            content = json.loads(file.read_text())
            named |= set(content.get("auto_map", {}).values())
            named |= {pipeline["impl"] for pipeline in content.get("custom_pipelines", {}).values()}
    waiting = {reference.split(".")[0] for reference in named}
    while waiting:  # what they import, by the syntax tree
        module = waiting.pop()
        seen.add(module)
        source = (folder / f"{module}.py").read_text()
        assert source == (Path(emocap.models.__file__).parent / f"{module}.py").read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, "flat siblings only"
                waiting |= {node.module} - seen
    assert {path.stem for path in folder.glob("*.py")} == seen
    for reference in named:
        module, _, name_of_class = reference.partition(".")
        defined = [
            node.name for node in ast.parse((folder / f"{module}.py").read_text()).body if hasattr(node, "name")
        ]
        assert name_of_class in defined


def test_shipped_modules_import_nothing_else():
    for path in Path(emocap.models.__file__).parent.glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                assert top in ALLOWED or top in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_with_emocap_no_flag_is_asked_for(checkpoints, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail(f"asked: {prompt}"))
    for name in ("teacher", "student"):
        assert type(AutoConfig.from_pretrained(checkpoints[name])).__module__.startswith("emocap.models.")
        for auto_class in (AutoModel, AutoModelForSequenceClassification, AutoProcessor):
            for flag in ({}, {"trust_remote_code": True}, {"trust_remote_code": False}):
                loaded = auto_class.from_pretrained(checkpoints[name], **flag)
                assert type(loaded).__module__.startswith("emocap.models."), "its own code comes first"
    for name in ("regions", "bottom_up", "grid"):
        for auto_class in (AutoModel, AutoImageProcessor)[: 1 if name == "grid" else 2]:  # its processor is no own one
            assert type(auto_class.from_pretrained(checkpoints[name])).__module__.startswith("emocap.models.")


def test_a_configuration_that_is_not_saved_by_emocap_gets_its_code_too(tmp_path, checkpoints):
    AutoConfig.from_pretrained(checkpoints["student"]).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == {
        path.name for path in Path(checkpoints["student"]).glob("*.py")
    }
