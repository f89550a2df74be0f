"""The report's charts as PNG files, for slides and papers: the same geometry, drawn with Pillow."""

import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

__all__ = ["write_figures"]

SCALE = 3  # pixels a unit of the charts' geometry
INK, SOFT, GRID = "#1d2025", "#5d636e", "#e9ebee"
COLOURS = ("#1f6fb4", "#c8500a", "#1d8a57", "#a2489c", "#8a6d00", "#0c8493", "#b8324b", "#5b5fc7")  # as in the page
LEGEND_LINE = 16


def write_figures(folder: Path, charts: dict[str, dict]) -> list[Path]:
    """Draws each chart into `folder`.

    Args:
        folder: made where it is missing.
        charts: file name without ending to a line or bar chart as `emocap.report.charts` lays them out.

    Returns:
        The files, in order; letters of a name that files cannot have become "_".
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, chart in charts.items():
        path = folder / f"{re.sub(r'[^A-Za-z0-9+._-]', '_', name)}.png"
        temporary = path.with_name(f".{path.name}")
        (draw_lines(chart) if "lines" in chart else draw_bars(chart)).save(temporary, format="PNG")
        temporary.replace(path)
        written.append(path)
    return written


class Canvas:
    """A white picture that is drawn on in the charts' units."""

    def __init__(self, width: float, height: float, legend: list[dict]):
        self.shift = LEGEND_LINE * len(legend)
        self.image = Image.new("RGB", (round(width * SCALE), round((height + self.shift) * SCALE)), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(size=11 * SCALE)
        for index, entry in enumerate(legend):
            y = LEGEND_LINE * (index + 0.5) - self.shift
            self.line([(8, y), (26, y)], COLOURS[entry["colour"]], 2)
            self.text(32, y, entry["name"], "lm", INK)

    def place(self, x: float, y: float) -> tuple[float, float]:
        return x * SCALE, (y + self.shift) * SCALE

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1) -> None:
        self.pen.line([self.place(*point) for point in points], colour, round(width * SCALE), joint="curve")

    def text(self, x: float, y: float, text: str, anchor: str, colour: str = SOFT) -> None:
        self.pen.text(self.place(x, y), text, colour, self.font, anchor)


def draw_lines(chart: dict) -> Image.Image:
    canvas = Canvas(chart["width"], chart["height"], chart["lines"])
    for y, label in chart["y_ticks"]:
        canvas.line([(chart["left"], y), (chart["right"], y)], GRID)
        canvas.text(chart["left"] - 6, y, label, "rm")
    for x, label in chart["x_ticks"]:
        canvas.text(x, chart["base"] + 12, label, "mm")
    canvas.text((chart["left"] + chart["right"]) / 2, chart["base"] + 26, chart["x_label"], "mm")
    if chart["diagonal"]:
        canvas.line(chart["diagonal"], INK)
    for line in chart["lines"]:
        colour = COLOURS[line["colour"]]
        canvas.line(line["points"], colour, 2)
        for x, y in line["dots"]:
            canvas.pen.ellipse([canvas.place(x - 2.4, y - 2.4), canvas.place(x + 2.4, y + 2.4)], colour)
    return canvas.image


def draw_bars(chart: dict) -> Image.Image:
    canvas = Canvas(chart["width"], chart["height"], chart["legend"])
    for x, label in chart["x_ticks"]:
        canvas.line([(x, 0), (x, chart["base"])], GRID)
        canvas.text(x, chart["base"] + 10, label, "mm")
    for group in chart["groups"]:
        canvas.text(chart["left"] - 6, group["middle"], group["label"], "rm")
        for bar in group["bars"]:
            corners = (
                canvas.place(chart["left"], bar["y"]),
                canvas.place(chart["left"] + bar["width"], bar["y"] + chart["thick"]),
            )
            canvas.pen.rectangle(corners, COLOURS[bar["colour"]])
        if group["prior"] is not None:
            canvas.line([(group["prior"], group["y"]), (group["prior"], group["bottom"])], INK, 1.5)
    return canvas.image
