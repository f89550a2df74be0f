"""Geometry of the report's figures, in SVG units; the template draws them."""

import math

from emocap.records import finite
from emocap.report.axes import axis_ticks, tick_labels
from emocap.report.tables import value_text

__all__ = ["confusions", "curve", "loss_charts", "precision_charts", "ranking_chart", "reliability_chart"]

NUM_COLOURS = 8  # classes .colour-0 to .colour-7 in the template
EMOTIONS_A_CHART = 15
MANY_POINTS = 40  # from here on, a curve shows no dots


def curve(history: list[dict], key: str) -> list[tuple[float, float]]:
    """(epoch, value) of every entry that logged `key`."""
    points = ((finite(entry.get("epoch")), finite(entry.get(key))) for entry in history)
    return [(epoch, value) for epoch, value in points if epoch is not None and value is not None]


def loss_charts(histories: dict[str, list[dict]]) -> list[dict]:
    """A panel for each run with its training and validation loss; `chart` is None without a history."""
    panels = []
    for name, history in histories.items():
        curves = {"training": curve(history, "loss"), "validation": curve(history, "eval_loss")}
        panels.append({"name": name, "chart": _line_chart(curves, f"Loss of {name}", (300, 190))})
    return panels


def ranking_chart(histories: dict[str, list[dict]]) -> dict | None:
    curves = {name: curve(history, "eval_map_macro") for name, history in histories.items()}
    return _line_chart(curves, "map_macro on the validation split", (400, 230))


def reliability_chart(details: dict[str, dict]) -> dict | None:
    """What came true of what each run promised, in bins of probability with 10 entries or more."""
    curves = {
        name: [(mean, share) for mean, share, count in own.get("reliability", []) if count >= 10]
        for name, own in details.items()
    }
    chart = _line_chart(
        {"": [(0.0, 0.0), (1.0, 1.0)], **curves}, "Share that came true by probability", (400, 300), "probability"
    )
    chart["diagonal"] = chart["lines"].pop(0)["points"]
    for line in chart["lines"]:
        line["colour"] -= 1
    chart["description"] = "; ".join(line["text"] for line in chart["lines"]) + "."
    return chart if chart["lines"] else None


def confusions(details: dict, number: int = 12) -> dict | None:
    """The most frequent mistakes of one run, and a map of all: rows what people said and the model missed, columns
    what it said instead."""
    names, counts, missed = (details.get(key) or [] for key in ("emotions", "confusion", "missed"))
    pairs = [(count, a, b) for a, row in enumerate(counts) for b, count in enumerate(row) if count]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    cell, left, top = 14, 84, 84
    cells = [
        {
            "x": left + b * cell,
            "y": top + a * cell,
            "opacity": round(count / missed[a], 3),
            "text": f"{names[a]} missed, {names[b]} said: {count} of {missed[a]}",
        }
        for count, a, b in pairs
    ]
    return {
        "top": [
            {"said": names[a], "instead": names[b], "count": count, "missed": missed[a]}
            for count, a, b in pairs[:number]
        ],
        "names": [{"name": name, "at": index * cell + cell / 2 + 4} for index, name in enumerate(names)],
        "cells": cells,
        "cell": cell - 1,
        "left": left,
        "top_edge": top,
        "width": left + cell * len(names) + 4,
        "height": top + cell * len(names) + 4,
    }


def _line_chart(
    curves: dict[str, list[tuple[float, float]]], title: str, size: tuple[int, int], x_label: str = "epoch"
) -> dict | None:
    """Geometry of a line chart, `size` in SVG units; None where no curve has a point."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return None
    (width, height), left, top, bottom = size, 42, 10, 34
    x_ticks = axis_ticks(min(0.0, *(x for x, _ in points)), max(x for x, _ in points))
    y_ticks = axis_ticks(min(y for _, y in points), max(y for _, y in points))

    def x_of(value: float) -> float:
        return round(left + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (width - left - 12), 1)

    def y_of(value: float) -> float:
        return round(top + (y_ticks[-1] - value) / (y_ticks[-1] - y_ticks[0]) * (height - top - bottom), 1)

    lines = []
    for index, (name, curve) in enumerate(curves.items()):
        if curve:
            places = [(x_of(x), y_of(y)) for x, y in curve]
            text = f"{name}: {len(curve)} points, from {curve[0][1]:.3f} to {curve[-1][1]:.3f}"
            dots = places if len(places) < MANY_POINTS else []
            lines.append({"name": name, "colour": index % NUM_COLOURS, "text": text, "points": places, "dots": dots})
    return {
        "title": title,
        "description": "; ".join(line["text"] for line in lines) + ".",
        "width": width,
        "height": height,
        "left": left,
        "right": width - 12,
        "base": height - bottom,
        "x_ticks": list(zip(map(x_of, x_ticks), tick_labels(x_ticks), strict=True)),
        "y_ticks": list(zip(map(y_of, y_ticks), tick_labels(y_ticks), strict=True)),
        "lines": lines,
        "x_label": x_label,
        "diagonal": None,
    }


def precision_charts(
    per_label: dict[str, dict[str, float | None]], prevalence: dict[str, float], runs: list[str]
) -> dict | None:
    """Geometry of the bars, emotions from the most to the least frequent, and the same figures as a table."""
    if not per_label:
        return None
    emotions = list(dict.fromkeys(emotion for scores in per_label.values() for emotion in scores))
    emotions.sort(key=lambda emotion: -(finite(prevalence.get(emotion)) or 0.0))
    names = [name for name in [*runs, *(name for name in per_label if name not in runs)] if name in per_label]
    colours = {name: (runs.index(name) if name in runs else len(runs) + names.index(name)) for name in names}
    table = [
        {
            "emotion": emotion,
            "prevalence": finite(prevalence.get(emotion)),
            "scores": [finite(per_label[name].get(emotion)) for name in names],
        }
        for emotion in emotions
    ]
    known = [value for row in table for value in (row["prevalence"], *row["scores"]) if value is not None]
    ticks = axis_ticks(0.0, max(known, default=0.0) or 1.0, number=5)
    legend = [{"name": name, "colour": colours[name] % NUM_COLOURS} for name in names]
    parts = math.ceil(len(table) / EMOTIONS_A_CHART)
    length = math.ceil(len(table) / parts) if parts else 0
    charts = [_bar_chart(table[part * length : (part + 1) * length], legend, ticks) for part in range(parts)]
    return {"legend": legend, "table": table, "charts": charts, "has_prior": any(row["prevalence"] for row in table)}


def _bar_chart(table: list[dict], legend: list[dict], ticks: list[float]) -> dict:
    left, right, top, thick = 108, 348, 6, max(5, 12 - 2 * len(legend))
    pitch = max(thick * len(legend), 12) + 7

    def x_of(value: float) -> float:
        return round(left + value / ticks[-1] * (right - left), 1)

    groups = []
    for index, row in enumerate(table):
        y, tick = top + index * pitch, row["prevalence"]
        bars = [
            {
                "y": y + place * thick,
                "width": round(x_of(score or 0.0) - left, 1),
                "colour": run["colour"],
                "text": f"{row['emotion']}, {run['name']}: {value_text(score)}",
            }
            for place, (run, score) in enumerate(zip(legend, row["scores"], strict=True))
        ]
        emotion, prior = row["emotion"], None if tick is None else x_of(tick)
        label = emotion if len(emotion) <= 16 else f"{emotion[:15]}…"
        bounds = {"y": y - 2, "middle": y + thick * len(legend) / 2, "bottom": y + thick * len(legend) + 2}
        groups.append({"label": label, "emotion": emotion, "bars": bars, "prior": prior, "share": tick, **bounds})
    base = top + len(table) * pitch
    return {
        "title": f"Average precision from {table[0]['emotion']} to {table[-1]['emotion']}",
        "description": "; ".join(bar["text"] for group in groups for bar in group["bars"]) + ".",
        "width": 360,
        "height": base + 20,
        "left": left,
        "thick": thick - 1,
        "base": base,
        "x_ticks": list(zip(map(x_of, ticks), tick_labels(ticks), strict=True)),
        "groups": groups,
        "legend": legend,
    }
