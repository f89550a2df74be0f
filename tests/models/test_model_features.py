"""What every transformers model does, for teacher and student: precision, shards, other labels, holes, compiling."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, set_seed

from emocap.models import (
    EmocapStudentConfig,
    EmocapStudentForMultiLabelClassification,
    EmocapTeacherConfig,
    EmocapTeacherForMultiLabelClassification,
)

KINDS = ["teacher", "late teacher", "student", "deep student"]
COMMON = {"vocab_size": 31, "pad_token_id": 0, "num_labels": 5}


def make_model(kind: str, **fields) -> torch.nn.Module:
    """A tiny random model without dropout, in evaluation mode."""
    torch.manual_seed(7)
    if kind.endswith("teacher"):
        config = EmocapTeacherConfig(
            **COMMON,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=40,
            visual_embedding_dim=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            fusion="late" if kind.startswith("late") else "early",
            pooling="mean" if kind.startswith("late") else "pooler",
            **fields,
        )
        return EmocapTeacherForMultiLabelClassification(config).eval()
    deep = {"gru_num_layers": 2, "word_projection_size": 6} if kind.startswith("deep") else {}
    config = EmocapStudentConfig(
        **COMMON,
        word_embedding_size=32,
        gru_hidden_size=12,
        cnn_channels=[8, 16],
        image_size=20,
        fc_hidden_size=10,
        dropout=0.0,
        **deep,
        **fields,
    )
    return EmocapStudentForMultiLabelClassification(config).eval()


def random_inputs(kind: str, batch: int = 5, words: int = 8) -> dict[str, torch.Tensor]:
    """Pairs with padding, some rows without a photo and (in batches of three and more) one without a caption."""
    mask = torch.arange(words) < torch.randint(1, words + 1, (batch, 1))
    if batch > 2:
        mask[1] = False
    inputs = {"input_ids": torch.randint(1, 31, (batch, words)) * mask, "attention_mask": mask.long()}
    has_photo = torch.arange(batch) != 2
    if kind.endswith("teacher"):
        regions = (torch.arange(6) < torch.randint(1, 7, (batch, 1))) & has_photo[:, None]
        return inputs | {"visual_embeds": torch.randn(batch, 6, 16), "visual_attention_mask": regions.long()}
    pixels = torch.randint(0, 256, (batch, 3, 20, 20), dtype=torch.uint8)
    return inputs | {"pixel_values": pixels, "pixel_mask": has_photo.long()}


def gradients(model: torch.nn.Module, inputs: dict, labels: torch.Tensor, call=None) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (model if call is None else call)(**inputs, labels=labels).loss.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_bfloat16_is_saved_loaded_and_run(tmp_path, kind):
    model, inputs = make_model(kind), random_inputs(kind)
    model.save_pretrained(tmp_path / "single")
    half = AutoModel.from_pretrained(tmp_path / "single", dtype=torch.bfloat16).eval()
    half.save_pretrained(tmp_path / "half")
    assert all(values.dtype == torch.bfloat16 for values in load_file(tmp_path / "half/model.safetensors").values())
    again = AutoModel.from_pretrained(tmp_path / "half").eval()
    assert again.dtype == half.dtype == torch.bfloat16
    logits = again(**inputs).logits
    assert logits.dtype == torch.bfloat16 and torch.equal(logits, half(**inputs).logits)
    torch.testing.assert_close(logits.float(), model(**inputs).logits, atol=0.03, rtol=0.03)
    assert AutoModel.from_pretrained(tmp_path / "half", dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_shards_hold_the_same_model(tmp_path, kind):
    model, inputs = make_model(kind), random_inputs(kind)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    for name, values in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], values), name
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_another_label_set_draws_a_new_head_alone(tmp_path, kind):
    model, inputs = make_model(kind), random_inputs(kind)
    model.save_pretrained(tmp_path)
    names = dict(enumerate(["joy", "awe", "fear"]))
    with pytest.raises(RuntimeError, match=r"(?i)ignore_mismatched_sizes"):
        AutoModel.from_pretrained(tmp_path, num_labels=3)
    for fields in ({"num_labels": 3}, {"id2label": names, "label2id": {name: index for index, name in names.items()}}):
        other = AutoModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **fields).eval()
        assert other(**inputs).logits.shape == (5, 3) and other.config.num_labels == 3
        changed = {
            name for name, values in model.state_dict().items() if not torch.equal(values, other.state_dict()[name])
        }
        head = "classifier" if kind.endswith("teacher") else "fc2"
        assert changed == {f"{head}.weight"} | ({f"{head}.bias"}), "the bias is of another length"
    assert other.config.id2label == names


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_checkpoint_lacks_comes_back_seeded(tmp_path, kind):
    model, inputs = make_model(kind), random_inputs(kind)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    silent = {name: values.clone() for name, values in model.named_buffers()}
    most = set(tensors) - {next(iter(tensors))}
    for left_out in [*({name} for name in tensors), most]:
        kept = {name: values for name, values in tensors.items() if name not in left_out}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loads = []
        for seed in (3, 3, 4) if left_out == most else (3, 3):
            set_seed(seed)
            loads.append(AutoModel.from_pretrained(tmp_path).eval())
        states = [load.state_dict() for load in loads]
        for name, values in states[0].items():
            assert values.isfinite().all() and values.abs().max() < 10, (left_out, name)
            assert torch.equal(values, states[1][name]), (left_out, name)
            if name not in left_out:
                assert torch.equal(values, tensors[name]), (left_out, name)
            elif left_out == most and values.dim() > 1:
                assert not torch.equal(values, states[2][name]), f"{name} does not follow the seed"
        for name, values in loads[0].named_buffers():  # those that are not saved too
            assert torch.equal(values, silent[name]), (left_out, name)
        assert loads[0](**inputs).logits.isfinite().all(), left_out


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients_and_computes_twice(kind):
    model, inputs, labels = make_model(kind).train(), random_inputs(kind), torch.rand(5, 5)
    plain, calls = gradients(model, inputs, labels), []
    block = model.visual_bert.encoder.layer[0].intermediate if kind.endswith("teacher") else model.cnn[0][0]
    block.register_forward_hook(lambda *_: calls.append(1))
    gradients(model, inputs, labels)
    once = len(calls)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    saved = gradients(model, inputs, labels)
    assert len(calls) - once == 2 * once, "every pass of the block once more in the backward pass"
    for name, values in plain.items():
        torch.testing.assert_close(saved[name], values, atol=1e-6, rtol=1e-4)
    assert any(values.abs().max() > 0 for values in plain.values())
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@pytest.mark.parametrize("kind", ["teacher", "late teacher", "student"])
def test_compiling_breaks_no_graph_and_changes_no_number(kind):
    torch._dynamo.reset()
    model, inputs, labels = make_model(kind).train(), random_inputs(kind), torch.rand(5, 5)
    compiled = torch.compile(model, fullgraph=True, backend="eager")  # inductor compiles C++ for a minute
    expected, found = (gradients(model, inputs, labels, call) for call in (model, compiled))
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=1e-5, rtol=1e-3)
    torch._dynamo.reset()


@torch.no_grad()
def test_compiled_student_of_any_length_is_one_graph():
    torch._dynamo.reset()
    model, graphs = make_model("deep student"), []
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=lambda graph, _: graphs.append(1) or graph)
    for words in range(2, 14):
        inputs = random_inputs("student", 4, words)
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=1e-4)
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["student", "deep student"])
@torch.no_grad()
def test_torch_export_of_the_student_takes_any_batch_and_length(kind):
    model = make_model(kind)
    any_batch, any_length = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    shapes = {"input_ids": {0: any_batch, 1: any_length}, "attention_mask": {0: any_batch, 1: any_length}}
    shapes |= {"pixel_values": {0: any_batch}, "pixel_mask": {0: any_batch}}
    program = torch.export.export(model, (), random_inputs(kind, 3, 7), dynamic_shapes=shapes, strict=False).module()
    for batch, words in ((3, 7), (6, 2), (2, 20)):
        inputs = random_inputs(kind, batch, words)
        torch.testing.assert_close(program(**inputs).logits, model(**inputs).logits, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_hidden_states_of_the_student_are_its_parts_outputs():
    student, inputs = make_model("student"), random_inputs("student")
    output = student(**inputs, output_hidden_states=True)
    text, photo, hidden = output.hidden_states
    torch.testing.assert_close(text, student.encode_text(inputs["input_ids"], inputs["attention_mask"]))
    torch.testing.assert_close(photo, student.encode_photo(inputs["pixel_values"], inputs["pixel_mask"], 5))
    torch.testing.assert_close(hidden, student.fc1(torch.cat((text, photo), 1)).relu())
    torch.testing.assert_close(output.logits, student.fc2(hidden))
    assert student(**inputs).hidden_states is None
    student.config.output_hidden_states = True
    assert len(student(**inputs).hidden_states) == 3
    with pytest.raises(ValueError, match="no attention"):
        student(**inputs, output_attentions=True)


@torch.no_grad()
def test_projected_word_embeddings_are_the_tables_own(tiny_bert, tmp_path):
    student, inputs = make_model("deep student"), random_inputs("student")
    student.load_word_embeddings(tiny_bert)
    table = AutoModel.from_pretrained(tiny_bert).get_input_embeddings().weight
    assert torch.equal(student.word_embeddings.weight, table) and student.gru.input_size == 6
    gru = torch.nn.GRU(6, 12, 2, batch_first=True)
    gru.load_state_dict(student.gru.state_dict())
    words = table[inputs["input_ids"]] @ student.word_projection.weight.T + student.word_projection.bias
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        expected = gru(words[row : row + 1, :length])[0][0, -1] if length else torch.zeros(12)
        text = student.encode_text(inputs["input_ids"], inputs["attention_mask"])[row]
        torch.testing.assert_close(text, expected)
    student.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(tmp_path).word_projection.weight, student.word_projection.weight)
    shutil.rmtree(tmp_path)
