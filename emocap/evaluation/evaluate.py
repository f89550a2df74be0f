"""What an evaluation makes of a model's probabilities, on a table or of one pair."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from datasets import DatasetDict
from transformers import PreTrainedConfig, pipeline

from emocap.data.pairs import PairDataset, label_matrix
from emocap.data.schema import label_names
from emocap.data.storage import load_table, write_json
from emocap.data.truth import Truth, read_truth
from emocap.evaluation.baselines import check_scikit_learn
from emocap.evaluation.calibration import fit_decisions, fit_thresholds
from emocap.evaluation.controls import body_of_run, measure_controls
from emocap.evaluation.details import describe, human_metrics
from emocap.evaluation.scoring import (
    Committee,
    check_features,
    check_labels,
    load_config,
    load_model,
    predict_logits,
    prepare_table,
)
from emocap.metrics import (
    VOTE_KEYS,
    Bootstrap,
    break_ties,
    compute_metrics,
    compute_with_prior,
    intervals,
    prior_probabilities,
    resampled_metrics,
)
from emocap.records import Result, write_metrics

__all__ = ["calibrate", "evaluate", "measure", "predict"]

CEILINGS = {"ceiling/": "", "ceiling_text/": "_text", "ceiling_image/": "_image"}
"""Prefixes of the metrics of exact posteriors, and how the columns of what they know end."""

NO_CEILING = ("ece", "num_examples")
"""An exact posterior is not the one of least calibration error on a sample."""


def evaluate(
    model: str | os.PathLike | Sequence[str | os.PathLike],
    tables: DatasetDict | str | os.PathLike,
    split: str = "test",
    *,
    label_column: str = "labels",
    batch_size: int = 64,
    modalities: str | None = None,
    num_resamples: int = 1000,
    output: str | Path | None = None,
    controls: bool = False,
    encoder: str | None = None,
) -> Result:
    """Every metric of a model on one split; labels and features are checked before the model is loaded.

    Args:
        model: folder or Hub id of a teacher or student, or the result that it came with; of several, the committee is
            measured, see `Committee`. Its thresholds are the mean of its members', and `model_disagreement` is the
            standard deviation of their probabilities, mean over rows and emotions.
        tables: a table with labels and a split `train`, or its folder or Hub id.
        split: the one measured.
        label_column: the truth.
        batch_size: pairs a step.
        modalities: what the model sees; by default what it was trained to read.
        num_resamples: bootstrap draws behind the intervals; 0: none.
        output: where the metrics are written as JSON, and beside them what the report draws, see `details_path`.
        controls: measure those of `measure_controls` too, of a single model.
        encoder: the frozen encoder among them; by default the body that the run started from.
    """
    names = model_names(model)
    if controls:
        if len(names) > 1:
            raise ValueError("--controls are measured of a single model; leave them out, or give one model.")
        check_scikit_learn()
    tables = tables if isinstance(tables, DatasetDict) else load_table(tables)
    if split not in tables or "train" not in tables:
        missing = split if split not in tables else "train"
        raise ValueError(
            f"The data set has no split '{missing}' (splits: {', '.join(tables)}); the prior needs 'train'."
        )
    committee = Committee(names)
    committee.check(tables[split], label_names(tables))
    thresholds = committee.config.thresholds
    truth, taught = read_truth(tables[split], label_column), label_matrix(tables["train"], label_column)
    for name, labels in ((split, truth.labels), ("train", taught)):
        if not len(labels):
            raise ValueError(f"The {name} split is empty; add rows or choose another split.")
    committee = committee.load()
    scores = committee.score(committee.prepare(tables[split]), batch_size, modalities)
    probabilities = scores.of_rows
    prior = prior_probabilities(taught)
    metrics = measure(probabilities, tables[split], truth, prior, thresholds, num_resamples)
    metrics |= {"split": split, "truth": label_column, "truncated_captions": scores.truncated_captions}
    if scores.disagreement is not None:
        metrics |= {"models": ", ".join(names), "model_disagreement": float(scores.disagreement.mean())}
        metrics |= {} if thresholds is None else {"decisions": "the members' mean"}
    if controls:
        metrics |= measure_controls(
            *committee.members[0],
            tables,
            split,
            probabilities,
            label_column,
            encoder=encoder or body_of_run(names[0]),
            batch_size=batch_size,
            num_resamples=num_resamples or 1000,
        )
    if output is not None:
        write_metrics(output, metrics, describe(probabilities, tables[split], truth.labels, thresholds))
    return Result(metrics, names[0] if len(names) == 1 else None)


def model_names(model: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """Folders and Hub ids of one model or of several."""
    return [os.fspath(model)] if isinstance(model, (str, os.PathLike)) else [os.fspath(own) for own in model]


def measure(
    probabilities: np.ndarray,
    table: datasets.Dataset,
    truth: Truth,
    prior: np.ndarray,
    thresholds: Sequence[float] | None = None,
    num_resamples: int = 1000,
) -> dict[str, float | str | None]:
    """Every metric of one split beside its prior, its interval and, where they are known, its ceilings and people.

    Args:
        probabilities: float `(rows, L)` for the rows of `table`.
        table: the split.
        truth: what `read_truth` read of it.
        prior: float `(L,)`, the constant answer, from the training split.
        thresholds: from which each emotion counts as predicted; 0.5 by default. Where they are given, the prior
            decides at its own best, and a ceiling at the best for these very rows, being an upper bound.
        num_resamples: bootstrap draws, of images or of their groups, behind the 95 % intervals `KEY_low` and
            `KEY_high`; 0: no intervals.

    Returns:
        The contract's keys, plain and under `prior/`, and `chance/map_macro`; `ceiling/`, `ceiling_text/`,
        `ceiling_image/` where the process is known; `human/` and `as_human/` where votes are, see `human_metrics`;
        `num_groups` where rows have a `group`; and `decisions`, "fitted" or "0.5". Against votes, probabilities of a
        label among several reactions count as one reaction's, see `one_reaction`.
    """
    labels, votes, asked, groups = truth
    metrics = compute_with_prior(probabilities, labels, prior, votes, thresholds, asked)
    if num_resamples:
        draws = Bootstrap(num_resamples, groups=groups)
        drawn = resampled_metrics(probabilities, labels, votes, thresholds, asked, bootstrap=draws)
        metrics |= intervals(drawn, metrics)
    for prefix, known in CEILINGS.items():
        if f"bayes_probabilities{known}" in table.features:
            best = ceiling_metrics(table, known, truth, decides=thresholds is not None)
            metrics |= {f"{prefix}{key}": value for key, value in best.items() if key not in NO_CEILING}
    if votes is not None and "num_annotators" in table.features:
        metrics |= human_metrics(votes, np.asarray(table.with_format("numpy")["num_annotators"][:]), probabilities)
    if groups is not None:
        metrics["num_groups"] = truth.num_units
    measured = {key: None if value != value else value for key, value in metrics.items()}  # JSON knows no NaN
    return measured | {"decisions": "0.5" if thresholds is None else "fitted"}


def ceiling_metrics(table: datasets.Dataset, known: str, truth: Truth, decides: bool) -> dict[str, float]:
    """Metrics of the process's own probabilities: of a label among all reactions, and, against votes, of one's."""
    best = break_ties(label_matrix(table, f"bayes_probabilities{known}"))
    cut = fit_thresholds(best, truth.labels) if decides else None
    metrics = compute_metrics(best, truth.labels, thresholds=cut)
    if truth.votes is not None and f"bayes_shares{known}" in table.features:
        shares = compute_metrics(label_matrix(table, f"bayes_shares{known}"), truth.labels, truth.votes)
        metrics |= {key: shares[key] for key in VOTE_KEYS}
    return metrics


def calibrate(
    folder: str, tables: DatasetDict, split: str = "validation", *, label_column: str = "labels", batch_size: int = 64
) -> PreTrainedConfig:
    """Fits temperature and thresholds of a saved model on one split and writes them into its config.json.

    Raises:
        FileNotFoundError: `folder` is no local checkpoint.
        ValueError: the split is missing, or labels or features do not fit the model.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"There is no checkpoint in '{folder}'; give a local folder: its config.json changes.")
    if split not in tables:
        raise ValueError(f"The data set has no split '{split}' (splits: {', '.join(tables)}).")
    config = load_config(folder)
    check_labels(config, label_names(tables), folder)
    check_features(config, tables[split], folder)
    labels = label_matrix(tables[split], label_column)
    model, processor = load_model(folder)
    pairs = PairDataset(prepare_table(tables[split], processor), processor, modalities=config.modalities or "both")
    fit_decisions(config, pairs, predict_logits(model, pairs, batch_size), labels)
    # the file itself is edited, so that nothing else in it changes
    content = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    content |= {"temperature": config.temperature, "thresholds": config.thresholds}
    write_json(Path(folder) / "config.json", content)
    return config


def predict(
    model_name_or_path: str | Sequence[str],
    caption: str | None = None,
    image: str | None = None,
    *,
    top_k: int | None = None,
    explain: bool | str = False,
) -> list[dict]:
    """The emotions of one pair by the pipeline, most probable first, with four digits.

    Args:
        model_name_or_path: folder or Hub id of a teacher or student, or several that answer together.
        caption: the caption.
        image: path or http(s) URL of the picture.
        top_k: rows; None: every emotion.
        explain: see [`EmotionRecognitionPipeline`].

    Raises:
        ValueError: what a model was trained to read is missing, it has no such emotion to explain, or there are
            several to explain.
    """
    names = model_names(model_name_or_path)
    committee = Committee(names)
    emotions = list(committee.config.id2label.values())
    if explain and len(names) > 1:
        raise ValueError("--explain goes with a single model: each reads words and regions of its own.")
    if isinstance(explain, str) and explain not in emotions:
        raise ValueError(f"'{names[0]}' has no emotion '{explain}', only {', '.join(emotions)}.")
    for name, config in zip(names, committee.configs, strict=True):
        modalities = config.modalities
        if (modalities == "text" and not caption) or (modalities == "image" and not image):
            raise ValueError(f"'{name}' was trained on {modalities} alone; give it that.")
    pipe = pipeline("emotion-recognition", model=names[0], committee=names[1:])
    rows = pipe({"image": image or None, "text": caption}, top_k=top_k, explain=explain)
    rounded = ("score", "disagreement")
    return [row | {key: round(row[key], 4) for key in rounded if key in row} for row in rows]
