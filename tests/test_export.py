"""The student as an ONNX file: numbers in onnxruntime, any batch and length, 8 bits, the command."""

import json

import pytest
import torch
from transformers import AutoModel

from emocap.cli import main

pytest.importorskip("onnxruntime", reason="needs the extra `export`")
pytest.importorskip("onnxscript", reason="needs the extra `export`")

from emocap.export import OnnxStudent, export_onnx, measure_export
from emocap.models import EmocapStudentConfig, EmocapStudentForMultiLabelClassification


def random_inputs(batch: int, words: int, vocab_size: int = 31, size: int = 16) -> dict[str, torch.Tensor]:
    mask = torch.arange(words) < torch.randint(0, words + 1, (batch, 1))
    return {
        "input_ids": torch.randint(0, vocab_size, (batch, words)),
        "attention_mask": mask.long(),
        "pixel_values": torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8),
        "pixel_mask": torch.randint(0, 2, (batch,)),
    }


@pytest.fixture(scope="module")
def deep_student(tmp_path_factory) -> str:
    """A student with weights large enough to tell rows apart, of two GRU layers and a projection."""
    folder = str(tmp_path_factory.mktemp("deep") / "student")
    torch.manual_seed(11)
    config = EmocapStudentConfig(
        vocab_size=31,
        word_embedding_size=32,
        word_projection_size=12,
        gru_hidden_size=16,
        gru_num_layers=2,
        cnn_channels=[8, 16],
        image_size=16,
        fc_hidden_size=24,
        initializer_range=0.1,
        num_labels=5,
        temperature=1.5,
    )
    EmocapStudentForMultiLabelClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(deep_student, tmp_path_factory) -> str:
    return str(export_onnx(deep_student, tmp_path_factory.mktemp("onnx") / "student.onnx"))


@torch.no_grad()
def test_logits_in_onnxruntime_equal_the_models_for_any_batch_and_length(deep_student, exported):
    model, file = AutoModel.from_pretrained(deep_student).eval(), OnnxStudent(exported, deep_student)
    for batch, words in ((2, 7), (1, 3), (5, 1), (9, 32), (64, 12)):
        inputs = random_inputs(batch, words)
        expected = model(**inputs).logits
        assert (file(**inputs).logits - expected).abs().max() < 1e-4
        alone = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        assert (file(**alone).logits - model(**alone).logits).abs().max() < 1e-4, "without photos"
    assert expected.std(0).min() > 0.01, "rows differ, so that agreement means something"


def test_the_file_names_its_emotions(deep_student, exported):
    session = OnnxStudent(exported, deep_student).session
    facts = session.get_modelmeta().custom_metadata_map
    config = AutoModel.from_pretrained(deep_student).config
    assert json.loads(facts["id2label"]) == {str(index): name for index, name in config.id2label.items()}
    assert json.loads(facts["temperature"]) == 1.5
    shapes = {own.name: own.shape for own in session.get_inputs()}
    assert shapes["pixel_values"][1:] == [3, 16, 16] and all(isinstance(shape[0], str) for shape in shapes.values())
    assert isinstance(shapes["input_ids"][1], str)


@torch.no_grad()
def test_eight_bits_are_smaller_and_close(tmp_path):
    torch.manual_seed(4)
    config = EmocapStudentConfig(
        vocab_size=3000, word_embedding_size=64, gru_hidden_size=64, cnn_channels=[8], image_size=16, num_labels=5
    )
    EmocapStudentForMultiLabelClassification(config).save_pretrained(tmp_path / "student")
    model = AutoModel.from_pretrained(tmp_path / "student").eval()
    whole = export_onnx(tmp_path / "student", tmp_path / "whole.onnx")
    small = export_onnx(tmp_path / "student", tmp_path / "small.onnx", int8=True)
    assert small.stat().st_size < 0.4 * whole.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.onnx", "student", "whole.onnx"]
    inputs = random_inputs(32, 10, vocab_size=3000)
    expected, found = model(**inputs).logits, OnnxStudent(small, tmp_path / "student")(**inputs).logits
    assert 0 < (found - expected).abs().max() < 0.5 * expected.std(0).max()
    correlation = torch.corrcoef(torch.stack((expected.flatten(), found.flatten())))[0, 1]
    assert correlation > 0.99


def test_a_student_of_words_alone_takes_no_pixels(deep_student, tmp_path):
    model = AutoModel.from_pretrained(deep_student).eval()
    model.config.modalities = "text"
    model.save_pretrained(tmp_path / "text")
    file = OnnxStudent(export_onnx(tmp_path / "text", tmp_path / "text.onnx"), tmp_path / "text")
    assert file.input_names == ["input_ids", "attention_mask"]
    inputs = {name: values for name, values in random_inputs(4, 6).items() if "pixel" not in name}
    with torch.no_grad():
        torch.testing.assert_close(file(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=0)


def test_measuring_compares_both_on_the_same_rows(tiny_student, tiny_table, tmp_path):
    path = export_onnx(tiny_student, tmp_path / "student.onnx")
    scores = measure_export(path, tiny_student, tiny_table["test"])
    assert set(scores) == {"checkpoint", "onnx"}
    for name, value in scores["checkpoint"].items():
        assert scores["onnx"][name] == pytest.approx(value, abs=1e-4, nan_ok=True), name


def test_the_command_exports_and_compares(tiny_student, tiny_table_dir, tmp_path, capsys):
    output = tmp_path / "new" / "student.onnx"
    main(["export", tiny_student, "--output", str(output), "--int8", "--dataset", tiny_table_dir])
    lines = capsys.readouterr().out.splitlines()
    assert output.is_file() and any(line.startswith(f"{output}: ") for line in lines)
    assert any(line.startswith("map_macro") and "difference" in line for line in lines)


def test_bad_input_is_refused_before_a_model_is_loaded(tiny_teacher, tiny_student, tmp_path, monkeypatch):
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="'emocap_teacher' checkpoint; students can be exported"):
        export_onnx(tiny_teacher, tmp_path / "teacher.onnx")
    with pytest.raises(ValueError, match=r"ends in '\.onnx'"):
        export_onnx(tiny_student, tmp_path / "student.bin")
    monkeypatch.setattr("emocap.export.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install 'emocap\[export\]'"):
        export_onnx(tiny_student, tmp_path / "student.onnx")
    assert not list(tmp_path.iterdir())
