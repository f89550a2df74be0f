"""Outputs below a head that alone trains are computed once, and training from them changes nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from emocap.cli import main
from emocap.data.pairs import PairDataset, with_pixels
from emocap.data.storage import load_table
from emocap.models import EmocapProcessor, EmocapStudentForMultiLabelClassification
from emocap.models.modeling_emocap_teacher import EmocapTeacherForMultiLabelClassification
from emocap.training.frozen import PooledPairs, only_head_trains
from emocap.training.heads import head_of

BODIES = {
    "emocap_student": EmocapStudentForMultiLabelClassification,
    "emocap_teacher": EmocapTeacherForMultiLabelClassification,
}


@pytest.fixture
def start(tiny_student, tiny_teacher, tmp_path):
    """Folder of a tiny model: a student, or a teacher of either fusion."""

    def make(name: str) -> str:
        if name == "student":
            return tiny_student
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(tiny_teacher, folder)
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"fusion": name}))
        return str(folder)

    return make


def pairs_of(folder: str, table) -> PairDataset:
    processor = EmocapProcessor.from_pretrained(folder)
    rows = table if processor.image_size is None else with_pixels(table, processor.image_size)
    return PairDataset(rows, processor, "soft_labels")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["student", "early", "late"])
def test_a_head_on_pooled_outputs_is_the_whole_model(start, tiny_table, tmp_path, name, training, rng):
    model, pairs = AutoModel.from_pretrained(start(name)), pairs_of(start(name), tiny_table["train"])
    model.requires_grad_(False)
    head_of(model).requires_grad_(True)
    model.train(training)
    pooled = PooledPairs(model, pairs, tmp_path / "files", batch_size=7)
    assert len(pooled) == len(pairs) and model.training == training
    chosen = rng.permutation(len(pairs))[:13]
    results = []
    for inputs in (pairs.__getitems__(chosen), pooled.__getitems__(chosen)):
        torch.manual_seed(5)  # of the dropout before the head
        results.append(model(**inputs))
    whole, head = results
    torch.testing.assert_close(head.logits, whole.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(head.loss, whole.loss, atol=1e-6, rtol=0)
    assert "pooled_mask" in pooled.outputs if name == "late" else list(pooled.outputs) == ["pooled_output"]


def test_only_a_model_that_is_frozen_below_the_head_counts(start):
    for name in ("student", "early"):
        model = AutoModel.from_pretrained(start(name))
        assert not only_head_trains(model)
        model.requires_grad_(False)
        assert not only_head_trains(model)
        head_of(model).bias.requires_grad_(True)
        assert only_head_trains(model)
        next(model.parameters()).requires_grad_(True)
        assert not only_head_trains(model)


def test_dropout_before_a_frozen_layer_stays_off(tiny_student, tiny_table):
    model = AutoModel.from_pretrained(tiny_student)
    inputs = pairs_of(tiny_student, tiny_table["test"]).__getitems__(range(9))
    inputs.pop("labels")

    def two_passes() -> list[torch.Tensor]:
        model.train()
        return [model.pooled_outputs(**inputs)["pooled_output"] for _ in range(2)]

    assert not torch.equal(*two_passes())
    for part in (model.word_embeddings, model.gru, model.cnn, model.fc1):
        part.requires_grad_(False)
    assert torch.equal(*two_passes())


def finetune(out: Path, start: str, kind: str, table: str, *flags: str) -> dict[str, float]:
    main(["finetune", f"--{kind}", start, "--strategy", "anb" if kind == "student" else "bnb", "--dataset", table,
          "--output_dir", str(out), "--use_cpu", "--disable_tqdm", "true", "--per_device_train_batch_size", "8",
          "--learning_rate", "0.01", *flags])  # fmt: skip
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize("name", ["student", "early", "late"])
def test_training_from_cached_outputs_ends_like_the_plain_way(start, tmp_path, tiny_table_dir, monkeypatch, name):
    """And the body runs over the training and validation pairs once, whatever the number of epochs."""
    kind, seen = ("student" if name == "student" else "teacher"), []
    model_type = json.loads((Path(start(name)) / "config.json").read_text())["model_type"]
    passes = BODIES[model_type].pooled_outputs

    def counted(self, input_ids, *args, **kwargs):
        seen.append(len(input_ids))
        return passes(self, input_ids, *args, **kwargs)

    metrics = {}
    for way in ("plain", "cached"):
        flags = ["--no_cache_frozen_outputs"] if way == "plain" else []
        with monkeypatch.context() as patch:
            patch.setattr(BODIES[model_type], "pooled_outputs", counted)
            metrics[way] = finetune(tmp_path / way, start(name), kind, tiny_table_dir, "--num_train_epochs", "3",
                                    "--early_stopping_patience", "0", *flags)  # fmt: skip
        if way == "plain":
            seen.clear()
    assert metrics["cached"].keys() == metrics["plain"].keys()
    for key, value in metrics["plain"].items():
        near = 1e-4 if "correlation" in key else 1e-5  # a ratio of two small numbers
        assert metrics["cached"][key] == (pytest.approx(value, abs=near) if isinstance(value, float) else value), key
    one, other = (load_file(tmp_path / way / "model.safetensors") for way in ("plain", "cached"))
    assert one.keys() == other.keys()
    for tensor in one:
        assert torch.allclose(one[tensor], other[tensor], atol=1e-5, rtol=0), tensor
    first, head = load_file(Path(start(name)) / "model.safetensors"), "fc2" if kind == "student" else "classifier"
    for tensor in first:
        assert torch.equal(other[tensor], first[tensor]) != tensor.startswith(head), tensor
    assert not (tmp_path / "cached" / ".frozen_outputs").exists()
    files = [{path.name for path in (tmp_path / way).iterdir()} for way in ("plain", "cached")]
    assert files[0] == files[1]
    captions = {split: sum(max(len(own), 1) for own in table["captions"][:])
                for split, table in load_table(tiny_table_dir).items()}  # fmt: skip
    one_for_its_shape = 1
    assert sum(seen) == captions["train"] + one_for_its_shape + captions["validation"] + one_for_its_shape


def test_a_resumed_run_from_cached_outputs_ends_like_one_without_a_break(tmp_path, tiny_student, tiny_table_dir):
    steps = ["--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "no",
             "--load_best_model_at_end", "false", "--save_total_limit", "9"]  # fmt: skip
    whole = finetune(tmp_path / "whole", tiny_student, "student", tiny_table_dir, *steps)
    (tmp_path / "broken").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "broken" / "checkpoint-4")
    flags = [*steps, "--resume_from_checkpoint", "true"]
    assert finetune(tmp_path / "broken", tiny_student, "student", tiny_table_dir, *flags) == whole
    one, other = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "broken"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_frozen_layers_stay_and_the_rest_learns(tiny_body, tiny_table_dir, tmp_path):
    flags = ["train-teacher", "--dataset", tiny_table_dir, "--model_name_or_path", tiny_body, "--use_cpu",
             "--disable_tqdm", "true", "--pooling", "mean", "--pooled_layers", "0", "-1"]  # fmt: skip
    runs = {name: str(tmp_path / name) for name in ("still", "moved")}
    main([*flags, "--output_dir", runs["still"], "--num_train_epochs", "1", "--learning_rate", "0"])
    main([*flags, "--output_dir", runs["moved"], "--num_train_epochs", "2", "--learning_rate", "1e-3",
          "--freeze_layers", "1"])  # fmt: skip
    before, after = (load_file(f"{run}/model.safetensors") for run in runs.values())
    assert before["classifier.weight"].shape[1] == 2 * AutoModel.from_pretrained(runs["still"]).config.hidden_size
    for part, learns in (("embeddings.word_embeddings", False), ("embeddings.position_embeddings", False),
                         ("encoder.layer.0", False), ("encoder.layer.1", True)):  # fmt: skip
        own = [name for name in before if name.startswith(f"visual_bert.{part}") and not name.endswith("key.bias")]
        assert own and all(torch.equal(before[name], after[name]) != learns for name in own), part


def test_more_frozen_layers_than_there_are_is_refused(tiny_body, tiny_table_dir, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train-teacher", "--dataset", tiny_table_dir, "--model_name_or_path", tiny_body, "--output_dir",
              str(tmp_path), "--freeze_layers", "3"])  # fmt: skip
    assert "--freeze_layers is 3, but the body has 2 layers" in capsys.readouterr().err
