"""What fine-tuning starts from: copied, adapted, fresh and frozen tensors, for both architectures."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from emocap.cli import main
from emocap.data.pairs import PairDataset, with_pixels
from emocap.models import EmocapProcessor
from emocap.models.common_emocap import keep_frozen_in_eval
from emocap.training import surgery as module
from emocap.training.heads import collapsed_head, head_of, pooled_outputs, resize_columns, ridge_head
from emocap.training.surgery import blocks_of, check_frozen, check_transfer, load_source

PRIOR = np.array([0.5, 0.1, 0.3, 0.02, 0.0])


def transfer_model(*, prior: np.ndarray, source_table=None, **passes) -> tuple:
    """Checked and done."""
    return module.transfer_model(check_transfer(**passes), prior, source_table)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, tiny_student, tiny_teacher) -> dict[str, str]:
    """Folders of A and B of each architecture; every tensor of theirs is random, biases and norms too."""
    folders = {}
    for kind, source in (("student", tiny_student), ("teacher", tiny_teacher)):
        for seed, name in enumerate("ab"):
            torch.manual_seed(seed)
            model, folder = AutoModel.from_pretrained(source), str(tmp_path_factory.mktemp(f"{kind}_{name}"))
            for tensor in model.state_dict().values():
                tensor.add_(torch.randn_like(tensor) * 0.05)
            model.save_pretrained(folder)
            EmocapProcessor.from_pretrained(source).save_pretrained(folder)
            folders[f"{kind}_{name}"] = folder
    return folders


def tensors_of(folder: str) -> dict[str, torch.Tensor]:
    return load_file(f"{folder}/model.safetensors")


def names_by_block(model: torch.nn.Module) -> list[list[str]]:
    """Names of each block's tensors, found by where their storage lies."""
    places = {tensor.data_ptr(): name for name, tensor in model.state_dict().items()}
    blocks = []
    for block in blocks_of(model):
        blocks.append([places[tensor.data_ptr()] for part in block for tensor in part.state_dict().values()])
    return blocks


def training_batch(model, folder: str, table) -> dict[str, torch.Tensor]:
    processor = EmocapProcessor.from_pretrained(folder)
    rows = table if processor.image_size is None else with_pixels(table, processor.image_size)
    return PairDataset(rows, processor, "labels").__getitems__(range(16))


def train_a_step(model, batch) -> dict[str, torch.Tensor]:
    """Tensors after one step of AdamW at a high rate, weight decay included."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    model(**batch).loss.backward()
    optimizer.step()
    return model.state_dict()


EXPECTED_BLOCKS = {
    "student": [
        ["word_embeddings.weight"],
        [f"gru.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")],
        ["cnn.0.0.weight", "cnn.0.1.weight", "cnn.0.1.bias"],
        ["cnn.1.0.weight", "cnn.1.1.weight", "cnn.1.1.bias"],
        ["fc1.weight", "fc1.bias"],
    ],
    "teacher": ["embeddings.", "encoder.layer.0.", "encoder.layer.1.", "pooler."],
}


def test_blocks_cover_everything_below_the_head_in_order(checkpoints):
    student = AutoModel.from_pretrained(checkpoints["student_a"])
    assert names_by_block(student) == EXPECTED_BLOCKS["student"]
    teacher = AutoModel.from_pretrained(checkpoints["teacher_a"])
    blocks = names_by_block(teacher)
    for names, prefix in zip(blocks, EXPECTED_BLOCKS["teacher"], strict=True):
        assert all(name.startswith(("visual_bert." + prefix, "region_normalizer.")) for name in names)
    assert {"region_normalizer.shift", "region_normalizer.scale"} < set(blocks[0])
    for model, own in ((student, names_by_block(student)), (teacher, blocks)):
        head = [
            name for name, value in model.named_parameters() if any(value is p for p in head_of(model).parameters())
        ]
        assert sorted([*sum(own, []), *head]) == sorted(model.state_dict())


@pytest.mark.parametrize("strategy", ["anb", "anb+", "bnb", "bnb+"])
@pytest.mark.parametrize(
    ("kind", "count"),
    [("student", count) for count in (0, 1, 2, 3, 4, 5, 6, "all")]
    + [("teacher", count) for count in (0, 1, 2, 3, 4, 5, "all")],
)
def test_copied_fresh_and_frozen_tensors(checkpoints, tiny_table, kind, strategy, count):
    a, b = checkpoints[f"{kind}_a"], checkpoints[f"{kind}_b"]
    model, processor, surgery = transfer_model(
        student=a, teacher=b, strategy=strategy, num_layers=str(count), prior=PRIOR
    )
    source = a if strategy.startswith("anb") else b
    given, own, records = tensors_of(source), model.state_dict(), surgery["tensors"]
    blocks = names_by_block(model)
    passed = len(blocks) + 1 if count == "all" else count
    assert surgery["num_layers"] == passed and set(records) == set(own)
    copied = set(sum(blocks[:passed], []))
    head = set(own) - set(sum(blocks, []))
    whole = passed == len(blocks) + 1
    for name, values in own.items():
        assert records[name]["sha256"] == hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]
        if name in copied:
            assert torch.equal(values, given[name]), name
            assert records[name]["origin"] == f"copied from {source}"
            assert records[name]["sha256"] == hashlib.sha256(given[name].numpy().tobytes()).hexdigest()[:16]
        elif name in head and whole:
            assert torch.equal(values, given[name]), "the same architecture takes the head as it is"
            assert records[name]["origin"] == f"copied from {source}"
        elif name.startswith("region_normalizer."):
            assert torch.equal(values, tensors_of(b)[name]), "the target model's own normaliser goes with its features"
        else:
            assert not torch.equal(values, given[name]) and records[name]["origin"] == "fresh"
    if not whole:
        expected = np.log(np.clip(PRIOR, 1e-3, None) / (1 - np.clip(PRIOR, 1e-3, None)))
        np.testing.assert_allclose(head_of(model).bias.detach().numpy(), expected, rtol=1e-4)
    buffers = {name for name, _ in model.named_buffers()}
    before = {name: values.clone() for name, values in own.items()}
    after = train_a_step(model, training_batch(model, b, tiny_table["train"]))
    for name, values in after.items():
        frozen = name in copied - buffers and not strategy.endswith("+")
        assert (records[name]["frozen"], records[name]["buffer"]) == (frozen, name in buffers), name
        assert torch.equal(values, before[name]) == (frozen or name in buffers), name
    frozen = [name for name, entry in records.items() if entry["frozen"]]
    assert check_frozen(model, surgery) == {"frozen_tensors": len(frozen), "moved": []}
    if frozen:
        with torch.no_grad():
            model.state_dict()[frozen[-1]].view(-1)[0] += 1e-6
        assert check_frozen(model, surgery)["moved"] == frozen[-1:]
    assert processor.image_size == (16 if kind == "student" else None)


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_scratch_copies_nothing(checkpoints, tiny_table, kind):
    folder = checkpoints[f"{kind}_b"]
    model, _, surgery = transfer_model(student=None, teacher=folder, strategy="scratch", prior=PRIOR)
    given = tensors_of(folder)
    for name, values in model.state_dict().items():
        if not name.startswith("region_normalizer."):  # goes with the features, not with any training
            assert not torch.equal(values, given[name]) and surgery["tensors"][name]["origin"] == "fresh"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_target_is_the_students_architecture_where_no_teacher_is_named(checkpoints, tiny_table):
    model, _, _ = transfer_model(student=checkpoints["student_a"], teacher=None, strategy="anb", prior=PRIOR)
    assert type(model).__name__ == "EmocapStudentForMultiLabelClassification"
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["fc2.weight", "fc2.bias"]


@pytest.mark.parametrize("strategy", ["anb", "anb+"])
def test_across_architectures_the_body_is_the_teachers_and_the_head_the_students(checkpoints, tiny_table, strategy):
    student, teacher = checkpoints["student_a"], checkpoints["teacher_b"]
    model, _, surgery = transfer_model(student=student, teacher=teacher, strategy=strategy, prior=PRIOR)
    given, small = tensors_of(teacher), tensors_of(student)
    for name, values in model.state_dict().items():
        if not name.startswith("classifier"):
            assert torch.equal(values, given[name]), name
            assert surgery["tensors"][name]["origin"] == f"copied from {teacher}"
    collapsed = small["fc2.weight"] @ small["fc1.weight"]  # (5, 32), the teacher's width
    assert model.classifier.weight.shape == collapsed.shape == (5, 32)
    torch.testing.assert_close(model.classifier.weight.detach(), collapsed)
    bias = small["fc2.weight"] @ small["fc1.bias"] + small["fc2.bias"]
    torch.testing.assert_close(model.classifier.bias.detach(), bias)
    trainable = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trainable == ["classifier.weight", "classifier.bias"] if strategy == "anb" else len(trainable) > 20


def test_a_collapsed_head_of_every_width(checkpoints):
    student = AutoModel.from_pretrained(checkpoints["student_a"])
    weight, bias = (student.fc2.weight @ student.fc1.weight).detach(), student.fc2(student.fc1.bias).detach()
    same, same_bias = collapsed_head(student, 32, keep=False)
    torch.testing.assert_close(same, weight)
    torch.testing.assert_close(same_bias, bias)
    half, _ = collapsed_head(student, 16, keep=False)
    torch.testing.assert_close(half, weight[:, 0::2] + weight[:, 1::2])
    double, double_bias = collapsed_head(student, 64, keep=False)
    torch.testing.assert_close(double, weight.repeat_interleave(2, dim=1) / 2)
    torch.testing.assert_close(double_bias, bias)
    kept, kept_bias = collapsed_head(student, 24, keep=True)
    assert torch.equal(kept, student.fc2.weight) and torch.equal(kept_bias, student.fc2.bias)
    teacher = AutoModel.from_pretrained(checkpoints["teacher_a"])
    given, _ = collapsed_head(teacher, 16, keep=False)
    torch.testing.assert_close(given, teacher.classifier.weight[:, 0::2] + teacher.classifier.weight[:, 1::2])


@pytest.mark.parametrize(("columns", "width"), [(3, 2), (2, 3), (5, 7), (512, 384), (512, 768), (9, 1), (4, 4)])
def test_resized_columns_equal_a_loop_and_keep_their_sums(columns, width):
    weight = torch.randn(3, columns)
    expected = np.zeros((3, width))
    fine = np.repeat(weight.double().numpy() / width, width, axis=1)  # each column in `width` equal slices
    for new in range(width):
        expected[:, new] = fine[:, new * columns : (new + 1) * columns].sum(axis=1)
    resized = resize_columns(weight, width)
    np.testing.assert_allclose(resized.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(resized.sum(1), weight.sum(1), atol=1e-4, rtol=1e-4)
    assert resized.dtype == torch.float32


def test_a_worked_example_of_resizing():
    weight = torch.tensor([[1.0, 10.0, 100.0]])
    torch.testing.assert_close(resize_columns(weight, 2), torch.tensor([[6.0, 105.0]]))
    torch.testing.assert_close(resize_columns(weight[:, :2], 3), torch.tensor([[2 / 3, 1 / 3 + 10 / 3, 20 / 3]]))


def test_ridge_equals_a_numpy_solve(checkpoints, tiny_table):
    student_folder, teacher_folder = checkpoints["student_a"], checkpoints["teacher_b"]
    model, processor, surgery = transfer_model(
        student=student_folder, teacher=teacher_folder, strategy="anb", head_init="ridge", prior=PRIOR,
        source_table=tiny_table["train"],
    )  # fmt: skip
    teacher, student = (AutoModel.from_pretrained(folder).eval() for folder in (teacher_folder, student_folder))
    words = PairDataset(tiny_table["train"], processor)
    photos = PairDataset(with_pixels(tiny_table["train"], 16), EmocapProcessor.from_pretrained(student_folder))
    inputs, targets = [], []
    for pair in range(len(words)):  # one pair at a time, without padding
        with torch.no_grad():
            batch = words.__getitems__([pair])
            batch["visual_embeds"] = teacher.region_normalizer(batch["visual_embeds"])
            inputs.append(teacher.visual_bert(**batch).pooler_output[0].double().numpy())
            targets.append(student(**photos.__getitems__([pair])).logits[0].double().numpy())
    x, y = np.array(inputs), np.array(targets)
    # Ridge with a free intercept as least squares over rows that carry the penalty.
    design = np.block([[x, np.ones((len(x), 1))], [np.eye(32), np.zeros((32, 1))]])
    solution = np.linalg.lstsq(design, np.vstack([y, np.zeros((32, 5))]), rcond=None)[0]
    np.testing.assert_allclose(model.classifier.weight.detach().numpy(), solution[:32].T, atol=1e-4)
    np.testing.assert_allclose(model.classifier.bias.detach().numpy(), solution[32], atol=1e-4)
    assert surgery["tensors"]["classifier.weight"]["origin"] == f"ridge of {student_folder}"


def test_ridge_with_no_penalty_finds_a_linear_giver(checkpoints, tiny_table):
    folder = checkpoints["teacher_b"]
    model, giver = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    processor = EmocapProcessor.from_pretrained(folder)
    weight, bias = ridge_head(model, processor, giver, processor, tiny_table["train"], penalty=1e-9)
    torch.testing.assert_close(weight, giver.classifier.weight.detach(), atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(bias, giver.classifier.bias.detach(), atol=1e-2, rtol=1e-2)


def test_a_random_head_starts_at_the_prior(checkpoints, tiny_table):
    model, _, surgery = transfer_model(
        student=checkpoints["student_a"], teacher=checkpoints["teacher_b"], strategy="anb+", head_init="random",
        prior=PRIOR,
    )  # fmt: skip
    torch.testing.assert_close(model.classifier.bias.detach()[:3].sigmoid(), torch.tensor([0.5, 0.1, 0.3]))
    assert surgery["tensors"]["classifier.weight"]["origin"] == "fresh"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "anb", "teacher": "teacher_a"}, "--strategy anb needs --student"),
        ({"strategy": "bnb+", "student": "student_a"}, r"--strategy bnb\+ needs --teacher"),
        ({"strategy": "scratch"}, "--strategy scratch needs"),
        (
            {"strategy": "anb", "student": "student_a", "num_layers": "7"},
            "'7'; expected 'all' or a number from 0 to 6",
        ),
        ({"strategy": "anb", "student": "teacher_a", "num_layers": "-1"}, "'-1'; expected 'all' or a number from 0"),
        ({"strategy": "anb", "student": "student_a", "num_layers": "x"}, "'x'; expected 'all'"),
        ({"strategy": "abn", "student": "student_a"}, "'abn'; it must be one of anb, anb\\+, bnb"),
        (
            {"strategy": "anb", "student": "student_a", "teacher": "teacher_b", "num_layers": "2"},
            "--num_layers is 2, but .* only the last layers pass",
        ),
        (
            {"strategy": "anb", "student": "student_a", "teacher": "student_b", "copy_word_embeddings": True},
            "between equal ones the word embeddings pass with the first block",
        ),
    ],
)
def test_what_cannot_be_done_is_said(checkpoints, tiny_table, options, message):
    given = {"student": None, "teacher": None} | options
    for role in ("student", "teacher"):
        given[role] = given[role] and checkpoints[given[role]]
    with pytest.raises(ValueError, match=message):
        transfer_model(**given, prior=PRIOR)


def no_weights(monkeypatch) -> None:
    """From here on, nothing may be read from a checkpoint but its configuration."""

    def refuse(*args, **kwargs):
        raise AssertionError("weights were read before the check")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refuse)


@pytest.mark.parametrize("teacher", ["student_b", None])
@pytest.mark.parametrize("strategy", ["anb", "anb+"])
def test_a_student_of_another_hidden_size_is_refused_before_anything_is_loaded(
    checkpoints, tmp_path, monkeypatch, strategy, teacher
):
    model = AutoModel.from_pretrained(checkpoints["student_a"])
    config = model.config
    config.gru_hidden_size = 20
    type(model)(config).save_pretrained(tmp_path)
    no_weights(monkeypatch)
    given = {"student": str(tmp_path), "teacher": teacher and checkpoints[teacher], "strategy": strategy}
    if teacher is None:
        assert check_transfer(**given).num_blocks == 6, "alone it sets the size itself"
        return
    with pytest.raises(
        ValueError, match=r"does not fit the target model: 'gru\..*' is \(60, 32\) there and \(48, 32\)"
    ):
        transfer_model(**given, prior=PRIOR)
    assert check_transfer(**given, num_layers="1").num_blocks == 1, "the word embeddings still fit"


@pytest.mark.parametrize("teacher", ["student_b", "teacher_b"])
def test_a_student_without_fc1_is_refused(checkpoints, tmp_path, teacher):
    shutil.copytree(checkpoints["student_a"], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("fc1.")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is not whole: fc1.bias, fc1.weight are missing"):
        transfer_model(student=str(tmp_path), teacher=checkpoints[teacher], strategy="anb", prior=PRIOR)


def test_a_student_whose_fc1_is_of_another_shape_than_its_configuration_says(checkpoints, tmp_path):
    shutil.copytree(checkpoints["student_a"], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"fc1.weight": torch.zeros(24, 30)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is not whole: fc1.weight are missing or of another shape"):
        transfer_model(student=str(tmp_path), teacher=None, strategy="anb+", prior=PRIOR)


@pytest.mark.parametrize(
    ("kind", "count"),
    [("student", str(count)) for count in (0, 1, 2, 3, 4, 5, 6, "all")]
    + [("teacher", str(count)) for count in (0, 1, 2, 3, 4, 5, "all")],
)
def test_random_freezes_layers_that_nobody_trained(checkpoints, tiny_table, kind, count):
    folder = checkpoints[f"{kind}_b"]
    model, _, surgery = transfer_model(student=None, teacher=folder, strategy="random", num_layers=count, prior=PRIOR)
    given, blocks = tensors_of(folder), names_by_block(model)
    frozen = set(sum(blocks if count == "all" else blocks[: int(count)], []))
    frozen -= {name for name, _ in model.named_buffers()}
    for name, values in model.state_dict().items():
        assert surgery["tensors"][name]["frozen"] == (name in frozen), name
        if not name.startswith("region_normalizer."):
            assert surgery["tensors"][name]["origin"] == "fresh" and not torch.equal(values, given[name])
    train_a_step(model, training_batch(model, folder, tiny_table["train"]))
    assert check_frozen(model, surgery) == {"frozen_tensors": len(frozen), "moved": []}
    assert model.config.modalities is None


def test_word_embeddings_pass_between_architectures(checkpoints, tmp_path):
    student, teacher = checkpoints["student_a"], checkpoints["teacher_b"]
    model, _, surgery = transfer_model(
        student=student, teacher=teacher, strategy="anb", copy_word_embeddings=True, prior=PRIOR
    )
    name = "visual_bert.embeddings.word_embeddings.weight"
    own, given = model.state_dict(), tensors_of(teacher)
    assert torch.equal(own[name], tensors_of(student)["word_embeddings.weight"])
    assert surgery["tensors"][name]["origin"] == f"copied from {student}" and surgery["tensors"][name]["frozen"]
    others = [other for other in given if other != name and not other.startswith("classifier")]
    assert all(torch.equal(own[other], given[other]) for other in others)
    small = AutoModel.from_pretrained(student)
    small.config.word_embedding_size = 16
    type(small)(small.config).save_pretrained(tmp_path)
    EmocapProcessor.from_pretrained(student).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"are \(31, 16\), those of .* \(31, 32\), of one vocabulary"):
        check_transfer(str(tmp_path), teacher, "anb", copy_word_embeddings=True)


@pytest.mark.parametrize("fusion", ["early", "late"])
def test_pooled_outputs_give_the_logits(checkpoints, tiny_table, fusion):
    model = AutoModel.from_pretrained(checkpoints["teacher_b"]).eval()
    model.config.fusion = fusion
    batch = training_batch(model, checkpoints["teacher_b"], tiny_table["train"])
    with torch.no_grad():
        pooled = pooled_outputs(model, batch)
        torch.testing.assert_close(model.classifier(pooled), model(**batch).logits, atol=1e-5, rtol=1e-5)


def test_ridge_reads_the_data_that_the_student_was_trained_on(checkpoints, tiny_table_dir, tmp_path):
    student, teacher = tmp_path / "student", checkpoints["teacher_b"]
    shutil.copytree(checkpoints["student_a"], student)
    plan = check_transfer(str(student), teacher, "anb", head_init="ridge")
    with pytest.raises(ValueError, match="has no run_arguments.json that names .* Give --source_dataset"):
        load_source(None, plan)
    recorded = {"dataset": tiny_table_dir, "train_split": "validation"}
    (student / "run_arguments.json").write_text(json.dumps(recorded))
    assert len(load_source(None, plan)) == 20
    assert len(load_source(tiny_table_dir, plan)) == 60
    assert load_source(None, plan._replace(head_init="collapse")) is None
    (student / "run_arguments.json").write_text(json.dumps(recorded | {"dataset": str(tmp_path / "moved")}))
    with pytest.raises(ValueError, match="moved', which is not at hand .* Give --source_dataset"):
        load_source(None, plan)
    with pytest.raises(FileNotFoundError, match="gone"):
        load_source(str(tmp_path / "gone"), plan)


def test_ridge_refuses_models_that_read_different_pairs(checkpoints, tiny_table):
    model, giver = (AutoModel.from_pretrained(checkpoints[f"teacher_{name}"]) for name in "ab")
    processor = EmocapProcessor.from_pretrained(checkpoints["teacher_b"])
    giver.config.modalities = "image"
    table = tiny_table["train"].filter(lambda number: number > 0, input_columns="num_regions")
    with pytest.raises(ValueError, match=r"reads .* pairs \(both\) and the student .* \(image\)"):
        ridge_head(model, processor, giver, processor, table)


def test_norms_and_dropout_of_frozen_parts_stand_still():
    frozen = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
    model = torch.nn.Sequential(frozen, torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    frozen.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    keep_frozen_in_eval(model)
    inputs = torch.randn(64, 4) + 3
    assert torch.equal(frozen(inputs), frozen(inputs))
    model(inputs).sum().backward()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_a_finished_run_says_that_frozen_tensors_stood_still(checkpoints, tiny_table_dir, tmp_path, monkeypatch):
    command = [
        "finetune", "--dataset", tiny_table_dir, "--student", checkpoints["student_a"], "--strategy", "anb",
        "--num_layers", "4", "--num_train_epochs", "1", "--use_cpu", "true", "--disable_tqdm", "true",
    ]  # fmt: skip
    main([*command, "--output_dir", str(tmp_path / "run")])
    surgery = json.loads((tmp_path / "run/surgery.json").read_text())
    frozen = [name for name, entry in surgery["tensors"].items() if entry["frozen"]]
    assert surgery["after_training"] == {"frozen_tensors": len(frozen), "moved": []} and len(frozen) > 8
    saved = load_file(tmp_path / "run/model.safetensors")
    given = tensors_of(checkpoints["student_a"])
    assert all(torch.equal(saved[name], given[name]) for name in frozen)
    assert not torch.equal(saved["fc1.weight"], given["fc1.weight"])

    def meddle(start, *rest):
        with torch.no_grad():
            start.model.gru.weight_ih_l0[0, 0] += 1e-3
        return {}

    monkeypatch.setattr("emocap.training.jobs.run", meddle)
    with pytest.raises(RuntimeError, match="Training moved frozen tensors: gru.weight_ih_l0"):
        main([*command, "--output_dir", str(tmp_path / "meddled")])


def test_a_run_across_architectures_with_ridge(checkpoints, tiny_table_dir, tmp_path):
    student, teacher = checkpoints["student_a"], checkpoints["teacher_b"]
    main([
        "finetune", "--dataset", tiny_table_dir, "--student", student, "--teacher", teacher, "--strategy", "anb",
        "--head_init", "ridge", "--source_dataset", tiny_table_dir, "--copy_word_embeddings", "true",
        "--num_train_epochs", "1", "--use_cpu", "true", "--disable_tqdm", "true", "--output_dir", str(tmp_path),
    ])  # fmt: skip
    surgery = json.loads((tmp_path / "surgery.json").read_text())
    tensors = surgery["tensors"]
    assert surgery["head_init"] == "ridge" and tensors["classifier.bias"]["origin"] == f"ridge of {student}"
    trained = [name for name, entry in tensors.items() if not entry["frozen"] and not entry["buffer"]]
    assert trained == ["classifier.weight", "classifier.bias"]
    assert surgery["after_training"] == {"frozen_tensors": len(tensors) - 4, "moved": []}
    words = "visual_bert.embeddings.word_embeddings.weight"
    assert torch.equal(load_file(tmp_path / "model.safetensors")[words], tensors_of(student)["word_embeddings.weight"])
    (tmp_path / "second").mkdir()
    with pytest.raises(SystemExit):  # nobody says what this student learned from
        main(["finetune", "--dataset", tiny_table_dir, "--student", student, "--teacher", teacher,
              "--head_init", "ridge", "--output_dir", str(tmp_path / "second")])  # fmt: skip


def test_a_student_of_other_emotions_is_refused(checkpoints, tiny_table_dir, tmp_path, capsys, monkeypatch):
    shutil.copytree(checkpoints["student_a"], tmp_path / "student")
    config = json.loads((tmp_path / "student/config.json").read_text())
    config["id2label"]["0"] = "amused"
    config["label2id"] = {name: int(index) for index, name in config["id2label"].items()}
    (tmp_path / "student/config.json").write_text(json.dumps(config))
    no_weights(monkeypatch)
    with pytest.raises(SystemExit):
        main(["finetune", "--dataset", tiny_table_dir, "--student", str(tmp_path / "student"), "--output_dir",
              str(tmp_path / "run")])  # fmt: skip
    assert "only in the data set ['happy'], only in the checkpoint ['amused']" in capsys.readouterr().err
