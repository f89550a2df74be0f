"""Every number of every command has a limit, and a number outside it ends the command before anything is loaded."""

import argparse
import dataclasses
import math
import typing

import pytest
from transformers import PreTrainedModel

from emocap import commands
from emocap.arguments import EmocapTrainingArguments, finetune_parser, student_parser, teacher_parser
from emocap.cli import main, make_parser
from emocap.data import storage
from emocap.limits import ABOVE_ZERO, ANY, AT_LEAST, SHARES, check_numbers
from emocap.studies import cross_validation
from emocap.studies.label_study import label_study_parser
from emocap.studies.transfer_arguments import study_parser

OWN_PARSERS = {
    "train-teacher": teacher_parser,
    "train-student": student_parser,
    "finetune": finetune_parser,
    "transfer-study": study_parser,
    "label-study": label_study_parser,
    "cross-validate": cross_validation.make_parser,
}
"""Commands whose flags `make_parser` does not know."""

NO_NUMBERS = {"str", "bool", "string_to_bool", "NoneType", "dict", "DebugOption", "ParallelismConfig", "<lambda>"}
"""Types of flags that take no number; the last is what transformers makes for choices."""


def parsers(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> typing.Iterator[tuple]:
    """Every command's words and parser."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield words, OWN_PARSERS[words[0]]() if words[0] in OWN_PARSERS else parser
    for action in nested:
        for name, own in action.choices.items():
            yield from parsers(own, (*words, name))


COMMANDS = dict(parsers(make_parser()))


def numeric(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The flags that take numbers; a type that this test does not know fails it."""
    found = []
    for action in parser._actions:
        if action.type in (int, float):
            found.append(action)
        elif action.type is not None:
            assert action.type.__name__ in NO_NUMBERS, (action.dest, action.type)
    return found


FLAGS = [(words, action) for words, parser in COMMANDS.items() for action in numeric(parser)]


def test_every_command_is_walked():
    assert set(OWN_PARSERS) <= {words[0] for words in COMMANDS} and ("data", "scenes") in COMMANDS
    assert len(FLAGS) > 150


def test_every_number_has_one_limit_and_every_limit_a_number():
    tables = [set(AT_LEAST), set(ABOVE_ZERO), set(SHARES), set(ANY)]
    for place, own in enumerate(tables):
        assert not any(own & other for other in tables[place + 1 :])
    names = {action.dest for _, action in FLAGS}
    known = set().union(*tables)
    assert names - known == set() and known - names == set()
    assert all(reason for reason in ANY.values())


def test_numbers_of_the_training_arguments_are_all_flags():
    """Fields that hold numbers as their type hints say it: none escapes by another way of parsing."""
    known = {*AT_LEAST, *ABOVE_ZERO, *SHARES, *ANY}
    hints = typing.get_type_hints(EmocapTrainingArguments)
    for own in dataclasses.fields(EmocapTrainingArguments):
        types = {hints[own.name], *typing.get_args(hints[own.name])}
        if own.init and types & {int, float} and bool not in types and str not in types:
            assert own.name in known, own.name


def test_defaults_and_what_stands_at_the_limits_pass():
    for words, action in FLAGS:
        check_numbers({action.dest: action.default})
        check_numbers(vars(COMMANDS[words].parse_args([])) if not required(COMMANDS[words]) else {})
    check_numbers(AT_LEAST)
    check_numbers(dict.fromkeys(ABOVE_ZERO, 1e-9) | {"cnn_channels": [1, 2], "loss": "nan", "flag": True})
    check_numbers({name: 0 if low else 1e-9 for name, (low, _) in SHARES.items()})
    check_numbers({name: 1 if high else 1 - 1e-9 for name, (_, high) in SHARES.items()})


def required(parser: argparse.ArgumentParser) -> bool:
    return any(action.required for action in parser._actions)


def bad_values(words: tuple[str, ...], action: argparse.Action) -> list[str]:
    """Numbers that the flag may not be, as a user would type them."""
    name, bad = action.dest, ["nan"]
    if action.type is float:
        bad += ["inf", "-inf"]
    if name in AT_LEAST:
        bad.append(str(AT_LEAST[name] - 1))
    if name in ABOVE_ZERO:
        bad += ["0", "-1"]
    if name in SHARES:
        low, high = SHARES[name]
        bad += ["-0.001", "1.001", *([] if low else ["0"]), *([] if high else ["1"])]
    return bad + (["0"] if name == "max_steps" and words[0] in ("transfer-study", "label-study") else [])


@pytest.fixture
def nothing_is_loaded(monkeypatch, tmp_path):
    def loading(*args, **kwargs):
        pytest.fail("something was loaded before the numbers were checked")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", loading)
    monkeypatch.setattr(storage, "read_text", loading)
    for module in (storage, cross_validation):
        monkeypatch.setattr(module, "load_table", loading)
    for name in ("save_built", "run_scenes"):
        monkeypatch.setattr(commands, name, loading)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_bad_number_ends_with_one_sentence_that_names_the_flag(words, nothing_is_loaded, capsys, tmp_path):
    parser = COMMANDS[words]
    given = []
    for action in parser._actions:  # what the command cannot do without; --import is one of two
        if action.option_strings and (action.required or action.dest == "extractor"):
            given += [action.option_strings[0], "x"]
        elif not action.option_strings:
            given.append("x=x")
    if words[0] in OWN_PARSERS:
        given += ["--output_dir", "out"]
    if words[0] == "transfer-study":
        given += ["--source_dataset", "x", "--target_dataset", "x", "--word_embeddings", "x"]
    if words[0] == "cross-validate":
        given += ["--dataset", "x", "--model_name_or_path", "x"]
    for action in numeric(parser):
        flag = action.option_strings[0]
        for value in bad_values(words, action):
            capsys.readouterr()
            with pytest.raises(SystemExit) as stop:
                main([*words, *given, f"{flag}={value}"])
            errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
            assert stop.value.code == 2 and len(errors) == 1, (flag, value, errors)
            assert flag in errors[0], (flag, value, errors)
    assert not list(tmp_path.iterdir())


def test_each_of_several_numbers_counts():
    with pytest.raises(ValueError, match="--cnn_channels is 0; it must be 1 or more"):
        check_numbers({"cnn_channels": [16, 0, 32]})
    with pytest.raises(ValueError, match=r"--images_per_label is -3; it must be 1 or more"):
        check_numbers({"images_per_label": (50, -3)})
    with pytest.raises(ValueError, match="--local_rank is nan; it must be a finite number"):
        check_numbers({"local_rank": math.nan})
    with pytest.raises(ValueError, match="--max_steps is 0; it must be 1 or more"):
        check_numbers({"max_steps": 0}, max_steps=1)


def test_values_to_vary_are_checked_too(nothing_is_loaded, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["cross-validate", "--dataset", "x", "--model_name_or_path", "x", "--output_dir", "out",
              "--vary", "learning_rate=1e-4,nan"])  # fmt: skip
    assert stop.value.code == 2 and "--learning_rate is nan" in capsys.readouterr().err


def test_numbers_of_a_run_file_are_checked_too(nothing_is_loaded, capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("dataset: x\nmodel_name_or_path: x\noutput_dir: out\nmax_train_samples: 0\n")
    with pytest.raises(SystemExit) as stop:
        main(["train-teacher", "run.yaml"])
    assert stop.value.code == 2 and "--max_train_samples is 0" in capsys.readouterr().err
