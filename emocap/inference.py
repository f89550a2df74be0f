"""Probabilities of every emotion for the rows of a table, and what an evaluation makes of them."""

import datasets
import numpy as np
import torch
from datasets import DatasetDict
from datasets.utils.logging import tqdm
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from emocap.data.pairs import PairDataset, has_photos, label_matrix, with_pixels
from emocap.data.schema import NUM_REGIONS, label_names
from emocap.metrics import compute_metrics, compute_with_prior, prior_probabilities
from emocap.models import EmocapProcessor

__all__ = [
    "check_features",
    "check_labels",
    "evaluate",
    "evaluate_checkpoint",
    "load_config",
    "load_model",
    "per_label_average_precision",
    "predict",
    "predict_probabilities",
    "prepare_table",
    "score_table",
]

CEILINGS = {
    "ceiling/": "bayes_probabilities",
    "ceiling_text/": "bayes_probabilities_text",
    "ceiling_image/": "bayes_probabilities_image",
}


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


@torch.inference_mode()
def predict_probabilities(model: torch.nn.Module, pairs: PairDataset, batch_size: int = 64) -> np.ndarray:
    """Probabilities of every pair, float32 `(pairs, L)`; batches go by caption length, so little is padding."""
    order = np.argsort(np.diff(pairs.token_starts), kind="stable")
    probabilities = np.empty((len(pairs), model.config.num_labels), dtype=np.float32)
    for start in tqdm(range(0, len(order), batch_size), desc="Scoring", unit="batch"):
        chosen = order[start : start + batch_size]
        batch = pairs.__getitems__(chosen)
        batch.pop("labels", None)
        logits = model(**{name: values.to(model.device) for name, values in batch.items()}).logits
        probabilities[chosen] = logits.float().sigmoid().cpu().numpy()
    return probabilities


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
    modalities = modalities or model.config.modalities or "both"
    pairs = PairDataset(prepare_table(table, processor), processor, modalities=modalities)
    return pairs.mean_over_captions(predict_probabilities(model, pairs, batch_size))


def evaluate(
    probabilities: np.ndarray,
    table: datasets.Dataset,
    train: datasets.Dataset,
    label_column: str = "labels",
    prior_column: str | None = None,
) -> dict[str, float | None]:
    """Every metric of one split beside its prior and, where the process is known, its ceilings.

    Args:
        probabilities: float `(rows, L)` for the rows of `table`.
        table: the split, with human labels.
        train: the training split, on which the prior is fitted.
        label_column: the truth.
        prior_column: the labels of `train`; by default `label_column`. A table of pseudo-labels has no others.
    """
    labels = label_matrix(table, label_column)
    votes = np.asarray(table.with_format("numpy")["votes"][:]) if "votes" in table.features else None
    prior = prior_probabilities(label_matrix(train, prior_column or label_column))
    metrics = compute_with_prior(probabilities, labels, prior, votes)
    for prefix, column in CEILINGS.items():
        if column in table.features:
            ceiling = compute_metrics(label_matrix(table, column), labels, votes)
            metrics |= {f"{prefix}{key}": value for key, value in ceiling.items() if key != "num_examples"}
    return {key: None if value != value else value for key, value in metrics.items()}  # JSON knows no NaN


def evaluate_checkpoint(
    model_name_or_path: str,
    tables: DatasetDict,
    split: str = "test",
    *,
    label_column: str = "labels",
    batch_size: int = 64,
    modalities: str | None = None,
) -> dict[str, float]:
    """Metrics of a checkpoint on one split; labels and features are checked before the model is loaded."""
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
    probabilities = score_table(model, processor, tables[split], batch_size, modalities)
    metrics = evaluate(probabilities, tables[split], tables["train"], label_column)
    return metrics | {"split": split, "truth": label_column}


@torch.inference_mode()
def predict(model_name_or_path: str, caption: str | None = None, image: str | None = None) -> list[dict]:
    """`{"label", "score"}` of every emotion for one pair, most probable first."""
    model, processor = load_model(model_name_or_path)
    modalities = model.config.modalities or "both"
    if (modalities == "text" and not caption) or (modalities == "image" and not image):
        raise ValueError(f"'{model_name_or_path}' was trained on {modalities} alone; give it that.")
    inputs = processor(images=image if modalities != "text" else None, text=caption if modalities != "image" else None)
    scores = model(**inputs.to(model.device)).logits[0].float().sigmoid().tolist()
    rows = [{"label": model.config.id2label[label], "score": round(score, 4)} for label, score in enumerate(scores)]
    return sorted(rows, key=lambda row: -row["score"])


def per_label_average_precision(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of each emotion, float64 `(L,)`; NaN where no row is positive."""
    scores = [
        compute_metrics(probabilities[:, [label]], labels[:, [label]])["map_macro"] for label in range(labels.shape[1])
    ]
    return np.array(scores)
