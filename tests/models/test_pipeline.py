"""The emotion-recognition pipeline beside the models it runs."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from torch import nn
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.pipelines.pt_utils import KeyDataset

import emocap
from emocap.models import EmocapProcessor, EmocapRegionConfig, EmocapRegionExtractor, EmotionRecognitionPipeline
from emocap.models.pipeline_emocap import integrated_gradients

CAPTIONS = ["the dog at a party", "rain", "a child alone beside the house with the map . a riddle", "picnic"]


@pytest.fixture(scope="module")
def photos() -> list[PILImage.Image]:
    rng = np.random.default_rng(3)
    return [PILImage.fromarray(rng.integers(0, 256, (20 + n, 30, 3), dtype=np.uint8)) for n in range(4)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_teacher, tiny_student) -> dict[str, str]:
    """A student, and a teacher whose processor names an extractor."""
    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(4)
    regions = EmocapRegionConfig(
        backbone_channels=[8], anchor_sizes=[8], feature_dim=16, image_size=32, num_proposals=20, num_regions=9
    )
    EmocapRegionExtractor(regions).eval().save_pretrained(folder / "teacher" / "extractor")
    AutoModel.from_pretrained(tiny_teacher).save_pretrained(folder / "teacher")
    processor = EmocapProcessor.from_pretrained(tiny_teacher)
    processor.region_extractor = "./extractor"
    processor.save_pretrained(folder / "teacher")
    return {"student": tiny_student, "teacher": str(folder / "teacher")}


@pytest.fixture(scope="module")
def pipes(folders) -> dict[str, EmotionRecognitionPipeline]:
    return {name: pipeline("emotion-recognition", model=folder, device="cpu") for name, folder in folders.items()}


@pytest.fixture(params=["student", "teacher"])
def pipe(request, pipes) -> EmotionRecognitionPipeline:
    return pipes[request.param]


@torch.no_grad()
def probabilities(pipe, photo, caption) -> dict[str, float]:
    """By the model itself, one pair at a time."""
    logits = pipe.model(**pipe.processor(images=photo, text=caption)).logits[0]
    return {pipe.model.config.id2label[label]: value.item() for label, value in enumerate(logits.sigmoid())}


def assert_rows(rows: list[dict], expected: dict[str, float]) -> None:
    assert [row["label"] for row in rows] == sorted(expected, key=expected.get, reverse=True)
    assert [row["score"] for row in rows] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-5)


@pytest.fixture
def mixed(photos) -> list[dict]:
    """Pairs with and without a photo or a caption."""
    return [
        {"image": photos[0], "text": CAPTIONS[0]},
        {"text": CAPTIONS[1]},
        {"image": photos[1], "text": None},
        {"image": photos[2]},
        {"image": photos[3], "text": CAPTIONS[2]},
    ]


def test_importing_emocap_is_enough(folders, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail(f"asked: {prompt}"))
    for folder in folders.values():
        for arguments in (
            {"task": "emotion-recognition"},
            {},
            {"trust_remote_code": True},
            {"task": "emotion-recognition", "trust_remote_code": False},
        ):
            made = pipeline(model=folder, device="cpu", **arguments)
            assert type(made) is emocap.EmotionRecognitionPipeline
            assert type(made.model).__module__.startswith("emocap.models.")
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert pipeline("emotion-recognition", model=model, processor=processor)("rain")
    with pytest.raises(ValueError, match="needs `processor`"):
        EmotionRecognitionPipeline(model=model)


def test_a_pair_gives_every_emotion_best_first(pipe, photos, tmp_path):
    expected = probabilities(pipe, photos[0], CAPTIONS[0])
    assert_rows(pipe({"image": photos[0], "text": CAPTIONS[0]}), expected)
    photos[0].save(tmp_path / "photo.png")
    for photo in (tmp_path / "photo.png", str(tmp_path / "photo.png"), np.asarray(photos[0])):
        assert_rows(pipe({"image": photo, "text": CAPTIONS[0]}), expected)
    assert_rows(pipe({"text": CAPTIONS[0]}), probabilities(pipe, None, CAPTIONS[0]))
    assert pipe(CAPTIONS[0]) == pipe({"text": CAPTIONS[0]}) == pipe({"text": CAPTIONS[0], "image": None})
    assert_rows(pipe({"image": photos[0]}), probabilities(pipe, photos[0], None))
    assert pipe(photos[0]) == pipe(np.asarray(photos[0])) == pipe({"image": photos[0], "text": ""})


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_give_what_single_pairs_give(pipe, mixed, batch_size):
    expected = [probabilities(pipe, pair.get("image"), pair.get("text")) for pair in mixed]
    for source in (mixed, tuple(mixed), (pair for pair in mixed), iter(mixed)):
        found = list(pipe(source, batch_size=batch_size))
        assert len(found) == len(mixed)
        for rows, own in zip(found, expected, strict=True):
            assert_rows(rows, own)
    assert pipe([]) == [] and pipe([mixed[0]])[0] == pipe(mixed[0])


def test_a_data_set_and_its_columns(pipe, photos):
    features = Features({"image": Image(), "text": Value("string")})
    table = Dataset.from_dict({"image": [photos[0], None, photos[2]], "text": [CAPTIONS[0], "rain", None]}, features)
    expected = [probabilities(pipe, row["image"], row["text"]) for row in table]
    found = pipe(table, batch_size=2)
    assert len(found) == 2, "batches, lazily"
    for rows, own in zip(found, expected, strict=True):
        assert_rows(rows, own)
    words = table.select([0, 1])
    for column in (words["text"], KeyDataset(words, "text"), words["text"][:]):
        assert [rows[0] for rows in pipe(column, batch_size=2)] == [pipe(text)[0] for text in words["text"]]
    assert len(list(pipe(table.select([0, 2])["image"]))) == 2


def test_workers_open_the_photos(pipe, mixed):
    alone, together = (list(pipe(mixed, batch_size=2, num_workers=number)) for number in (0, 2))
    assert alone == together


def test_top_k_and_thresholds(pipe, photos, monkeypatch):
    pair = {"image": photos[0], "text": CAPTIONS[0]}
    rows = pipe(pair)
    assert len(rows) == 5 and pipe(pair, top_k=None) == rows
    assert pipe(pair, top_k=2) == rows[:2] and pipe(pair, top_k=1) == rows[:1] and pipe(pair, top_k=9) == rows
    assert pipe([pair, pair], top_k=2) == [rows[:2]] * 2
    between = (rows[1]["score"] + rows[2]["score"]) / 2
    assert pipe(pair, threshold=between) == rows[:2] and pipe(pair, threshold=between, top_k=1) == rows[:1]
    assert pipe(pair, threshold=1.0) == [] and pipe(pair, threshold=0) == rows
    assert pipe(pair, threshold="config") == [row for row in rows if row["score"] >= 0.5]
    config = pipe.model.config
    thresholds = [0.0 if config.id2label[label] in (rows[0]["label"], rows[3]["label"]) else 1.0 for label in range(5)]
    monkeypatch.setattr(config, "thresholds", thresholds)
    assert pipe(pair, threshold="config") == [rows[0], rows[3]] and pipe(pair) == rows
    monkeypatch.setattr(config, "thresholds", [0.5])
    with pytest.raises(ValueError, match="1 thresholds for 5 labels"):
        pipe(pair, threshold="config")
    again = EmotionRecognitionPipeline(model=pipe.model, processor=pipe.processor, top_k=3, device="cpu")
    assert again(pair) == rows[:3] and again(pair, top_k=None) == rows


def test_temperature_is_part_of_the_probability(pipe, monkeypatch):
    cold = {row["label"]: row["score"] for row in pipe("rain")}
    monkeypatch.setattr(pipe.model.config, "temperature", 2.5)
    for row in pipe("rain"):
        logit = np.log(cold[row["label"]] / (1 - cold[row["label"]]))
        assert row["score"] == pytest.approx(1 / (1 + np.exp(-logit / 2.5)), abs=1e-5)


def test_thresholds_and_temperature_are_saved(tmp_path, tiny_student):
    config = AutoConfig.from_pretrained(tiny_student, thresholds=[0.1, 0.2, 0.3, 0.4, 1.0], temperature=1.5)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.thresholds == [0.1, 0.2, 0.3, 0.4, 1.0] and loaded.temperature == 1.5
    assert AutoConfig.from_pretrained(tiny_student).thresholds is None


def test_what_was_never_learned_is_left_out(pipe, photos, monkeypatch):
    pair = {"image": photos[0], "text": CAPTIONS[0]}
    words, picture = pipe({"text": CAPTIONS[0]}), pipe({"image": photos[0]})
    monkeypatch.setattr(pipe.model.config, "modalities", "text")
    assert pipe(pair) == words
    with pytest.raises(ValueError, match="which is text alone"):
        pipe({"image": photos[0]})
    monkeypatch.setattr(pipe.model.config, "modalities", "image")
    assert pipe(pair) == picture
    with pytest.raises(ValueError, match="which is image alone"):
        pipe("rain")


def test_bad_pairs_and_options_say_what_is_wrong(pipe, photos, tmp_path):
    for pair in ({}, {"caption": "rain"}, {"text": "rain", "labels": [1]}):
        with pytest.raises(ValueError, match="expected 'image', 'text' or both"):
            pipe(pair)
    for pair in ({"text": None}, {"text": ""}, {"image": None, "text": ""}):
        with pytest.raises(ValueError, match="nothing that the model reads"):
            pipe(pair)
    with pytest.raises(FileNotFoundError, match="no photo at"):
        pipe({"image": str(tmp_path / "none.jpg")})
    for options, message in (
        ({"top_k": 0}, "whole number from 1"),
        ({"top_k": 1.5}, "whole number from 1"),
        ({"threshold": 2}, "number in 0..1"),
        ({"threshold": "best"}, "'config'"),
        ({"explain": "envy"}, "one of happy"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe("rain", **options)
    with pytest.raises(TypeError, match="not \\['padding'\\]"):
        pipe("rain", padding=True)


def test_the_pipeline_saves_itself(pipe, photos, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    pair = {"image": photos[0], "text": CAPTIONS[0]}
    assert pipeline(model=str(tmp_path / "saved"), device="cpu")(pair) == pipe(pair)


def difference(explanation: dict) -> tuple[float, float]:
    """What the weights sum to, and what they have to."""
    weights = [*explanation["token_weights"], *explanation["box_weights"]]
    return sum(weights), explanation["logit"] - explanation["baseline_logit"]


@pytest.fixture(params=["student", "teacher early", "teacher late"])
def steep_pipe(request, pipes) -> EmotionRecognitionPipeline:
    """A pipeline whose model has weights twice as large: far from linear."""
    name, _, fusion = request.param.partition(" ")
    model = copy.deepcopy(pipes[name].model)
    model.config.fusion = fusion
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return EmotionRecognitionPipeline(model=model, processor=pipes[name].processor, device="cpu")


def test_weights_of_words_and_boxes_sum_to_the_difference_of_logits(steep_pipe, mixed):
    tokenizer = steep_pipe.processor.tokenizer
    for pair in mixed:
        for wanted in (True, "curious"):
            rows = steep_pipe(pair, explain=wanted)
            assert [{**row, "explanation": None} for row in rows] == [
                {**row, "explanation": None} for row in steep_pipe(pair)
            ]
            (explained,) = (row for row in rows if "explanation" in row)
            explanation = explained["explanation"]
            assert explained["label"] == explanation["label"] == (rows[0]["label"] if wanted is True else wanted)
            weights = [*explanation["token_weights"], *explanation["box_weights"]]
            difference = explanation["logit"] - explanation["baseline_logit"]
            assert sum(weights) == pytest.approx(difference, rel=0.01, abs=2e-3)
            logit = np.log(explained["score"] / (1 - explained["score"]))
            assert explanation["logit"] == pytest.approx(logit, abs=1e-3)
            assert explanation["tokens"] == tokenizer.tokenize(pair.get("text") or "")
            assert len(explanation["token_weights"]) == len(explanation["tokens"])
            assert bool(explanation["boxes"]) == (pair.get("image") is not None)
            assert len(explanation["boxes"]) == len(explanation["box_weights"])
            boxes = np.array(explanation["boxes"]).reshape(-1, 4)
            assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, :2] <= boxes[:, 2:]).all()
            if "saliency" in explanation:
                assert explanation["saliency"].ravel().tolist() == explanation["box_weights"]


def test_explanations_do_not_depend_on_the_batch(pipe, mixed):
    alone = [pipe(pair, explain=True)[0] for pair in mixed]
    with torch.inference_mode():
        together = pipe(mixed, explain=True, batch_size=3, top_k=1)
    for one, (other,) in zip(alone, together, strict=True):
        assert one["label"] == other["label"]
        for key in ("token_weights", "box_weights", "logit", "baseline_logit"):
            assert other["explanation"][key] == pytest.approx(one["explanation"][key], abs=1e-4)


def test_the_explained_emotion_is_always_shown(pipe):
    rows = pipe("rain")
    last = rows[-1]["label"]
    found = pipe("rain", explain=last, top_k=2)
    assert [row["label"] for row in found] == [*(row["label"] for row in rows[:2]), last]
    assert "explanation" in found[-1] and not any("explanation" in row for row in found[:2])
    assert [row["label"] for row in pipe("rain", explain=True, threshold=1.0)] == [rows[0]["label"]]
    assert not any("explanation" in row for row in pipe("rain", explain=False))


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_what_the_model_does_not_use_carries_nothing(pipes, photos, name):
    model = copy.deepcopy(pipes[name].model)
    dead = model.gru if name == "student" else model.visual_bert.embeddings.visual_projection
    with torch.no_grad():
        for parameter in dead.parameters():
            parameter.zero_()
    pipe = EmotionRecognitionPipeline(model=model, processor=pipes[name].processor, device="cpu")
    explanation = pipe({"image": photos[0], "text": CAPTIONS[0]}, explain=True)[0]["explanation"]
    unused, used = ("token_weights", "box_weights") if name == "student" else ("box_weights", "token_weights")
    assert np.abs(explanation[unused]).max() == 0 and np.abs(explanation[used]).max() > 0


def test_integrated_gradients_of_a_polynomial_by_hand():
    """logit = sum_i a_i x_i y_i from x = p, y = 0: the weights have a closed form."""

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.x, self.y, self.a = nn.Identity(), nn.Identity(), torch.randn(6)

        def forward(self, input_ids, other):
            return SequenceClassifierOutput(logits=(self.a * self.x(input_ids) * self.y(other)).sum(1, keepdim=True))

    model, x, y, p = Product(), torch.randn(1, 6), torch.randn(1, 6), torch.randn(1, 6)
    weights, logit, baseline = integrated_gradients(
        model, {"input_ids": x, "other": y}, 0, {model.x: lambda end: p, model.y: torch.zeros_like}
    )
    # x(t) = p + t (x - p), y(t) = t y: the integrals of a y(t) (x - p) and of a x(t) y over t
    torch.testing.assert_close(weights[model.x], (model.a * y * (x - p) / 2)[0])
    torch.testing.assert_close(weights[model.y], (model.a * y * (p + (x - p) / 2))[0])
    assert logit == pytest.approx((model.a * x * y).sum().item(), abs=1e-5) and baseline == 0


def test_explaining_leaves_no_trace(pipe, photos):
    pair = {"image": photos[0], "text": CAPTIONS[0]}
    before = pipe(pair)
    pipe(pair, explain=True)
    assert pipe(pair) == before and all(parameter.grad is None for parameter in pipe.model.parameters())
    assert not any(module._forward_hooks for module in pipe.model.modules())
