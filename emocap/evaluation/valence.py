"""An external check: does the valence that a model's emotions imply agree with people's, on photos that they rated?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict, concatenate_datasets

from emocap.data.pairs import PairDataset
from emocap.data.storage import csv_rows, read_text
from emocap.data.truth import row_groups
from emocap.evaluation.scoring import check_features, load_config, load_model, prepare_table, score_table
from emocap.metrics import Bootstrap, intervals
from emocap.records import Result

__all__ = ["evaluate_valence", "expected_valence", "read_norms", "spearman"]

WORD, VALENCE = "Word", "V.Mean.Sum"
"""Columns of the published norms (Warriner, Kuperman & Brysbaert 2013: 13,915 lemmas, valence from 1 to 9)."""


def read_norms(path: str | Path, names: Sequence[str]) -> np.ndarray:
    """Valence of each emotion word from a file of norms, float64 `(L,)`.

    The norms are of lemmas: a word that they lack is looked up without its ending ("intrigued": "intrigue").

    Args:
        path: a CSV with the columns Word and V.Mean.Sum, such as the Ratings_Warriner_et_al.csv that Warriner,
            Kuperman & Brysbaert (2013, https://doi.org/10.3758/s13428-012-0314-x) publish under CC BY-NC-ND, and
            which therefore does not come with this package.
        names: the emotions.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column or a word is missing, or a valence is no number from 1 to 9.
    """
    text = read_text(path, f"valence norms, a CSV with the columns {WORD} and {VALENCE}")
    known = {row[WORD].strip().lower(): (line, row[VALENCE]) for line, row in csv_rows(text, path, (WORD, VALENCE))}
    found, missing = [], []
    for name in names:
        entry = next((known[form] for form in (name, name[:-1], name[:-2]) if form in known), None)
        if entry is None:
            missing.append(name)
            continue
        line, value = entry
        try:
            found.append(float(value))
        except ValueError:
            found.append(float("nan"))
        if not 1 <= found[-1] <= 9:
            raise ValueError(
                f"'{path}', line {line}: the valence of '{name}' is '{value}'; expected a number from 1 to 9."
            )
    if missing:
        raise ValueError(f"'{path}' has no valence for {', '.join(missing)}; add a row for each.")
    return np.array(found)


def expected_valence(probabilities: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Mean valence of the emotions, `(L,)`, each weighted by its probability, `(N, L)`: float64 `(N,)`."""
    totals = probabilities.sum(axis=1)
    return np.where(totals > 0, probabilities @ norms / np.where(totals > 0, totals, 1), norms.mean())


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; equal values share their mean rank; NaN where either does not vary."""
    ranks = [mean_ranks(values) for values in (a, b)]
    x, y = (own - own.mean() for own in ranks)
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else float("nan")


def mean_ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def evaluate_valence(
    model_name_or_path: str,
    tables: DatasetDict,
    norms_path: str,
    *,
    splits: Sequence[str] | None = None,
    batch_size: int = 64,
    num_resamples: int = 1000,
) -> Result:
    """Spearman correlation of a model's expected valence with people's mean rating, from words, picture and both.

    The model's emotions need not be the table's: a teacher of Socratis meets OASIS here without having learned on it.

    Args:
        model_name_or_path: folder or Hub id of a teacher or student.
        tables: a table with `valence_mean`, as `emocap data oasis` writes.
        norms_path: see `read_norms`.
        splits: those to use; all by default. A model that was trained on this table wants its test split alone.
        batch_size, num_resamples: pairs a step; draws of the bootstrap over images, or over their groups.

    Returns:
        For each of `both`, `text` and `image` that the model reads `spearman/NAME` with `_low` and `_high` (95 %), for
        a model of both `spearman/both_over_text` and `spearman/both_over_image` with their paired intervals, and
        `num_examples`: the rows that have photo, caption and rating, as far as the model reads them; `num_groups`
        where rows have a `group`.

    Raises:
        ValueError: no column `valence_mean`, an unknown split, an emotion without norm, or features of another width.
    """
    splits = list(tables) if splits is None else list(splits)
    if unknown := sorted(set(splits) - set(tables)):
        raise ValueError(f"The data set has no split '{unknown[0]}' (splits: {', '.join(tables)}).")
    table = concatenate_datasets([tables[name] for name in splits])
    if "valence_mean" not in table.features:
        raise ValueError("The data set has no column 'valence_mean'; `emocap data oasis` builds a table that has it.")
    config = load_config(model_name_or_path)
    check_features(config, table, model_name_or_path)
    norms = read_norms(norms_path, [config.id2label[index] for index in range(config.num_labels)])
    model, processor = load_model(model_name_or_path)
    table = prepare_table(table, processor)
    pairs = PairDataset(table, processor)
    reads = config.modalities or ("both" if pairs.reads_photos else "text")
    modalities = ["both", "text", "image"] if reads == "both" else [reads]
    people = np.array(table["valence_mean"][:], dtype=np.float64)
    usable = ~np.isnan(people)
    if "text" in modalities:
        usable &= np.array([len(own) > 0 for own in table["captions"][:]])
    if "image" in modalities:
        usable &= pairs.photo_counts > 0 if pairs.reads_photos else False
    rows = np.flatnonzero(usable)
    if len(rows) < 3:
        raise ValueError(f"{len(rows)} of {len(table)} rows have a rating and what the model reads; 3 are the least.")
    shown = table.select(rows)
    scores = {
        name: expected_valence(score_table(model, processor, shown, batch_size, name), norms) for name in modalities
    }
    groups = row_groups(shown)
    metrics: dict[str, Any] = correlations(scores, people[rows], Bootstrap(num_resamples, groups=groups))
    metrics |= {"num_examples": len(rows), "split": "+".join(splits)}
    metrics |= {} if groups is None else {"num_groups": len(np.unique(groups))}
    return Result(metrics, model_name_or_path)


def correlations(scores: dict[str, np.ndarray], people: np.ndarray, bootstrap: Bootstrap) -> dict[str, float | None]:
    """Spearman of each score, float `(N,)`, with people's, and of `both` over the others, with 95 % intervals on the
    same draws. Of scores `(S, N)`, of as many models, the means over the models."""
    draws = [
        np.repeat(np.arange(len(people)), own.astype(np.intp))
        for weights in bootstrap.weights(len(people))
        for own in weights.T
    ]

    def mean_spearman(own: np.ndarray, rows) -> float:
        return float(np.mean([spearman(model[rows], people[rows]) for model in np.atleast_2d(own)]))

    drawn = {name: np.array([mean_spearman(own, rows) for rows in draws]) for name, own in scores.items()}
    found = {name: mean_spearman(own, slice(None)) for name, own in scores.items()}
    for other in [name for name in scores if name != "both"] if "both" in scores else []:
        found[f"both_over_{other}"] = found["both"] - found[other]
        drawn[f"both_over_{other}"] = drawn["both"] - drawn[other]
    result = {}
    for key, value in (found | intervals(drawn, found)).items():
        result[f"spearman/{key}"] = None if value != value else value  # JSON knows no NaN
    return result
