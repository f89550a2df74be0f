"""One self-contained page of figures about a table of pseudo-labels, and a sheet of its surest pictures."""

import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from PIL import Image, ImageDraw

from emocap.data.pairs import label_matrix
from emocap.data.schema import label_names
from emocap.data.storage import load_table, write_text
from emocap.options import as_list
from emocap.records import STATISTICS_FILE
from emocap.report.figures import co_occurrence_figure, histogram_figure, share_figure
from emocap.report.render import jpeg_uri, render_page, small_rgb

__all__ = ["label_report", "picture_sheet", "write_label_page"]

THUMBNAIL = 112  # px, both sides
SHEET_EMOTIONS = 6


def write_label_page(folder: str | os.PathLike) -> Path:
    """Writes labels.html beside a labelled table, from its statistics and its first split's photos."""
    statistics = json.loads((Path(folder) / STATISTICS_FILE).read_text("utf-8"))
    frequent = sorted(statistics["emotions"], key=lambda name: -statistics["emotions"][name]["images"])
    sheet = picture_sheet(next(iter(load_table(folder).values())), frequent[:SHEET_EMOTIONS])
    page = Path(folder) / "labels.html"
    write_text(page, label_report(statistics, sheet), errors="replace")
    return page


def label_report(statistics: dict[str, Any], sheet: Image.Image | None = None, title: str = "Pseudo-labels") -> str:
    """HTML of what `label_statistics` returned, with figures as SVG and, where given, a sheet of pictures."""
    emotions = statistics["emotions"]
    figures = {
        "shares": share_figure(emotions),
        "scores": histogram_figure(emotions),
        "together": co_occurrence_figure(list(emotions), np.array(statistics["co_occurrence"])),
    }
    return render_page(
        "labels.html.j2",
        figures,
        title=title,
        statistics=statistics,
        teachers=list(zip(*(as_list(statistics["selection"][key]) for key in ("teacher", "revision")), strict=True)),
        has_prevalence=any(own["prevalence"] is not None for own in emotions.values()),
        sheet=None if sheet is None else jpeg_uri(sheet),
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


def thumbnail(content: dict[str, Any]) -> Image.Image | None:
    try:
        return small_rgb(datasets.Image().decode_example(content), THUMBNAIL)
    except Exception:  # decoders raise whatever a damaged file makes them trip over
        return None
