"""What a command takes, written down once: a class whose fields have type, default, help and, where they are numbers,
an interval. Flags, help, run files and checks come from it."""

import argparse
import dataclasses
import difflib
import enum
import functools
import json
import math
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

__all__ = [
    "Amount",
    "Count",
    "Options",
    "OptionsParser",
    "Share",
    "Whole",
    "as_list",
    "check_names",
    "check_options",
    "interval_of",
    "option",
    "option_fields",
    "positional",
    "required",
]


Count = typing.Annotated[int, "[1, inf)"]
Whole = typing.Annotated[int, "[0, inf)"]
Amount = typing.Annotated[float, "[0, inf)"]
Share = typing.Annotated[float, "[0, 1]"]
"""Numbers with what they may be, as an interval; "(-inf, inf)" is any finite one."""


def option(help: str, default: typing.Any = None, **parsing: typing.Any):
    """A field that is a flag by its name.

    Args:
        help: shown by `--help`, the default after it.
        default: its value, or a function that makes it; a list is copied.
        **parsing: further keywords of `argparse`'s `add_argument`, and `flag`, where its name is not the field's.
    """
    metadata = {"help": help, **parsing}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(help: str, **parsing: typing.Any):
    """A flag without which there is no command; see `option`."""
    return option(help, dataclasses.MISSING, **parsing)


def positional(metavar: str, help: str, **parsing: typing.Any):
    """A field that is given by its place. `may_be_json`: such a file is its value, and no run file."""
    return required(help, positional=True, metavar=metavar, **parsing)


@typing.dataclass_transform(kw_only_default=True, field_specifiers=(option, required, positional))
class Options:
    """What a command takes: its subclasses are dataclasses, whose values are checked as they are made."""

    def __init_subclass__(cls, kw_only: bool = True):
        dataclasses.dataclass(kw_only=kw_only)(cls)

    def __post_init__(self):
        check_options(self)

    @classmethod
    def parser(cls) -> "OptionsParser":
        return OptionsParser(cls)

    def but(self, *names: str) -> dict[str, typing.Any]:
        """The options by name, without some."""
        part: type = type(self)
        return {own.name: getattr(self, own.name) for own in option_fields(part) if own.name not in names}


def check_names(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuses an option that does not exist.

    Raises:
        TypeError: names the nearest that does.
    """
    known = list(known)
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1, 0)[0]
            raise TypeError(f"{where} has no option '{name}'. Did you mean '{nearest}'?")


def check_options(options: typing.Any) -> None:
    """Refuses numbers outside their interval, NaN and infinity among them, and values that are not among the choices.

    Raises:
        ValueError: names the flag and what it may be.
    """
    part: type = type(options)
    for own in option_fields(part):
        name, interval = own.metadata.get("flag", own.name), interval_of(part, own)
        choices = value_keywords(own.type).get("choices")
        for value in as_list(getattr(options, own.name)):
            if interval and isinstance(value, (int, float)) and not isinstance(value, bool):
                check_number(name, value, interval)
            if choices and value is not None and value not in choices:
                raise ValueError(f"--{name} is '{value}'; it must be one of {', '.join(choices)}.")


@functools.cache
def option_fields(part: type) -> list[dataclasses.Field]:
    """The fields of a dataclass of options, with types in place of their names."""
    hints = typing.get_type_hints(part, include_extras=True)
    fields = [own for own in dataclasses.fields(part) if own.init]
    for own in fields:
        own.type = hints[own.name]
    return fields


def interval_of(part: type, own: dataclasses.Field) -> str | None:
    """What a number may be: its type says it, or, of fields that another library described, `part.intervals`."""
    kinds: list[typing.Any] = [own.type]
    for kind in kinds:
        if typing.get_origin(kind) is typing.Annotated:
            return kind.__metadata__[0]
        kinds += typing.get_args(kind)
    told = getattr(part, "intervals", {}).items()
    return next((interval for interval, names in told if own.name in names), None)


def check_number(name: str, value: float, interval: str) -> None:
    low, high = interval[1:-1].split(", ")
    has_low, has_high = interval[0] == "[", interval[-1] == "]"
    fits = value >= float(low) if has_low else value > float(low)
    fits = fits and (value <= float(high) if has_high else value < float(high))
    if high != "inf":
        wanted = f"lie from {low}{'' if has_low else ' (without it)'} to {high}{'' if has_high else ' (without it)'}"
    elif low != "-inf":
        wanted = f"be {low} or more" if has_low else f"be above {low}"
    else:
        wanted = "be a finite number"
    if not (fits and math.isfinite(value)):
        raise ValueError(f"--{name} is {value}; it must {wanted}.")


class OptionsParser(argparse.ArgumentParser):
    """Flags of some dataclasses, after a run file or a preset where one is named first.

    Dashes in names of flags count as underscores. A bool is `--name`, `--name true` or `--name false`, and `--no_name`
    where it is not off by itself.

    Args:
        *parts: the dataclasses; their fields' names differ.
        defaults: by name, where another default is right than the dataclass'.
        **keywords: of `argparse.ArgumentParser`.
    """

    run_files: tuple[str, ...] = (".yaml", ".yml", ".json")

    def __init__(self, *parts: type, defaults: dict[str, typing.Any] | None = None, **keywords):
        super().__init__(allow_abbrev=False, **keywords)  # a misspelt key is an error, not another option
        self.parts, self.defaults = parts, defaults or {}
        for own in (own for part in parts for own in option_fields(part)):
            self.add_option(own)

    def add_option(self, own: dataclasses.Field) -> None:
        keywords = value_keywords(own.type) | {**own.metadata}
        flag, may_be_json = keywords.pop("flag", own.name), keywords.pop("may_be_json", False)
        if keywords.pop("positional", False):
            self.add_argument(own.name, **keywords)
            self.run_files = self.run_files[: -1 if may_be_json else None]
            return
        default = own.default if own.default_factory is dataclasses.MISSING else own.default_factory()
        default = self.defaults.get(own.name, default)
        if default is dataclasses.MISSING:
            keywords["required"] = True
        else:
            keywords |= {"default": default, "help": keywords["help"] + told_default(default)}
        self.add_argument(f"--{flag}", dest=own.name, **keywords)
        if keywords["type"] is switch and own.default is not False:
            contrary = {"action": "store_false", "default": default, "help": f"the contrary of --{flag}"}
            self.add_argument(f"--no_{flag}", dest=own.name, **contrary)

    def read(self, argv: Sequence[str] | None = None) -> tuple:
        """The dataclasses from flags, by default those of the process.

        Raises:
            SystemExit: with a usage message, on an unknown flag or a value of another type.
            ValueError: a value that its flag may not have, or a run file that cannot be read.
        """
        return self.make(self.given(sys.argv[1:] if argv is None else argv))

    def make(self, values: dict[str, typing.Any]) -> tuple:
        """The dataclasses from values by name; what is left out has its default."""
        values = self.defaults | values
        return tuple(
            part(**{own.name: values[own.name] for own in dataclasses.fields(part) if own.name in values})
            for part in self.parts
        )

    def given(self, argv: Sequence[str]) -> dict[str, typing.Any]:
        """Names and values of what flags and run file set: no defaults."""
        nothing = dict.fromkeys(action.dest for action in self._actions if action.dest != "help")
        found = self.parse_args(self.spelled(self.with_file(argv)), argparse.Namespace(**nothing))
        return {name: value for name, value in vars(found).items() if value is not None}

    def spelled(self, argv: Sequence[str]) -> list[str]:
        """Flags with underscores; a bool that no truth value follows gets one, lest it take what comes next."""
        flags = []
        for place, text in enumerate(argv):
            name, equals, value = text.partition("=")
            name = name.replace("-", "_").replace("__", "--", 1)
            action = self._option_string_actions.get(name) if text.startswith("--") else None
            following = argv[place + 1].lower() if place + 1 < len(argv) else ""
            if action and action.type is switch and not equals and following not in TRUTH:
                equals, value = "=", "true"
            flags.append(f"{name}{equals}{value}" if action else text)
        return flags

    def with_file(self, argv: Sequence[str]) -> list[str]:
        """Flags in place of the run file or preset that is named first; a place that is an option's takes others."""
        is_file = bool(argv) and argv[0].endswith(self.run_files) and Path(argv[0]).is_file()
        if not argv or argv[0].startswith("-") or (self.placed() and not is_file):
            return list(argv)
        return [*self.file_flags(argv[0]), *argv[1:]]

    def placed(self) -> set[str]:
        """Names of the options that are given by their place."""
        return {action.dest for action in self._actions if not action.option_strings}

    def file_flags(self, name: str) -> list[str]:
        """The flags that a run file or a preset stands for."""
        presets = resources.files("emocap.presets")
        is_file = name.endswith(self.run_files) and Path(name).is_file()
        path = Path(name) if is_file else presets / f"{name}.yaml"
        if not path.is_file():
            known = sorted(entry.name[:-5] for entry in presets.iterdir() if ".yaml" in entry.name)
            self.error(f"'{name}' is neither a YAML or JSON file nor a preset (presets: {', '.join(known)}).")
        content = read_run_file(path)
        if not isinstance(content, dict):
            self.error(f"'{name}' holds a {type(content).__name__}; expected names and values.")
        return self.flags_of(content)

    def flags_of(self, values: dict[str, typing.Any]) -> list[str]:
        """The arguments of a command line that stand for values by name; None is left out."""
        first, flags = [], []
        for name, value in values.items():
            words = [json.dumps(own) if isinstance(own, dict) else str(own) for own in as_list(value)]
            if name in self.placed():
                first += words
            elif isinstance(value, list):
                flags += [f"--{name}", *words]
            elif value is not None:
                flags.append(f"--{name}={words[0]}")
        return first + flags


TRUTH = {"yes": True, "true": True, "t": True, "y": True, "1": True,
         "no": False, "false": False, "f": False, "n": False, "0": False}  # fmt: skip


def switch(text: str) -> bool:
    if text.lower() not in TRUTH:
        raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")
    return TRUTH[text.lower()]


def switch_or_text(text: str) -> bool | str:
    return TRUTH.get(text.lower(), text)


def as_list(value: object) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def value_keywords(hint: object) -> dict[str, typing.Any]:
    """How argparse reads the values of a type hint; of several types text goes before lists and dictionaries."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [kind for kind in (typing.get_args(hint) if is_union else [hint]) if kind is not type(None)]
    if bool in kinds:
        own = {"type": switch_or_text} if str in kinds else {"type": switch, "metavar": "true|false"}
        return own | {"nargs": "?", "const": True}
    for kind in kinds:
        if isinstance(kind, enum.EnumType):
            return {"type": str, "choices": [member.value for member in kind]}
    if str in kinds:
        return {"type": str}
    first, arguments = typing.get_origin(kinds[0]), typing.get_args(kinds[0])
    if first is list:
        return value_keywords(arguments[0]) | {"nargs": "+"}
    if first is typing.Literal:
        return {"type": str, "choices": list(arguments)}
    return {"type": arguments[0] if first is typing.Annotated else kinds[0]}


def told_default(default: object) -> str:
    if default is None or default is False or default in ([], ""):
        return ""
    shown = " ".join(map(str, default)) if isinstance(default, list) else str(getattr(default, "value", default))
    return f" (default: {shown.replace('%', '%%')})"


def read_run_file(path: Path | Traversable) -> object:
    """What a JSON or YAML file holds: plain values, since a tag of YAML could stand for any object.

    Raises:
        ValueError: it cannot be read, has tags, or is nested too deeply.
    """
    import yaml

    try:
        text = path.read_text("utf-8-sig")
        return json.loads(text) if path.name.endswith(".json") else yaml.safe_load(text)
    except RecursionError:
        reason = "it is nested too deeply"
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
    raise ValueError(f"'{path}' cannot be read: {reason}; expected names and plain values.")
