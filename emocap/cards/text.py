"""Cards as text: templates filled so that nothing from the data can break markdown, HTML or YAML."""

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from emocap.report.tables import markdown_lines

__all__ = ["Markdown", "escape", "in_code", "one_line", "render", "shell_command", "table"]

SPECIAL = re.compile(r"[&<>|`*\[\]\\~#!{}$]|(?<!\w)_|_(?!\w)")


class Markdown(str):
    """Text that is markdown already: `render` takes it as it is, and escapes every other string."""


def one_line(text: object) -> str:
    """Text without line breaks and control characters: fit for YAML and for a title."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())


def escape(text: object) -> str:
    """One line of text as markdown that shows it literally: entities cannot start anything."""
    return SPECIAL.sub(lambda found: f"&#{ord(found[0])};", one_line(text))


def in_code(text: object) -> Markdown:
    """Text in the typeface of code; in a table too, where a backtick or a bar would end it."""
    return Markdown(f"<code>{escape(text)}</code>") if SPECIAL.search(one_line(text)) else Markdown(f"`{text}`")


def shell_command(words: Iterable[object]) -> Markdown:
    """A command in a fenced block that no run of backticks in it can end."""
    command = " ".join(shlex.quote(one_line(word)) for word in words)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return Markdown(f"{fence}bash\n{command}\n{fence}")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: bool = True) -> Markdown:
    """A markdown table, its cells escaped; with `numbers`, all columns but the first are set to the right."""
    cells = ([cell if isinstance(cell, Markdown) else escape(cell) for cell in row] for row in rows)
    first, *others = header
    columns = {first: "---", **dict.fromkeys(others, "--:" if numbers else "---")}
    return Markdown(markdown_lines(columns, cells))


def render(template: str, **values: Any) -> str:
    """The text of a card from `hub_cards/TEMPLATE.md`; strings in `values` are escaped where they are shown."""
    environment = Environment(
        loader=PackageLoader("emocap.hub_cards", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape(value) if type(value) is str else value,
    )
    text = environment.get_template(f"{template}.md").render(**values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
