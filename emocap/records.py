"""What a finished run leaves behind: its files, their keys, and how they are read from a folder or from the Hub."""

import json
import os
from pathlib import Path

from emocap.data.storage import HUB_ID, local_folder, write_json

__all__ = [
    "CONTROLS",
    "GAIN_KEYS",
    "PATH_KEYS",
    "STATISTICS_FILE",
    "details_path",
    "recorded_arguments",
    "records_folder",
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
    "merged": "the model, near-synonyms as one emotion",
    "merged_prior": "the prior, near-synonyms as one emotion",
}
"""Prefixes of the controls' keys, and what each is."""

GAIN_KEYS = ("map_macro", "lrap", "bce")
"""Metrics of which a control tells by how much the model is ahead, `KEY_gain`: above 0 the model is the better one,
whichever way the metric runs."""


def details_path(metrics_path: str | Path) -> Path:
    """Where the details of a metrics file lie: metrics_details.json beside metrics.json, which stays flat."""
    path = Path(metrics_path)
    return path.with_name(f"{path.stem}_details.json")


def write_metrics(path: str | Path, metrics: dict[str, float | str | None], details: dict[str, object]) -> None:
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


def recorded_arguments(run: str | os.PathLike) -> dict[str, object] | None:
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
