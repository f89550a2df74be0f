"""The teacher beside transformers' own VisualBERT, with masked inputs, and from every kind of checkpoint."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModel, BertModel, CLIPConfig, T5Config, VisualBertModel, ViTConfig

from emocap.models import EmocapStudentConfig, EmocapTeacherConfig, EmocapTeacherForMultiLabelClassification
from emocap.models.common_emocap import RegionNormalizer

NAMES = ["joy", "anger", "awe"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}


def from_body(folder: str, **overrides) -> EmocapTeacherForMultiLabelClassification:
    return EmocapTeacherForMultiLabelClassification.from_body(folder, **LABELS, **overrides).eval()


def random_inputs(batch: int = 4, words: int = 7, regions: int = 6) -> dict[str, torch.Tensor]:
    """Pairs of differing lengths, every row with at least one word and one region."""
    word_mask = torch.arange(words) < torch.randint(1, words + 1, (batch, 1))
    region_mask = torch.arange(regions) < torch.randint(1, regions + 1, (batch, 1))
    return {
        "input_ids": torch.randint(5, 30, (batch, words)) * word_mask,
        "attention_mask": word_mask.long(),
        "visual_embeds": torch.randn(batch, regions, 16),
        "visual_attention_mask": region_mask.long(),
    }


@pytest.fixture
def teacher(tiny_body):
    return from_body(tiny_body)


@torch.no_grad()
def test_logits_equal_visual_bert_and_a_linear_layer_by_hand(teacher, tiny_body):
    body, inputs = VisualBertModel.from_pretrained(tiny_body).eval(), random_inputs()
    pooled = body(**inputs).pooler_output
    expected = pooled @ teacher.classifier.weight.T + teacher.classifier.bias
    output = teacher(**inputs)
    torch.testing.assert_close(output.logits, expected)
    assert output.loss is None and output.logits.shape == (4, 3)
    torch.testing.assert_close(teacher(**inputs, return_dict=False)[0], expected)


@torch.no_grad()
def test_the_default_masks_see_everything(teacher):
    inputs = random_inputs()
    whole = {name: torch.ones_like(values) if "mask" in name else values for name, values in inputs.items()}
    unmasked = {name: values for name, values in inputs.items() if "mask" not in name}
    torch.testing.assert_close(teacher(**unmasked).logits, teacher(**whole).logits)


@torch.no_grad()
def test_mean_pooling_equals_a_loop(tiny_body):
    teacher, inputs = from_body(tiny_body, pooling="mean"), random_inputs(batch=6)
    inputs["attention_mask"][0] = 0
    inputs["visual_attention_mask"][1] = 0
    hidden = teacher.visual_bert(**inputs).last_hidden_state
    words = inputs["input_ids"].shape[1]
    for row, logits in enumerate(teacher(**inputs).logits):
        own_words = [hidden[row, i] for i, seen in enumerate(inputs["attention_mask"][row]) if seen]
        own_regions = [hidden[row, words + i] for i, seen in enumerate(inputs["visual_attention_mask"][row]) if seen]
        means = [torch.stack(own).mean(0) for own in (own_words, own_regions) if own]
        pooled = torch.stack(means).mean(0)
        torch.testing.assert_close(logits, teacher.classifier(pooled))


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
@torch.no_grad()
def test_a_row_without_photo_is_text_alone_whatever_its_features_hold(tiny_body, pooling):
    teacher, inputs = from_body(tiny_body, pooling=pooling), random_inputs()
    inputs["visual_attention_mask"][1:3] = 0
    before = teacher(**inputs).logits
    inputs["visual_embeds"][1:3] = torch.randn(2, 6, 16) * 1000
    after = teacher(**inputs).logits
    alone = teacher(inputs["input_ids"], inputs["attention_mask"]).logits
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(after[1:3], alone[1:3])
    assert not torch.allclose(after[0], alone[0]), "a row with a photo reads it"


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
@torch.no_grad()
def test_a_row_without_caption_is_picture_alone_whatever_the_padding(tiny_body, pooling):
    teacher, inputs = from_body(tiny_body, pooling=pooling), random_inputs()
    inputs["attention_mask"][2] = 0
    inputs["input_ids"][2] = torch.tensor([2, 3, 0, 0, 0, 0, 0])
    padded = teacher(**inputs).logits[2]
    alone = {name: values[2:3] for name, values in inputs.items()}
    alone["input_ids"], alone["attention_mask"] = torch.tensor([[2]]), torch.zeros(1, 1, dtype=torch.long)
    torch.testing.assert_close(teacher(**alone).logits[0], padded)
    inputs["input_ids"][2, 1:] = torch.randint(5, 30, (6,))
    torch.testing.assert_close(teacher(**inputs).logits[2], padded)


@torch.no_grad()
def test_a_pair_does_not_depend_on_its_batch(teacher):
    inputs = random_inputs()
    together = teacher(**inputs).logits
    for row in range(4):
        words, regions = inputs["attention_mask"][row].sum(), inputs["visual_attention_mask"][row].sum()
        alone = teacher(
            inputs["input_ids"][row : row + 1, :words], visual_embeds=inputs["visual_embeds"][row : row + 1, :regions]
        )
        torch.testing.assert_close(alone.logits[0], together[row])


def test_loss_is_binary_cross_entropy_with_soft_labels(teacher):
    inputs, labels = random_inputs(), torch.rand(4, 3)
    output = teacher(**inputs, labels=labels)
    p = output.logits.detach().double().sigmoid().numpy()
    y = labels.double().numpy()
    expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert teacher(**inputs, labels=labels.double()).loss.dtype == torch.float32


def test_float16_features_are_read(teacher):
    inputs = random_inputs()
    halved = {**inputs, "visual_embeds": inputs["visual_embeds"].half()}
    torch.testing.assert_close(teacher(**halved).logits, teacher(**inputs).logits, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_saving_and_loading_gives_the_same_model(tiny_body, tmp_path, pooling):
    teacher, inputs = from_body(tiny_body, pooling=pooling), random_inputs()
    teacher.region_normalizer.fit(torch.randn(50, 16) * 3 + 1)
    teacher.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is EmocapTeacherForMultiLabelClassification and loaded.config.pooling == pooling
    for name, values in teacher.state_dict().items():
        assert torch.equal(values, loaded.state_dict()[name]), name
    assert torch.equal(teacher(**inputs).logits, loaded(**inputs).logits)
    assert loaded.config.problem_type == "multi_label_classification"


def test_label_order_survives_saving(tiny_body, tmp_path, rng):
    names = [f"emotion {index}" for index in rng.permutation(29)]  # "10" sorts before "2"
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    EmocapTeacherForMultiLabelClassification.from_body(tiny_body, **labels).save_pretrained(tmp_path)
    config = EmocapTeacherConfig.from_pretrained(tmp_path)
    assert [config.id2label[index] for index in range(29)] == names and config.num_labels == 29
    assert config.label2id == labels["label2id"]
    assert list(json.loads((tmp_path / "config.json").read_text())["id2label"].values()) == names


def test_from_bert_copies_the_body_and_draws_the_rest(tiny_bert):
    bert = BertModel.from_pretrained(tiny_bert)
    teacher = from_body(tiny_bert, visual_embedding_dim=16)
    assert teacher.config.pooling == "mean" and teacher.config.pad_token_id == 0
    own = teacher.visual_bert.state_dict()
    for name, values in bert.state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(own.pop(name), values), name
    assert sorted(own) == [
        "embeddings.visual_position_embeddings.weight",
        "embeddings.visual_projection.bias",
        "embeddings.visual_projection.weight",
        "embeddings.visual_token_type_embeddings.weight",
    ]
    embeddings = teacher.visual_bert.embeddings
    assert torch.equal(embeddings.visual_position_embeddings.weight, embeddings.position_embeddings.weight)
    assert embeddings.visual_projection.weight.std().item() == pytest.approx(0.02, rel=0.3)
    with_pooler = from_body(tiny_bert, visual_embedding_dim=16, pooling="pooler")
    assert torch.equal(with_pooler.visual_bert.pooler.dense.weight, bert.pooler.dense.weight)


@torch.no_grad()
def test_from_bert_reads_words_as_bert_does(tiny_bert):
    bert, teacher = BertModel.from_pretrained(tiny_bert).eval(), from_body(tiny_bert, visual_embedding_dim=16)
    inputs = {name: values for name, values in random_inputs().items() if "visual" not in name}
    hidden, mask = bert(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(teacher(**inputs).logits, teacher.classifier(pooled))


def test_from_visual_bert_keeps_the_body_and_may_draw_a_new_projection(tiny_body):
    body = VisualBertModel.from_pretrained(tiny_body).state_dict()
    kept = from_body(tiny_body)
    for name, values in body.items():
        assert torch.equal(kept.visual_bert.state_dict()[name], values), name
    for dim in (16, 24):
        renewed = from_body(tiny_body, reinit_visual_projection=True, visual_embedding_dim=dim)
        assert renewed.visual_bert.embeddings.visual_projection.weight.shape == (32, dim)
        assert len(renewed.region_normalizer.scale) == dim
        for name, values in body.items():
            if "visual_projection" in name:
                assert (
                    name.endswith("bias")
                    or dim != 16
                    or not torch.equal(renewed.visual_bert.state_dict()[name], values)
                )
            else:
                assert torch.equal(renewed.visual_bert.state_dict()[name], values), name
        assert renewed.visual_bert.embeddings.visual_projection.bias.abs().max() == 0


def test_from_an_emocap_teacher_goes_on_with_head_and_normaliser(tiny_body, tmp_path):
    first = from_body(tiny_body)
    first.region_normalizer.fit(torch.randn(50, 16))
    first.save_pretrained(tmp_path)
    again = from_body(str(tmp_path))
    for name, values in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], values), name


def test_wrong_width_names_both_and_the_flag(tiny_body):
    with pytest.raises(ValueError, match=r"24-d.*16-d.*--reinit_visual_projection"):
        from_body(tiny_body, visual_embedding_dim=24)


@pytest.mark.parametrize("config", [T5Config(), ViTConfig(), CLIPConfig(), EmocapStudentConfig()])
def test_another_family_is_refused_before_any_weight_is_looked_for(tmp_path, config):
    config.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=f"'{config.model_type}' .*{re.escape(str(tmp_path))}.* encoder of text alone"
    ):
        from_body(str(tmp_path))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="'max'.*'pooler' or 'mean'"):
        EmocapTeacherConfig(pooling="max")


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_whatever_tensor_a_checkpoint_lacks_comes_back_finite(tiny_body, tmp_path, pooling):
    from_body(tiny_body, pooling=pooling).save_pretrained(tmp_path / "whole")
    tensors, inputs = load_file(tmp_path / "whole" / "model.safetensors"), random_inputs()
    assert "region_normalizer.scale" in tensors
    for name in tensors:
        cut = copy_without(tmp_path / "whole", tmp_path / "cut", {name})
        model = AutoModel.from_pretrained(cut).eval()
        assert all(values.isfinite().all() for values in model.state_dict().values()), name
        assert all(values.abs().max() < 10 for values in model.state_dict().values()), name
        assert model(**inputs).logits.isfinite().all(), name
    empty = AutoModel.from_pretrained(copy_without(tmp_path / "whole", tmp_path / "cut", set(list(tensors)[1:])))
    assert empty(**inputs).logits.isfinite().all()


def copy_without(source: Path, target: Path, left_out: set[str]) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    tensors = load_file(source / "model.safetensors")
    kept = {key: values for key, values in tensors.items() if key not in left_out}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_late_fusion_averages_the_logits_of_the_words_pass_and_of_the_regions_embeddings(tiny_body, pooling):
    model, inputs, labels = from_body(tiny_body, pooling=pooling, fusion="late"), random_inputs(), torch.rand(4, 3)
    inputs["attention_mask"][0] = 0  # a row without a caption
    inputs["visual_attention_mask"][1] = 0  # a row without a photo
    with torch.no_grad():
        words = from_body_of(model, "early")(inputs["input_ids"], inputs["attention_mask"]).logits
        embeddings, mask = model.visual_bert.embeddings, inputs["visual_attention_mask"].unsqueeze(-1)
        constant = embeddings.visual_position_embeddings.weight[0] + embeddings.visual_token_type_embeddings.weight[1]
        projected = embeddings.visual_projection(inputs["visual_embeds"].float()) + constant
        states = F.gelu(embeddings.LayerNorm(projected))
        regions = model.classifier((states * mask).sum(1) / mask.sum(1).clamp_min(1))
        expected = (words + regions) / 2
        expected[0], expected[1] = regions[0], words[1]
        torch.testing.assert_close(model(**inputs).logits, expected)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0

    def bce(logits, rows=slice(None)):
        return F.binary_cross_entropy_with_logits(logits[rows], labels[rows], reduction="sum").item() / labels.numel()

    torch.testing.assert_close(model(**inputs, labels=labels).loss.item(), bce(expected), atol=1e-5, rtol=1e-4)
    apart = bce(words, [1, 2, 3]) / 2 + bce(regions, [0, 2, 3]) / 2
    trained = model.train()(**inputs, labels=labels).loss.item()
    torch.testing.assert_close(trained, bce(expected) + apart, atol=1e-5, rtol=1e-4)


def from_body_of(model, fusion: str) -> EmocapTeacherForMultiLabelClassification:
    """The same weights under another fusion."""
    config = EmocapTeacherConfig(**(model.config.to_dict() | {"fusion": fusion}))
    other = EmocapTeacherForMultiLabelClassification(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_an_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="must be 'early' or 'late'"):
        EmocapTeacherConfig(fusion="middle")


def test_the_region_normaliser_gives_mean_0_and_the_target_deviation():
    features = torch.randn(500, 16) * torch.rand(16) * 50 + torch.randn(16) * 20
    features[:, 3] = 7.0
    normaliser = RegionNormalizer(16)
    assert torch.equal(normaliser(features), features), "the identity until it is fitted"
    normaliser.fit(features)
    out = normaliser(features)
    torch.testing.assert_close(out.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    expected = torch.full((16,), 0.1)
    expected[3] = 0
    torch.testing.assert_close(out.std(0), expected, atol=1e-4, rtol=0)
    assert normaliser(features.half()).dtype == torch.float32


def test_frozen_parts_stay_in_evaluation_while_the_head_trains(teacher):
    teacher.visual_bert.requires_grad_(False)
    teacher.train()
    assert not any(part.training for part in teacher.visual_bert.modules())
    assert teacher.classifier.training and teacher.dropout.training
    inputs = random_inputs()
    assert torch.equal(teacher.visual_bert(**inputs)[0], teacher.visual_bert(**inputs)[0])
    loss = F.mse_loss(teacher(**inputs).logits, torch.zeros(4, 3))
    loss.backward()
    assert teacher.classifier.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.visual_bert.parameters())


@pytest.mark.parametrize("fusion", ["early", "late"])
@torch.no_grad()
def test_pooled_layers_are_the_unit_means_of_their_layers_side_by_side(tiny_body, tmp_path, fusion):
    layers = [2, 0]
    model = from_body(tiny_body, pooling="mean", pooled_layers=layers, fusion=fusion)
    inputs = random_inputs(batch=5)
    inputs["attention_mask"][0] = 0
    inputs["visual_attention_mask"][1] = 0
    assert model.classifier.in_features == 64
    length = inputs["input_ids"].shape[1]
    body = VisualBertModel.from_pretrained(tiny_body).eval()
    words_alone = body(inputs["input_ids"], inputs["attention_mask"], output_hidden_states=True).hidden_states
    together = body(**inputs, output_hidden_states=True).hidden_states
    no_words = inputs["visual_embeds"].new_zeros(5, 0, 32)
    regions = F.gelu(model.visual_bert.embeddings(inputs_embeds=no_words, visual_embeds=inputs["visual_embeds"]))
    for row, logits in enumerate(model(**inputs).logits):
        word_mask, region_mask = (inputs[name][row] > 0 for name in ("attention_mask", "visual_attention_mask"))
        parts = {"words": [], "regions": [], "both": []}
        for layer in layers:
            words, photo = together[layer][row, :length][word_mask], together[layer][row, length:][region_mask]
            means = [own.mean(0) for own in (words, photo) if len(own)]
            parts["both"].append(F.normalize(torch.stack(means).mean(0), dim=0))
            if word_mask.any():
                parts["words"].append(F.normalize(words_alone[layer][row][word_mask].mean(0), dim=0))
            if region_mask.any():
                parts["regions"].append(F.normalize(regions[row][region_mask].mean(0), dim=0))
        if fusion == "early":
            expected = model.classifier(torch.cat(parts["both"]))
        else:
            heard = [model.classifier(torch.cat(own)) for own in (parts["words"], parts["regions"]) if own]
            expected = torch.stack(heard).mean(0)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert model(**inputs).hidden_states is None  # nobody asked for them
    model.save_pretrained(tmp_path)
    again = EmocapTeacherForMultiLabelClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize(("pooling", "layers"), [("pooler", [1]), ("mean", []), ("mean", [3]), ("mean", [0, -2])])
def test_layers_that_are_not_there_are_refused(tiny_body, pooling, layers):
    with pytest.raises(ValueError, match="names layers from 0 to 2"):
        from_body(tiny_body, pooling=pooling, pooled_layers=layers)


def test_a_teacher_of_other_emotions_or_layers_gives_its_body_and_the_log_says_so(tiny_body, tmp_path, caplog):
    first = from_body(tiny_body, pooling="mean", label_prevalence=[0.1, 0.2, 0.3], temperature=1.5)
    torch.nn.init.normal_(first.classifier.bias)
    first.save_pretrained(tmp_path)
    make = EmocapTeacherForMultiLabelClassification.from_body
    others = {"id2label": dict(enumerate("abcd")), "label2id": {name: i for i, name in enumerate("abcd")}}
    order = {"id2label": dict(enumerate(reversed(first.config.id2label.values())))}
    order["label2id"] = {name: index for index, name in order["id2label"].items()}
    for changes, shape in ((others, (4, 32)), (order, (3, 32)), ({"pooled_layers": [0, 2]}, (3, 64))):
        caplog.clear()
        model = make(str(tmp_path), **changes)
        assert model.classifier.weight.shape == shape and not model.classifier.bias.any()
        assert (model.classifier.weight.std() > 0) and "a new head" in caplog.text
        for name, values in first.visual_bert.state_dict().items():
            assert torch.equal(model.visual_bert.state_dict()[name], values), name
        if "id2label" in changes:
            assert model.config.label_prevalence is None and model.config.temperature is None
    caplog.clear()
    same = make(str(tmp_path), id2label=first.config.id2label, label2id=first.config.label2id)
    assert torch.equal(same.classifier.bias, first.classifier.bias) and "a new head" not in caplog.text
