"""Controls beside a model: what one modality, the wrong picture, counted words or coarser labels would do."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoConfig
from transformers.utils import logging

from emocap.data.pairs import PairDataset, label_matrix
from emocap.data.schema import label_names
from emocap.data.truth import read_truth
from emocap.evaluation.baselines import regression_baselines
from emocap.evaluation.calibration import fit_thresholds
from emocap.evaluation.scoring import predict_probabilities, prepare_table, score_table
from emocap.metrics import (
    GREATER_IS_BETTER,
    Bootstrap,
    compute_metrics,
    intervals,
    prior_probabilities,
    prior_threshold,
    resampled_metrics,
)
from emocap.models import EmocapProcessor
from emocap.records import GAIN_KEYS, recorded_arguments

__all__ = ["MERGED", "gains", "measure_controls", "merge_labels"]

MERGED = (("anger", "angry"), ("fear", "scared"), ("joy", "happy"))
"""Near-synonyms among the 29 emotions of Socratis; the first of each names the union."""

logger = logging.get_logger(__name__)


def measure_controls(
    model: torch.nn.Module,
    processor: EmocapProcessor,
    tables: DatasetDict,
    split: str,
    probabilities: np.ndarray,
    label_column: str = "labels",
    *,
    encoder: str | None = None,
    batch_size: int = 64,
    num_resamples: int = 1000,
) -> dict[str, float | None]:
    """Metrics of every control that applies, under its prefix (see `CONTROLS`).

    Single modalities and shuffles apply to a model that reads words and pictures; a row without the one modality gets
    the prior, and shuffling passes pictures round among the rows that have both. The regressions are fitted on the
    train split; their layers, penalties and thresholds go by the validation split, or a tenth of the train split.

    Args:
        model, processor: as `load_model` gives them.
        tables: with a train split.
        split: the one measured.
        probabilities: float `(rows, L)`, the model's own on `split`.
        label_column: the truth.
        encoder: body of the `encoder` control; None leaves it out.
        num_resamples: behind `KEY_low`, `KEY_high`, and `KEY_gain_low`, `KEY_gain_high` of `GAIN_KEYS`: by how much
            the model is ahead of the control (`KEY_gain`) on the same resamples.
    """
    table, train = tables[split], tables["train"]
    truth = read_truth(table, label_column)
    thresholds = model.config.thresholds
    prior = prior_probabilities(label_matrix(train, label_column))
    found: dict[str, tuple[np.ndarray, Any]] = {}
    pairs = PairDataset(prepare_table(table, processor), processor, modalities=model.config.modalities or "both")
    if pairs.reads_photos and (model.config.modalities or "both") == "both":
        for modality, has_it in (("text", has_captions(table)), ("image", pairs.photo_counts > 0)):
            scores = np.tile(prior, (len(table), 1))
            rows = np.flatnonzero(has_it)
            scores[rows] = score_table(model, processor, table.select(rows), batch_size, modality)
            found[f"{modality}_only"] = scores, thresholds
        partner = partners(np.flatnonzero(has_captions(table) & (pairs.photo_counts > 0)), len(table))
        pairs.row_of_pair = partner[pairs.row_of_pair]  # pictures follow the partner, captions stay
        shuffled = pairs.mean_over_captions(predict_probabilities(model, pairs, batch_size))
        found["shuffled_images"] = shuffled, thresholds
        by_picture = np.empty_like(shuffled)
        by_picture[partner] = shuffled
        found["shuffled_captions"] = by_picture, thresholds
    validation = tables.get("validation")
    found |= regression_baselines(train, validation, table, encoder, label_column, photos=pairs.reads_photos)
    draws: dict[str, Any] = {"bootstrap": Bootstrap(num_resamples, groups=truth.groups), "keys": GAIN_KEYS}
    own = compute_metrics(probabilities, truth.labels), resampled_metrics(probabilities, truth.labels, **draws)
    metrics = {}
    for name, (scores, cut) in found.items():
        control = compute_metrics(scores, truth.labels, truth.votes, cut, truth.num_annotators)
        drawn = resampled_metrics(scores, truth.labels, **draws)
        metrics |= with_prefix(name, control | intervals(drawn, control) | gains(*own, control, drawn))
    merged = merged_taxonomy(model, processor, tables, split, probabilities, label_column, batch_size)
    for name, (scores, labels, cut) in merged.items():
        control = compute_metrics(scores, labels, thresholds=cut)
        metrics |= with_prefix(name, control | intervals(resampled_metrics(scores, labels, **draws), control))
    return {key: None if value != value else value for key, value in metrics.items()}


def gains(
    own: dict[str, float],
    drawn: dict[str, np.ndarray],
    control: dict[str, float],
    control_drawn: dict[str, np.ndarray],
) -> dict[str, float]:
    """By how much a model is ahead of a control in each of `GAIN_KEYS`, with paired intervals over one set of
    resamples."""
    found = {}
    for key in GAIN_KEYS:
        better, other = (own, control) if GREATER_IS_BETTER[key] else (control, own)
        found[f"{key}_gain"] = better[key] - other[key]
        ahead, behind = (drawn, control_drawn) if GREATER_IS_BETTER[key] else (control_drawn, drawn)
        found |= intervals({f"{key}_gain": ahead[key] - behind[key]}, found)
    return found


def with_prefix(name: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{name}/{key}": value for key, value in metrics.items() if key != "num_examples"}


def has_captions(table: Dataset) -> np.ndarray:
    return np.array([len(own) > 0 for own in table["captions"][:]])


def partners(rows: np.ndarray, num_rows: int, seed: int = 0) -> np.ndarray:
    """Another row for each of `rows`, each taken once and none its own; the others keep themselves."""
    order = np.random.default_rng(seed).permutation(rows)
    partner = np.arange(num_rows)
    partner[order] = np.roll(order, 1)
    return partner


def merge_labels(values: np.ndarray, names: list[str], *, are_probabilities: bool) -> tuple[np.ndarray, list[str]]:
    """Near-synonyms as one emotion, see `MERGED`; the others as they are.

    A union is true where either is. Its probability is 1 - (1 - p)(1 - q): the model's emotions are independent given
    what it reads, that is what its loss assumes, so this is its own answer; the larger of the two would take them for
    the same event. Values are float `(N, L)`, of L names; what comes is `(N, M)` and M names, unchanged where no pair
    is complete.
    """
    kept, columns = list(names), {name: values[:, index] for index, name in enumerate(names)}
    for first, second in MERGED:
        if first in columns and second in columns:
            a, b = columns[first], columns.pop(second)
            columns[first] = 1 - (1 - a) * (1 - b) if are_probabilities else np.maximum(a, b)
            kept.remove(second)
    return np.stack([columns[name] for name in kept], axis=1), kept


def merged_taxonomy(
    model, processor, tables, split, probabilities, label_column, batch_size
) -> dict[str, tuple[np.ndarray, np.ndarray, Any]]:
    """Probabilities, truth and thresholds of model and prior, synonyms merged; empty where nothing merges."""
    names = label_names(tables)
    labels = {name: label_matrix(tables[name], label_column) for name in {"train", "validation", split} & {*tables}}
    truth = {name: merge_labels(own, names, are_probabilities=False)[0] for name, own in labels.items()}
    if truth[split].shape[1] == len(names):
        return {}
    prior = prior_probabilities(truth["train"])
    cut = prior_cut = None
    if model.config.thresholds is not None and "validation" in truth:
        on_validation = score_table(model, processor, tables["validation"], batch_size)
        cut = fit_thresholds(merge_labels(on_validation, names, are_probabilities=True)[0], truth["validation"])
        prior_cut = prior_threshold(prior)
    own = merge_labels(probabilities, names, are_probabilities=True)[0]
    return {
        "merged": (own, truth[split], cut),
        "merged_prior": (np.tile(prior, (len(own), 1)), truth[split], prior_cut),
    }


def body_of_run(run: str) -> str | None:
    """The checkpoint that a finished run, a folder or Hub id, started from, as its run_arguments.json says; None, with
    a warning, where nobody says so or it is not at hand."""
    arguments = recorded_arguments(run)
    if arguments is None:
        logger.warning(f"'{run}' has no run_arguments.json that names its body: give --encoder for that control.")
        return None
    body = arguments.get("model_name_or_path") or arguments.get("word_embeddings")
    try:
        if body is not None:
            AutoConfig.from_pretrained(body)
            return body
    except (OSError, ValueError):  # no such folder any more, nor such a Hub id
        pass
    logger.warning(f"The body that '{run}' started from is not at hand: give --encoder for that control.")
    return None
