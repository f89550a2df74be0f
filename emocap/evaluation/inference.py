"""Probabilities of every emotion for the rows of a table, and what an evaluation makes of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import DatasetDict
from datasets.utils.logging import tqdm
from transformers import AutoConfig, AutoModel, PreTrainedConfig, pipeline

from emocap.data.pairs import PairDataset, has_photos, label_matrix, with_pixels
from emocap.data.schema import NUM_REGIONS, label_names
from emocap.data.storage import write_json
from emocap.data.truth import Truth, read_truth
from emocap.evaluation.baselines import check_scikit_learn
from emocap.evaluation.calibration import fit_decisions, fit_thresholds, temper
from emocap.evaluation.details import describe, details_path, human_metrics
from emocap.metrics import (
    VOTE_KEYS,
    break_ties,
    compute_metrics,
    compute_with_prior,
    intervals,
    prior_probabilities,
    resampled_metrics,
)
from emocap.models import EmocapProcessor

__all__ = [
    "calibrate",
    "check_features",
    "check_labels",
    "evaluate",
    "evaluate_checkpoint",
    "load_config",
    "load_model",
    "predict",
    "predict_logits",
    "predict_probabilities",
    "prepare_table",
    "score_table",
    "write_metrics",
]

CEILINGS = {"ceiling/": "", "ceiling_text/": "_text", "ceiling_image/": "_image"}
"""Prefixes of the metrics of exact posteriors, and how the columns of what they know end."""

NO_CEILING = ("ece", "num_examples")
"""An exact posterior is not the one of least calibration error on a sample."""


def load_config(model: str) -> PreTrainedConfig:
    """Configuration of an emocap checkpoint.

    Raises:
        ValueError: the checkpoint is of another family.
    """
    config = AutoConfig.from_pretrained(model)
    if not config.model_type.startswith("emocap_"):
        raise ValueError(f"'{model}' is a '{config.model_type}' checkpoint; expected an emocap teacher or student.")
    return config


def load_model(model: str) -> tuple[torch.nn.Module, EmocapProcessor]:
    """A teacher or student in evaluation mode, on the GPU where there is one, and its processor."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoModel.from_pretrained(model).eval().to(device), EmocapProcessor.from_pretrained(model)


def check_labels(config: PreTrainedConfig, names: list[str], model: str) -> None:
    """Refuses a model whose emotions are not the table's, in the table's order.

    Raises:
        ValueError: names what differs.
    """
    known = [config.id2label[index] for index in range(config.num_labels)]
    if known == names:
        return
    if sorted(known) == sorted(names):
        first = next(index for index, (one, other) in enumerate(zip(known, names, strict=True)) if one != other)
        raise ValueError(
            f"'{model}' has the data set's {len(names)} emotions in another order (index {first} is '{known[first]}' "
            f"in the checkpoint, '{names[first]}' in the data set). Write the data set again with --labels, a JSON "
            "list in the checkpoint's order."
        )
    missing, unknown = sorted(set(names) - set(known)), sorted(set(known) - set(names))
    raise ValueError(
        f"'{model}' was trained on {len(known)} other emotions than the data set's {len(names)}: only in the data "
        f"set {missing[:5]}, only in the checkpoint {unknown[:5]}."
    )


def check_features(config: PreTrainedConfig, table: datasets.Dataset, model: str) -> None:
    """Refuses region features of another width than the teacher's.

    Raises:
        ValueError: names both widths.
    """
    reads_regions = config.model_type == "emocap_teacher" and config.modalities != "text"
    if reads_regions and "region_features" in table.features:
        dim = table.features["region_features"].length // NUM_REGIONS
        if dim != config.visual_embedding_dim:
            raise ValueError(
                f"The data set's region features are {dim}-d, but '{model}' reads {config.visual_embedding_dim}-d "
                "ones. Extract features with the model's own extractor, or train it again with "
                "--reinit_visual_projection."
            )


def prepare_table(table: datasets.Dataset, processor: EmocapProcessor) -> datasets.Dataset:
    """The table with the cached pixels that a student reads; a teacher reads region features that are there."""
    if processor.image_size is not None and has_photos(table):
        return with_pixels(table, processor.image_size)
    return table


def predict_probabilities(model: torch.nn.Module, pairs: PairDataset, batch_size: int = 64) -> np.ndarray:
    """Probabilities of every pair at the model's temperature, float64 `(pairs, L)`."""
    return temper(predict_logits(model, pairs, batch_size), model.config.temperature)


@torch.inference_mode()
def predict_logits(model: torch.nn.Module, pairs: PairDataset, batch_size: int = 64) -> np.ndarray:
    """Logits of every pair, float32 `(pairs, L)`; batches go by caption length, so little is padding."""
    order = np.argsort(np.diff(pairs.token_starts), kind="stable")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be 1 or more pairs a step.")
    # what is never written stays NaN, which every metric refuses
    all_logits = np.full((len(pairs), model.config.num_labels), np.nan, dtype=np.float32)
    for start in tqdm(range(0, len(order), batch_size), desc="Scoring", unit="batch", leave=False):
        chosen = order[start : start + batch_size]
        batch = pairs.__getitems__(chosen)
        batch.pop("labels", None)
        logits = model(**{name: values.to(model.device) for name, values in batch.items()}).logits
        all_logits[chosen] = logits.float().cpu().numpy()
    return all_logits


def score_table(
    model: torch.nn.Module,
    processor: EmocapProcessor,
    table: datasets.Dataset,
    batch_size: int = 64,
    modalities: str | None = None,
) -> np.ndarray:
    """Probabilities of every row, float64 `(rows, L)`: the mean over its captions.

    `modalities` is by default what the model was trained to read.
    """
    pairs = read_pairs(model, processor, table, modalities)
    return pairs.mean_over_captions(predict_probabilities(model, pairs, batch_size))


def read_pairs(
    model: torch.nn.Module, processor: EmocapProcessor, table: datasets.Dataset, modalities: str | None = None
) -> PairDataset:
    """The table's pairs as the model reads them, with `modalities` as in `score_table`."""
    modalities = modalities or model.config.modalities or "both"
    return PairDataset(prepare_table(table, processor), processor, modalities=modalities)


def evaluate(
    probabilities: np.ndarray,
    table: datasets.Dataset,
    train: datasets.Dataset,
    label_column: str = "labels",
    prior_column: str | None = None,
    thresholds: Sequence[float] | None = None,
    num_resamples: int = 1000,
) -> dict[str, float | str | None]:
    """Every metric of one split beside its prior, its interval and, where they are known, its ceilings and people.

    Args:
        probabilities: float `(rows, L)` for the rows of `table`.
        table: the split, with human labels.
        train: the training split, on which the prior is fitted.
        label_column: the truth.
        prior_column: the labels of `train`; by default `label_column`. A table of pseudo-labels has no others.
        thresholds: from which each emotion counts as predicted; 0.5 by default. Where they are given, the prior
            decides at its own best on `train`, and a ceiling at the best for these very rows, being an upper bound.
        num_resamples: bootstrap draws, of images or of their groups, behind the 95 % intervals `KEY_low` and
            `KEY_high`; 0: no intervals.

    Returns:
        The contract's keys, plain and under `prior/`, and `chance/map_macro`; `ceiling/`, `ceiling_text/`,
        `ceiling_image/` where the process is known; `human/` and `as_human/` where votes are, see `human_metrics`;
        `num_groups` where rows have a `group`; and `decisions`, "fitted" or "0.5". Against votes, probabilities of a
        label among several reactions count as one reaction's, see `one_reaction`.
    """
    truth = read_truth(table, label_column)
    labels, votes, asked, groups = truth
    prior = prior_probabilities(label_matrix(train, prior_column or label_column))
    metrics = compute_with_prior(probabilities, labels, prior, votes, thresholds, asked)
    if num_resamples:
        how = {"groups": groups, "num_annotators": asked, "num_resamples": num_resamples}
        metrics |= intervals(resampled_metrics(probabilities, labels, votes, thresholds, **how), metrics)
    for prefix, known in CEILINGS.items():
        if f"bayes_probabilities{known}" in table.features:
            best = ceiling_metrics(table, known, truth, decides=thresholds is not None)
            metrics |= {f"{prefix}{key}": value for key, value in best.items() if key not in NO_CEILING}
    if votes is not None and "num_annotators" in table.features:
        metrics |= human_metrics(votes, np.asarray(table.with_format("numpy")["num_annotators"][:]), probabilities)
    if groups is not None:
        metrics["num_groups"] = truth.num_units
    metrics = {key: None if value != value else value for key, value in metrics.items()}  # JSON knows no NaN
    return metrics | {"decisions": "0.5" if thresholds is None else "fitted"}


def ceiling_metrics(table: datasets.Dataset, known: str, truth: Truth, decides: bool) -> dict[str, float]:
    """Metrics of the process's own probabilities: of a label among all reactions, and, against votes, of one's."""
    best = break_ties(label_matrix(table, f"bayes_probabilities{known}"))
    cut = fit_thresholds(best, truth.labels) if decides else None
    metrics = compute_metrics(best, truth.labels, thresholds=cut)
    if truth.votes is not None and f"bayes_shares{known}" in table.features:
        shares = compute_metrics(label_matrix(table, f"bayes_shares{known}"), truth.labels, truth.votes)
        metrics |= {key: shares[key] for key in VOTE_KEYS}
    return metrics


def evaluate_checkpoint(
    model_name_or_path: str,
    tables: DatasetDict,
    split: str = "test",
    *,
    label_column: str = "labels",
    batch_size: int = 64,
    modalities: str | None = None,
    num_resamples: int = 1000,
    output: str | Path | None = None,
    controls: bool = False,
    encoder: str | None = None,
) -> dict[str, float | str | None]:
    """Metrics of a checkpoint on one split; labels and features are checked before the model is loaded.

    With `output` they are written there as JSON, and what the report draws beside them, see `details_path`. With
    `controls` those of `measure_controls` are among them; `encoder` is by default the body that the run started from.
    """
    if controls:
        check_scikit_learn()
    if split not in tables or "train" not in tables:
        missing = split if split not in tables else "train"
        raise ValueError(
            f"The data set has no split '{missing}' (splits: {', '.join(tables)}); the prior needs 'train'."
        )
    config = load_config(model_name_or_path)
    check_labels(config, label_names(tables), model_name_or_path)
    check_features(config, tables[split], model_name_or_path)
    for name in (split, "train"):
        if not len(label_matrix(tables[name], label_column)):
            raise ValueError(f"The {name} split is empty; add rows or choose another split.")
    model, processor = load_model(model_name_or_path)
    pairs = read_pairs(model, processor, tables[split], modalities)
    probabilities = pairs.mean_over_captions(predict_probabilities(model, pairs, batch_size))
    metrics = evaluate(
        probabilities,
        tables[split],
        tables["train"],
        label_column,
        thresholds=config.thresholds,
        num_resamples=num_resamples,
    )
    metrics |= {"split": split, "truth": label_column, "truncated_captions": pairs.truncated_captions}
    if controls:
        from emocap.evaluation.controls import body_of_run, measure_controls  # which scores with this module

        encoder = encoder or body_of_run(model_name_or_path)
        metrics |= measure_controls(
            model,
            processor,
            tables,
            split,
            probabilities,
            label_column,
            encoder=encoder,
            batch_size=batch_size,
            num_resamples=num_resamples or 1000,
        )
    if output is not None:
        write_metrics(output, metrics, describe(probabilities, tables[split], label_column, config.thresholds))
    return metrics


def write_metrics(path: str | Path, metrics: dict[str, float | str | None], details: dict[str, object]) -> None:
    """metrics.json and, beside it, its details."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(path, metrics)
    write_json(details_path(path), details)


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
    model_name_or_path: str,
    caption: str | None = None,
    image: str | None = None,
    *,
    top_k: int | None = None,
    explain: bool | str = False,
) -> list[dict]:
    """The emotions of one pair by the pipeline, most probable first, with four digits.

    Args:
        model_name_or_path: folder or Hub id of a teacher or student.
        caption: the caption.
        image: path or http(s) URL of the picture.
        top_k: rows; None: every emotion.
        explain: see [`EmotionRecognitionPipeline`].

    Raises:
        ValueError: what the model was trained to read is missing, or it has no such emotion to explain.
    """
    config = load_config(model_name_or_path)
    modalities, names = config.modalities, list(config.id2label.values())
    if isinstance(explain, str) and explain not in names:
        raise ValueError(f"'{model_name_or_path}' has no emotion '{explain}', only {', '.join(names)}.")
    if (modalities == "text" and not caption) or (modalities == "image" and not image):
        raise ValueError(f"'{model_name_or_path}' was trained on {modalities} alone; give it that.")
    pipe = pipeline("emotion-recognition", model=model_name_or_path)
    rows = pipe({"image": image or None, "text": caption}, top_k=top_k, explain=explain)
    return [row | {"score": round(row["score"], 4)} for row in rows]
