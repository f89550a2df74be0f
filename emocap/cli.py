"""The `emocap` command: one sub-command a step."""

import argparse
import dataclasses
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, NoReturn

from emocap.commands import COMMANDS
from emocap.options import Options, OptionsParser, option, option_fields
from emocap.terminal import Terminal

__all__ = ["command_parser", "main"]


class Showing(Options):
    """What every command takes: how much it says, and how."""

    quiet: bool = option("show nothing but errors, and with --json the result", False)
    json: bool = option("give the result as one JSON document on standard output, all else on standard error", False)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one sub-command. Its result goes to standard output, a table or, with `--json`, a document; what it says
    meanwhile to standard error. Bad input or an absent package ends with one sentence and exit status 2, Ctrl-C with
    one that says how to go on and status 130."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name = next((name for name in COMMANDS if argv[: name.count(" ") + 1] == name.split()), None)
    if name is None:
        overview().parse_args(argv)  # ends by itself: with help, or with what it does not know
        return
    try:
        status = perform(name, argv[name.count(" ") + 1 :])
    except KeyboardInterrupt:
        stopped(name, argv)
    except RecursionError:
        fail("An input, such as a config.json, is nested too deeply to be read.")
    # an ImportError names the extra to install; transformers says with an OSError that there is no such checkpoint
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))
    if status:
        sys.exit(status)


def perform(name: str, flags: Sequence[str]) -> int:
    """Runs a command and shows its result; the exit status."""
    command, parser = COMMANDS[name], command_parser(name)
    values = parser.given(flags)
    showing = Showing(**{own.name: values.pop(own.name) for own in option_fields(Showing) if own.name in values})
    options, terminal = parser.make(values), Terminal(showing.quiet)
    with terminal.opened(), redirect_stdout(sys.stderr):  # whatever a library prints is no result
        result = command.run(*options)
    if not terminal.is_first:
        return 0
    if showing.json:
        print(json.dumps(as_json(result), ensure_ascii=False))
    elif not showing.quiet:
        command.show(*options, result)
        sys.stdout.flush()
        if following := command.following(*options, result):
            terminal.say(f"Next: {following}", "bold")
    return command.status(*options, result) if hasattr(command, "status") else 0


def as_json(value: Any) -> Any:
    """A result as JSON has it: NaN and infinities are null."""
    if isinstance(value, Mapping):
        return {str(key): as_json(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(own) for own in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_json(dataclasses.asdict(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def stopped(name: str, argv: list[str]) -> NoReturn:
    """Says how a command that was stopped goes on, and ends with the status of a stop."""
    how, more = getattr(COMMANDS[name], "resumed", ("Go on", ()))
    command = shlex.join(["emocap", *argv] + [flag for flag in more if argv[-len(more) :] != list(more)])
    terminal = Terminal()
    terminal.say(f"Stopped. {how} with: {command}", "bold")
    sys.exit(130)


def fail(message: str) -> NoReturn:
    terminal = Terminal()
    print(terminal.painted(f"emocap: error: {' '.join(message.split())}", "red"), file=sys.stderr)
    sys.exit(2)


def command_parser(name: str) -> OptionsParser:
    """What reads the flags of a command of `COMMANDS`."""
    parser, text = COMMANDS[name].parser(), COMMANDS[name].__doc__
    for own in option_fields(Showing):
        parser.add_option(own)
    parser.prog = f"emocap {name}"
    parser.description = (
        f"{text[0].upper()}{text[1:]}. Flags, or one YAML or JSON file of their names and values with flags after it."
    )
    return parser


def overview() -> argparse.ArgumentParser:
    """Lists the commands."""
    parser = argparse.ArgumentParser(
        prog="emocap", description="Which emotions a picture with its caption raises in people."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data = commands.add_parser("data", help="build a table of pairs")
    sources = data.add_subparsers(dest="source", required=True, metavar="SOURCE")
    for name, command in COMMANDS.items():
        group = sources if name.startswith("data ") else commands
        group.add_parser(name.removeprefix("data "), help=command.__doc__, add_help=False)
    return parser


if __name__ == "__main__":
    main()
