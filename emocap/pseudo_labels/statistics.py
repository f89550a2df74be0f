"""What a table of pseudo-labels holds, in figures: how frequent each emotion is, how sure the teacher was, what goes
together. Card and report are written from them alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from emocap.data.pairs import label_matrix
from emocap.data.schema import label_names

__all__ = ["HISTOGRAM_BINS", "label_statistics"]

HISTOGRAM_BINS = 20
"""Bins of equal width over 0..1, each closed on the left, the last on both sides."""

BLOCK = 8192
"""Images counted at a time."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def label_statistics(
    tables: DatasetDict, selection: dict[str, Any], prevalence: Sequence[float] | None
) -> dict[str, Any]:
    """Statistics over all splits of a labelled table, as JSON values.

    Args:
        tables: with the columns that `emocap label` adds.
        selection: the teacher and the settings, kept as they are.
        prevalence: share of the teacher's training images that carry each emotion, where known.

    Returns:
        `selection`; `splits` (rows); `images`, `captions`; `emotions`, for each name `images` that carry it, `share`
        of all, `prevalence` in the teacher's training set, `selected` images, `score_mean` and `score_sd` over the
        images, `score_max`, `lowest_kept` score and `histogram` (counts in `HISTOGRAM_BINS`); `co_occurrence`, an
        L x L matrix of images that carry both; `emotions_per_image`, images by number of emotions; `distinct_sets` of
        emotions and `most_common_set_share`; `caption_disagreement` (mean, quantiles, images with several captions);
        `licenses` and `sources`, images by photo licence and by split of origin where the table says so.
    """
    names = label_names(tables)
    splits = [split for split in tables.values() if len(split)]
    scores = np.concatenate([label_matrix(split, "emotion_scores") for split in splits])
    kept = np.concatenate([label_matrix(split, "emotions") > 0 for split in splits])
    selected = np.concatenate([label_matrix(split, "selected_for") > 0 for split in splits])
    together = np.zeros((len(names), len(names)))
    for start in range(0, len(kept), BLOCK):
        counted = kept[start : start + BLOCK].astype(np.float64)
        together += counted.T @ counted
    sets, set_counts = np.unique(np.packbits(kept, axis=1), axis=0, return_counts=True)
    return {
        "selection": selection,
        "splits": {name: len(split) for name, split in tables.items()},
        "images": len(scores),
        "captions": sum(num_captions(split) for split in splits),
        "emotions": {
            name: emotion_statistics(scores[:, label], kept[:, label], selected[:, label])
            | {"prevalence": None if prevalence is None else prevalence[label]}
            for label, name in enumerate(names)
        },
        "co_occurrence": together.astype(int).tolist(),
        "emotions_per_image": dict(enumerate(np.bincount(kept.sum(axis=1)).tolist())),
        "distinct_sets": len(sets),
        "most_common_set_share": rounded(set_counts.max() / len(kept)),
        "caption_disagreement": disagreement_statistics(splits),
        "licenses": value_counts(splits, "license"),
        "sources": value_counts(splits, "split"),
    }


def emotion_statistics(scores: np.ndarray, kept: np.ndarray, selected: np.ndarray) -> dict[str, Any]:
    return {
        "images": int(kept.sum()),
        "share": rounded(kept.mean()),
        "selected": int(selected.sum()),
        "score_mean": rounded(scores.mean(dtype=np.float64)),
        "score_sd": rounded(scores.std(dtype=np.float64)),
        "score_max": rounded(scores.max()),
        "lowest_kept": rounded(scores[kept].min()) if kept.any() else None,
        "histogram": np.histogram(scores, bins=HISTOGRAM_BINS, range=(0, 1))[0].tolist(),
    }


def disagreement_statistics(splits: Sequence[Dataset]) -> dict[str, Any]:
    known = np.concatenate([column(split, "caption_disagreement").drop_null().to_numpy() for split in splits])
    if not len(known):
        return {"images": 0, "mean": None, "quantiles": {}}
    quantiles = dict(zip(map(str, QUANTILES), map(rounded, np.quantile(known, QUANTILES)), strict=True))
    return {"images": len(known), "mean": rounded(known.mean(dtype=np.float64)), "quantiles": quantiles}


def value_counts(splits: Sequence[Dataset], name: str) -> dict[str, int]:
    """Rows by value of a string column, most frequent first; empty where no split has it."""
    counts = {}
    for split in splits:
        if name in split.features:
            for entry in column(split, name).value_counts().to_pylist():
                value = "unknown" if entry["values"] is None else entry["values"]
                counts[value] = counts.get(value, 0) + entry["counts"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def num_captions(split: Dataset) -> int:
    return pc.sum(pc.list_value_length(split.with_format("arrow")["captions"][:])).as_py() or 0


def column(split: Dataset, name: str) -> pa.Array:
    return split.with_format("arrow")[name][:].combine_chunks()


def rounded(value: float) -> float:
    return round(float(value), 6)
