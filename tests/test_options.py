"""One description of a command: what flags, run files and functions make of it."""

import inspect
import json
from typing import Annotated, Literal

import pytest
import yaml

from emocap.cli import command_parser
from emocap.commands import COMMANDS
from emocap.data.coco import build_coco
from emocap.data.oasis import build_oasis
from emocap.data.own_pairs import build_pairs
from emocap.data.photo_folder import build_photos
from emocap.data.socratis import build_socratis
from emocap.evaluation.captioner import evaluate_captioner
from emocap.evaluation.evaluate import calibrate, predict
from emocap.evaluation.folder import predict_folder
from emocap.evaluation.valence import evaluate_valence
from emocap.export import export_onnx
from emocap.hub.family import publish_family
from emocap.hub.publishing import publish
from emocap.hub.space import publish_space
from emocap.options import Count, Options, OptionsParser, option, positional, required
from emocap.pseudo_labels.selection import Selection
from emocap.regions import extract_regions
from emocap.scenes.corpus import load_scenes
from emocap.steps import evaluate, label
from emocap.training.surgery import check_transfer

FUNCTIONS = {
    "data pairs": [build_pairs],
    "data photos": [build_photos],
    "data socratis": [build_socratis],
    "data coco": [build_coco],
    "data oasis": [build_oasis],
    "data scenes": [load_scenes],
    "regions": [extract_regions],
    "label": [label, Selection],
    "evaluate": [evaluate, evaluate_captioner, evaluate_valence],
    "calibrate": [calibrate],
    "predict": [predict, predict_folder],
    "export": [export_onnx],
    "publish": [publish],
    "publish-family": [publish_family],
    "publish-space": [publish_space],
    "finetune": [check_transfer],
}
"""The functions behind the commands that pass options on as they are."""

OTHER_NAMES = {"split": "splits", "images": "images_dir"}

OTHER_DEFAULTS = {
    ("predict", "top_k"): "a terminal shows five emotions, Python gets all",
    ("evaluate_valence", "splits"): "the command says 'all' for it",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_defaults_are_the_functions_defaults(name):
    options = {action.dest: action for action in command_parser(name)._actions if action.option_strings}
    for function in FUNCTIONS[name]:
        compared = []
        for parameter in inspect.signature(function).parameters.values():
            names = [own for own in options if parameter.name in (own, OTHER_NAMES.get(own))]
            if not names or parameter.default is parameter.empty:
                continue
            compared.append(parameter.name)
            default, own = parameter.default, options[names[0]].default
            is_equal = (list(default) if isinstance(default, tuple) else default) == own
            assert is_equal != ((function.__name__, parameter.name) in OTHER_DEFAULTS), (parameter, own)
        assert compared, f"{function.__name__} has nothing in common with `emocap {name}`"


NO_TEXT = ("help", "preset", "parallelism_config", "liger_kernel_config")
"""Options that stand for a run file themselves, or that transformers takes from Python alone."""


def some_value(action) -> object:
    """A value of an option that is not its default, as it stands in a file."""
    if action.choices:
        value = next(own for own in action.choices if own != action.default)
    elif action.type in (int, float):
        value = action.type(7)
    elif action.const is True and action.type is not str:
        return not action.default
    else:
        value = "a --value"
    return [value, value] if action.nargs == "+" or type(action).__name__ == "_ExtendAction" else value


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_file_is_the_flags_and_flags_after_it_win(name, suffix, tmp_path):
    parser = command_parser(name)
    if name in ("data pairs", "data socratis") and suffix == "json":
        pytest.skip("its source may be a JSON file")
    actions = {own.dest: own for own in reversed(parser._actions) if own.dest not in NO_TEXT}.values()
    values = {own.dest: some_value(own) for own in actions}
    keys = {own.dest: own.option_strings[0][2:] if own.option_strings else own.dest for own in actions}
    content = {keys[own]: value for own, value in values.items()} | {"preset": None}
    (tmp_path / f"run.{suffix}").write_text(yaml.safe_dump(content) if suffix == "yaml" else json.dumps(content))
    file = str(tmp_path / f"run.{suffix}")
    assert parser.given([file]) == values
    changed = next((own for own in actions if own.option_strings and own.type is str and not own.choices), None)
    if changed and changed.nargs is None:
        assert parser.given([file, f"--{keys[changed.dest]}", "b"]) == values | {changed.dest: "b"}


class Shown(Options):
    source: str = positional("SOURCE", "what is read")
    controls: bool = option("also others", False)
    mean: bool = option("the mean", True)
    wide: bool | None = option("wide")
    explain: bool | str = option("says why", False)
    batch_size: Count = option("rows", 16)
    sides: list[Literal["left", "right"]] = option("sides", ["left"])
    share: Annotated[float, "[0, 1]"] | None = option("share")
    features: str | None = option("features", flag="import")


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        ([], {}),
        (["--controls"], {"controls": True}),
        (["--controls", "false", "--mean", "no"], {"controls": False, "mean": False}),
        (["--controls=True", "--no-mean"], {"controls": True, "mean": False}),
        (["--wide"], {"wide": True}),
        (["--no_wide"], {"wide": False}),
        (["--explain"], {"explain": True}),
        (["--explain", "sad"], {"explain": "sad"}),
        (["--batch-size", "3", "--import", "a-b"], {"batch_size": 3, "features": "a-b"}),
        (["--sides", "left", "right", "--share=.5"], {"sides": ["left", "right"], "share": 0.5}),
    ],
)
def test_spellings_of_flags(flags, values):
    (shown,) = Shown.parser().read(["x", *flags])
    assert shown == Shown(source="x", **values)


def test_a_bool_takes_no_place_of_its_neighbour():
    assert Shown.parser().read(["--controls", "x"])[0] == Shown(source="x", controls=True)
    assert Shown.parser().read(["--controls", "yes", "x"])[0] == Shown(source="x", controls=True)


def test_what_the_parser_refuses(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text("source: x\nbatch-size: 3\nsid: left\n")
    for argv, message in (
        ([], "the following arguments are required: SOURCE"),
        (["x", "--batch", "3"], "unrecognized arguments: --batch 3"),
        (["x", "--sides", "up"], "argument --sides: invalid choice: 'up'"),
        (["x", "--wide=perhaps"], "'perhaps' is neither true nor false"),
        ([str(tmp_path / "run.yaml")], "unrecognized arguments: --sid=left"),
    ):
        with pytest.raises(SystemExit) as stop:
            Shown.parser().read(argv)
        assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_source_that_may_be_json_is_no_run_file(tmp_path):
    (tmp_path / "raw.json").write_text("{}")
    (tmp_path / "run.yaml").write_text(f"source: {tmp_path / 'raw.json'}\noutput_dir: out\n")
    given = command_parser("data socratis").given([str(tmp_path / "raw.json"), "--output_dir", "out"])
    assert given == command_parser("data socratis").given([str(tmp_path / "run.yaml")])
    assert given == {"source": str(tmp_path / "raw.json"), "output_dir": "out"}


def test_help_says_defaults_where_there_are_any():
    text = " ".join(Shown.parser().format_help().split())
    assert "rows (default: 16)" in text and "sides (default: left)" in text and "the mean (default: True)" in text
    assert text.count("default") == 3 and "--controls [true|false] also others" in text

    class Rated(Options):
        rate: str = option("rate", "5 %")
        name: str = required("name")

    parser = OptionsParser(Rated, defaults={"rate": "7 %"})
    assert "rate (default: 7 %)" in parser.format_help() and parser.read(["--name", "n"])[0].rate == "7 %"
