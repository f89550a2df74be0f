"""Every number of every command has an interval, and one outside it ends the command before anything is loaded."""

import dataclasses
import math
import typing

import pytest
from transformers import PreTrainedModel

from emocap import arguments
from emocap.arguments import EmocapTrainingArguments, StudentArguments
from emocap.cli import command_parser, main
from emocap.commands import COMMANDS
from emocap.commands.data import Table
from emocap.data import storage
from emocap.options import Options, OptionsParser, check_options, interval_of, option, option_fields
from emocap.studies import cross_validation

ANY = {"local_rank"}
"""Numbers that may be any finite one."""

PARSERS = {name: command_parser(name) for name in COMMANDS}


def numbers(parser: OptionsParser) -> list[tuple[dataclasses.Field, str | None]]:
    """A command's options that are numbers, and what each says that it may be."""
    names = {action.dest for action in parser._actions if action.type in (int, float)}
    return [(own, interval_of(part, own)) for part in parser.parts for own in option_fields(part) if own.name in names]


NUMBERS = {name: numbers(parser) for name, parser in PARSERS.items()}


def test_every_number_has_an_interval_and_every_interval_a_number():
    assert sum(map(len, NUMBERS.values())) > 150
    for name, found in NUMBERS.items():
        for own, interval in found:
            assert interval, f"{name} --{own.name} says nothing of what it may be"
            low, high = map(float, interval[1:-1].split(", "))
            assert interval[0] in "[(" and interval[-1] in ")]" and low < high
            assert (interval == "(-inf, inf)") == (own.name in ANY)
    told = [own for names in EmocapTrainingArguments.intervals.values() for own in names]
    assert len(told) == len(set(told)) and set(told) <= {own.name for own, _ in NUMBERS["train-teacher"]}
    for part in PARSERS["train-teacher"].parts:
        for own in option_fields(part):
            is_number = any(own is each for each, _ in NUMBERS["train-teacher"])
            assert is_number or not interval_of(part, own), own.name


def test_numbers_of_the_training_arguments_are_all_flags():
    """Fields that hold numbers as their type hints say it: none escapes by another way of parsing."""
    hints = typing.get_type_hints(EmocapTrainingArguments)
    known = {own.name for own, _ in NUMBERS["train-teacher"]}
    for own in dataclasses.fields(EmocapTrainingArguments):
        types = {hints[own.name], *typing.get_args(hints[own.name])}
        if own.init and types & {int, float} and bool not in types and str not in types:
            assert own.name in known, own.name


class Made(Options):
    share: typing.Annotated[float, "(0, 1]"] = option("", 1.0)
    open_share: typing.Annotated[float, "[0, 1)"] | None = option("")
    steps: typing.Annotated[float, "(0, inf)"] = option("", 1)
    counts: list[typing.Annotated[int, "[1, inf)"]] = option("", [1])
    rank: typing.Annotated[int, "(-inf, inf)"] = option("", -1, flag="place")
    kinds: list[typing.Literal["a", "b"]] = option("", ["a"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 0}, r"--share is 0; it must lie from 0 \(without it\) to 1\.$"),
        ({"share": 1.001}, "--share is 1.001"),
        ({"open_share": 1}, r"--open_share is 1; it must lie from 0 to 1 \(without it\)\.$"),
        ({"steps": 0.0}, "--steps is 0.0; it must be above 0"),
        ({"counts": [16, 0, 32]}, "--counts is 0; it must be 1 or more"),
        ({"counts": (50, -3)}, "--counts is -3; it must be 1 or more"),
        ({"rank": math.nan}, "--place is nan; it must be a finite number"),
        ({"steps": math.inf}, "--steps is inf; it must be above 0"),
        ({"kinds": ["a", "c"]}, "--kinds is 'c'; it must be one of a, b"),
    ],
)
def test_values_from_python_are_checked_too(values, message):
    check_options(Made(share=1, open_share=0, steps=1e-9, counts=(1, 5), rank=-3, kinds=["b", "a"]))
    assert Made().open_share is None and Made().counts is not Made().counts
    with pytest.raises(ValueError, match=message):
        Made(**values)
    with pytest.raises(ValueError, match="--gru_num_layers is 0"):
        StudentArguments(gru_num_layers=0)


def bad_values(own: dataclasses.Field, interval: str, kind: type) -> list[str]:
    """Numbers that the flag may not be, as a user would type them."""
    low, high = map(float, interval[1:-1].split(", "))
    bad = ["nan", *(["inf", "-inf"] if kind is float else [])]
    if math.isfinite(low):
        bad.append(f"{low - 1:g}" if interval[0] == "[" else f"{low:g}")
    if math.isfinite(high):
        bad.append(f"{high + 1:g}" if interval[-1] == "]" else f"{high:g}")
    return bad


@pytest.fixture
def nothing_is_loaded(monkeypatch, tmp_path):
    def loading(*args, **kwargs):
        pytest.fail("something was loaded before the numbers were checked")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", loading)
    monkeypatch.setattr(storage, "read_text", loading)
    for module in (storage, cross_validation):
        monkeypatch.setattr(module, "load_table", loading)
    monkeypatch.setattr(Table, "run", loading)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_number_ends_with_one_sentence_that_names_the_flag(name, nothing_is_loaded, capsys, tmp_path):
    given, actions = [], PARSERS[name]._actions
    for action in actions:  # what the command cannot do without
        if not action.option_strings:
            given.append("x=x")
        elif action.required:
            given += [action.option_strings[0], "x"]
    for own, interval in NUMBERS[name]:
        kind = next(action.type for action in actions if action.dest == own.name)
        for value in bad_values(own, interval, kind):
            capsys.readouterr()
            with pytest.raises(SystemExit) as stop:
                main([*name.split(), *given, f"--{own.name}={value}"])
            errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
            assert stop.value.code == 2 and len(errors) == 1, (own.name, value, errors)
            assert f"--{own.name}" in errors[0], (own.name, value, errors)
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize(
    "make_parser", [arguments.teacher_parser, arguments.student_parser, arguments.finetune_parser]
)
def test_defaults_of_every_job_lie_in_their_intervals(make_parser, tmp_path):
    parser = make_parser()
    paths = {"dataset": "x", "output_dir": str(tmp_path), "model_name_or_path": "x"}
    training_args = parser.make(paths)[-1]
    assert training_args.learning_rate == parser.get_default("learning_rate")
