"""Probabilities of every emotion for the rows of a table."""

import datasets
import numpy as np
import torch
from datasets.utils.logging import tqdm
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from emocap.data.pairs import PairDataset, has_photos, with_pixels
from emocap.data.schema import NUM_REGIONS
from emocap.evaluation.calibration import temper
from emocap.models import EmocapProcessor

__all__ = [
    "check_features",
    "check_labels",
    "load_config",
    "load_model",
    "predict_logits",
    "predict_probabilities",
    "prepare_table",
    "read_pairs",
    "score_table",
]


def load_config(model: str) -> PreTrainedConfig:
    """Configuration of an emocap checkpoint.

    Raises:
        ValueError: the checkpoint is of another family.
    """
    config = AutoConfig.from_pretrained(model)
    if not config.model_type.startswith("emocap_") or config.model_type == "emocap_captioner":
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
