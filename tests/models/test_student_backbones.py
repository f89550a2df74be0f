"""Students with a BERT in place of word embeddings and GRU, and a ResNet in place of the small CNN."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoProcessor, BertConfig, BertModel

from emocap.arguments import StudentArguments, arguments_to_dict, make_arguments, student_parser
from emocap.cli import main
from emocap.models import EmocapStudentConfig, EmocapStudentForMultiLabelClassification
from emocap.models.modeling_emocap_student import resnet_stages
from emocap.models.pipeline_emocap import explain_pair as explain
from emocap.training.heads import collapsed_head
from emocap.training.surgery import blocks_of
from tests.conftest import make_tokenizer, tiny_bert_fields

BERT = {"text_config": tiny_bert_fields()}
RESNET = {"image_backbone": "resnet18", "image_size": 64}


def make_student(**fields) -> EmocapStudentForMultiLabelClassification:
    small = {"vocab_size": 31, "word_embedding_size": 32, "gru_hidden_size": 12, "cnn_channels": [8, 16]}
    defaults = {**small, "image_size": 64, "fc_hidden_size": 10, "num_labels": 5}
    return EmocapStudentForMultiLabelClassification(EmocapStudentConfig(**(defaults | fields))).eval()


def random_inputs(batch: int = 4, words: int = 8) -> dict[str, torch.Tensor]:
    mask = torch.arange(words) < torch.randint(3, words + 1, (batch, 1))
    return {
        "input_ids": torch.randint(5, 31, (batch, words)) * mask,
        "attention_mask": mask.long(),
        "pixel_values": torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8),
        "pixel_mask": torch.ones(batch, dtype=torch.long),
    }


@torch.no_grad()
def test_a_bert_reads_each_caption_as_if_it_were_alone():
    student, inputs = make_student(**BERT), random_inputs()
    inputs["attention_mask"][1] = 0
    together = student.encode_text(inputs["input_ids"], inputs["attention_mask"])
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        if not length:
            assert (together[row] == 0).all()
            continue
        alone = student.text_encoder(input_ids=inputs["input_ids"][row : row + 1, :length]).last_hidden_state[0, 0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)
    assert not hasattr(student, "gru") and student.fc1.in_features == 32 + 16
    assert student(**inputs).logits.isfinite().all()


@torch.no_grad()
def test_a_resnet_reads_photos_as_torchvision_does():
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    student, inputs = make_student(**RESNET), random_inputs()
    stages = nn.Sequential(
        nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool), network.layer1, network.layer2,
        network.layer3, network.layer4,
    )  # fmt: skip
    student.cnn.load_state_dict(stages.state_dict())
    network.fc = nn.Identity()
    mean, std = (torch.tensor(own).view(1, 3, 1, 1) for own in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = network((inputs["pixel_values"] / 255 - mean) / std)
    inputs["pixel_mask"][2] = 0
    found = student.encode_photo(inputs["pixel_values"], inputs["pixel_mask"], 4)
    assert (found[2] == 0).all() and found.shape == (4, 512)
    torch.testing.assert_close(found[[0, 1, 3]], expected[[0, 1, 3]], rtol=1e-4, atol=1e-4)
    assert student.encode_photo(None, None, 4).shape == (4, 512)


def test_rows_without_a_photo_do_not_touch_the_norms_of_a_resnet():
    """In training the other rows come out, and the running statistics move, as if those rows were not there."""
    inputs = random_inputs(batch=5)
    inputs["pixel_mask"] = torch.tensor([1, 0, 1, 1, 0])
    kept = inputs["pixel_mask"].bool()
    student, alone = make_student(**RESNET).train(), make_student(**RESNET).train()
    alone.load_state_dict(student.state_dict())
    found = student.encode_photo(inputs["pixel_values"], inputs["pixel_mask"], 5)
    expected = alone.encode_photo(inputs["pixel_values"][kept], None, 3)
    torch.testing.assert_close(found[kept], expected, rtol=1e-4, atol=1e-4)
    assert (found[~kept] == 0).all()
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)
    assert student.cnn[0][1].num_batches_tracked == 1
    found.sum().backward()
    assert student.cnn[0][0].weight.grad.abs().max() > 0
    none = student.encode_photo(inputs["pixel_values"], torch.zeros(5, dtype=torch.long), 5)
    assert (none == 0).all() and student.cnn[0][1].num_batches_tracked == 1


@pytest.mark.parametrize("fields", [BERT, RESNET, BERT | RESNET], ids=["bert", "resnet", "both"])
def test_saving_and_loading_gives_the_same_model(tmp_path, fields):
    torch.manual_seed(0)
    student, inputs = make_student(**fields, freeze_word_embeddings=True), random_inputs()
    student.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is EmocapStudentForMultiLabelClassification
    for name, values in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], values), name
    torch.testing.assert_close(loaded(**inputs).logits, student(**inputs).logits, rtol=1e-4, atol=1e-5)
    frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, own in loaded.named_parameters() if own is loaded.get_input_embeddings().weight}
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.text_config is not None) == ("text_config" in fields)
    assert config.text_config is None or isinstance(config.text_config, BertConfig)
    explained = explain(loaded, {name: values[:1] for name, values in inputs.items()}, 1, make_tokenizer())
    parts = [*explained["token_weights"], *explained["box_weights"]]
    difference = explained["logit"] - explained["baseline_logit"]
    assert sum(parts) == pytest.approx(difference, abs=0.02 * sum(map(abs, parts))), "up to the error of 64 points"


REMOTE = """
import json
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained(json.loads(sys.argv[1]), trust_remote_code=True).eval()
words = torch.arange(5, 11).view(1, -1)
pixels = (torch.arange(3 * 64 * 64) % 251).to(torch.uint8).view(1, 3, 64, 64)
logits = model(input_ids=words, pixel_values=pixels).logits
frozen = not model.get_input_embeddings().weight.requires_grad
print("RESULT" + json.dumps({"logits": logits.tolist(), "frozen": frozen}))
"""


def test_it_loads_where_emocap_is_not_installed(tmp_path, run_without_emocap):
    student = make_student(**BERT, **RESNET, freeze_word_embeddings=True)
    student.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "modeling_emocap_student.py").is_file()
    answer = run_without_emocap(REMOTE, str(tmp_path / "model"))
    pixels = (torch.arange(3 * 64 * 64) % 251).to(torch.uint8).view(1, 3, 64, 64)
    expected = student(input_ids=torch.arange(5, 11).view(1, -1), pixel_values=pixels).logits
    torch.testing.assert_close(torch.tensor(answer["logits"]), expected, rtol=1e-4, atol=1e-5)
    assert answer["frozen"]


def test_the_blocks_are_embeddings_layers_stem_and_groups():
    blocks = list(blocks_of(make_student(**BERT, **RESNET)))
    assert len(blocks) == 1 + 2 + 5 + 1
    model = make_student(**BERT, **RESNET)
    parts = [part for block in blocks_of(model) for part in block]
    inside = {id(value) for part in parts for value in part.parameters()}
    outside = {name for name, value in model.named_parameters() if id(value) not in inside}
    assert outside == {"fc2.weight", "fc2.bias"}, "every tensor below the head is in a block"
    weight, bias = collapsed_head(model, 20, keep=False)
    assert weight.shape == (5, 20) and bias.shape == (5,)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="image_backbone is 'vgg11'; it must be one of resnet18, "):
        EmocapStudentConfig(image_backbone="vgg11")
    with pytest.raises(ValueError, match="image_size is 32 with image_backbone 'resnet18'; it must be 64 or more"):
        EmocapStudentConfig(image_backbone="resnet18", image_size=32)


def test_weights_of_a_file_and_of_another_network(tmp_path):
    network = torchvision.models.resnet18()
    save_file(network.state_dict(), tmp_path / "own.safetensors")
    body = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    save_file(body, tmp_path / "body.safetensors")
    for name in ("own", "body"):
        stages, width = resnet_stages("resnet18", str(tmp_path / f"{name}.safetensors"))
        assert width == 512 and torch.equal(stages[0][0].weight, network.conv1.weight)
        assert torch.equal(stages[4][1].conv2.weight, network.layer4[1].conv2.weight)
    with pytest.raises(ValueError, match="is no state dict of resnet34: missing"):
        resnet_stages("resnet34", str(tmp_path / "own.safetensors"))
    with pytest.raises(ValueError, match="torchvision has no weights 'BEST' of resnet18; expected DEFAULT, "):
        resnet_stages("resnet18", "BEST")


QUICK = ["--use_cpu", "--disable_tqdm", "true", "--max_steps", "2", "--per_device_train_batch_size", "16",
         "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_table_dir, tiny_bert) -> Path:
    """A student of both networks after two steps at a rate for what is new alone."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(3)
    save_file(torchvision.models.resnet18().state_dict(), folder / "resnet18.safetensors")
    main(["train-student", "--dataset", tiny_table_dir, "--text_encoder", tiny_bert, "--image_backbone", "resnet18",
          "--image_weights", str(folder / "resnet18.safetensors"), "--image_size", "64", "--fc_hidden_size", "8",
          "--augment_photos", "true", "--learning_rate", "0", "--head_learning_rate", "0.01", "--weight_decay", "0",
          *QUICK, "--output_dir", str(folder / "run")])  # fmt: skip
    return folder


def test_training_starts_from_both_networks_and_gives_what_is_new_its_own_rate(trained, tiny_bert):
    model = AutoModel.from_pretrained(trained / "run")
    body, network = BertModel.from_pretrained(tiny_bert), torchvision.models.resnet18()
    for name, value in body.state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(model.text_encoder.state_dict()[name], value), name
    stages, _ = resnet_stages("resnet18", str(trained / "resnet18.safetensors"))
    for name, value in stages.named_parameters():
        assert torch.equal(dict(model.cnn.named_parameters())[name], value), name
    assert model.cnn[0][1].num_batches_tracked == 2 and network.fc.in_features == model.photo_width
    assert AutoProcessor.from_pretrained(trained / "run").image_size == 64
    assert "A student (a BERT and resnet18; " in (trained / "run" / "README.md").read_text()


def test_training_goes_on_and_passes_layers_on(trained, tmp_path, tiny_table_dir):
    """Frozen layers stand still to the bit, running statistics of their norms too; with anb+ statistics may move."""
    for strategy in ("anb", "anb+"):
        main(["finetune", "--dataset", tiny_table_dir, "--student", str(trained / "run"), "--strategy", strategy,
              *QUICK, "--learning_rate", "0.01", "--output_dir", str(tmp_path / strategy)])  # fmt: skip
        surgery = json.loads((tmp_path / strategy / "surgery.json").read_text())
        assert surgery["num_layers"] == 1 + 2 + 5 + 1 + 1 and not surgery["after_training"]["moved"]
        frozen = {name for name, entry in surgery["tensors"].items() if entry["frozen"]}
        assert (
            ("cnn.0.1.running_mean" in frozen)
            == (strategy == "anb")
            == ("text_encoder.embeddings.LayerNorm.bias" in frozen)
        )
        before, after = (AutoModel.from_pretrained(own).state_dict() for own in (trained / "run", tmp_path / strategy))
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert ("cnn.0.1.running_mean" in moved) == (strategy == "anb+")
        assert moved == {"fc2.weight", "fc2.bias"} or strategy == "anb+"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--text_encoder", "a", "--word_embeddings", "b"], "--text_encoder has word embeddings of its own"),
        (["--image_weights", "DEFAULT", "--word_embeddings", "b"], "--image_weights needs --image_backbone"),
        (["--image_backbone", "resnet18", "--model_name_or_path", "x"], "for a new gru_cnn student"),
        (["--architecture", "visualbert", "--model_name_or_path", "x", "--augment_photos"], "crops pixels"),
        (["--word_embeddings", "b", "--augment_photos", "--dataloader_persistent_workers", "--dataloader_num_workers",
          "1"], "leave out --dataloader_persistent_workers"),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together_are_refused(tmp_path, tiny_table_dir, capsys, flags, words):
    with pytest.raises(SystemExit):
        main(["train-student", "--dataset", tiny_table_dir, *flags, "--output_dir", str(tmp_path / "run")])
    assert words in capsys.readouterr().err


def test_a_text_encoder_that_is_no_bert_is_refused(tmp_path, tiny_table_dir, tiny_body, capsys):
    with pytest.raises(SystemExit):
        main(["train-student", "--dataset", tiny_table_dir, "--text_encoder", tiny_body, "--output_dir",
              str(tmp_path / "run")])  # fmt: skip
    assert "is a 'visual_bert' checkpoint; expected a BERT" in capsys.readouterr().err


def test_the_presets_build_the_students_of_the_study(tmp_path):
    parser = student_parser()
    read = {}
    for name in ("paper_student", "paper_resnet_bert_student"):
        flags = [*parser.file_flags(name), "--dataset", "t", "--bf16", "false", "--output_dir", str(tmp_path)]
        read[name] = arguments_to_dict(*make_arguments(parser, parser.given(flags)))
        assert (read[name]["label_column"], read[name]["train_fraction"], read[name]["max_length"]) == (
            "emotions",
            0.1,
            32,
        )
    own, other = read.values()
    assert own["word_embeddings"] == other["text_encoder"] == "google-bert/bert-base-uncased"
    assert own["freeze_word_embeddings"] and own["gru_hidden_size"] == 256 and own["image_backbone"] is None
    assert other["image_backbone"] == "resnet50" and other["word_embeddings"] is None
    assert StudentArguments().image_backbone is None
