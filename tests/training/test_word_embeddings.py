"""Word embeddings under every strategy: who gives them, whether they are frozen, and that all records say so."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from emocap.arguments import finetune_parser
from emocap.cards.surgery import told_surgery
from emocap.cli import main
from emocap.models import EmocapProcessor
from emocap.training.surgery import STRATEGIES, check_frozen
from tests.training.test_transfer import PRIOR, train_a_step, training_batch, transfer_model

WORDS = "word_embeddings.weight"
QUICK = ["--num_train_epochs", "1", "--use_cpu", "true", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def students(tmp_path_factory, tiny_table_dir, tiny_bert, tiny_teacher) -> dict[str, str]:
    """Students by what became of their word embeddings: `published` ones left as they were; `taught`: a trained
    teacher's, left as they were; `moved`: published ones that trained."""
    folders = {}
    for name, giver, freeze in (
        ("published", tiny_bert, "true"), ("taught", tiny_teacher, "true"), ("moved", tiny_bert, "false"),
    ):  # fmt: skip
        folders[name] = str(tmp_path_factory.mktemp("students") / name)
        main(["train-student", "--dataset", tiny_table_dir, "--word_embeddings", giver, "--image_size", "16",
              "--cnn_channels", "8", "--gru_hidden_size", "16", "--fc_hidden_size", "16", "--freeze_word_embeddings",
              freeze, *QUICK, "--output_dir", folders[name]])  # fmt: skip
    return folders


def words_of(folder: str) -> torch.Tensor:
    return load_file(f"{folder}/model.safetensors")[WORDS]


def given(folder: str) -> bool:
    return AutoConfig.from_pretrained(folder).given_word_embeddings


def test_a_student_knows_whether_its_word_embeddings_are_as_published(students, tiny_bert):
    assert {name: given(folder) for name, folder in students.items()} == {
        "published": True, "taught": False, "moved": False,
    }  # fmt: skip
    table = AutoModel.from_pretrained(tiny_bert).get_input_embeddings().weight
    assert torch.equal(words_of(students["published"]), table)
    assert not torch.equal(words_of(students["moved"]), table)


@pytest.mark.parametrize("name", ["published", "taught", "moved"])
@pytest.mark.parametrize("strategy", ["scratch", "random"])
def test_controls_start_from_published_word_embeddings_at_most(students, strategy, name):
    model, _, surgery = transfer_model(student=students[name], teacher=None, strategy=strategy, prior=PRIOR)
    entry = surgery["tensors"][WORDS]
    assert torch.equal(model.word_embeddings.weight, words_of(students[name])) == (name == "published")
    assert entry["origin"] == (f"given by {students[name]}" if name == "published" else "fresh")
    others = {tensor: own["origin"] for tensor, own in surgery["tensors"].items() if tensor != WORDS}
    assert set(others.values()) == {"fresh"}
    assert entry["frozen"] == (strategy == "random") and model.config.given_word_embeddings == (name == "published")


@pytest.mark.parametrize("name", ["published", "taught", "moved"])
@pytest.mark.parametrize("strategy", ["anb+", "bnb+", "scratch"])
def test_strategies_that_freeze_nothing_freeze_nothing(students, tiny_table, strategy, name):
    folder = students[name]
    model, _, surgery = transfer_model(student=folder, teacher=folder, strategy=strategy, prior=PRIOR)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(entry["frozen"] for entry in surgery["tensors"].values())
    before = model.word_embeddings.weight.detach().clone()
    train_a_step(model, training_batch(model, folder, tiny_table["train"]))
    assert not torch.equal(model.word_embeddings.weight, before) and not model.config.given_word_embeddings
    assert not model.config.freeze_word_embeddings and check_frozen(model, surgery)["frozen_tensors"] == 0


@pytest.mark.parametrize("name", ["published", "taught", "moved"])
@pytest.mark.parametrize(("layers", "frozen"), [("0", False), ("1", True), ("all", True)])
def test_anb_freezes_word_embeddings_with_the_first_block(students, name, layers, frozen):
    model, _, surgery = transfer_model(
        student=students[name], teacher=None, strategy="anb", num_layers=layers, prior=PRIOR
    )
    assert surgery["tensors"][WORDS]["frozen"] == frozen == (not model.word_embeddings.weight.requires_grad)
    assert torch.equal(model.word_embeddings.weight, words_of(students[name])) == (frozen or name == "published")
    assert model.config.freeze_word_embeddings == (name != "moved" and frozen), "other blocks thaw in the next run too"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("asked", [True, False])
def test_the_option_outdoes_the_strategy_and_nothing_but_it(students, tmp_path, strategy, asked):
    folder = students["published"]
    options = {"student": folder, "teacher": folder, "strategy": strategy, "num_layers": "2", "prior": PRIOR}
    plain = transfer_model(**options)[2]["tensors"]
    model, _, surgery = transfer_model(**options, freeze_word_embeddings=asked)
    frozen = {name: entry["frozen"] for name, entry in surgery["tensors"].items()}
    assert frozen == {name: entry["frozen"] for name, entry in plain.items()} | {WORDS: asked}
    assert surgery["freeze_word_embeddings"] is asked
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.word_embeddings.weight.requires_grad != asked, "a checkpoint of the run goes on the same way"


@pytest.mark.parametrize(("strategy", "layers"), [("scratch", "all"), ("anb+", "0")])
def test_drawn_word_embeddings_are_not_frozen(students, strategy, layers):
    with pytest.raises(ValueError, match=r"a training has moved the word embeddings of .* would stay noise"):
        transfer_model(student=students["taught"], teacher=None, strategy=strategy, num_layers=layers,
                       freeze_word_embeddings=True, prior=PRIOR)  # fmt: skip


def test_what_passes_decides_whether_word_embeddings_are_as_published(students):
    """B's own are published, A's were moved: with A's first block come A's."""
    options = {"student": students["moved"], "teacher": students["published"], "strategy": "anb", "prior": PRIOR}
    assert not transfer_model(**options, num_layers="1")[0].config.given_word_embeddings
    assert transfer_model(**options, num_layers="0")[0].config.given_word_embeddings


@pytest.mark.parametrize(
    ("strategy", "options", "told"),
    [
        ("anb+", [], "Nothing was frozen"),
        ("anb", [], "10 of its 12 tensors were frozen"),
        ("scratch", [], "Nothing was frozen; the word embeddings started as published"),
        (
            "scratch",
            ["--freeze_word_embeddings", "true"],
            "1 of its 12 tensors was frozen; the word embeddings were frozen",
        ),
        (
            "anb",
            ["--freeze_word_embeddings", "false"],
            "9 of its 12 tensors were frozen; the word embeddings were trained",
        ),
    ],
)
def test_surgery_card_and_weights_agree(students, tiny_table_dir, tmp_path, strategy, options, told):
    run, folder = tmp_path / "run", students["published"]
    main(["finetune", "--dataset", tiny_table_dir, "--student", folder, "--strategy", strategy, *options, *QUICK,
          "--output_dir", str(run)])  # fmt: skip
    surgery, saved = json.loads((run / "surgery.json").read_text()), load_file(run / "model.safetensors")
    frozen = {name for name, entry in surgery["tensors"].items() if entry["frozen"]}
    start = load_file(f"{folder}/model.safetensors")
    assert all(torch.equal(saved[name], start[name]) for name in frozen)
    assert (WORDS in frozen) == torch.equal(saved[WORDS], start[WORDS]) == given(str(run))
    assert surgery["after_training"] == {"frozen_tensors": len(frozen), "moved": []}
    card = (run / "README.md").read_text()
    assert told in told_surgery(run, strategy) and told_surgery(run, strategy) in card


def test_the_help_names_the_exception_and_the_option():
    text = " ".join(finetune_parser().format_help().split())
    assert "as published, moved by no training on emotions, are the start of random and scratch too" in text
    assert "--freeze_word_embeddings" in text and "By default as the strategy says" in text


def test_a_visualbert_student_has_no_given_word_embeddings(tiny_teacher):
    model, processor, surgery = transfer_model(student=tiny_teacher, teacher=None, strategy="scratch", prior=PRIOR)
    origins = {entry["origin"] for entry in surgery["tensors"].values() if not entry["buffer"]}
    assert origins == {"fresh"} and isinstance(processor, EmocapProcessor)
    assert not hasattr(model.config, "given_word_embeddings")
    with pytest.raises(ValueError, match="would stay noise"):
        transfer_model(
            student=tiny_teacher, teacher=None, strategy="scratch", freeze_word_embeddings=True, prior=PRIOR
        )
