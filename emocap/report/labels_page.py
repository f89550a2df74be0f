"""One self-contained page of figures about a table of pseudo-labels, and a sheet of its surest pictures."""

import base64
import io
import json
import os
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset
from PIL import Image, ImageDraw

from emocap.data.pairs import label_matrix
from emocap.data.schema import label_names
from emocap.data.storage import load_table, write_text
from emocap.models.photo_emocap import to_rgb
from emocap.records import STATISTICS_FILE
from emocap.report.axes import axis_ticks, tick_labels
from emocap.report.render import render_page

__all__ = ["label_report", "picture_sheet", "write_label_page"]

THUMBNAIL = 112  # px, both sides
SHEET_EMOTIONS = 6
CELL = 14  # SVG units of a cell of the co-occurrence matrix


def write_label_page(folder: str | os.PathLike) -> Path:
    """Writes labels.html beside a labelled table, from its statistics and its first split's photos."""
    statistics = json.loads((Path(folder) / STATISTICS_FILE).read_text("utf-8"))
    frequent = sorted(statistics["emotions"], key=lambda name: -statistics["emotions"][name]["images"])
    sheet = picture_sheet(next(iter(load_table(folder).values())), frequent[:SHEET_EMOTIONS])
    page = Path(folder) / "labels.html"
    write_text(page, label_report(statistics, sheet), errors="replace")
    return page


def label_report(statistics: dict[str, object], sheet: Image.Image | None = None, title: str = "Pseudo-labels") -> str:
    """HTML of what `label_statistics` returned, with figures as SVG and, where given, a sheet of pictures."""
    emotions = statistics["emotions"]
    return render_page(
        "labels.html.j2",
        title=title,
        statistics=statistics,
        has_prevalence=any(own["prevalence"] is not None for own in emotions.values()),
        shares=share_bars(emotions),
        histograms=[histogram(name, own) for name, own in emotions.items()],
        together=co_occurrence(list(emotions), np.array(statistics["co_occurrence"])),
        sheet=None if sheet is None else data_uri(sheet),
    )


def picture_sheet(table: Dataset, emotions: list[str], number: int = 20, columns: int = 10) -> Image.Image | None:
    """The `number` pictures with the highest score for each emotion, best first, under its name; scores below each.

    Rows without a photo take no part; photos that cannot be read leave a gap. None where the table has no photo.
    """
    if "image" not in table.features:
        return None
    stored = table.cast_column("image", datasets.Image(decode=False))
    present = np.flatnonzero(~stored.with_format("arrow")["image"][:].is_null().to_numpy())
    if not len(present):
        return None
    names, scores = label_names(table), label_matrix(table, "emotion_scores")
    number = min(number, len(present))
    columns = min(columns, number)
    lines, line = -(-number // columns), THUMBNAIL + 18
    sheet = Image.new("RGB", (columns * (THUMBNAIL + 4), len(emotions) * (lines * line + 24)), "white")
    draw = ImageDraw.Draw(sheet)
    for block, emotion in enumerate(emotions):
        own, top = scores[present, names.index(emotion)], block * (lines * line + 24)
        draw.text((4, top + 6), emotion, fill="black", font_size=16)
        for place, row in enumerate(present[np.argsort(-own, kind="stable")[:number]]):
            corner = (place % columns * (THUMBNAIL + 4), top + 24 + place // columns * line)
            if photo := thumbnail(stored[int(row)]["image"]):
                sheet.paste(photo, corner)
            score = f"{scores[row, names.index(emotion)]:.2f}"
            draw.text((corner[0] + 2, corner[1] + THUMBNAIL + 1), score, fill="black", font_size=11)
    return sheet


def thumbnail(content: dict[str, object]) -> Image.Image | None:
    try:
        photo = to_rgb(datasets.Image().decode_example(content))
    except Exception:  # decoders raise whatever a damaged file makes them trip over
        return None
    photo.thumbnail((THUMBNAIL, THUMBNAIL))
    return photo


def data_uri(image: Image.Image) -> str:
    jpeg = io.BytesIO()
    image.save(jpeg, format="JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")


def share_bars(emotions: dict[str, dict]) -> dict[str, object]:
    """Geometry of the bars, the most frequent emotion first."""
    left, right, pitch = 110, 520, 17
    known = [value for own in emotions.values() for value in (own["share"], own["prevalence"]) if value is not None]
    ticks = axis_ticks(0.0, max(known) or 1.0)

    def x_of(value: float) -> float:
        return round(left + value / ticks[-1] * (right - left), 1)

    bars = []
    for index, (name, own) in enumerate(sorted(emotions.items(), key=lambda item: -item[1]["share"])):
        text = f"{name}: {own['images']:,} images, {own['share']:.3f}"
        if own["prevalence"] is not None:
            text += f"; {own['prevalence']:.3f} in the teacher's training set"
        tick = None if own["prevalence"] is None else x_of(own["prevalence"])
        place = {"y": 4 + index * pitch, "width": round(x_of(own["share"]) - left, 1)}
        bars.append({"name": name, "text": text, "tick": tick, **place})
    base = 6 + len(bars) * pitch
    labels = list(zip(map(x_of, ticks), tick_labels(ticks), strict=True))
    return {"width": 540, "height": base + 20, "left": left, "base": base, "ticks": labels, "bars": bars}


def histogram(name: str, own: dict) -> dict[str, object]:
    heights = np.sqrt(own["histogram"])
    heights = heights / max(heights.max(), 1) * 48
    step = 120 / len(heights)
    bars = [
        (round(index * step + 0.5, 1), round(50 - height, 1), round(height, 1)) for index, height in enumerate(heights)
    ]
    mean, sd, highest = (f"{own[key]:.3f}" for key in ("score_mean", "score_sd", "score_max"))
    text = f"{name}: mean {mean}, standard deviation {sd}, highest {highest}"
    return {"name": name, "text": text, "bars": [bar for bar in bars if bar[2] > 0]}


def co_occurrence(names: list[str], together: np.ndarray) -> dict[str, object]:
    """Geometry of the matrix; an emotion that no image carries has an empty row."""
    left = 100
    shares = together / np.maximum(together.diagonal()[:, None], 1)
    cells = [
        {
            "x": left + column * CELL,
            "y": left + row * CELL,
            "opacity": round(float(shares[row, column]), 2),
            "text": f"{names[column]} on {shares[row, column]:.2f} of the images with {names[row]}",
        }
        for row, column in np.argwhere(shares > 0)
    ]
    places = [(name, left + index * CELL) for index, name in enumerate(names)]
    return {"size": left + len(names) * CELL + 2, "left": left, "names": places, "cells": cells}
