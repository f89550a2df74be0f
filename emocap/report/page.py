"""The HTML report of finished runs, from their metrics.json, its details and trainer_state.json."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import DatasetDict

from emocap.data.storage import write_text
from emocap.records import CONTROLS, GAIN_KEYS, details_path, finite, read_json
from emocap.report.drawing import save_figure
from emocap.report.figures import (
    confusion_figure,
    loss_figure,
    precision_figures,
    ranking_figure,
    reliability_figure,
    transfer_figure,
)
from emocap.report.render import jpeg_uri, render_page, small_rgb
from emocap.report.sentences import caption_tables
from emocap.report.tables import (
    COLUMNS,
    LOWER_IS_BETTER,
    PSEUDO_TRUTHS,
    SETTING,
    Runs,
    cell_text,
    folders_of,
    format_table,
    groups,
    interval_text,
    is_captioner,
    markdown_table,
    name_text,
    notes,
    read_metrics,
    results_rows,
    setting_text,
    update_block,
    value_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "format_table", "markdown_table", "results_rows", "update_block", "write_report"]

THUMBNAIL = 128  # px, longer side


def write_report(
    path: Path,
    *,
    title: str,
    runs: Runs,
    examples: list[dict] | None = None,
    tables: DatasetDict | None = None,
    study: str | Path | None = None,
    figures: str | Path | None = None,
) -> None:
    """Writes one HTML file that needs nothing else: results, controls, curves, emotions, mistakes and pictures; of
    captioners their sentences for each wish, with a judge's probabilities.

    What the details of a run show (average precision of each emotion, reliability, mistakes, examples) is drawn of
    the runs that were measured on the same rows as the first run on human labels.

    Args:
        path: where the report goes; replaced whole or left as it was.
        title: heading of the report.
        runs: name to folder of a finished run with metrics.json and, where they are, metrics_details.json and
            trainer_state.json; or to the folders of several seeds, of which details and curves are the first's. Of a
            captioner the folder in which `emocap evaluate --output FOLDER/metrics.json` left both files.
        examples: `{"image": PIL.Image or None, "caption": str, "emotions": list[str], "truth": list[str] or None}`,
            shown as a grid of pictures.
        tables: the table of pairs that the runs were measured on: with it, the best and the worst examples are shown,
            and photos beside a captioner's sentences.
        study: folder of a finished transfer study, for its curves.
        figures: folder for the figures as PNG and PDF files as well.

    Raises:
        FileNotFoundError: a run without metrics.json, a captioner without its sentences, or a study without its
            study.json.
        ValueError: no runs, a file of a run that is no JSON object, or a captioner whose wishes were not measured.
    """
    rows = results_rows(runs)
    metrics = {name: read_metrics(name, runs) for name in runs}
    captioners = {name: metrics.pop(name) for name in runs if is_captioner(metrics[name])}
    first = {name: folders_of(runs, name)[0] for name in metrics}
    find = _finder(tables)
    details = _comparable_details(first, metrics)
    precisions = _precision_rows(details)
    has_prior = any(row["prevalence"] for row in precisions)
    mistakes = {name: found for name, own in details.items() if (found := _mistakes(own))}
    drawn = _figures(first, details, precisions, mistakes, study)
    page = render_page(
        "report.html.j2",
        drawn,
        title=title,
        columns=COLUMNS,
        lower_is_better=LOWER_IS_BETTER,
        groups=groups(rows),
        notes=notes(rows),
        setting_text=setting_text,
        name_text=name_text,
        cell_text=cell_text,
        value_text=value_text,
        interval_text=interval_text,
        measured={name: own for name, own in metrics.items() if own.controls},
        controls=CONTROLS,
        gain_keys=GAIN_KEYS,
        runs=list(metrics),
        has_losses=any(drawn[f"loss_{name}"] for name in metrics),
        captioners={
            name: (own, caption_tables(folders_of(runs, name)[0], own, lambda image_id: _photo(find(image_id))))
            for name, own in captioners.items()
        },
        precision_columns=["emotion", *["prior"] * has_prior, *details],
        precisions=[
            [row["emotion"], *map(value_text, [row["prevalence"]] * has_prior + row["scores"])] for row in precisions
        ],
        mistakes={name: [list(own.values()) for own in found] for name, found in mistakes.items()},
        examples=[_picture(example) for example in examples or []],
        extremes=_extremes(details, find),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page, errors="replace")  # captions may hold halves of surrogate pairs
    if figures is not None:
        Path(figures).mkdir(parents=True, exist_ok=True)
        for name, figure in [(name, figure) for name, figure in drawn.items() if figure is not None]:
            for ending in ("png", "pdf"):
                save_figure(figure, Path(figures) / f"{re.sub(r'[^A-Za-z0-9+._-]', '_', name)}.{ending}")


def _figures(
    folders: dict[str, Path],
    details: dict[str, dict],
    precisions: list[dict],
    mistakes: dict[str, list[dict]],
    study: str | Path | None,
) -> dict[str, "Figure | None"]:
    """All figures of the page by name; None where a run left nothing to draw."""
    histories = {name: _history(folder) for name, folder in folders.items()}
    figures = {f"loss_{name}": loss_figure(name, history) for name, history in histories.items()}
    figures["ranking"] = ranking_figure(histories)
    places = {name: place for place, name in enumerate(folders) if name in details}  # one run, one colour
    figures["reliability"] = reliability_figure(
        {name: details.get(name, {}).get("reliability", []) for name in folders}
    )
    for part, figure in enumerate(precision_figures(precisions, places), start=1):
        figures[f"average_precision_{part}"] = figure
    for name, found in mistakes.items():
        figures[f"mistakes_{name}"] = confusion_figure(name, details[name]["emotions"], found)
    figures["transfer_study"] = None
    if study is not None:
        content = read_json(Path(study) / "study.json", "what emocap transfer-study leaves in its folder")
        figures["transfer_study"] = transfer_figure(content["rows"], content["metric"])
    return figures


def _comparable_details(folders: dict[str, Path], metrics: Mapping[str, Mapping]) -> dict[str, dict]:
    """Details of the runs that share split, truth and number of rows with the first run on human labels."""
    settings = {name: tuple(map(own.get, SETTING)) for name, own in metrics.items()}
    found = {}
    for name, folder in folders.items():
        path = details_path(folder / "metrics.json")
        if path.is_file() and metrics[name].get("truth") not in PSEUDO_TRUTHS:
            found[name] = read_json(path, "the details of an evaluation")
    wanted = settings[next(iter(found))] if found else None
    return {name: own for name, own in found.items() if settings[name] == wanted}


def _precision_rows(details: dict[str, dict]) -> list[dict[str, Any]]:
    """Of each emotion, from the most to the least frequent, `prevalence` and every run's average precision as
    `scores`; None where unknown."""
    per_label, prevalence = {}, {}
    for name, own in details.items():
        per_label[name] = dict(zip(own["emotions"], own["average_precision"], strict=True))
        prevalence |= dict(zip(own["emotions"], own["prevalence"], strict=True))
    return [
        {
            "emotion": emotion,
            "prevalence": finite(prevalence[emotion]),
            "scores": [finite(own.get(emotion)) for own in per_label.values()],
        }
        for emotion in sorted(prevalence, key=lambda emotion: -(finite(prevalence[emotion]) or 0.0))
    ]


def _mistakes(details: dict) -> list[dict[str, Any]]:
    """The mistakes of one run, the most frequent first: what people `said` and the model missed, what it said
    `instead`, their `count`, and how many pictures `missed` the emotion."""
    names, counts, missed = (details.get(key) or [] for key in ("emotions", "confusion", "missed"))
    pairs = [(-count, a, b) for a, row in enumerate(counts) for b, count in enumerate(row) if count]
    return [
        {"said": names[a], "instead": names[b], "count": -count, "missed": missed[a]} for count, a, b in sorted(pairs)
    ]


def _finder(tables: DatasetDict | None) -> Callable[[str], dict[str, Any] | None]:
    """Gives the row of an image id, None where the tables lack it."""
    splits = tables or DatasetDict()
    places = {
        image_id: (name, row) for name, split in splits.items() for row, image_id in enumerate(split["image_id"])
    }

    def find(image_id: str) -> dict[str, Any] | None:
        if image_id not in places:
            return None
        split, row = places[image_id]
        return splits[split][row]

    return find


def _extremes(
    details: dict[str, dict], find: Callable[[str], dict[str, Any] | None]
) -> dict[str, dict[str, list[dict]]]:
    """Of each run the pictures that it ranked best and worst; those that are not found are left out."""
    found = {}
    for run, own in details.items():
        for example in own.get("examples", []):
            if pair := find(example["image_id"]):
                picture = {
                    "image": pair["image"],
                    "caption": (pair["captions"] or [""])[0],
                    "emotions": example["predicted"],
                    "truth": example["truth"],
                }
                found.setdefault(run, {}).setdefault(example["kind"], []).append(_picture(picture))
    return found


def _history(folder: Path) -> list[dict]:
    """What the trainer logged; nothing where a run left no trainer_state.json."""
    path = Path(folder) / "trainer_state.json"
    return read_json(path, "the trainer's log_history").get("log_history") or [] if path.is_file() else []


def _picture(example: dict) -> dict[str, Any]:
    """What the grid shows of one example: its photo becomes a data URI."""
    return {"truth": None, **example, "image": _photo(example)}


def _photo(row: dict[str, Any] | None) -> str | None:
    """A small photo as a data URI; None where a row has none, or there is no row."""
    return None if row is None or row["image"] is None else jpeg_uri(small_rgb(row["image"], THUMBNAIL))
