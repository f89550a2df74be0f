"""How every figure looks, and how it becomes SVG for a page, or PNG and PDF for a paper."""

from __future__ import annotations

import functools
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from xml.etree import ElementTree

import numpy as np

from emocap.data.storage import write_text

if TYPE_CHECKING:  # imported where a figure is made: commands without figures do without
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["INK", "PALETTE", "clean", "legend", "line_style", "new_figure", "save_figure", "styled", "svg_text", "tip"]

INK = "#1d2025"
"""Colour of texts, axes and references; a page gives it the colour of its own text."""

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
"""Okabe and Ito's colours without yellow, which no white page shows; told apart by the colour-blind."""

MARKERS = "osD^vPX*"

STYLE = {
    "font.size": 8,
    "text.color": INK,
    "text.parse_math": False,  # names are no formulas
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.formatter.useoffset": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
    "legend.handlelength": 1.6,
    "savefig.dpi": 216,
    "svg.fonttype": "none",  # texts stay texts: they are found, read aloud and take the page's font
    "svg.hashsalt": "emocap",
    "pdf.fonttype": 42,
}

LEGEND_LINE = 0.18  # inches
MAX_NAME = 48  # letters of a name in a legend
MAX_DESCRIBED = 60  # marks whose texts make up a figure's description
TIP = "tip: "
SVG = "http://www.w3.org/2000/svg"


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function under `STYLE`, whatever the reader's own settings of matplotlib are."""

    @functools.wraps(function)
    def under_style(*args: P.args, **options: P.kwargs) -> R:
        import matplotlib.style

        with matplotlib.style.context(STYLE, after_reset=True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's own font may have it
            return function(*args, **options)

    return under_style


def new_figure(title: str, width: float, height: float, layout: Any = "constrained") -> Figure:
    """An empty figure of so many inches; its title is what is read aloud, not drawn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    figure.set_label(clean(title))
    return figure


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the `index`-th of several lines, for `Axes.plot`."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": ("-", "--", ":")[index // len(PALETTE) % 3],
    }


def tip(artist: Artist, text: str) -> None:
    """What a page shows over a mark, and reads aloud with the figure's title."""
    artist.set_gid(TIP + clean(text))


def legend(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend above the axes, in as many columns as fit; the figure grows by its height."""
    names = [clean(name, MAX_NAME) for name in names]
    for lines in range(1, len(names) + 1):
        columns = math.ceil(len(names) / lines)
        width = sum(
            30 + 4.7 * max(map(len, own)) for own in np.array_split(np.array(names, object), columns)
        )  # points
        if width <= 72 * figure.get_figwidth():
            break
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * lines)
    own = figure.legend(handles, [""] * len(names), loc="outside upper left", ncols=columns)
    for text, name in zip(own.get_texts(), names, strict=True):
        text.set_text(name)  # matplotlib itself leaves out names that begin with "_"


def clean(text: str, length: int | None = None) -> str:
    """Text on one line that XML can hold, shortened to so many letters."""
    text = re.sub("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", " ".join(text.split()))
    return text if length is None or len(text) <= length else text[: length - 1] + "…"


@styled
def svg_text(figure: Figure, name: str, ground: str | None = None) -> str:
    """The figure as an `<svg>` element: same figure, same text.

    Args:
        figure: made by `new_figure`.
        name: prefix of the ids inside, of which a page holds each once.
        ground: colour behind the figure, for a file of its own; without it texts take the colour around them.
    """
    _settle(figure)
    content = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(content, format="svg", facecolor=ground or "none", metadata=metadata)
    root = ElementTree.fromstring(content.getvalue())
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', content.getvalue()))
    for parent in root.iter():
        parent.tag = parent.tag.removeprefix(f"{{{SVG}}}")
        for child in [child for child in parent if child.find(f"{{{SVG}}}style") is not None]:
            parent.remove(child)  # a style sheet inside would be the whole page's
    tips = []
    for element in root.iter():
        for key in [key for key in element.attrib if key.endswith("}href")]:
            element.set("href", f"#{name}-" + element.attrib.pop(key)[1:])
        for key, value in element.attrib.items():
            if key in ("d", "x", "y"):
                value = re.sub(r"(\.\d\d)\d+", r"\1", value)  # hundredths of a point
            value = value.replace("url(#", f"url(#{name}-")
            element.set(key, value if ground else value.replace(INK, "currentColor"))
        own = element.attrib.pop("id", "")
        if own in used:
            element.set("id", f"{name}-{own}")
        if own.startswith(TIP):
            tips.append(own.removeprefix(TIP))
            title = ElementTree.Element("title")
            title.text = tips[-1]
            element.insert(0, title)
    label = str(figure.get_label())
    attributes = {"xmlns": SVG, "viewBox": root.get("viewBox", ""), "class": "figure", "role": "img"}
    root.attrib = attributes | {"aria-label": label, "style": "stroke-linejoin: round"}
    for tag, text in (("desc", "; ".join(tips[:MAX_DESCRIBED])), ("title", label)):
        element = ElementTree.Element(tag)
        element.text = text
        root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


@styled
def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all, as the ending of `path` says: SVG, PNG or PDF, on white ground."""
    if path.suffix == ".svg":
        return write_text(path, svg_text(figure, path.stem, "#ffffff") + "\n")
    _settle(figure)
    temporary = path.with_name(f".{path.name}")
    metadata = {"Software": None} if path.suffix == ".png" else {"CreationDate": None}
    figure.savefig(temporary, format=path.suffix[1:], facecolor="#ffffff", metadata=metadata)
    temporary.replace(path)


def _settle(figure: Figure) -> None:
    """Finds the places of axes and texts once: a second search would move them by a hair."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
