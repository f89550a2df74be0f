"""What a text encoder's frozen layers make of the words is computed once, and nothing else changes by it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from emocap.cli import main
from emocap.data.pairs import PairDataset
from emocap.models import EmocapProcessor, EmocapTeacherConfig, EmocapTeacherForMultiLabelClassification
from emocap.training.build import freeze_layers
from emocap.training.frozen import PairsWithStates, frozen_layers, skipped_layers
from emocap.training.layers import layers_of
from tests.text_encoders import KINDS, LAYERS, make_teacher


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("number", [1, 2, LAYERS])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_with_states_give_the_whole_models_logits_and_gradients(
    encoders, tiny_table, tmp_path, rng, kind, number, training
):
    model = make_teacher(encoders[kind], pooled_layers=None if number == 1 else [number, -1])
    for module in model.modules():  # ModernBERT's own are 0
        module.p = 0.3 if isinstance(module, nn.Dropout) else getattr(module, "p", None)
    pairs = PairDataset(tiny_table["train"], EmocapProcessor(AutoTokenizer.from_pretrained(encoders[kind])), "labels")
    freeze_layers(model, number)
    model.train(training)
    assert frozen_layers(model) == number and model.training == training
    stored = PairsWithStates(model, pairs, tmp_path, batch_size=7, number=number)
    assert stored.states.shape == (pairs.token_starts[-1], 32) and len(stored) == len(pairs)
    chosen, ran, results = rng.permutation(len(pairs))[:13], [], []
    for module in layers_of(model.body)[0].modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *call: ran.append(1))
    with skipped_layers(model, number):
        for inputs in (pairs.__getitems__(chosen), stored.__getitems__(chosen)):
            ran.clear()
            model.zero_grad()
            torch.manual_seed(5)  # of dropout
            output = model(**inputs)
            output.loss.backward()
            gradients = {name: own.grad for name, own in model.named_parameters() if own.grad is not None}
            results.append((output.logits.detach(), gradients))
            assert bool(ran) == ("layer_states" not in inputs)
    (whole, plain), (skipped, cached) = results
    torch.testing.assert_close(skipped, whole, atol=1e-4, rtol=1e-4)
    assert plain.keys() == cached.keys() and any(name.startswith("region_embeddings") for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-4, rtol=1e-3, msg=name)
    assert not model._forward_pre_hooks and "forward" not in vars(layers_of(model.body)[0])


def test_layers_count_where_their_states_stay_the_same(encoders, tiny_bert):
    model = make_teacher(encoders["mpnet"])
    assert frozen_layers(model) == 0
    freeze_layers(model, 2)
    assert frozen_layers(model) == 2
    for layers, expected in (([2], 2), ([-1], 2), ([1, 3], 0), ([0], 0)):
        model.config.pooled_layers = layers
        assert frozen_layers(model) == expected
    model.config.pooled_layers = None
    model.text_encoder.encoder.relative_attention_bias.requires_grad_(True)
    assert frozen_layers(model) == 0
    shared = EmocapTeacherForMultiLabelClassification(
        EmocapTeacherConfig(
            text_config=AutoConfig.for_model("albert", num_hidden_layers=2, hidden_size=8, num_attention_heads=2),
            fusion="late", pooling="mean",
        )
    )  # fmt: skip
    assert frozen_layers(shared) == 0, "its layers cannot be counted, and need not be"
    for fusion in ("early", "late"):  # dropout over words and regions together draws as long as these train
        teacher = EmocapTeacherForMultiLabelClassification.from_body(tiny_bert, fusion=fusion, visual_embedding_dim=16)
        freeze_layers(teacher, 2)
        assert frozen_layers(teacher) == 0
        teacher.visual_bert.embeddings.requires_grad_(False)
        assert frozen_layers(teacher) == (2 if fusion == "late" else 0)


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("mpnet", ["--freeze_layers", "2"]),
        ("deberta-v2", ["--freeze_layers", "1", "--pooled_layers", "2", "3"]),
        ("modernbert", ["--freeze_layers", "3"]),
    ],
)
def test_training_from_stored_states_ends_like_the_plain_way(
    encoders, tiny_table_dir, tmp_path, kind, flags, monkeypatch
):
    runs = {}
    for way in ("plain", "stored"):
        own, passed = ["--no_cache_frozen_outputs"] if way == "plain" else [], []
        with monkeypatch.context() as patch:
            patch.setattr(PairsWithStates, "__getitems__", counted(PairsWithStates.__getitems__, passed))
            main(["train-teacher", "--model_name_or_path", encoders[kind], "--dataset", tiny_table_dir, "--output_dir",
                  str(tmp_path / way), "--use_cpu", "--num_train_epochs", "2", "--learning_rate", "0.001",
                  "--per_device_train_batch_size", "8", "--disable_tqdm", "true", *own, *flags])  # fmt: skip
        assert bool(passed) == (way == "stored")
        runs[way] = json.loads((tmp_path / way / "metrics.json").read_text())
        assert not (tmp_path / way / ".frozen_outputs").exists()
    for key, value in runs["plain"].items():
        near = pytest.approx(value, abs=1e-3) if isinstance(value, float) else value
        assert runs["stored"][key] == near, key
    one, other = (load_file(tmp_path / way / "model.safetensors") for way in ("plain", "stored"))
    assert one.keys() == other.keys()
    for tensor in one:
        np.testing.assert_allclose(other[tensor], one[tensor], atol=1e-3, err_msg=tensor)


def counted(method, calls: list):
    def call(*args):
        calls.append(1)
        return method(*args)

    return call


def test_too_little_room_is_said_with_the_way_out(encoders, tiny_table, tmp_path, monkeypatch):
    model = make_teacher(encoders["mpnet"])
    pairs = PairDataset(tiny_table["train"], EmocapProcessor(AutoTokenizer.from_pretrained(encoders["mpnet"])))
    freeze_layers(model, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="--no_cache_frozen_outputs"):
        PairsWithStates(model, pairs, tmp_path, batch_size=7, number=1)
