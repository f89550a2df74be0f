"""One self-contained page of figures about a table of pseudo-labels, and of its surest pictures."""

import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset

from emocap.data.pairs import label_matrix
from emocap.data.schema import label_names
from emocap.data.storage import load_table, write_text
from emocap.options import as_list
from emocap.records import STATISTICS_FILE
from emocap.report.figures import co_occurrence_figure, histogram_figure, share_figure
from emocap.report.render import jpeg_uri, render_page, small_rgb

__all__ = ["label_report", "surest_pictures", "write_label_page"]

THUMBNAIL = 112  # px, both sides
EMOTIONS_SHOWN = 12


def write_label_page(folder: str | os.PathLike) -> Path:
    """Writes labels.html beside a labelled table, from its statistics and its first split's photos."""
    statistics = json.loads((Path(folder) / STATISTICS_FILE).read_text("utf-8"))
    frequent = sorted(statistics["emotions"], key=lambda name: -statistics["emotions"][name]["images"])
    surest = surest_pictures(next(iter(load_table(folder).values())), frequent[:EMOTIONS_SHOWN])
    page = Path(folder) / "labels.html"
    write_text(page, label_report(statistics, surest), errors="replace")
    return page


def label_report(
    statistics: dict[str, Any], surest: dict[str, list[dict[str, Any]]] | None = None, title: str = "Pseudo-labels"
) -> str:
    """HTML of what `label_statistics` returned, with figures as SVG and, where given, pictures of each emotion."""
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
        surest=surest,
    )


def surest_pictures(table: Dataset, emotions: list[str], number: int = 6) -> dict[str, list[dict[str, Any]]]:
    """The `number` pictures with the highest score for each emotion, best first.

    Rows without a photo take no part; the image of a photo that cannot be read is None.

    Returns:
        For each emotion dicts of `image` (a data URI), `caption`, `score` and `emotions`, all that it is labelled
        with; empty where the table has no photo.
    """
    if "image" not in table.features:
        return {}
    stored = table.cast_column("image", datasets.Image(decode=False))
    present = np.flatnonzero(~stored.with_format("arrow")["image"][:].is_null().to_numpy())
    names, scores = label_names(table), label_matrix(table, "emotion_scores")
    stored = stored.select_columns(["image", "captions", "emotions"])
    found = {}
    for emotion in emotions if len(present) else []:
        own = scores[:, names.index(emotion)]
        found[emotion] = [
            {
                "image": thumbnail(row["image"]),
                "caption": (row["captions"] or [""])[0],
                "emotions": [names[label] for label in row["emotions"]],
                "truth": None,
                "score": float(own[place]),
            }
            for place in present[np.argsort(-own[present], kind="stable")[:number]].tolist()
            for row in [stored[place]]
        ]
    return found


def thumbnail(content: dict[str, Any]) -> str | None:
    try:
        return jpeg_uri(small_rgb(datasets.Image().decode_example(content), THUMBNAIL))
    except Exception:  # decoders raise whatever a damaged file makes them trip over
        return None
