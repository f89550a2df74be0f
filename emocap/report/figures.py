"""Every figure, a function each: values in, a matplotlib figure out; None where there is nothing to draw."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from emocap.records import finite
from emocap.report.drawing import INK, PALETTE, clean, legend, line_style, new_figure, styled, tip
from emocap.report.tables import around, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from PIL import Image

__all__ = [
    "STRATEGIES",
    "co_occurrence_figure",
    "confusion_figure",
    "gain_figure",
    "histogram_figure",
    "loss_figure",
    "precision_figures",
    "prediction_figure",
    "ranking_figure",
    "reliability_figure",
    "share_figure",
    "transfer_figure",
]

Points = list[tuple[float, float]]

STRATEGIES = {
    "scratch": "scratch",
    "scratch matched": "scratch matched",
    "anb": "AnB",
    "anb+": "AnB+",
    "bnb": "BnB",
    "bnb+": "BnB+",
    "bnb+ matched": "BnB+ matched",
    "random": "random",
}
"""The transfer study's strategies in order, and how they are written."""

EMOTIONS_A_FIGURE = 15
MAX_EMOTION = 16  # letters of an emotion beside its bars
MANY_POINTS = 40  # from here on, a curve shows no dots
MIN_ANSWERS = 10  # of a bin of the reliability curve


@styled
def loss_figure(name: str, history: list[dict]) -> Figure | None:
    """Training and validation loss of one run by epoch, from the trainer's log."""
    curves = {"training": _logged(history, "loss"), "validation": _logged(history, "eval_loss")}
    return _line_figure(f"Loss of {name}", curves, "epoch", 3.4, 2.0)


@styled
def ranking_figure(histories: dict[str, list[dict]]) -> Figure | None:
    """map_macro of each run on its validation split by epoch."""
    curves = {name: _logged(history, "eval_map_macro") for name, history in histories.items()}
    return _line_figure("map_macro on the validation split", curves, "epoch", 5.6, 3.0)


@styled
def reliability_figure(bins: dict[str, list[tuple[float, float, int]]]) -> Figure | None:
    """What came true of what each run promised.

    Args:
        bins: for each run `(mean probability, share true, answers)`; bins with few answers are left out.
    """
    curves = {
        name: [(mean, share) for mean, share, count in own if count >= MIN_ANSWERS] for name, own in bins.items()
    }
    figure = _line_figure("Share that came true by probability", curves, "probability", 5.6, 3.8)
    if figure:
        figure.axes[0].plot([0, 1], [0, 1], color=INK, linewidth=0.8, zorder=1)
        figure.axes[0].set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel="share that came true")
    return figure


def _logged(history: list[dict], key: str) -> Points:
    """(epoch, value) of every entry that logged `key`."""
    points = ((finite(entry.get("epoch")), finite(entry.get(key))) for entry in history)
    return [(epoch, value) for epoch, value in points if epoch is not None and value is not None]


def _line_figure(title: str, curves: dict[str, Points], x_label: str, width: float, height: float) -> Figure | None:
    if not any(curves.values()):
        return None
    figure = new_figure(title, width, height)
    axes, lines = figure.subplots(), {}
    for index, (name, points) in enumerate(curves.items()):
        if points:
            x, y = zip(*points, strict=True)
            (lines[name],) = axes.plot(x, y, **line_style(index))
            if len(points) >= MANY_POINTS:
                lines[name].set_marker("")
            tip(lines[name], f"{name}: {len(points)} points, from {y[0]:.3f} to {y[-1]:.3f}")
    axes.set(xlabel=x_label, xlim=(0, None))
    axes.locator_params(nbins=6)
    legend(figure, list(lines.values()), list(lines))
    return figure


@styled
def precision_figures(rows: list[dict[str, Any]], runs: dict[str, int]) -> list[Figure]:
    """Bars of each emotion's average precision, some emotions a figure, all on one scale.

    Args:
        rows: in order, dicts of `emotion`, `prevalence` (drawn as an upright tick) and `scores` (one for each of
            `runs`), None where unknown.
        runs: names, and which of `line_style`'s colours they have.
    """
    known = [value for row in rows for value in (row["prevalence"], *row["scores"]) if value is not None]
    parts = math.ceil(len(rows) / EMOTIONS_A_FIGURE)
    length = math.ceil(len(rows) / parts) if parts else 1
    figures = []
    for own in (rows[start : start + length] for start in range(0, len(rows), length)):
        title = f"Average precision from {own[0]['emotion']} to {own[-1]['emotion']}"
        pitch = 0.11 + 0.09 * max(len(runs), 1)  # inches
        figure = new_figure(title, 4.6, 0.4 + pitch * len(own))
        axes, places = figure.subplots(), np.arange(len(own))
        handles: list[Any] = []
        thick = 0.8 / len(runs)
        for index, (name, colour) in enumerate(runs.items()):
            scores = [row["scores"][index] for row in own]
            at = places - 0.4 + thick * (index + 0.5)
            bars = axes.barh(at, [score or 0.0 for score in scores], 0.9 * thick, color=line_style(colour)["color"])
            for bar, row, score in zip(bars, own, scores, strict=True):
                tip(bar, f"{row['emotion']}, {name}: {value_text(score)}; prior: {value_text(row['prevalence'])}")
            handles.append(bars)
        if ticks := _upright_ticks(axes, places, [row["prevalence"] for row in own]):
            handles.append(ticks)
        _emotion_axis(axes, [row["emotion"] for row in own])
        axes.set(xlim=(0, 1.03 * (max(known, default=0.0) or 1.0)), xlabel="average precision")
        legend(figure, handles, [*runs, "prior"][: len(handles)])
        figures.append(figure)
    return figures


@styled
def share_figure(emotions: dict[str, dict]) -> Figure:
    """Share of the images that carry each emotion, the most frequent first, and in the teacher's training set as an
    upright tick; `emotions` as `label_statistics` counts them."""
    order = sorted(emotions, key=lambda name: -emotions[name]["share"])
    figure = new_figure("Share of the images that carry each emotion", 6.0, 0.6 + 0.19 * len(order))
    axes, places = figure.subplots(), np.arange(len(order))
    bars = axes.barh(places, [emotions[name]["share"] for name in order], 0.7, color=PALETTE[0])
    for bar, name in zip(bars, order, strict=True):
        own = emotions[name]
        text = f"{name}: {own['images']:,} images, {own['share']:.3f}"
        if own["prevalence"] is not None:
            text += f"; {own['prevalence']:.3f} in the teacher's training set"
        tip(bar, text)
    if ticks := _upright_ticks(axes, places, [emotions[name]["prevalence"] for name in order]):
        legend(figure, [bars, ticks], ["these images", "the teacher's training set"])
    _emotion_axis(axes, order)
    axes.set(xlim=(0, None), xlabel="share of the images")
    return figure


@styled
def prediction_figure(
    rows: list[dict], prior: dict[str, float] | None, caption: str | None = None, photo: Image.Image | None = None
) -> Figure:
    """What a model says of one pair: the photo over its caption, beside them a bar for each emotion.

    Args:
        rows: `{"label", "score"}`, most probable first, as the pipeline gives them.
        prior: each emotion's share of the training rows, drawn as an upright tick; None where it is not known.
    """
    figure = new_figure("Emotions of a pair, the most probable first", 6.4, max(2.2, 0.6 + 0.24 * len(rows)))
    shown, axes = figure.subplots(1, 2, width_ratios=(1, 1.3))
    shown.axis("off")
    if photo is not None:
        shown.imshow(photo)
    shown.set_title(textwrap.fill(clean(caption or ""), 38), y=-0.04, va="top", fontsize="small")
    names = [row["label"] for row in rows]
    bars = axes.barh(range(len(rows)), [row["score"] for row in rows], 0.7, color=PALETTE[0])
    for bar, row in zip(bars, rows, strict=True):
        tip(bar, f"{row['label']}: {row['score']:.3f}")
    if ticks := _upright_ticks(axes, np.arange(len(rows)), [(prior or {}).get(name) for name in names]):
        legend(figure, [bars, ticks], ["probability", "share of the training rows"])
    _emotion_axis(axes, names)
    axes.set(xlim=(0, 1))
    return figure


def _upright_ticks(axes: Axes, places: np.ndarray, values: list[float | None]) -> Line2D | None:
    """Draws them; returns one for the legend, None where no value is known."""
    known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
    if not known:
        return None
    at = np.array([place for place, _ in known])
    axes.vlines([value for _, value in known], at - 0.46, at + 0.46, color=INK, linewidth=1.2)
    return axes.plot([], [], color=INK, marker="|", markersize=7, markeredgewidth=1.2, linestyle="")[0]


def _emotion_axis(axes: Axes, emotions: list[str]) -> None:
    axes.set_yticks(range(len(emotions)), [clean(emotion, MAX_EMOTION) for emotion in emotions])
    axes.set_ylim(len(emotions) - 0.5, -0.5)  # the first on top
    axes.grid(False, axis="y")


@styled
def histogram_figure(emotions: dict[str, dict]) -> Figure:
    """Images by the teacher's score from 0 to 1, a panel for each emotion; heights are square roots of numbers."""
    columns, number = min(3, len(emotions)), len(emotions)
    lines = -(-number // columns)
    height = 0.3 + 0.78 * lines
    # dozens of panels: places that are known need no search
    figure = new_figure("Images by the teacher's score, for each emotion", 6.0, height, "none")
    figure.subplots_adjust(0.02, 0.2 / height, 0.98, 1 - 0.32 / height, wspace=0.12, hspace=0.9)
    panels = figure.subplots(lines, columns, sharex=True, squeeze=False).flat
    for axes, (name, own) in zip(panels, emotions.items(), strict=False):
        edges = np.linspace(0, 1, len(own["histogram"]) + 1)
        filled = np.flatnonzero(own["histogram"])
        heights = np.sqrt(np.array(own["histogram"])[filled])
        axes.bar(edges[filled], heights, np.diff(edges)[filled] * 0.9, align="edge", color=PALETTE[0])
        mean, sd, highest = (f"{own[key]:.3f}" for key in ("score_mean", "score_sd", "score_max"))
        tip(axes, f"{name}: mean {mean}, standard deviation {sd}, highest {highest}")
        axes.set_title(f"{clean(name, MAX_EMOTION)}\nmean {mean}, sd {sd}, highest {highest}", fontsize=6.5)
        axes.set(xlim=(0, 1), yticks=[])
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.tick_params(labelsize=6.5, pad=1)
        axes.spines["left"].set_visible(False)
        axes.grid(False)
    for axes in figure.axes[number:]:
        axes.remove()
    for axes in figure.axes[-columns:]:
        axes.tick_params(labelbottom=True)
    return figure


@styled
def co_occurrence_figure(emotions: list[str], together: np.ndarray) -> Figure:
    """Of the images with the emotion of the row, the share that carry that of the column. `together` is int `(L, L)`,
    images that carry both; an emotion that no image carries has an empty row."""
    shares = together / np.maximum(together.diagonal()[:, None], 1)
    cells = [
        (row, column, share, f"{emotions[column]} on {share:.2f} of the images with {emotions[row]}")
        for (row, column), share in np.ndenumerate(shares)
        if share
    ]
    return _cell_figure("Share of images with both emotions", emotions, cells)


@styled
def confusion_figure(run: str, emotions: list[str], mistakes: list[dict[str, Any]]) -> Figure:
    """Rows: what people said and the model missed; columns: what it said instead; darker: more of the missed.
    `mistakes` are dicts of `said`, `instead`, `count` and `missed`, the pictures that missed `said`."""
    cells = [
        (
            emotions.index(own["said"]),
            emotions.index(own["instead"]),
            own["count"] / own["missed"],
            f"{own['said']} missed, {own['instead']} said: {own['count']} of {own['missed']}",
        )
        for own in mistakes
    ]
    figure = _cell_figure(f"Mistaken emotions of {run}", emotions, cells)
    figure.axes[0].set(ylabel="people said, the model missed", xlabel="the model said instead")
    return figure


def _cell_figure(title: str, emotions: list[str], cells: list[tuple[int, int, float, str]]) -> Figure:
    """Emotions by emotions: cells of (row, column, share from 0 to 1, text), darker for a larger share."""
    names, edge = [clean(emotion, MAX_EMOTION) for emotion in emotions], len(emotions) - 0.5
    margin = 0.35 + 0.066 * max(map(len, names))  # inches, for names and what they are
    side = margin + 0.17 * max(len(names), 5) + 0.05
    figure = new_figure(title, side, side, "none")
    figure.subplots_adjust(margin / side, 0.05 / side, 1 - 0.05 / side, 1 - margin / side)
    axes = figure.subplots()
    rows, columns = (np.array([cell[place] for cell in cells], dtype=float) for place in (0, 1))
    style: dict[str, Any] = {"color": [(INK, float(share)) for _, _, share, _ in cells], "clip_on": False}
    bars = axes.bar(columns, np.full(len(cells), 0.92), 0.92, bottom=rows - 0.46, linewidth=0, **style)
    for bar, (*_, text) in zip(bars, cells, strict=True):
        tip(bar, text)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(-0.5, edge), ylim=(edge, -0.5))
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.spines[:].set_visible(False)
    return figure


@styled
def gain_figure(arms: list[dict[str, Any]]) -> Figure | None:
    """A label study's gains over the number of images, on a logarithmic axis, one line for each kind of arm, with
    bands of 95 % over the seeds; every line ends in the arm that learned from all images."""
    whole = {arm["targets"]: [arm] for arm in arms if arm["selection"] == "all" and arm["gain"] is not None}
    lines = {}
    for arm in arms:
        if arm["selection"] not in ("scratch", "all") and arm["gain"] is not None:
            lines.setdefault((arm["selection"], arm["targets"]), []).append(arm)
    if not lines:
        return None
    figure = new_figure("Gain by number of images", 5.8, 3.2)
    axes, handles, sizes = figure.subplots(), {}, set()
    axes.axhline(0, color=INK, linewidth=1)
    for index, (kind, own) in enumerate(lines.items()):
        own = sorted(own + whole.get(kind[1], []), key=lambda arm: arm["images"])
        sizes |= {arm["images"] for arm in own}
        style, name = line_style(index), ", ".join(kind)
        (line,) = axes.plot([arm["images"] for arm in own], [arm["gain"] for arm in own], **style)
        tip(line, f"{name}: " + "; ".join(f"{arm['images']:.0f} images {arm['gain']:+.3f}" for arm in own))
        known = [arm for arm in own if arm["gain_low"] is not None]
        images, low, high = ([arm[key] for arm in known] for key in ("images", "gain_low", "gain_high"))
        axes.fill_between(images, low, high, color=style["color"], alpha=0.15, linewidth=0)
        handles[name] = line
    axes.set_xscale("log")
    axes.set_xticks(sorted(sizes), [f"{size:,.0f}" for size in sorted(sizes)])
    axes.minorticks_off()
    axes.set(xlabel="images", ylabel="gain")
    legend(figure, list(handles.values()), list(handles))
    return figure


@styled
def transfer_figure(rows: list[dict[str, Any]], metric: str) -> Figure:
    """A transfer study in the form of Figure 2 of Yosinski et al.: the metric against the number of layers, a dot for
    every seed and a line through the means, one panel a direction and size; `rows` as in `study.json`."""
    panels = list(dict.fromkeys((row["direction"], row["size"]) for row in rows))
    columns = len({size for _, size in panels})
    lines = -(-len(panels) // columns)
    figure = new_figure(f"{metric} by layers passed", max(3.2 * columns, 4.4), 0.3 + 2.3 * lines)
    grid = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    handles = {}
    for axes, (direction, size) in zip(grid, panels, strict=False):
        own = [row for row in rows if (row["direction"], row["size"]) == (direction, size)]
        axes.set_title(f"{clean(direction.replace('_to_', ' to '))}, {size:,} rows")
        prior = axes.axhline(own[0]["prior"], color=INK, linewidth=0.8, dashes=(4, 3))
        handles |= _transfer_panel(axes, own)
        axes.set(xlabel="layers passed", xticks=range(max(row["num_layers"] for row in rows) + 1))
        axes.tick_params(labelleft=True)
    grid[0].set_ylabel(f"{clean(metric, MAX_EMOTION)} on the test split")
    for axes in grid[len(panels) :]:
        axes.remove()
    names = [name for name in STRATEGIES if name in handles]
    legend(figure, [*(handles[name] for name in names), prior], [*(STRATEGIES[name] for name in names), "prior"])
    return figure


def _transfer_panel(axes: Axes, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Draws one panel; returns a line for each strategy, for the legend."""
    starts = {row["strategy"]: row for row in rows if row["num_layers"] == 0}
    handles = {}
    for place, name in enumerate(STRATEGIES):
        own = sorted((row for row in rows if row["strategy"] == name), key=lambda row: row["num_layers"])
        style, shift = line_style(place), (place - 3.5) * 0.035  # dots of one number side by side
        marks = {key: style[key] for key in ("color", "marker")}
        for row in own:
            x = np.full(len(row["values"]), row["num_layers"] + shift)
            (dots,) = axes.plot(x, row["values"], **marks, linestyle="", markersize=2.5)
            tip(dots, f"{STRATEGIES[name]}, {row['num_layers']} layers: {row['mean']:.3f}{around(row)}")
        start = starts.get("scratch matched" if name == "bnb+ matched" else "scratch")
        line = own if name in starts or start is None else [start, *own]
        if own:
            means = [row["num_layers"] for row in line], [row["mean"] for row in line]
            axes.plot(*means, color=style["color"], linestyle=style["linestyle"], linewidth=1.2)
            (handles[name],) = axes.plot([], [], **style)
    return handles
