"""Results of finished runs as rows, and the rows as text, from their metrics.json alone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from emocap.data.storage import write_text
from emocap.metrics import GREATER_IS_BETTER
from emocap.records import Result

__all__ = [
    "COLUMNS",
    "LOWER_IS_BETTER",
    "around",
    "cell_text",
    "format_table",
    "groups",
    "interval_text",
    "is_captioner",
    "markdown_lines",
    "markdown_table",
    "name_text",
    "notes",
    "results_rows",
    "setting_text",
    "update_block",
    "value_text",
]

Runs = Mapping[str, Path | Sequence[Path]]
"""Name to the folder of a finished run, or to the folders of one run under several seeds."""

COLUMNS = {
    "map_macro": "Average precision, mean over the emotions: how well each emotion ranks the pictures that raise it.",
    "lrap": "Label ranking average precision: how high a picture's true emotions rank among all.",
    "top1_accuracy": "Share of pictures whose most probable emotion is true.",
    "top3_accuracy": "Share of pictures with a true emotion among the three most probable.",
    "f1_micro": "F1 over all entries, emotions predicted from the model's own thresholds, or from 0.5.",
    "jaccard": "Overlap of predicted and true emotions over their union, mean over the pictures.",
    "ece": "Expected calibration error: how far probabilities lie from the shares they promise.",
    "jsd": "Jensen-Shannon divergence from the crowd's votes, in nats; only where votes are known.",
    "bce": "Binary cross-entropy, in nats.",
}
"""Metrics of the table, in order, and what they mean."""

SETTING = ("split", "truth", "num_examples")
"""Keys of what a result was measured on: models are compared where they are equal."""

LOWER_IS_BETTER = tuple(key for key in COLUMNS if not GREATER_IS_BETTER[key])

CEILINGS = {"ceiling text": "ceiling_text/", "ceiling image": "ceiling_image/", "ceiling both": "ceiling/"}

TRUTHS = {"labels": "crowd labels", "soft_labels": "shares of the votes"}
PSEUDO_TRUTHS = ("emotions", "emotion_scores")
PSEUDO_NOTE = "Measured on pseudo-labels: agreement with the labelling model, not with people."

FEW_NOTE = "Few images, or few groups of them: their intervals are too narrow."
AS_HUMAN_NOTE = (
    "One annotator scored against the others' answers / the model on the same answers, naming as many emotions."
)

SIGNS = {PSEUDO_NOTE: "†", FEW_NOTE: "‡", AS_HUMAN_NOTE: "§"}

TERMINAL_SIGNS = str.maketrans("†‡§–", "^~$-")  # not every terminal can print the page's own


def results_rows(runs: Runs) -> list[dict[str, Any]]:
    """The results table as data: for each setting (split, truth, number of examples) prior, models and ceilings.

    Models are compared only within a setting. References that differ between its runs, such as priors fitted on more
    or fewer examples, are listed once each, with the runs they belong to. Captioners, whose figures are of another
    kind, have no row.

    Args:
        runs: name to folder of a finished run, or to several that differ by their seed: their means are shown.

    Returns:
        Dicts of `name`, `kind` ("prior", "model", "human" or "ceiling"), `split`, `truth`, `num_examples`, `notes`
        (what to bear in mind), one float or None for each of `COLUMNS`, `beside`, a second float for some of
        them (the model scored as one annotator is), `spread`, what is known of each column's uncertainty as text (95 %
        interval over images, or standard deviation over seeds), and `best`, the columns in which this model is the
        best of several.

    Raises:
        FileNotFoundError: a run without metrics.json.
        ValueError: no runs, or a metrics.json that is no JSON object.
    """
    if not runs:
        raise ValueError("There are no runs to report; give a name and a finished run's folder for each.")
    settings = {}
    for name in runs:
        if is_captioner(result := read_metrics(name, runs)):
            continue
        settings.setdefault(tuple(map(result.get, SETTING)), {})[name] = result
    rows = []
    for values, group in settings.items():
        setting = dict(zip(SETTING, values, strict=True))
        is_pseudo = setting["truth"] in PSEUDO_TRUTHS
        own = _reference_rows("prior", "prior", "prior/", group) + _reference_rows("chance", "prior", "chance/", group)
        own += _with_best([_row(name, "model", "", result) for name, result in group.items()])
        own += [] if is_pseudo else _human_rows(group)
        for name, prefix in CEILINGS.items():
            # the people's own probabilities are no upper bound on the agreement with a labelling model
            own += [] if is_pseudo else _reference_rows(name, "ceiling", prefix, group)
        shared = [PSEUDO_NOTE] * is_pseudo + [FEW_NOTE] * any(result.is_few for result in group.values())
        rows += [{**row, **setting, "notes": [*shared, *row.get("notes", [])]} for row in own]
    return rows


def is_captioner(result: Mapping[str, Any]) -> bool:
    """Whether these are a captioner's: of its training, or of its wishes as `evaluate_captioner` measures them."""
    return "judge" in result or "loss_without_wish" in result


def folders_of(runs: Runs, name: str) -> list[Path]:
    own = runs[name]
    return [Path(own)] if isinstance(own, (str, Path)) else [Path(folder) for folder in own]


def read_metrics(name: str, runs: Runs) -> Result:
    """A run's figures; of several seeds their means, with `KEY_sd` and `num_seeds` and without intervals.

    Raises:
        ValueError: seeds that were measured on different rows.
    """
    several = [Result.read(folder) for folder in folders_of(runs, name)]
    if len(several) == 1:
        return several[0]
    for key in SETTING:
        if len({own.get(key) for own in several}) > 1:
            raise ValueError(f"The runs of '{name}' differ in {key}: {[own.get(key) for own in several]}.")
    merged = {key: value for key, value in several[0].items() if not key.endswith(("_low", "_high"))}
    for key, value in list(merged.items()):
        values = [number for own in several if (number := own.figure(key)) is not None]
        if isinstance(value, float) and len(values) == len(several):
            merged |= {key: fmean(values), f"{key}_sd": stdev(values)}
    return Result(merged | {"num_seeds": len(several)})


def interval_text(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{value_text(bounds[0])} to {value_text(bounds[1])}"


def format_table(rows: list[dict[str, Any]]) -> str:
    """Plain text table of `results_rows` for a terminal; `*` marks the best model of several."""
    header = ["", *(f"{key} " for key in COLUMNS)]
    lines = {id(row): [name_text(row), *_marked_values(row, "{}*", "{} ")] for row in rows}
    widths = [max(len(cells[column]) for cells in [header, *lines.values()]) for column in range(len(header))]

    def aligned(cells: Sequence[str]) -> str:
        name, *values = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return " ".join([cells[0].ljust(len(name)), *values]).rstrip()

    blocks = [
        "\n".join([setting_text(group[0]), aligned(header), *(aligned(lines[id(row)]) for row in group)])
        for group in groups(rows)
    ]
    remarks = [f"{sign} {note}" for note, sign in notes(rows).items()]
    if any(row["best"] for row in rows):
        remarks.insert(0, f"* best model; lower is better for {', '.join(LOWER_IS_BETTER)}")
    return "\n\n".join([*blocks, *filter(None, ["\n".join(remarks)])]).translate(TERMINAL_SIGNS)


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
    write_text(path, f"{before}{opening}\n{table}\n{closing}{after}")


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Markdown tables of `results_rows`, one for each setting; the best model of several is in bold."""
    blocks = []
    for group in groups(rows):
        cells = [[_escape_markdown(name_text(row)), *_marked_values(row, "**{}**", "{}")] for row in group]
        columns = {"model": "---", **dict.fromkeys(COLUMNS, "--:")}
        blocks.append(f"{_escape_markdown(setting_text(group[0]))}:\n\n{markdown_lines(columns, cells)}")
    return "\n\n".join([*blocks, *(f"{sign} {note}" for note, sign in notes(rows).items())])


def markdown_lines(columns: Mapping[str, str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table of cells that are escaped already; `columns` are names and rules, `---` or `--:`."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (columns, *rows))
    return "\n".join([first, f"|{'|'.join(columns.values())}|", *others])


def _row(name: str, kind: str, prefix: str, result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "kind": kind, **{key: result.figure(prefix + key) for key in COLUMNS}}
    row |= {"beside": {}, "best": []}
    if kind == "model" and "num_seeds" in result:
        row["name"] = f"{name} ({result['num_seeds']} seeds)"
    row["spread"] = {key: interval_text(result.interval(prefix + key)) for key in COLUMNS}
    for key in COLUMNS:
        if kind == "model" and (deviation := result.figure(f"{key}_sd")) is not None:
            row["spread"][key] = f"± {value_text(deviation)}"
    return row


def _reference_rows(name: str, kind: str, prefix: str, group: dict[str, Result]) -> list[dict[str, Any]]:
    """One row for each set of values that the runs of a group show; none where nothing is known."""
    variants = {}
    for run, result in group.items():
        row = _row(name, kind, prefix, result)
        if any(row[key] is not None for key in COLUMNS):
            variants.setdefault(tuple(value_text(row[key]) for key in COLUMNS), (row, []))[1].append(run)
    if len(variants) == 1:
        return [row for row, _ in variants.values()]
    return [{**row, "name": f"{name} ({', '.join(names)})"} for row, names in variants.values()]


def _human_rows(group: dict[str, Result]) -> list[dict[str, Any]]:
    """One annotator, and in the same row each model scored on the same answers."""
    rows = []
    for name, result in group.items():
        row = _row(f"one annotator / {name}", "human", "human/", result)
        row["beside"] = {key: result.figure(f"as_human/{key}") for key in COLUMNS if row[key] is not None}
        rows += [row | {"notes": [AS_HUMAN_NOTE]}] if row["beside"] else []
    return rows


def cell_text(row: dict[str, Any], key: str) -> str:
    """A figure, and the one beside it."""
    other = row["beside"].get(key)
    return value_text(row[key]) if other is None else f"{value_text(row[key])} / {value_text(other)}"


def _with_best(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Names each model's best columns, where there are models to compare; equal figures are equally good."""
    for key in COLUMNS if len(models) > 1 else ():
        shown = {index: float(value_text(row[key])) for index, row in enumerate(models) if row[key] is not None}
        best = (min if key in LOWER_IS_BETTER else max)(shown.values(), default=None)
        for index, value in shown.items():
            models[index]["best"] += [key] * (value == best)
    return models


def groups(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups = {}
    for row in rows:
        groups.setdefault(tuple(map(row.get, SETTING)), []).append(row)
    return list(groups.values())


def notes(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What to bear in mind, and the sign of each remark."""
    return {note: SIGNS[note] for note in dict.fromkeys(note for row in rows for note in row["notes"])}


def setting_text(row: dict[str, Any]) -> str:
    split, truth, number = row["split"], row["truth"], row["num_examples"]
    examples = "an unknown number of" if number is None else f"{number:,}"
    known = "pseudo-labels" if truth in PSEUDO_TRUTHS else TRUTHS.get(truth, f"truth: {truth or 'unknown'}")
    return f"{split or 'unknown'} split, {examples} examples, {known}"


def name_text(row: dict[str, Any]) -> str:
    return " ".join([str(row["name"]), *(SIGNS[note] for note in row["notes"])])


def value_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def around(interval: dict[str, Any]) -> str:
    """Half the width of a symmetric interval, with its sign; nothing where there is none."""
    return "" if interval["low"] is None else f" ± {interval['high'] - interval['mean']:.3f}"


def _marked_values(row: dict[str, Any], best: str, other: str) -> list[str]:
    return [(best if key in row["best"] else other).format(cell_text(row, key)) for key in COLUMNS]


def _escape_markdown(text: str) -> str:
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in r"\|*_`[]" else letter for letter in text)
