"""The `emocap` command: one sub-command a step."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from emocap.commands import COMMANDS
from emocap.options import OptionsParser

__all__ = ["command_parser", "main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one sub-command; bad input or an absent package ends with one sentence and exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name = next((name for name in COMMANDS if argv[: name.count(" ") + 1] == name.split()), None)
    if name is None:
        overview().parse_args(argv)  # ends by itself: with help, or with what it does not know
        return
    try:
        COMMANDS[name].run(*command_parser(name).read(argv[name.count(" ") + 1 :]))
    except RecursionError:
        fail("An input, such as a config.json, is nested too deeply to be read.")
    # an ImportError names the extra to install; transformers says with an OSError that there is no such checkpoint
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    print(f"emocap: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def command_parser(name: str) -> OptionsParser:
    """What reads the flags of a command of `COMMANDS`."""
    parser, text = COMMANDS[name].parser(), COMMANDS[name].__doc__
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
