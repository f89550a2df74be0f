"""What a finished run leaves behind: its files, their keys, and how they are read from a folder or from the Hub."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from emocap.data.storage import HUB_ID, local_folder, parse_json, read_text, write_json
from emocap.metrics import FEW_UNITS, GREATER_IS_BETTER

if TYPE_CHECKING:
    from torch.nn import Module

    from emocap.models import EmocapProcessor

__all__ = [
    "ARGUMENTS_FILE",
    "CAPTION_FIGURES",
    "CAPTION_LOSSES",
    "CONTROLS",
    "GAIN_KEYS",
    "PATH_KEYS",
    "STATISTICS_FILE",
    "Gain",
    "Result",
    "caption_ways",
    "details_path",
    "finite",
    "read_json",
    "recorded_arguments",
    "records_folder",
    "wished_ways",
    "write_metrics",
]

ARGUMENTS_FILE = "run_arguments.json"
RECORDS = (ARGUMENTS_FILE, "metrics.json", "metrics_details.json", "trainer_state.json")

STATISTICS_FILE = "label_statistics.json"
"""Beside every labelled table."""

PATH_KEYS = (
    "dataset",
    "mix_dataset",
    "source_dataset",
    "model_name_or_path",
    "word_embeddings",
    "text_encoder",
    "image_weights",
    "student",
    "teacher",
    "region_extractor",
    "output_dir",
)
"""Arguments of a run that name a folder or a Hub id."""

CONTROLS = {
    "text_only": "the model reads the captions alone",
    "image_only": "the model reads the pictures alone",
    "shuffled_images": "each caption beside another row's picture",
    "shuffled_captions": "each picture beside another row's caption",
    "tfidf": "TF-IDF of words and pairs of words, logistic regression",
    "lexicon": "NRC's and VADER's word lists, logistic regression",
    "encoder": "the body that training starts from, frozen, its best layers side by side, logistic regression",
    "committee": "all seeds' models together, by the mean of their logits",
    "merged": "the model, near-synonyms as one emotion",
    "merged_prior": "the prior, near-synonyms as one emotion",
}
"""Prefixes of the controls' keys, and what each is."""

CAPTION_LOSSES = {
    "loss": "wishes as in training",
    "loss_without_wish": "no wish",
    "loss_with_all_emotions": "the levels of all emotions",
}
"""A captioner's figures, nats a token, and what it was shown."""

CAPTION_FIGURES = {
    "alignment@1": "top 1",
    "alignment@3": "top 3",
    "probability": "prob.",
    "lift": "lift",
    "cider_d": "CIDEr-D",
    "bleu_4": "BLEU-4",
    "retrieval@1": "found",
    "distinct_2": "dist. 2",
    "novel": "novel",
    "unique": "unique",
    "length": "words",
}
"""Figures of captions, and the heads of their columns."""

GAIN_KEYS = ("map_macro", "lrap", "bce")
"""Metrics of which a control tells by how much the model is ahead, `KEY_gain`, see `Gain`."""


class Gain(NamedTuple):
    """By how much a model is ahead of a control: above 0 it is the better one, whichever way the metric runs."""

    value: float
    low: float | None = None  # the paired 95 % interval, where it was measured
    high: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Result(Mapping[str, Any]):
    """What was measured of a model: a mapping of the keys of metrics.json, and what they mean together.

    A result stands wherever the folder of its model may: `finetune(tables, folder, student=result)`.

    Args:
        metrics: what metrics.json holds, flat.
        folder: of the finished run, or what was evaluated: a folder or Hub id; None where there is no one model.
    """

    metrics: Mapping[str, Any]  # float, int, str or None
    folder: str | os.PathLike | None = None

    @classmethod
    def read(cls, run: str | os.PathLike) -> "Result":
        """Of a finished run's folder or Hub id.

        Raises:
            FileNotFoundError: no such run, or one without metrics.json.
            ValueError: a metrics.json that is no JSON object.
        """
        path = records_folder(run) / "metrics.json"
        return cls(read_json(path, "the metrics that a finished run leaves in its folder"), run)

    def __getitem__(self, key: str) -> Any:
        return self.metrics[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __repr__(self) -> str:
        return f"Result({len(self)} figures, map_macro {self.get('map_macro')}, folder {str(self.folder)!r})"

    def __fspath__(self) -> str:
        if self.folder is None:
            raise ValueError("This result is of several models: it has no folder of its own.")
        return os.fspath(self.folder)

    def figure(self, key: str) -> float | None:
        """A metric, or None where it is unknown or not finite."""
        return finite(self.get(key))

    def prior(self, key: str) -> float | None:
        """The same metric of the constant predictor fitted on the training split."""
        return self.figure(f"prior/{key}")

    @property
    def chance(self) -> float | None:
        """The `map_macro` that scores drawn at random are expected to have."""
        return self.figure("chance/map_macro")

    def interval(self, key: str) -> tuple[float, float] | None:
        """The metric's 95 % bootstrap interval, where it was measured."""
        low, high = (self.figure(f"{key}_{end}") for end in ("low", "high"))
        return None if low is None or high is None else (low, high)

    def gain(self, control: str, key: str) -> Gain | None:
        """By how much the model is ahead of a control, such as "prior" or "tfidf", in a metric; None where either is
        unknown."""
        name = f"{control}/{key}_gain"
        if (value := self.figure(name)) is not None:
            return Gain(value, *(self.interval(name) or ()))
        own, other = self.figure(key), self.figure(f"{control}/{key}")
        if own is None or other is None:
            return None
        return Gain(own - other if GREATER_IS_BETTER[key] else other - own)

    @property
    def controls(self) -> list[str]:
        """Those of `CONTROLS` that were measured."""
        return [name for name in CONTROLS if self.figure(f"{name}/map_macro") is not None]

    @property
    def num_units(self) -> int | None:
        """Images, or groups of them, that the intervals were drawn over."""
        return self.get("num_groups") or self.get("num_examples")

    @property
    def is_few(self) -> bool:
        """Whether these are so few that intervals are too narrow to be taken at their word."""
        return self.num_units is not None and self.num_units < FEW_UNITS

    def model(self) -> "Module":
        """The model, loaded anew, in evaluation mode."""
        from transformers import AutoModel

        return AutoModel.from_pretrained(os.fspath(self)).eval()

    def processor(self) -> "EmocapProcessor":
        """What prepares pairs for the model."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(os.fspath(self))


def wished_ways(result: Result) -> list[str]:
    """The ways of getting captions for wishes in what `emocap evaluate` says of a captioner."""
    scales = [f"guidance_{scale}" for scale in result["guidance_scales"].split(", ")]
    number = result["num_candidates"]
    return [way for scale in scales for way in (scale, *([f"{scale}/best_of_{number}"] if number > 1 else []))]


def caption_ways(result: Result) -> list[str]:
    """Those and the others, controls among them."""
    order = [*wished_ways(result), "no_wish", "best_caption", "references"]
    ways = [way for first in order for way in (first, f"{first}/shuffled_wishes", f"{first}/shuffled_images")]
    return [way for way in ways if any(f"{way}/{key}" in result for key in CAPTION_FIGURES)]


def finite(value: object) -> float | None:
    """The number, or None for what is none or not finite."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def read_json(path: Path, what: str) -> dict:
    """The object in a JSON file; `what` says in an error which file is meant.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object.
    """
    text = read_text(path, what)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON ({error}); expected {what}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' holds a {type(content).__name__}; expected an object with {what}.")
    return content


def details_path(metrics_path: str | Path) -> Path:
    """Where the details of a metrics file lie: metrics_details.json beside metrics.json, which stays flat."""
    path = Path(metrics_path)
    return path.with_name(f"{path.stem}_details.json")


def write_metrics(path: str | Path, metrics: dict[str, float | str | None], details: dict[str, Any]) -> None:
    """metrics.json and, beside it, its details."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(path, metrics)
    write_json(details_path(path), details)


def records_folder(run: str | os.PathLike) -> Path:
    """The folder of a run's records: the run's own or, of a Hub id, a copy of them in the client's cache.

    Raises:
        FileNotFoundError: neither a folder nor a model on the Hub.
    """
    return local_folder(run, "model", RECORDS)


def recorded_arguments(run: str | os.PathLike) -> dict[str, Any] | None:
    """The arguments that a run was started with; None where it has no record of them.

    A published record names what lay in a folder by the folder's name alone, which says nothing elsewhere: of a Hub
    id's record only Hub ids are kept, other names become None.
    """
    path = records_folder(run) / ARGUMENTS_FILE
    if not path.is_file():
        return None
    arguments = json.loads(path.read_text("utf-8"))
    if not os.path.isdir(run):
        for key in PATH_KEYS:
            if not HUB_ID.fullmatch(str(arguments.get(key))):
                arguments[key] = None
    return arguments
