"""What a command shows while it works, and how it ends: one look for all of them.

All of it goes to standard error; standard output is for results. Only inside `Terminal.opened`, which `emocap.cli`
puts around every command, are other libraries kept quiet: whoever calls `emocap.train_teacher` from Python has their
messages and bars as ever.
"""

import json
import logging
import os
import re
import shlex
import shutil
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["Bar", "Terminal", "command_line", "progress", "say", "stage"]

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Where launchers tell a process its number: only the first one speaks."""

SAME_WARNINGS = 10
"""So many warnings from one place are shown, such as of damaged photos: all of these stand in a report."""

REDRAWN, WRITTEN, WORTH_A_LINE = 0.1, 60.0, 3.0
"""Seconds between two drawings of a bar, and, where there is no terminal, between two of its lines (later a tenth of
the time gone by); a bar of less than the last leaves no line."""

COLOURS = {"bold": "1", "red": "31", "yellow": "33"}

LOAD_REPORT = re.compile(r"\w+ LOAD REPORT from: ([^\n]+)\n")
"""transformers' report on loaded weights, and their checkpoint."""

LACKING = re.compile(r"^(\S+) *\| *MISSING", re.MULTILINE)
"""In it, a tensor that the checkpoint lacks."""


class Terminal:
    """Where a command's messages go.

    Args:
        quiet: show errors alone.

    Attributes:
        is_first: whether this is the first, or only, process of its job.
    """

    current: "Terminal | None" = None
    """That of the running command; None in a Python program."""

    def __init__(self, quiet: bool = False):
        self.stream, self.start, self.lock = sys.stderr, time.monotonic(), threading.RLock()
        can_draw = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.is_first = next((int(os.environ[name]) == 0 for name in RANKS if name in os.environ), True)
        self.is_quiet, self.draws = quiet or not self.is_first, can_draw
        self.has_colour = can_draw and not os.environ.get("NO_COLOR")
        self.bar: Bar | None = None
        self.told: set[str] = set()
        self.places: Counter[tuple] = Counter()

    @contextmanager
    def opened(self) -> Iterator["Terminal"]:
        """Inside, messages have this look, and other libraries show errors alone."""
        before, Terminal.current = Terminal.current, self
        handler = Warnings(self)
        logging.getLogger("emocap").addHandler(handler)
        try:
            with quiet_libraries(self):
                yield self
        finally:
            logging.getLogger("emocap").removeHandler(handler)
            Terminal.current = before
            if self.bar is not None:
                self.bar.erase()

    def say(self, text: str, colour: str | None = None) -> None:
        """Writes a line above the bar, where there is one."""
        if self.is_quiet:
            return
        with self.lock:
            if self.bar is not None:
                self.bar.erase()
            print(self.painted(text, colour), file=self.stream, flush=True)

    def step(self, text: str, colour: str | None = None) -> None:
        """A line of the work's course: how long the command has been running comes first."""
        self.say(f"{clock(time.monotonic() - self.start):>7}  {text}", colour)

    def warn(self, text: str, place: tuple = ()) -> None:
        """A warning, once."""
        if text in self.told:
            return
        self.told.add(text)
        self.places[place] += 1
        if self.places[place] <= SAME_WARNINGS:
            self.say(f"emocap: warning: {text}", "yellow")
        elif self.places[place] == SAME_WARNINGS + 1:
            self.say("emocap: warning: Further warnings of this kind are not shown.", "yellow")

    def painted(self, text: str, colour: str | None) -> str:
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colour and self.has_colour else text


class Bar:
    """How far a job is, and how long it still takes: one line that is drawn anew, or, where there is no terminal, now
    and then a line of its own. A bar inside another's time is not shown: it moves that one on.

    It has what is used of `tqdm`, which stands in its place outside a command.
    """

    def __init__(self, terminal: Terminal, desc: str, total: int | None, unit: str, initial: int = 0):
        self.terminal, self.desc, self.total, self.unit = terminal, desc, total, unit
        self.n, self.initial, self.note = initial, initial, ""
        self.part = 0.0  # of the item that is being worked on
        self.begun = self.shown = time.monotonic()
        self.above = terminal.bar
        if self.above is None:
            terminal.bar = self

    def update(self, number: int = 1) -> None:
        self.n += number
        self.part = 0.0
        self.refresh()

    def set_postfix_str(self, text: str) -> None:
        """What stands behind the time left."""
        self.note = text
        self.refresh()

    def refresh(self) -> None:
        now, terminal = time.monotonic(), self.terminal
        if self.above is not None:
            self.above.part = min(self.n / self.total, 1) if self.total else 0.0
            self.above.refresh()
            return
        pause = REDRAWN if terminal.draws else max(WRITTEN, (now - self.begun) / 10)
        if terminal.is_quiet or now - self.shown < pause:
            return
        self.shown = now
        if not terminal.draws:
            if self.n != self.total:  # `close` tells of the end
                terminal.step(f"{self.desc}: {self.text(now)}")
            return
        filled = round(20 * min((self.n + self.part) / self.total, 1)) if self.total else 0
        line = f"{self.desc} {'━' * filled}{'┈' * (20 - filled)} {self.text(now)}"
        with terminal.lock:
            terminal.stream.write(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}")
            terminal.stream.flush()

    def text(self, now: float) -> str:
        """Done, of how many, time left and note."""
        done, told = self.n + self.part - self.initial, f"{self.n:,} {self.unit}"
        if self.total is not None:
            told = f"{self.n:,} of {self.total:,} {self.unit}"
            if done:
                told += f", {clock((now - self.begun) / done * (self.total - self.n - self.part))} left"
        return f"{told}; {self.note}" if self.note else told

    def erase(self) -> None:
        if self.terminal.draws and not self.terminal.is_quiet:
            self.terminal.stream.write("\r\x1b[2K")
            self.terminal.stream.flush()

    def close(self) -> None:
        """Takes the bar away; of a job that was done to its end, and was no matter of seconds, a line stays."""
        if self.terminal.bar is not self:
            return
        self.erase()
        self.terminal.bar = None
        seconds = time.monotonic() - self.begun
        if (self.total is None or self.n >= self.total) and seconds >= WORTH_A_LINE:
            note = f"; {self.note}" if self.note else ""
            self.terminal.step(f"{self.desc}: {self.n:,} {self.unit} in {clock(seconds)}{note}")

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Warnings(logging.Handler):
    """emocap's own warnings, in the look of all messages."""

    def __init__(self, terminal: Terminal):
        super().__init__(logging.WARNING)
        self.terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self.terminal.warn(record.getMessage(), (record.name, record.lineno))


class LoadReports(logging.Filter):
    """Of transformers' reports on loaded weights only what matters: a finished model of emocap's that has random ones.
    Of a body that a training starts from emocap itself says what is new."""

    def __init__(self, terminal: Terminal):
        super().__init__()
        self.terminal = terminal

    def filter(self, record: logging.LogRecord) -> bool:
        text = re.sub(r"\x1b\[\d*m", "", record.getMessage())
        found, lacking = LOAD_REPORT.match(text), LACKING.findall(text)
        if found and lacking and kind_of_model(found[1]).startswith("emocap_"):
            named = ", ".join(lacking[:5]) + (" ..." if len(lacking) > 5 else "")
            self.terminal.warn(f"'{found[1]}' lacks weights, which are drawn at random: {named}.")
        return record.levelno >= logging.ERROR


def kind_of_model(checkpoint: str) -> str:
    """The `model_type` of a folder or Hub id that is at hand, "" where its config.json does not say."""
    from transformers.utils import cached_file

    try:
        path = cached_file(checkpoint, "config.json", local_files_only=True)
        return str(json.loads(Path(path).read_text("utf-8")).get("model_type"))
    except (OSError, ValueError):
        return ""


@contextmanager
def quiet_libraries(terminal: Terminal) -> Iterator[None]:
    """Inside, other libraries log errors alone, and only the Hub's client has bars, of downloads, on a terminal.
    Python's warnings, which are for programmers, show where `-W` or PYTHONWARNINGS ask for them; a library's logging,
    where its own variable does (TRANSFORMERS_VERBOSITY, DATASETS_VERBOSITY, HF_HUB_VERBOSITY)."""
    last, reports = logging.lastResort, LoadReports(terminal)
    undo: list[Callable[[], Any]] = []
    try:
        import datasets
        from datasets.utils import logging as datasets_logging
        from huggingface_hub import utils as hub
        from transformers.utils import logging as transformers_logging
    except ImportError:  # `emocap doctor` says what is missing, as does whatever needs it
        yield
        return
    libraries = {"TRANSFORMERS": transformers_logging, "DATASETS": datasets_logging, "HF_HUB": hub.logging}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", append=True)  # behind what was asked for
        for name, library in libraries.items():
            if f"{name}_VERBOSITY" not in os.environ:
                undo.append(partial(library.set_verbosity, library.get_verbosity()))
                library.set_verbosity(logging.ERROR)
        loader = logging.getLogger("transformers.modeling_utils")
        loader.addFilter(reports)
        undo += [partial(loader.removeFilter, reports), partial(loader.setLevel, loader.level)]
        loader.setLevel(logging.WARNING)
        logging.lastResort = logging.StreamHandler()  # of whoever set up no logging
        logging.lastResort.setLevel(logging.ERROR)
        if transformers_logging.is_progress_bar_enabled():
            undo.append(transformers_logging.enable_progress_bar)
        if not datasets.are_progress_bars_disabled():
            undo.append(datasets.enable_progress_bars)
        had_downloads = not hub.are_progress_bars_disabled()
        undo.append(hub.enable_progress_bars if had_downloads else hub.disable_progress_bars)
        transformers_logging.disable_progress_bar()  # the Hub's client's too
        datasets.disable_progress_bars()
        if had_downloads and terminal.draws and not terminal.is_quiet:
            hub.enable_progress_bars()
        try:
            yield
        finally:
            logging.lastResort = last
            for function in undo:
                function()


def progress(
    iterable: Iterable | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    disable: bool = False,
) -> Any:
    """A bar as `tqdm` gives one, to update or to iterate over: a command's own, or, outside, that of `datasets`.

    Args:
        iterable: what is gone through; None: `update` tells.
        desc: what is done, such as "Regions".
        unit: of what, in the plural, such as "photos".
        total: how many; by default the iterable's length, where it has one.
        initial: how many were done before.
        disable: show nothing.
    """
    total = len(iterable) if total is None and isinstance(iterable, Sized) else total
    terminal = Terminal.current
    if terminal is None or disable:
        from datasets.utils.logging import tqdm

        return tqdm(iterable, desc=desc, unit=f" {unit}", total=total, initial=initial, disable=disable, leave=False)
    bar = Bar(terminal, desc, total, unit, initial)
    return bar if iterable is None else gone_through(iterable, bar)


def gone_through(iterable: Iterable, bar: Bar) -> Iterator:
    with bar:
        for item in iterable:
            yield item
            bar.update()


def say(text: str) -> None:
    """A line of a command's course; outside a command a plain one."""
    if Terminal.current is None:
        print(text, file=sys.stderr, flush=True)
    else:
        Terminal.current.step(text)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Announces a part of a long job."""
    if Terminal.current is None:
        say(name)
    else:
        Terminal.current.step(name, "bold")
    yield


def command_line(*words: object) -> str:
    """An `emocap` command as it is typed."""
    return shlex.join(["emocap", *map(str, words)])


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours where there are any: 0:07, 12:40, 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
