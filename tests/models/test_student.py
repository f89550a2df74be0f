"""The student: captions and photos each by themselves, frozen embeddings, checkpoints with holes."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModel, BertModel

from emocap.models import EmocapStudentConfig, EmocapStudentForMultiLabelClassification, modeling_emocap_student


def make_student(**fields) -> EmocapStudentForMultiLabelClassification:
    defaults = {
        "vocab_size": 31,
        "word_embedding_size": 32,
        "gru_hidden_size": 12,
        "cnn_channels": [8, 16],
        "image_size": 20,
        "fc_hidden_size": 10,
        "num_labels": 5,
    }
    return EmocapStudentForMultiLabelClassification(EmocapStudentConfig(**(defaults | fields))).eval()


def random_inputs(batch: int = 5, words: int = 8) -> dict[str, torch.Tensor]:
    mask = torch.arange(words) < torch.randint(1, words + 1, (batch, 1))
    return {
        "input_ids": torch.randint(1, 31, (batch, words)) * mask,
        "attention_mask": mask.long(),
        "pixel_values": torch.randint(0, 256, (batch, 3, 20, 20), dtype=torch.uint8),
        "pixel_mask": torch.ones(batch, dtype=torch.long),
    }


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_the_packed_gru_equals_each_caption_alone(layers):
    student, inputs = make_student(gru_num_layers=layers), random_inputs()
    together = student.encode_text(inputs["input_ids"], inputs["attention_mask"])
    gru = torch.nn.GRU(32, 12, layers, batch_first=True)
    gru.load_state_dict(student.gru.state_dict())
    for row, length in enumerate(inputs["attention_mask"].sum(1)):
        states, _ = gru(student.word_embeddings(inputs["input_ids"][row, :length]).unsqueeze(0))
        torch.testing.assert_close(together[row], states[0, -1])


@torch.no_grad()
def test_padding_does_not_matter():
    student, inputs = make_student(), random_inputs()
    expected = student(**inputs).logits
    padded = {**inputs, "input_ids": F.pad(inputs["input_ids"], (0, 4), value=7)}
    padded["attention_mask"] = F.pad(inputs["attention_mask"], (0, 4))
    torch.testing.assert_close(student(**padded).logits, expected)
    padded["input_ids"] = torch.where(padded["attention_mask"] == 1, padded["input_ids"], 13)
    torch.testing.assert_close(student(**padded).logits, expected)


@torch.no_grad()
def test_logits_by_hand():
    student, inputs = make_student(), random_inputs()
    inputs["pixel_mask"][1] = 0
    text = student.encode_text(inputs["input_ids"], inputs["attention_mask"]).numpy()
    photo = student.encode_photo(inputs["pixel_values"], inputs["pixel_mask"], 5).numpy()
    assert (photo[1] == 0).all() and photo[0].any()
    weights = {name: values.numpy() for name, values in student.state_dict().items()}
    hidden = np.maximum(np.concatenate((text, photo), 1) @ weights["fc1.weight"].T + weights["fc1.bias"], 0)
    expected = hidden @ weights["fc2.weight"].T + weights["fc2.bias"]
    np.testing.assert_allclose(student(**inputs).logits.numpy(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_photo_is_normalised_convolved_and_averaged():
    student, inputs = make_student(), random_inputs(batch=1)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    maps = ((inputs["pixel_values"][0] / 255 - mean) / std).unsqueeze(0)
    for convolution, norm, _ in student.cnn:
        maps = F.conv2d(maps, convolution.weight, stride=2, padding=1)
        maps = F.relu(F.group_norm(maps, norm.num_groups, norm.weight, norm.bias))
    assert maps.shape == (1, 16, 5, 5)
    torch.testing.assert_close(student.encode_photo(inputs["pixel_values"], None, 1), maps.mean((2, 3)))


@torch.no_grad()
def test_without_photo_the_pixels_are_ignored():
    student, inputs = make_student(), random_inputs()
    alone = student(inputs["input_ids"], inputs["attention_mask"]).logits
    assert not torch.allclose(student(**inputs).logits, alone)
    inputs["pixel_mask"][:] = 0
    torch.testing.assert_close(student(**inputs).logits, alone)


@torch.no_grad()
def test_without_caption_the_words_are_ignored():
    student, inputs = make_student(), random_inputs()
    inputs["attention_mask"][2] = 0
    first = student(**inputs).logits
    inputs["input_ids"][2] = torch.randint(1, 31, (8,))
    torch.testing.assert_close(student(**inputs).logits, first)
    assert student.encode_text(inputs["input_ids"], inputs["attention_mask"])[2].abs().max() == 0


@torch.no_grad()
def test_bytes_equal_floats_from_0_to_1():
    student, inputs = make_student(), random_inputs()
    floats = {**inputs, "pixel_values": inputs["pixel_values"].float() / 255}
    torch.testing.assert_close(student(**floats).logits, student(**inputs).logits)


def test_loss_is_binary_cross_entropy_with_soft_labels():
    student, inputs, labels = make_student(), random_inputs(), torch.rand(5, 5)
    output = student(**inputs, labels=labels)
    p, y = output.logits.detach().double().sigmoid().numpy(), labels.double().numpy()
    assert output.loss.item() == pytest.approx(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rel=1e-5)
    loss, logits = student(**inputs, labels=labels, return_dict=False)
    assert torch.equal(logits, output.logits) and torch.equal(loss, output.loss)


def test_word_embeddings_come_from_a_bert_checkpoint(tiny_bert, tiny_body):
    for folder in (tiny_bert, tiny_body):
        table = AutoModel.from_pretrained(folder).get_input_embeddings().weight
        student = make_student()
        student.load_word_embeddings(folder)
        assert torch.equal(student.word_embeddings.weight, table)
    assert BertModel.from_pretrained(tiny_bert).config.vocab_size == 31
    with pytest.raises(ValueError, match=r"\(31, 32\), the student's are \(31, 30\)"):
        make_student(word_embedding_size=30).load_word_embeddings(tiny_bert)


@pytest.mark.parametrize("reload", [False, True])
def test_frozen_embeddings_do_not_move(tmp_path, reload):
    student = make_student(freeze_word_embeddings=True, dropout=0.5)
    if reload:
        student.save_pretrained(tmp_path)
        student = AutoModel.from_pretrained(tmp_path)
    student.train()
    before = {name: values.clone() for name, values in student.state_dict().items()}
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.1, weight_decay=0.1)
    student(**random_inputs(), labels=torch.rand(5, 5)).loss.backward()
    optimizer.step()
    after = student.state_dict()
    assert torch.equal(after["word_embeddings.weight"], before["word_embeddings.weight"])
    assert not torch.equal(after["gru.weight_ih_l0"], before["gru.weight_ih_l0"])
    assert not torch.equal(after["fc2.weight"], before["fc2.weight"])


def test_free_embeddings_move_and_the_padding_entry_stays():
    student = make_student().train()
    before = student.word_embeddings.weight.detach().clone()
    assert (before[0] == 0).all()
    student(**random_inputs(), labels=torch.rand(5, 5)).loss.backward()
    torch.optim.SGD(student.parameters(), lr=1.0).step()
    assert not torch.equal(student.word_embeddings.weight, before)
    assert (student.word_embeddings.weight[0] == 0).all()


def test_dropout_of_frozen_parts_is_off_in_training():
    student = make_student(dropout=0.5)
    for part in (student.word_embeddings, student.gru, student.cnn, student.fc1):
        part.requires_grad_(False)
    student.train()
    assert not any(part.training for frozen in (student.gru, student.cnn, student.fc1) for part in frozen.modules())
    assert student.fc2.training and student.dropout.training
    student.eval()
    assert not any(part.training for part in student.modules())


def test_saving_and_loading_gives_the_same_model(tmp_path):
    student, inputs = make_student(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]), random_inputs()
    student.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is EmocapStudentForMultiLabelClassification
    assert torch.equal(loaded.image_mean.flatten(), torch.tensor([0.1, 0.2, 0.3])), "a buffer that is not saved"
    assert torch.equal(loaded.image_std.flatten(), torch.tensor([0.5, 0.6, 0.7]))
    for name, values in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], values), name
    torch.testing.assert_close(loaded(**inputs).logits, student(**inputs).logits)  # memory lies another way: sums too


def test_whatever_tensor_a_checkpoint_lacks_comes_back_finite(tmp_path):
    make_student(gru_num_layers=2).save_pretrained(tmp_path / "whole")
    tensors, inputs = load_file(tmp_path / "whole" / "model.safetensors"), random_inputs()
    for left_out in [*({name} for name in tensors), set(list(tensors)[1:])]:
        model = AutoModel.from_pretrained(copy_without(tmp_path / "whole", tmp_path / "cut", left_out)).eval()
        for name, values in model.state_dict().items():
            assert values.isfinite().all() and values.abs().max() < 10, (left_out, name)
            if name in tensors and name not in left_out:
                assert torch.equal(values, tensors[name]), (left_out, name)
        if any("gru" in name for name in left_out):
            bound = 12**-0.5
            assert all(values.abs().max() <= bound and values.abs().max() > 0 for values in model.gru.parameters())
        assert model(**inputs).logits.isfinite().all(), left_out


def copy_without(source: Path, target: Path, left_out: set[str]) -> Path:
    shutil.copytree(source, target, dirs_exist_ok=True)
    tensors = load_file(source / "model.safetensors")
    kept = {key: values for key, values in tensors.items() if key not in left_out}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


@torch.no_grad()
def test_token_types_change_nothing():
    student, inputs = make_student(), random_inputs()
    types = torch.ones_like(inputs["input_ids"])
    assert torch.equal(student(**inputs, token_type_ids=types).logits, student(**inputs).logits)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_every_weight_learns_with_checkpoints_of_either_kind(use_reentrant):
    student, inputs = make_student(dropout=0.0).train(), random_inputs()
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            student.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        student.zero_grad()
        student(**inputs, labels=torch.ones(5, 5)).loss.backward()
        found.append({name: own.grad.clone() for name, own in student.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_a_head_of_other_labels_is_refused_or_drawn_anew(tmp_path):
    student = make_student(initializer_range=1e-10)
    assert student.fc1.weight.abs().max() < 1e-8, "the configured range counts for linear layers too"
    bound = (6 / sum(make_student().fc1.weight.shape)) ** 0.5  # Glorot and Bengio 2010, equation 16
    assert 0.9 * bound < make_student().fc1.weight.abs().max() <= bound
    student.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError):
        EmocapStudentForMultiLabelClassification.from_pretrained(tmp_path, num_labels=7)
    other = EmocapStudentForMultiLabelClassification.from_pretrained(
        tmp_path, num_labels=7, ignore_mismatched_sizes=True
    )
    assert other.fc2.weight.shape == (7, 10) and torch.equal(other.fc1.weight, student.fc1.weight)


def test_a_torch_without_its_private_scan_loads_students(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._higher_order_ops.scan", None)
    with pytest.raises(ImportError):
        importlib.import_module("torch._higher_order_ops.scan")
    name = "emocap.models.another_student"
    spec = importlib.util.spec_from_file_location(name, modeling_emocap_student.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    assert module.CaptionGRU(4, 3, 1)(torch.randn(2, 5, 4), torch.tensor([5, 2])).shape == (2, 3)
