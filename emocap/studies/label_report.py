"""Table, figure and JSON of a label study, from its runs' files alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from emocap.data.storage import write_json
from emocap.data.truth import read_truth
from emocap.report.figures import gain_figure
from emocap.report.render import render_page
from emocap.report.tables import markdown_lines, value_text
from emocap.studies.label_study import LabelRun, LabelStudy, label_agreement
from emocap.studies.skeleton import paired_gain

__all__ = ["format_study", "study_page", "summarize_study", "write_study"]

NUM_RESAMPLES = 1000


def write_study(study: LabelStudy) -> dict[str, Any]:
    """Writes `label_study.json` and `report.html` into the study's folder, and the README's block where one is named;
    returns the summary."""
    summary = summarize_study(study)
    write_json(study.output_dir / "label_study.json", summary)
    study.write({"report.html": study_page(summary)}, format_study(summary))
    return summary


def study_page(summary: dict[str, Any]) -> str:
    """HTML of what `summarize_study` returned."""
    return render_page(
        "label_study.html.j2",
        {"gain": gain_figure(summary["arms"])},
        title="What the pseudo-labels are worth",
        summary=summary,
        arms=[[*(cells := arm_cells(arm))[:3], arm["seeds"], *cells[3:]] for arm in summary["arms"]],
    )


def summarize_study(study: LabelStudy) -> dict[str, Any]:
    """Every arm's metric and its gain over `scratch`, over the seeds that both have finished.

    Returns:
        `metric`, `num_target`, `prior` (the constant predictor's metric, where it is `map_macro` the mean prevalence),
        `agreement` where the true process is known, and `arms`: `selection`, `targets`, `images_per_label`, `images`
        (mean over seeds), `seeds`, `mean`, `sd`, `before` (the metric before any fine-tuning), `gain`, `gain_low` and
        `gain_high` (95 % by Student's t over the seeds' paired gains; None for one seed), `images_low` and
        `images_high` (95 % by bootstrap over the test images of the mean gain).
    """
    metric = study.arguments.metric
    finished = {run: study.content(run) for runs in study.stages() for run in runs if study.is_finished(run)}
    truth = read_truth(study.target["test"])
    resamples = {run: study.resampled(run, truth, NUM_RESAMPLES) for run in finished}
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
            row |= gain_over(scratch, runs, finished, resamples, metric)
        rows.append(row)
    known, prevalence = "bayes_probabilities" in study.source.features, truth.labels.mean(axis=0)
    return {
        "metric": metric,
        "num_target": study.arguments.num_target,
        "test_images": len(truth.labels),
        "prior": float(prevalence[truth.labels.any(axis=0)].mean()) if metric == "map_macro" else None,
        "agreement": label_agreement(study.source) if known else None,
        "arms": rows,
    }


def gain_over(
    scratch: dict[int, LabelRun],
    runs: Sequence[LabelRun],
    finished: dict[LabelRun, dict],
    resamples: dict[LabelRun, np.ndarray],
    metric: str,
) -> dict[str, float | None]:
    """Paired gains of one arm over the students from scratch."""
    names = ("gain", "gain_low", "gain_high", "images_low", "images_high")
    pairs = [(run, scratch[run.seed]) for run in runs if run.seed in scratch]
    if not pairs:
        return dict.fromkeys(names)
    own = np.array([finished[run]["metrics"][metric] - finished[base]["metrics"][metric] for run, base in pairs])
    images = np.mean([resamples[run] - resamples[base] for run, base in pairs], axis=0)
    return dict(zip(names, paired_gain(own, images), strict=True))


def format_study(summary: dict[str, Any]) -> str:
    """The arms as a markdown table, above it what the figures are."""
    seeds = max(arm["seeds"] for arm in summary["arms"])
    prior = "" if summary["prior"] is None else f"; the prior has {summary['prior']:.3f}"
    head = (
        f"{summary['metric']} on {summary['test_images']:,} test images (crowd labels) after "
        f"{summary['num_target']:,} training rows, {seeds} seeds, 95 % intervals of the gain{prior}:"
    )
    columns = ("P", "images", summary["metric"], "before fine-tuning", "gain", "over seeds", "over images")
    table = {"pseudo-labels": "---", **dict.fromkeys(columns, "--:")}
    return f"{head}\n\n{markdown_lines(table, map(arm_cells, summary['arms']))}"


def arm_cells(arm: dict[str, Any]) -> list[str]:
    return [
        "none (scratch)" if arm["selection"] == "scratch" else f"{arm['selection']}, {arm['targets']}",
        "–" if arm["images_per_label"] is None else f"{arm['images_per_label']:,}",
        f"{arm['images']:,.0f}",
        f"{arm['mean']:.3f}" + ("" if arm["sd"] is None else f" ± {arm['sd']:.3f}"),
        value_text(arm.get("before")),
        "–" if arm.get("gain") is None else f"{arm['gain']:+.3f}",
        interval(arm.get("gain_low"), arm.get("gain_high")),
        interval(arm.get("images_low"), arm.get("images_high")),
    ]


def interval(low: float | None, high: float | None) -> str:
    return "–" if low is None else f"{low:+.3f} to {high:+.3f}"
