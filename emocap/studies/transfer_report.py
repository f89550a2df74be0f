"""The transfer study's table and figure, from the files of its finished runs."""

from typing import Any, NamedTuple

import numpy as np

from emocap.data.storage import write_json
from emocap.metrics import compute_metrics, prior_probabilities, t_interval
from emocap.report.drawing import save_figure
from emocap.report.figures import STRATEGIES, transfer_figure
from emocap.report.render import render_page
from emocap.report.tables import around, markdown_lines
from emocap.studies.skeleton import paired_gain
from emocap.studies.transfer_study import OTHER, TransferStudy

__all__ = ["study_page", "study_rows", "study_table", "write_study"]

BASES = {
    "scratch": "over_scratch",
    "bnb+": "over_bnb_plus",
    "bnb+ matched": "over_bnb_plus_matched",
    "anb+": "over_anb_plus",
}
NUM_RESAMPLES = 500


def write_study(study: TransferStudy) -> list[dict[str, Any]]:
    """Writes study.json, study.md, figure.svg and report.html into the study's folder, and the README's block where
    one is named; returns the rows."""
    rows, metric = study_rows(study), study.arguments.metric
    write_json(study.output_dir / "study.json", {"metric": metric, "rows": rows})
    save_figure(transfer_figure(rows, metric), study.output_dir / "figure.svg")
    files = {"study.md": study_table(rows, metric) + "\n", "report.html": study_page(rows, metric)}
    study.write(files, study_table(shown(rows), metric))
    return rows


def study_rows(study: TransferStudy) -> list[dict[str, Any]]:
    """One dict for each direction, size, strategy and number of layers of the study's own runs.

    Each has `values`, the metric of every seed; `mean`, and `low` and `high`, its 95 % t interval over the seeds;
    `steps` that every seed took and `base_steps`, those of the network it started from (None: it started from none);
    `given_word_embeddings`, whether all networks have the same, frozen; `prior`, the constant answer's; and under the
    names in `BASES` (at the same number of layers) the gain over another strategy, a `PairedGain`. Over `anb+` only
    `anb` has one: what freezing costs.
    """
    groups, metric = {}, study.arguments.metric
    for run in (run for stage in study.stages() for run in stage if run.size is not None):
        groups.setdefault(run._replace(seed=0), []).append(run)
    read = {}
    for key, runs in groups.items():
        runs.sort(key=lambda run: run.seed)  # gains are taken seed by seed
        truth = study.part(key.side, "test").truth
        images = np.mean([study.resampled(run, truth, NUM_RESAMPLES) for run in runs], axis=0)
        read[key] = np.array([study.content(run)["metrics"][metric] for run in runs]), images
    priors = {side: prior_metric(study, side) for side in study.trained_sides()}
    rows = []
    for run, (values, images) in read.items():
        starts = [study.start_of(own) for own in groups[run]]
        row = {
            "direction": f"{OTHER[run.side]}_to_{run.side}",
            "size": run.size,
            "strategy": run.strategy,
            "num_layers": int(run.num_layers),
            "truth": study.sides[run.side].truth_column,
            "prior": priors[run.side],
            "values": values.tolist(),
            "steps": [study.steps_of(own) for own in groups[run]],
            "base_steps": [study.steps_of(own) for own in starts if own is not None] or None,
            "given_word_embeddings": study.arguments.freeze_word_embeddings,
            **dict(zip(("mean", "low", "high"), t_interval(values), strict=True)),
        }
        for base, name in BASES.items():
            other = run._replace(strategy=base, num_layers="0" if base == "scratch" else run.num_layers)
            if other in read and is_compared(run.strategy, base):
                base_values, base_images = read[other]
                row[name] = paired_gain(values - base_values, images - base_images)._asdict()
        rows.append(row)
    return rows


def is_compared(strategy: str, base: str) -> bool:
    """Whether a strategy's gain over a base is taken: each pair once."""
    if base == "anb+":
        return strategy == "anb"
    return strategy != base and (strategy, base) != ("bnb+", "bnb+ matched")


def prior_metric(study: TransferStudy, side: str) -> float:
    """The metric of the constant answer that all training rows give."""
    labels = study.part(side, "test").truth.labels
    constant = prior_probabilities(study.part(side, "train").truth.labels)
    return compute_metrics(np.broadcast_to(constant, labels.shape), labels)[study.arguments.metric]


def shown(rows: list[dict]) -> list[dict]:
    """The rows of a short table: one direction, scratch and, with all layers, what came from the source; gains over
    the other controls stand in its columns."""
    last = {row["strategy"]: row["num_layers"] for row in sorted(rows, key=lambda row: row["num_layers"])}
    return [
        row
        for row in rows
        if row["direction"] == rows[0]["direction"]
        and row["strategy"] in ("scratch", "anb", "anb+")
        and row["num_layers"] in (0, last[row["strategy"]])
    ]


def study_page(rows: list[dict[str, Any]], metric: str) -> str:
    """HTML of the study's rows: the figure, and a table for each direction."""
    figures = {"transfer": transfer_figure(rows, metric)}
    return render_page(
        "transfer_study.html.j2", figures, title="What the source passes on", tables=tables_of(rows, metric)
    )


def study_table(rows: list[dict[str, Any]], metric: str) -> str:
    """Markdown, one table a direction, gains in bold where both intervals are clear of 0."""
    blocks = []
    for own in tables_of(rows, metric):
        columns = {name: "---" if name == "strategy" else "--:" for name in own.columns}
        cells = [[f"**{text}**" if is_bold else text for text, is_bold in line] for line in own.cells]
        blocks.append(f"{own.head}\n\n{markdown_lines(columns, cells)}\n\n{own.counts}")
    return "\n\n".join(blocks)


class DirectionTable(NamedTuple):
    """One direction: what was measured; cells as text, and whether it is in bold; and how many gains are clear."""

    name: str
    head: str
    columns: list[str]
    cells: list[list[tuple[str, bool]]]
    counts: str


def tables_of(rows: list[dict[str, Any]], metric: str) -> list[DirectionTable]:
    """One table a direction: steps, mean and gains with their intervals, the test images' in brackets, in bold where
    both are clear of 0; under it how many gains are, and how many would be by chance."""
    tables = []
    columns = ["rows", "strategy", "layers", "steps", "mean", *(f"gain over {STRATEGIES[base]}" for base in BASES)]
    for direction in dict.fromkeys(row["direction"] for row in rows):
        own = [row for row in rows if row["direction"] == direction]
        first, _, second = direction.partition("_to_")
        truth = "pseudo-labels" if own[0]["truth"] == "emotions" else "crowd labels"
        words = "given to every network and frozen" if own[0]["given_word_embeddings"] else "each network's own"
        name = f"{first.capitalize()} to {second}"
        head = (
            f"{name}, {metric} on the test split ({truth}), {len(own[0]['values'])} seeds, "
            f"95 % intervals over seeds [over test images]; the prior has {own[0]['prior']:.3f}. Steps taken, mean "
            f"over the seeds: the network that it starts from + its own. Word embeddings: {words}."
        )
        own.sort(key=lambda row: (row["size"], list(STRATEGIES).index(row["strategy"]), row["num_layers"]))
        cells = []
        for row in own:
            texts = [f"{row['size']:,}", STRATEGIES[row["strategy"]], str(row["num_layers"] or "–"), steps_text(row)]
            texts.append(f"{row['mean']:.3f}{around(row)}")
            gains = [row.get(name) for name in BASES.values()]
            cells.append([(text, False) for text in texts] + [(gain_text(gain), is_clear(gain)) for gain in gains])
        tables.append(DirectionTable(name, head, columns, cells, counts_text(own)))
    return tables


def steps_text(row: dict) -> str:
    parts = [row["steps"]] if row["base_steps"] is None else [row["base_steps"], row["steps"]]
    return " + ".join(f"{np.mean(part):,.0f}" for part in parts)


def counts_text(rows: list[dict]) -> str:
    """How many of the rows' gains are in bold, and how many would be clear of 0 if no strategy were better."""
    gains = [row[name] for row in rows for name in BASES.values() if name in row]
    tested = [gain for gain in gains if None not in bounds_of(gain)]
    if not tested:
        return "No gain has an interval over seeds, so none can be bold."
    return (
        f"Bold, both intervals clear of 0: {sum(map(is_clear, tested))} of {len(tested)} gains. If nothing made a "
        f"difference, about {len(tested) / 20:.1f} of {len(tested)} intervals at 95 % would be clear of 0 by chance."
    )


def gain_text(gain: dict | None) -> str:
    if gain is None:
        return "–"
    return f"{gain['mean']:+.3f}{around(gain)} [{gain['low_images']:+.3f}, {gain['high_images']:+.3f}]"


def bounds_of(gain: dict) -> list[Any]:
    return [gain[name] for name in ("low", "high", "low_images", "high_images")]


def is_clear(gain: dict | None) -> bool:
    """Whether both intervals of a gain are known and clear of 0."""
    if gain is None:
        return False
    bounds = bounds_of(gain)
    return None not in bounds and (min(bounds) > 0 or max(bounds) < 0)
