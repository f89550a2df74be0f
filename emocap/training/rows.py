"""The rows of a training run, checked before any model is loaded, and what is read of their labels, once."""

from dataclasses import dataclass
from functools import cached_property

import datasets
import numpy as np
from datasets import DatasetDict

from emocap.arguments import DataArguments, TableArguments
from emocap.data.pairs import label_matrix
from emocap.data.schema import held_out, label_names
from emocap.data.storage import load_table
from emocap.data.truth import Truth, read_truth, truth_column
from emocap.metrics import prior_probabilities

__all__ = ["TrainingRows", "choose_splits", "read_rows"]


@dataclass(frozen=True)
class TrainingRows:
    """The splits of a run and their labels.

    Attributes:
        splits: `train`, `validation`, where there is one `test`, and with `mix_dataset` `mix`: the human-labelled rows
            that train beside those of `train`.
        columns: of each split the column of its labels: what `train` teaches, of the others the truth.
        truths: of `validation` and `test` what people, or the labelling model, said.
        targets: of `train` and `mix` the labels, float32 `(rows, L)`.
    """

    splits: DatasetDict
    columns: dict[str, str]
    truths: dict[str, Truth]
    targets: dict[str, np.ndarray]

    @property
    def names(self) -> list[str]:
        """The emotions, in label order."""
        return label_names(self.splits["train"])

    @property
    def measured(self) -> str:
        """The split that metrics.json reports."""
        return "test" if "test" in self.splits else "validation"

    def labels(self, name: str) -> np.ndarray:
        """The labels of a split, float32 `(rows, L)`."""
        return self.targets[name] if name in self.targets else self.truths[name].labels

    @cached_property
    def prior(self) -> np.ndarray:
        """Mean of what `train` teaches, float64 `(L,)`: where a head starts."""
        return prior_probabilities(self.targets["train"])

    @cached_property
    def reference(self) -> np.ndarray:
        """Mean of the truth of `train`, float64 `(L,)`: the constant answer that a model is compared with."""
        train = self.splits["train"]
        column = truth_column(train)
        return self.prior if column == self.columns["train"] else prior_probabilities(label_matrix(train, column))


def read_rows(tables: DatasetDict, data_args: DataArguments, seed: int = 0) -> TrainingRows:
    """The rows of a run, checked at the door. Sets `data_args.label_column` where it was left open.

    Raises:
        ValueError: a split that is missing or empty, rows without labels, or a table to mix that does not fit.
    """
    splits = choose_splits(tables, data_args, seed)
    train = splits["train"]
    label_names(train)
    data_args.label_column = data_args.label_column or truth_column(train)
    columns = {name: truth_column(split) for name, split in splits.items()} | {"train": data_args.label_column}
    targets = {"train": label_matrix(train, data_args.label_column)}
    truths = {name: read_truth(split, columns[name]) for name, split in splits.items() if name != "train"}
    if data_args.mix_dataset:
        splits["mix"] = load_mix(data_args.mix_dataset, train)
        columns["mix"] = truth_column(splits["mix"])
        targets["mix"] = label_matrix(splits["mix"], columns["mix"])
    return TrainingRows(DatasetDict(splits), columns, truths, targets)


def choose_splits(tables: DatasetDict, data_args: TableArguments, seed: int) -> dict[str, datasets.Dataset]:
    """The splits under the names train, validation and, where there is one, test, as many rows as are asked for."""
    name_of_table = f"'{data_args.dataset}'" if data_args.dataset else "The data set"
    if data_args.train_split not in tables:
        raise ValueError(f"{name_of_table} has no split '{data_args.train_split}' (splits: {', '.join(tables)}).")
    splits = {"train": tables[data_args.train_split]}
    for name, source in (("validation", data_args.eval_split), ("test", data_args.test_split)):
        if source in tables and source != data_args.train_split:
            splits[name] = tables[source]
    if "validation" not in splits:
        chosen = held_out(splits["train"])
        splits["validation"] = splits["train"].select(np.flatnonzero(chosen))
        splits["train"] = splits["train"].select(np.flatnonzero(~chosen))
    if data_args.selected_only:
        if "selected_for" not in splits["train"].features:
            raise ValueError(
                f"--selected_only needs the column 'selected_for', which {name_of_table} lacks: `emocap label` writes "
                "it."
            )
        selected = splits["train"].with_format("arrow")["selected_for"][:]
        chosen = np.flatnonzero([len(own) > 0 for own in selected.to_pylist()])
        splits["train"] = splits["train"].select(chosen)
    if data_args.train_fraction < 1:  # drawn without replacement, in their own order
        order = np.random.default_rng(seed).permutation(len(splits["train"]))
        drawn = order[: round(data_args.train_fraction * len(order))]
        splits["train"] = splits["train"].select(np.sort(drawn))
    for name, split in splits.items():
        limit = data_args.max_train_samples if name == "train" else data_args.max_eval_samples
        splits[name] = split if limit is None else split.select(range(min(limit, len(split))))
        if not len(splits[name]):
            raise ValueError(f"The {name} split of {name_of_table} is empty; add rows or choose another split.")
    return splits


def load_mix(dataset: str, train: datasets.Dataset) -> datasets.Dataset:
    """The training split of the human-labelled table that is mixed in, with emotions and regions as in `train`."""
    tables = load_table(dataset)
    if "train" not in tables or not len(tables["train"]) or truth_column(tables["train"]) != "labels":
        raise ValueError(
            f"--mix_dataset '{dataset}' needs a split 'train' with human labels in every row (splits: "
            f"{', '.join(tables)})."
        )
    mix, names = tables["train"], label_names(train)
    if label_names(mix) != names:
        raise ValueError(
            f"--mix_dataset '{dataset}' has other emotions, or another order, than the training rows"
            f": {label_names(mix)[:5]} and {names[:5]}. Write it again with --labels, a JSON list in that order."
        )
    widths = {
        split.features["region_features"].length for split in (train, mix) if "region_features" in split.features
    }
    if len(widths) > 1:
        raise ValueError(
            f"--mix_dataset '{dataset}' and the training rows have region features of different "
            "detectors; extract both with one."
        )
    return mix
