"""The HTML report of finished runs, from their metrics.json, its details and trainer_state.json."""

import base64
import io
from pathlib import Path

from datasets import DatasetDict
from PIL import Image

from emocap.data.storage import read_text, write_text
from emocap.models.photo_emocap import to_rgb
from emocap.records import GAIN_KEYS, details_path
from emocap.report.charts import confusions, loss_charts, precision_charts, ranking_chart, reliability_chart
from emocap.report.png import write_figures
from emocap.report.render import render_page
from emocap.report.tables import (
    COLUMNS,
    LOWER_IS_BETTER,
    PSEUDO_TRUTHS,
    Runs,
    cell_text,
    control_rows,
    folders_of,
    format_table,
    groups,
    markdown_table,
    name_text,
    notes,
    read_json,
    read_metrics,
    results_rows,
    setting_text,
    update_block,
    value_text,
)

__all__ = ["COLUMNS", "format_table", "markdown_table", "results_rows", "update_block", "write_report"]

THUMBNAIL = 128  # px, longer side


def write_report(
    path: Path,
    *,
    title: str,
    runs: Runs,
    examples: list[dict] | None = None,
    tables: DatasetDict | None = None,
    study: Path | None = None,
    figures: Path | None = None,
) -> None:
    """Writes one HTML file that needs nothing else: results, controls, curves, emotions, mistakes and pictures.

    What the details of a run show (average precision of each emotion, reliability, mistakes, examples) is drawn of
    the runs that were measured on the same rows as the first run on human labels.

    Args:
        path: where the report goes; replaced whole or left as it was.
        title: heading of the report.
        runs: name to folder of a finished run with metrics.json and, where they are, metrics_details.json and
            trainer_state.json; or to the folders of several seeds, of which details and curves are the first's.
        examples: `{"image": PIL.Image or None, "caption": str, "emotions": list[str], "truth": list[str] or None}`,
            shown as a grid of pictures.
        tables: the table of pairs that the runs were measured on: with it, the best and the worst examples are shown.
        study: folder of a finished transfer study, for its curves.
        figures: folder for the charts as PNG files as well.

    Raises:
        FileNotFoundError: a run without metrics.json, or a study without its figure.
        ValueError: no runs, or a file of a run that is no JSON object.
    """
    rows = results_rows(runs)
    first = {name: folders_of(runs, name)[0] for name in runs}
    histories = {name: _history(folder) for name, folder in first.items()}
    metrics = {name: read_metrics(name, runs) for name in runs}
    details = _comparable_details(first, metrics)
    controls = {name: control_rows(own) for name, own in metrics.items()}
    losses, ranking = loss_charts(histories), ranking_chart(histories)
    precisions, reliability = _precisions(details, list(runs)), reliability_chart(details)
    page = render_page(
        "report.html.j2",
        title=title,
        columns=COLUMNS,
        lower_is_better=LOWER_IS_BETTER,
        groups=groups(rows),
        notes=notes(rows),
        setting_text=setting_text,
        name_text=name_text,
        cell_text=cell_text,
        value_text=value_text,
        controls={name: own for name, own in controls.items() if own},
        gain_keys=GAIN_KEYS,
        losses=losses,
        ranking=ranking,
        precisions=precisions,
        reliability=reliability,
        mistakes={name: found for name, own in details.items() if (found := confusions(own))},
        pictures=[_picture(example) for example in examples or []],
        extremes=_extremes(details, tables) if tables is not None else {},
        study=None if study is None else _study_figure(Path(study)),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page, errors="replace")  # captions may hold halves of surrogate pairs
    if figures is not None:
        charts = {f"loss_{panel['name']}": panel["chart"] for panel in losses} | {"ranking": ranking}
        charts |= {"reliability": reliability}
        for part, chart in enumerate(precisions["charts"] if precisions else [], start=1):
            charts[f"average_precision_{part}"] = chart
        write_figures(Path(figures), {name: chart for name, chart in charts.items() if chart})


def _comparable_details(folders: dict[str, Path], metrics: dict[str, dict]) -> dict[str, dict]:
    """Details of the runs that share split, truth and number of rows with the first run on human labels."""
    settings = {
        name: tuple(own.get(key) for key in ("split", "truth", "num_examples")) for name, own in metrics.items()
    }
    found = {}
    for name, folder in folders.items():
        path = details_path(folder / "metrics.json")
        if path.is_file() and settings[name][1] not in PSEUDO_TRUTHS:
            found[name] = read_json(path, "the details of an evaluation")
    wanted = settings[next(iter(found))] if found else None
    return {name: own for name, own in found.items() if settings[name] == wanted}


def _precisions(details: dict[str, dict], runs: list[str]) -> dict | None:
    per_label, prevalence = {}, {}
    for name, own in details.items():
        per_label[name] = dict(zip(own["emotions"], own["average_precision"], strict=True))
        prevalence |= dict(zip(own["emotions"], own["prevalence"], strict=True))
    return precision_charts(per_label, prevalence, runs)


def _extremes(details: dict[str, dict], tables: DatasetDict) -> dict[str, dict[str, list[dict]]]:
    """Of each run the pictures that it ranked best and worst; those that the table lacks are left out."""
    places = {
        image_id: (name, row) for name, split in tables.items() for row, image_id in enumerate(split["image_id"])
    }
    found = {}
    for run, own in details.items():
        for example in own.get("examples", []):
            if example["image_id"] in places:
                split, row = places[example["image_id"]]
                pair = tables[split][row]
                picture = {
                    "image": pair["image"],
                    "caption": (pair["captions"] or [""])[0],
                    "emotions": example["predicted"],
                    "truth": example["truth"],
                }
                found.setdefault(run, {}).setdefault(example["kind"], []).append(_picture(picture))
    return found


def _study_figure(folder: Path) -> str:
    """A transfer study's curves as a data URI: as an image, nothing in it can run."""
    figure = read_text(folder / "figure.svg", "the figure that emocap transfer-study leaves in its folder")
    return "data:image/svg+xml;base64," + base64.b64encode(figure.encode("utf-8")).decode("ascii")


def _history(folder: Path) -> list[dict]:
    """What the trainer logged; nothing where a run left no trainer_state.json."""
    path = Path(folder) / "trainer_state.json"
    return read_json(path, "the trainer's log_history").get("log_history") or [] if path.is_file() else []


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
