"""Table, figure and JSON of a label study, from its runs' files alone."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emocap.data.storage import write_json, write_text
from emocap.data.truth import Truth, read_truth
from emocap.metrics import intervals, resampled_metrics, t_interval
from emocap.report.figures import gain_figure
from emocap.report.render import render_page
from emocap.report.tables import update_block
from emocap.studies.label_study import LabelRun, LabelStudy, label_agreement

__all__ = ["format_study", "summarize_study", "write_study"]

NUM_RESAMPLES = 1000


def write_study(study: LabelStudy) -> dict[str, object]:
    """Writes `label_study.json` and `report.html` into the study's folder, and the README's block where one is named;
    returns the summary."""
    summary = summarize_study(study)
    write_json(study.output_dir / "label_study.json", summary)
    page = render_page(
        "label_study.html.j2",
        {"gain": gain_figure(summary["arms"])},
        title="What the pseudo-labels are worth",
        summary=summary,
        arms=[[*(cells := arm_cells(arm))[:3], arm["seeds"], *cells[3:]] for arm in summary["arms"]],
    )
    write_text(study.output_dir / "report.html", page)
    if study.arguments.readme:
        update_block(Path(study.arguments.readme), study.arguments.block, format_study(summary))
    return summary


def summarize_study(study: LabelStudy) -> dict[str, object]:
    """Every arm's metric and its gain over `scratch`, over the seeds that both have finished.

    Returns:
        `metric`, `num_target`, `prior` (the constant predictor's metric, where it is `map_macro` the mean prevalence),
        `agreement` where the true process is known, and `arms`: `selection`, `targets`, `images_per_label`, `images`
        (mean over seeds), `seeds`, `mean`, `sd`, `before` (the metric before any fine-tuning), `gain`, `gain_low` and
        `gain_high` (95 % by Student's t over the seeds' paired gains; None for one seed), `images_low` and
        `images_high` (95 % by bootstrap over the test images of the mean gain).
    """
    metric = study.arguments.metric
    finished = {
        run: json.loads(study.path(run).read_text("utf-8")) for run in study.runs() if study.path(run).is_file()
    }
    truth = read_truth(study.target["test"])
    labels = truth.labels
    resamples = {run: resampled(study, run, truth, metric) for run in finished}
    scratch = {run.seed: run for run in finished if run.selection == "scratch"}
    arms = {}
    for run in finished:
        arms.setdefault(run[:3], []).append(run)
    rows = []
    for (selection, targets, number), runs in arms.items():
        values = np.array([finished[run]["metrics"][metric] for run in runs])
        row = {
            "selection": selection,
            "targets": targets,
            "images_per_label": number,
            "images": float(np.mean([finished[run]["images"] for run in runs])),
            "seeds": len(runs),
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        }
        if selection != "scratch":
            row["before"] = float(np.mean([finished[run]["metrics_before"][metric] for run in runs]))
            row |= gains(runs, scratch, finished, resamples, metric)
        rows.append(row)
    known = "bayes_probabilities" in study.source.features
    return {
        "metric": metric,
        "num_target": study.arguments.num_target,
        "test_images": len(labels),
        "prior": float(labels.mean(axis=0)[labels.any(axis=0)].mean()) if metric == "map_macro" else None,
        "agreement": label_agreement(study.source) if known else None,
        "arms": rows,
    }


def resampled(study: LabelStudy, run: LabelRun, truth: Truth, metric: str) -> np.ndarray:
    probabilities = np.load(study.path(run).with_suffix(".npy"), allow_pickle=False)
    how = {"groups": truth.groups, "num_resamples": NUM_RESAMPLES, "keys": (metric,)}
    return resampled_metrics(probabilities, truth.labels, **how)[metric]


def gains(
    runs: Sequence[LabelRun],
    scratch: dict[int, LabelRun],
    finished: dict[LabelRun, dict],
    resamples: dict[LabelRun, np.ndarray],
    metric: str,
) -> dict[str, float | None]:
    """Paired gains of one arm over the students from scratch."""
    pairs = [(run, scratch[run.seed]) for run in runs if run.seed in scratch]
    if not pairs:
        return dict.fromkeys(("gain", "gain_low", "gain_high", "images_low", "images_high"))
    own = np.array([finished[run]["metrics"][metric] - finished[base]["metrics"][metric] for run, base in pairs])
    bounds = intervals({"images": np.mean([resamples[run] - resamples[base] for run, base in pairs], axis=0)})
    gain, gain_low, gain_high = t_interval(own)
    return {
        "gain": gain,
        "gain_low": gain_low,
        "gain_high": gain_high,
        **bounds,
    }


def format_study(summary: dict[str, object]) -> str:
    """The arms as a markdown table, above it what the figures are."""
    seeds = max(arm["seeds"] for arm in summary["arms"])
    lines = [
        f"{summary['metric']} on {summary['test_images']:,} test images (crowd labels) after "
        f"{summary['num_target']:,} training rows, {seeds} seeds, 95 % intervals of the gain"
        + ("" if summary["prior"] is None else f"; the prior has {summary['prior']:.3f}")
        + ":",
        "",
        f"| pseudo-labels | P | images | {summary['metric']} | before fine-tuning | gain | over seeds | over images |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [f"| {' | '.join(arm_cells(arm))} |" for arm in summary["arms"]]
    return "\n".join(lines)


def arm_cells(arm: dict[str, object]) -> list[str]:
    return [
        arm_name(arm),
        "–" if arm["images_per_label"] is None else f"{arm['images_per_label']:,}",
        f"{arm['images']:,.0f}",
        f"{arm['mean']:.3f}" + ("" if arm["sd"] is None else f" ± {arm['sd']:.3f}"),
        figure(arm.get("before")),
        figure(arm.get("gain"), "+.3f"),
        interval(arm.get("gain_low"), arm.get("gain_high")),
        interval(arm.get("images_low"), arm.get("images_high")),
    ]


def arm_name(arm: dict[str, object]) -> str:
    return "none (scratch)" if arm["selection"] == "scratch" else f"{arm['selection']}, {arm['targets']}"


def figure(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def interval(low: float | None, high: float | None) -> str:
    return "–" if low is None else f"{low:+.3f} to {high:+.3f}"
