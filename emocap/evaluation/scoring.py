"""Probabilities of every emotion for the rows of a table, by one model or by several together."""

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import datasets
import numpy as np
import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from emocap.data.pairs import PairDataset, has_photos, with_pixels
from emocap.data.schema import NUM_REGIONS
from emocap.evaluation.calibration import temper
from emocap.models import EmocapProcessor
from emocap.models.common_emocap import CommitteeConfig
from emocap.terminal import progress

__all__ = [
    "Committee",
    "Scores",
    "check_features",
    "check_labels",
    "load_config",
    "load_model",
    "predict_logits",
    "predict_probabilities",
    "prepare_table",
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
    for start in progress(range(0, len(order), batch_size), desc="Scoring", unit="batches"):
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
    modalities = modalities or model.config.modalities or "both"
    pairs = PairDataset(prepare_table(table, processor), processor, modalities=modalities)
    return pairs.mean_over_captions(predict_probabilities(model, pairs, batch_size))


class Scores(NamedTuple):
    """What a committee says of a table."""

    pairs: PairDataset
    """The table's pairs, those of a member that reads captions where there is one."""
    probabilities: np.ndarray
    """Of every pair, float64 `(pairs, L)`."""
    disagreement: np.ndarray | None
    """Standard deviation of the members' own probabilities, each the mean over a row's captions: float64 `(rows, L)`;
    None of a single model."""
    truncated_captions: float
    """Share of the captions that were cut, of the member that cuts the most."""

    @property
    def of_rows(self) -> np.ndarray:
        """The mean probabilities over each row's captions, float64 `(rows, L)`."""
        return self.pairs.mean_over_captions(self.probabilities)


class Committee:
    """One or several teachers and students that answer together, see `CommitteeConfig`.

    Each member reads a table by its own processor and as it was trained to: what an image model says of a row stands
    beside every caption of it.

    Args:
        names: folders or Hub ids of the members; their configurations are read, and no weights before `load`.

    Attributes:
        config: the `CommitteeConfig`.
        members: models and processors once they are loaded.

    Raises:
        ValueError: a checkpoint of another family, or unlike emotions.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.configs = [load_config(name) for name in self.names]
        self.config = CommitteeConfig(self.names, self.configs)
        self.members: list[tuple[torch.nn.Module, EmocapProcessor]] = []

    def load(self) -> "Committee":
        """The same with its members, on the GPU where there is one."""
        return self.of([load_model(name) for name in self.names])

    def of(self, members: Sequence[tuple[torch.nn.Module, EmocapProcessor]]) -> "Committee":
        """The same with models and processors that are loaded already."""
        loaded = copy(self)
        loaded.members = list(members)
        return loaded

    def check(self, table: datasets.Dataset, labels: list[str] | None = None) -> None:
        """Refuses a table whose region features a member cannot read, or whose emotions are not the first member's.

        Raises:
            ValueError: as `check_labels` and `check_features`.
        """
        if labels is not None:
            check_labels(self.configs[0], labels, self.names[0])
        for name, config in zip(self.names, self.configs, strict=True):
            check_features(config, table, name)

    def prepare(self, table: datasets.Dataset) -> list[datasets.Dataset]:
        """The table as each member reads it, see `prepare_table`."""
        return [prepare_table(table, processor) for _, processor in self.members]

    def score(self, tables: Sequence[datasets.Dataset], batch_size: int = 64, modalities: str | None = None) -> Scores:
        """Probabilities of every pair, from `prepare`'s tables; `modalities` as in `score_table`."""
        read = [
            PairDataset(table, processor, modalities=modalities or model.config.modalities or "both")
            for (model, processor), table in zip(self.members, tables, strict=True)
        ]
        pairs = max(read, key=len)
        logits = []
        for (model, _), own in zip(self.members, read, strict=True):
            found = predict_logits(model, own, batch_size).astype(np.float64)
            logits.append(found if len(own) == len(pairs) else found[pairs.row_of_pair])
        scaled = self.config.scaled(logits)
        probabilities = temper(self.config.mean(scaled), None)
        disagreement = None
        if len(self.members) > 1:
            disagreement = np.std([pairs.mean_over_captions(temper(own, None)) for own in scaled], axis=0)
        return Scores(pairs, probabilities, disagreement, max(own.truncated_captions for own in read))
