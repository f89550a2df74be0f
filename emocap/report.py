"""Tables and the HTML report of finished runs, from their metrics.json and trainer_state.json alone."""

import base64
import io
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
from PIL import Image

from emocap.axes import axis_ticks, tick_labels
from emocap.data.storage import read_text
from emocap.models.photo_emocap import to_rgb

__all__ = ["COLUMNS", "format_table", "markdown_table", "results_rows", "update_block", "write_report"]

COLUMNS = {
    "map_macro": "Average precision, mean over the emotions: how well each emotion ranks the pictures that raise it.",
    "lrap": "Label ranking average precision: how high a picture's true emotions rank among all.",
    "top1_accuracy": "Share of pictures whose most probable emotion is true.",
    "top3_accuracy": "Share of pictures with a true emotion among the three most probable.",
    "f1_micro": "F1 over all entries, an emotion predicted from a probability of 0.5.",
    "jaccard": "Overlap of predicted and true emotions over their union, mean over the pictures.",
    "ece": "Expected calibration error: how far probabilities lie from the shares they promise.",
    "jsd": "Jensen-Shannon divergence from the crowd's votes, in nats; only where votes are known.",
    "bce": "Binary cross-entropy, in nats.",
}
"""Metrics of the table, in order, and what they mean."""

LOWER_IS_BETTER = ("ece", "jsd", "bce")

CEILINGS = {"ceiling text": "ceiling_text/", "ceiling image": "ceiling_image/", "ceiling both": "ceiling/"}

TRUTHS = {"labels": "human labels", "soft_labels": "shares of the votes"}
PSEUDO_TRUTHS = ("emotions", "emotion_scores")
PSEUDO_NOTE = "Measured on pseudo-labels: agreement with the labelling model, not with people."

TERMINAL_SIGNS = str.maketrans("†–", "^-")  # not every terminal can print the page's own

NUM_COLOURS = 8  # classes .colour-0 to .colour-7 in the template
THUMBNAIL = 128  # px, longer side
EMOTIONS_A_CHART = 15
MANY_POINTS = 40  # from here on, a curve shows no dots


def write_report(
    path: Path,
    *,
    title: str,
    runs: dict[str, Path],
    examples: list[dict] | None = None,
    per_label: dict[str, dict[str, float | None]] | None = None,
    prevalence: dict[str, float] | None = None,
) -> None:
    """Writes one HTML file that needs nothing else: results, curves, emotions and labelled pictures.

    Args:
        path: where the report goes; replaced whole or left as it was.
        title: heading of the report.
        runs: name to folder of a finished run with metrics.json and, for the curves, trainer_state.json.
        examples: `{"image": PIL.Image or None, "caption": str, "emotions": list[str], "truth": list[str] or None}`,
            shown as a grid of pictures.
        per_label: run to emotion to average precision in 0..1, None where it is undefined.
        prevalence: emotion to its share of the images in 0..1: the average precision of the prior.

    Raises:
        FileNotFoundError: a run without metrics.json.
        ValueError: no runs, or a file of a run that is no JSON object.
    """
    rows = results_rows(runs)
    histories = {name: _history(folder) for name, folder in runs.items()}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resources.files("emocap").joinpath("report.html.j2").read_text("utf-8"))
    page = template.render(
        title=title,
        columns=COLUMNS,
        lower_is_better=LOWER_IS_BETTER,
        groups=_groups(rows),
        notes=_notes(rows),
        setting_text=_setting_text,
        name_text=_name_text,
        value_text=_value_text,
        losses=_loss_charts(histories),
        ranking=_ranking_chart(histories),
        precisions=_precision_charts(per_label or {}, prevalence or {}, list(runs)),
        pictures=[_picture(example) for example in examples or []],
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    temporary.write_text(page, encoding="utf-8", errors="replace")  # captions may hold halves of surrogate pairs
    temporary.replace(path)


def results_rows(runs: dict[str, Path]) -> list[dict[str, object]]:
    """The results table as data: for each setting (split, truth, number of examples) prior, models and ceilings.

    Models are compared only within a setting. References that differ between its runs, such as priors fitted on more
    or fewer examples, are listed once each, with the runs they belong to.

    Args:
        runs: name to folder of a finished run.

    Returns:
        Dicts of `name`, `kind` ("prior", "model" or "ceiling"), `split`, `truth`, `num_examples`, `note` (None, or
        what to bear in mind), one float or None for each of `COLUMNS`, and `best`, the columns in which this model is
        the best of several.

    Raises:
        FileNotFoundError: a run without metrics.json.
        ValueError: no runs, or a metrics.json that is no JSON object.
    """
    if not runs:
        raise ValueError("There are no runs to report; give a name and a finished run's folder for each.")
    settings = {}
    for name, folder in runs.items():
        metrics = _read_json(Path(folder) / "metrics.json", "the metrics that a finished run leaves in its folder")
        setting = {key: metrics.get(key) for key in ("split", "truth", "num_examples")}
        settings.setdefault(tuple(setting.values()), (setting, {}))[1][name] = metrics
    rows = []
    for setting, group in settings.values():
        is_pseudo = setting["truth"] in PSEUDO_TRUTHS
        own = _reference_rows("prior", "prior", "prior/", group)
        own += _with_best([_row(name, "model", "", metrics) for name, metrics in group.items()])
        for name, prefix in CEILINGS.items():
            # the people's own probabilities are no upper bound on the agreement with a labelling model
            own += [] if is_pseudo else _reference_rows(name, "ceiling", prefix, group)
        rows += [{**row, **setting, "note": PSEUDO_NOTE if is_pseudo else None} for row in own]
    return rows


def format_table(rows: list[dict[str, object]]) -> str:
    """Plain text table of `results_rows` for a terminal; `*` marks the best model of several."""
    header = ["", *(f"{key} " for key in COLUMNS)]
    lines = {id(row): [_name_text(row), *_marked_values(row, "{}*", "{} ")] for row in rows}
    widths = [max(len(cells[column]) for cells in [header, *lines.values()]) for column in range(len(header))]

    def aligned(cells: Sequence[str]) -> str:
        name, *values = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return " ".join([cells[0].ljust(len(name)), *values]).rstrip()

    blocks = [
        "\n".join([_setting_text(group[0]), aligned(header), *(aligned(lines[id(row)]) for row in group)])
        for group in _groups(rows)
    ]
    notes = [f"† {note}" for note in _notes(rows)]
    if any(row["best"] for row in rows):
        notes.insert(0, f"* best model; lower is better for {', '.join(LOWER_IS_BETTER)}")
    return "\n\n".join([*blocks, *filter(None, ["\n".join(notes)])]).translate(TERMINAL_SIGNS)


def update_block(path: Path, name: str, table: str) -> None:
    """Puts a table between the comments `<!-- name -->` and `<!-- /name -->` of a markdown file.

    Raises:
        ValueError: the file has no such comments.
    """
    text = path.read_text("utf-8")
    before, opening, rest = text.partition(f"<!-- {name} -->")
    _, closing, after = rest.partition(f"<!-- /{name} -->")
    if not opening or not closing:
        raise ValueError(f"'{path}' has no block '<!-- {name} --> ... <!-- /{name} -->' to put the table in.")
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(f"{before}{opening}\n{table}\n{closing}{after}", encoding="utf-8")
    temporary.replace(path)


def markdown_table(rows: list[dict[str, object]]) -> str:
    """Markdown tables of `results_rows`, one for each setting; the best model of several is in bold."""
    blocks = []
    for group in _groups(rows):
        lines = ["| model | " + " | ".join(COLUMNS) + " |", "|---" + "|--:" * len(COLUMNS) + "|"]
        for row in group:
            cells = [_escape_markdown(_name_text(row)), *_marked_values(row, "**{}**", "{}")]
            lines.append("| " + " | ".join(cells) + " |")
        blocks.append(f"{_escape_markdown(_setting_text(group[0]))}:\n\n" + "\n".join(lines))
    return "\n\n".join([*blocks, *(f"† {note}" for note in _notes(rows))])


def _read_json(path: Path, what: str) -> dict:
    try:
        content = json.loads(read_text(path, what))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not JSON ({error}); expected {what}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' holds a {type(content).__name__}; expected an object with {what}.")
    return content


def _row(name: str, kind: str, prefix: str, metrics: dict) -> dict[str, object]:
    return {"name": name, "kind": kind, **{key: _finite(metrics.get(prefix + key)) for key in COLUMNS}, "best": []}


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _reference_rows(name: str, kind: str, prefix: str, group: dict[str, dict]) -> list[dict[str, object]]:
    """One row for each set of values that the runs of a group show; none where nothing is known."""
    variants = {}
    for run, metrics in group.items():
        row = _row(name, kind, prefix, metrics)
        if any(row[key] is not None for key in COLUMNS):
            variants.setdefault(tuple(_value_text(row[key]) for key in COLUMNS), (row, []))[1].append(run)
    if len(variants) == 1:
        return [row for row, _ in variants.values()]
    return [{**row, "name": f"{name} ({', '.join(names)})"} for row, names in variants.values()]


def _with_best(models: list[dict[str, object]]) -> list[dict[str, object]]:
    """Names each model's best columns, where there are models to compare; equal figures are equally good."""
    for key in COLUMNS if len(models) > 1 else ():
        shown = {index: float(_value_text(row[key])) for index, row in enumerate(models) if row[key] is not None}
        best = (min if key in LOWER_IS_BETTER else max)(shown.values(), default=None)
        for index, value in shown.items():
            models[index]["best"] += [key] * (value == best)
    return models


def _groups(rows: list[dict[str, object]]) -> list[list[dict[str, object]]]:
    groups = {}
    for row in rows:
        groups.setdefault((row["split"], row["truth"], row["num_examples"]), []).append(row)
    return list(groups.values())


def _notes(rows: list[dict[str, object]]) -> list[str]:
    return list(dict.fromkeys(row["note"] for row in rows if row["note"]))


def _setting_text(row: dict[str, object]) -> str:
    split, truth, number = row["split"], row["truth"], row["num_examples"]
    examples = "an unknown number of" if number is None else f"{number:,}"
    known = "pseudo-labels" if truth in PSEUDO_TRUTHS else TRUTHS.get(truth, f"truth: {truth or 'unknown'}")
    return f"{split or 'unknown'} split, {examples} examples, {known}"


def _name_text(row: dict[str, object]) -> str:
    return f"{row['name']} †" if row["note"] else str(row["name"])


def _value_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _marked_values(row: dict[str, object], best: str, other: str) -> list[str]:
    return [(best if key in row["best"] else other).format(_value_text(row[key])) for key in COLUMNS]


def _escape_markdown(text: str) -> str:
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in r"\|*_`[]" else letter for letter in text)


def _history(folder: Path) -> list[dict]:
    """What the trainer logged; nothing where a run left no trainer_state.json."""
    path = Path(folder) / "trainer_state.json"
    return _read_json(path, "the trainer's log_history").get("log_history") or [] if path.is_file() else []


def _curve(history: list[dict], key: str) -> list[tuple[float, float]]:
    """(epoch, value) of every entry that logged `key`."""
    points = ((_finite(entry.get("epoch")), _finite(entry.get(key))) for entry in history)
    return [(epoch, value) for epoch, value in points if epoch is not None and value is not None]


def _loss_charts(histories: dict[str, list[dict]]) -> list[dict]:
    """A panel for each run with its training and validation loss; `chart` is None without a history."""
    panels = []
    for name, history in histories.items():
        curves = {"training": _curve(history, "loss"), "validation": _curve(history, "eval_loss")}
        panels.append({"name": name, "chart": _line_chart(curves, f"Loss of {name}", (300, 190))})
    return panels


def _ranking_chart(histories: dict[str, list[dict]]) -> dict | None:
    curves = {name: _curve(history, "eval_map_macro") for name, history in histories.items()}
    return _line_chart(curves, "map_macro on the validation split", (400, 230))


def _line_chart(curves: dict[str, list[tuple[float, float]]], title: str, size: tuple[int, int]) -> dict | None:
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
    }


def _precision_charts(
    per_label: dict[str, dict[str, float | None]], prevalence: dict[str, float], runs: list[str]
) -> dict | None:
    """Geometry of the bars, emotions from the most to the least frequent, and the same figures as a table."""
    if not per_label:
        return None
    emotions = list(dict.fromkeys(emotion for scores in per_label.values() for emotion in scores))
    emotions.sort(key=lambda emotion: -(_finite(prevalence.get(emotion)) or 0.0))
    names = [name for name in [*runs, *(name for name in per_label if name not in runs)] if name in per_label]
    colours = {name: (runs.index(name) if name in runs else len(runs) + names.index(name)) for name in names}
    table = [
        {
            "emotion": emotion,
            "prevalence": _finite(prevalence.get(emotion)),
            "scores": [_finite(per_label[name].get(emotion)) for name in names],
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
                "text": f"{row['emotion']}, {run['name']}: {_value_text(score)}",
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
    }


def _picture(example: dict) -> dict[str, object]:
    """What the grid shows of one example: the photo as a data URI, its caption and emotions, and which are true."""
    truth = example.get("truth")
    emotions = [{"name": name, "is_true": truth is not None and name in truth} for name in example["emotions"]]
    return {"image": _data_uri(example["image"]), "caption": example["caption"], "emotions": emotions, "truth": truth}


def _data_uri(photo: Image.Image | None) -> str | None:
    if photo is None:
        return None
    photo = to_rgb(photo)
    photo.thumbnail((THUMBNAIL, THUMBNAIL))
    jpeg = io.BytesIO()
    photo.save(jpeg, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode("ascii")
