"""The teacher's body beside `VisualBertModel`: every attention implementation, and checkpoints in both directions."""

import logging

import pytest
import torch
from transformers import (
    BertForMaskedLM,
    BertModel,
    VisualBertConfig,
    VisualBertForPreTraining,
    VisualBertForQuestionAnswering,
    VisualBertModel,
)

from emocap.models import EmocapTeacherForMultiLabelClassification
from emocap.models.modeling_emocap_teacher import EmocapTeacherBody, eager_attention_forward

FIELDS = {
    "vocab_size": 31,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "visual_embedding_dim": 16,
}
TOLERANCE = {"eager": 1e-5, "sdpa": 1e-4}


def random_inputs(batch: int = 6, words: int = 9, regions: int = 7) -> dict[str, torch.Tensor]:
    """Pairs with padding; row 1 has no regions, row 2 no words, every row has something."""
    word_mask = torch.arange(words) < torch.randint(1, words + 1, (batch, 1))
    region_mask = torch.arange(regions) < torch.randint(1, regions + 1, (batch, 1))
    region_mask[1], word_mask[2] = False, False
    return {
        "input_ids": torch.randint(5, 30, (batch, words)) * word_mask,
        "attention_mask": word_mask.long(),
        "visual_embeds": torch.randn(batch, regions, 16),
        "visual_attention_mask": region_mask.long(),
    }


def text_of(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values[[0, 1, 3, 4, 5]] for name, values in inputs.items() if "visual" not in name}


@pytest.fixture
def wide_body(tmp_path) -> str:
    """A VisualBERT of wider weights than a fresh one's, so that attention is far from uniform."""
    torch.manual_seed(5)
    config = VisualBertConfig(**FIELDS, initializer_range=0.3)
    VisualBertModel(config).save_pretrained(tmp_path / "wide")
    return str(tmp_path / "wide")


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_the_body_equals_visual_bert(wide_body, implementation):
    reference = VisualBertModel.from_pretrained(wide_body, attn_implementation="eager").eval()
    body = EmocapTeacherBody.from_pretrained(wide_body, attn_implementation=implementation).eval()
    assert body.config._attn_implementation == implementation
    whole = random_inputs()
    for inputs in (whole, text_of(whole)):
        expected, found = reference(**inputs), body(**inputs)
        for name in ("last_hidden_state", "pooler_output"):
            difference = (getattr(found, name) - getattr(expected, name)).abs().max().item()
            assert difference < TOLERANCE[implementation], (name, difference)


@torch.no_grad()
def test_sdpa_is_the_default_and_the_function_that_runs(wide_body, monkeypatch):
    body, inputs, calls = EmocapTeacherBody.from_pretrained(wide_body).eval(), random_inputs(), []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or attend(*a, **k)
    )
    assert body.config._attn_implementation == "sdpa"
    body(**inputs)
    assert len(calls) == 2, "one call a layer"
    body.set_attn_implementation("eager")
    body(**inputs)
    assert len(calls) == 2


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_attentions_and_hidden_states_equal_visual_berts(wide_body, implementation):
    reference = VisualBertModel.from_pretrained(wide_body, attn_implementation="eager").eval()
    teacher = EmocapTeacherForMultiLabelClassification.from_body(wide_body, num_labels=3).eval()
    teacher.set_attn_implementation(implementation)
    inputs = random_inputs()
    expected = reference(**inputs, output_attentions=True, output_hidden_states=True)
    found = teacher(**inputs, output_attentions=True, output_hidden_states=True)
    for name, number in (("attentions", 2), ("hidden_states", 3)):
        assert len(getattr(found, name)) == len(getattr(expected, name)) == number
        for one, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert found.attentions[0].shape == (6, 2, 16, 16)
    torch.testing.assert_close(found.attentions[0].sum(-1), torch.ones(6, 2, 16))
    quiet = teacher(**inputs)
    assert quiet.attentions is None and quiet.hidden_states is None
    torch.testing.assert_close(quiet.logits, found.logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", ["early", "late"])
@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_a_row_with_nothing_to_see_is_finite_and_alike_in_every_implementation(wide_body, fusion, pooling):
    inputs = random_inputs()
    inputs["attention_mask"][1] = 0  # it has no regions either
    outputs = {}
    for implementation in ("eager", "sdpa"):
        torch.manual_seed(0)
        teacher = EmocapTeacherForMultiLabelClassification.from_body(
            wide_body, num_labels=3, fusion=fusion, pooling=pooling, attention_probs_dropout_prob=0.0,
            hidden_dropout_prob=0.0,
        )  # fmt: skip
        teacher.set_attn_implementation(implementation)
        teacher.train()
        output = teacher(**inputs, labels=torch.full((6, 3), 0.3))
        output.loss.backward()
        gradient = teacher.visual_bert.encoder.layer[0].attention.self.query.weight.grad
        assert gradient.isfinite().all() and gradient.abs().max() > 0
        outputs[implementation] = (output.logits.detach(), output.loss.detach(), gradient)
    for one, other in zip(*outputs.values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_eager_attention_reads_the_mask_of_every_implementation():
    query, key, value = torch.randn(3, 4, 2, 5, 8)[:3]
    seen = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 1]])
    boolean = seen[:, None, None, :].bool()
    additive = torch.zeros(boolean.shape).masked_fill(~boolean, torch.finfo(torch.float32).min)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, boolean).transpose(1, 2)
    for mask in (seen, boolean, additive):
        context, probabilities = eager_attention_forward(torch.nn.Module(), query, key, value, mask, scaling=8**-0.5)
        torch.testing.assert_close(context, expected)
        assert probabilities.masked_select(~boolean.expand_as(probabilities)).abs().max() == 0


@torch.no_grad()
def test_checkpoints_load_in_both_directions(wide_body, tmp_path):
    inputs, reference = random_inputs(), VisualBertModel.from_pretrained(wide_body).eval()
    teacher = EmocapTeacherForMultiLabelClassification.from_body(wide_body, num_labels=3).eval()
    assert set(teacher.visual_bert.state_dict()) == set(reference.state_dict())
    teacher.save_pretrained(tmp_path / "teacher")
    theirs, report = VisualBertModel.from_pretrained(tmp_path / "teacher", output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    hidden = theirs.eval()(**inputs).last_hidden_state
    torch.testing.assert_close(hidden, reference(**inputs).last_hidden_state)
    torch.testing.assert_close(hidden, teacher.visual_bert(**inputs).last_hidden_state, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [VisualBertForPreTraining, VisualBertForQuestionAnswering])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_published_layouts_give_their_body(tmp_path, kind, form):
    published = kind(VisualBertConfig(**FIELDS, num_labels=7))
    published.save_pretrained(tmp_path)
    if form == "bin":  # as published in 2021: torch's own format, with a buffer that is no longer saved
        (tmp_path / "model.safetensors").unlink()
        tensors = {name: values.clone() for name, values in published.state_dict().items()}
        tensors["visual_bert.embeddings.position_ids"] = torch.arange(40).expand(1, -1)
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    teacher = EmocapTeacherForMultiLabelClassification.from_body(str(tmp_path), num_labels=3)
    assert teacher.classifier.weight.shape == (3, 32) and teacher.config.pooling == "pooler"
    own = teacher.visual_bert.state_dict()
    for name, values in published.visual_bert.state_dict().items():
        assert torch.equal(own[name], values), name


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_a_bert_of_any_head_gives_its_body_and_the_log_names_what_is_new(tmp_path, kind, caplog, tiny_bert):
    source = kind.from_pretrained(tiny_bert)
    source.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="emocap.models.modeling_emocap_teacher"):
        teacher = EmocapTeacherForMultiLabelClassification.from_body(
            str(tmp_path), num_labels=3, visual_embedding_dim=16
        )
    body = source if kind is BertModel else source.bert
    for name, values in body.state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(teacher.visual_bert.state_dict()[name], values), name
    (message,) = [record.message for record in caplog.records if "new tensors" in record.message]
    new = message.split("unused")[0]
    assert new.count("visual_bert.embeddings.visual_") == 4
    assert "'classifier.weight'" in new and "'classifier.bias'" in new and new.count("'") == 12


def test_flash_attention_is_offered_and_its_absence_is_said(wide_body):
    assert EmocapTeacherForMultiLabelClassification._supports_flash_attn and EmocapTeacherBody._supports_flash_attn
    if torch.cuda.is_available():
        pytest.skip("whether flash attention is installed here is not this test's business")
    with pytest.raises((ImportError, ValueError), match=r"(?i)flash"):
        EmocapTeacherBody.from_pretrained(wide_body, attn_implementation="flash_attention_2")
