"""The rows of a training run, checked before any model is loaded."""

import datasets
import numpy as np
from datasets import DatasetDict

from emocap.arguments import DataArguments
from emocap.data.pairs import label_matrix
from emocap.data.schema import group_keys, label_names, split_of
from emocap.data.storage import load_table
from emocap.data.truth import truth_column

__all__ = ["load_splits"]


def load_splits(data_args: DataArguments, seed: int = 0) -> DatasetDict:
    """The splits of a run under the names train, validation, (where there is one) test and, with `mix_dataset`, mix:
    the human-labelled rows that train beside those of train. All are checked at the door.

    Sets `data_args.label_column` where it was left open. `seed` draws `train_fraction`.

    Raises:
        ValueError: a split that is missing or empty, rows without labels, or a table to mix that does not fit.
    """
    tables = load_table(data_args.dataset)
    if data_args.train_split not in tables:
        raise ValueError(
            f"'{data_args.dataset}' has no split '{data_args.train_split}' (splits: {', '.join(tables)})."
        )
    splits = {"train": tables[data_args.train_split]}
    for name, source in (("validation", data_args.eval_split), ("test", data_args.test_split)):
        if source in tables and source != data_args.train_split:
            splits[name] = tables[source]
    if "validation" not in splits:
        held_out = np.array([split_of(key, seed=1) == "validation" for key in group_keys(splits["train"])])
        splits["validation"] = splits["train"].select(np.flatnonzero(held_out))
        splits["train"] = splits["train"].select(np.flatnonzero(~held_out))
    if data_args.selected_only:
        if "selected_for" not in splits["train"].features:
            raise ValueError(
                f"--selected_only needs the column 'selected_for', which '{data_args.dataset}' lacks: `emocap label` "
                "writes it."
            )
        selected = splits["train"].with_format("arrow")["selected_for"][:]
        chosen = np.flatnonzero([len(own) > 0 for own in selected.to_pylist()])
        splits["train"] = splits["train"].select(chosen)
    if data_args.train_fraction < 1:
        splits["train"] = draw(splits["train"], data_args.train_fraction, seed)
    limits = {"train": data_args.max_train_samples}
    for name, split in splits.items():
        limit = limits.get(name, data_args.max_eval_samples)
        splits[name] = split if limit is None else split.select(range(min(limit, len(split))))
        if not len(splits[name]):
            raise ValueError(f"The {name} split of '{data_args.dataset}' is empty; add rows or choose another split.")
    data_args.label_column = data_args.label_column or truth_column(splits["train"])
    label_names(splits["train"])
    for name, split in splits.items():
        label_matrix(split, data_args.label_column if name == "train" else truth_column(split))
    if data_args.mix_dataset:
        splits["mix"] = load_mix(data_args, splits["train"])
    return DatasetDict(splits)


def draw(table: datasets.Dataset, fraction: float, seed: int) -> datasets.Dataset:
    """A share of the rows, drawn at random without replacement, in their own order."""
    rows = np.random.default_rng(seed).permutation(len(table))[: round(fraction * len(table))]
    return table.select(np.sort(rows))


def load_mix(data_args: DataArguments, train: datasets.Dataset) -> datasets.Dataset:
    """The training split of the human-labelled table that is mixed in, with emotions and regions as in `train`."""
    if not 0 < data_args.mix_share < 1:
        raise ValueError(f"--mix_share is {data_args.mix_share}; it must lie between 0 and 1.")
    tables = load_table(data_args.mix_dataset)
    if "train" not in tables or not len(tables["train"]) or truth_column(tables["train"]) != "labels":
        raise ValueError(
            f"--mix_dataset '{data_args.mix_dataset}' needs a split 'train' with human labels in every row (splits: "
            f"{', '.join(tables)})."
        )
    mix, names = tables["train"], label_names(train)
    if label_names(mix) != names:
        raise ValueError(
            f"--mix_dataset '{data_args.mix_dataset}' has other emotions, or another order, than '{data_args.dataset}'"
            f": {label_names(mix)[:5]} and {names[:5]}. Write it again with --labels, a JSON list in that order."
        )
    widths = {
        split.features["region_features"].length for split in (train, mix) if "region_features" in split.features
    }
    if len(widths) > 1:
        raise ValueError(
            f"--mix_dataset '{data_args.mix_dataset}' and '{data_args.dataset}' have region features of different "
            "detectors; extract both with one."
        )
    return mix
