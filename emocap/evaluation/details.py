"""What an evaluation says beside its figures: people as a yardstick, and what the report draws."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from emocap.data.schema import label_names
from emocap.metrics import compute_metrics
from emocap.metrics.metrics import ECE_BINS, THRESHOLD, average_precision, cross_entropies, row_ranking_precisions

__all__ = ["describe", "human_metrics"]

HUMAN_DRAWS = 20
FOR_PEOPLE = ("f1_micro", "f1_macro", "jaccard", "jsd")
"""A person answers yes or no: what asks for an order of the emotions, or for graded probabilities, says nothing."""

NUM_EXAMPLES = 12


def human_metrics(votes: np.ndarray, num_annotators: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """How well one annotator predicts the others: leave one out, on the metrics that yes or no answers have.

    Of each image with two annotators or more, one is left out and predicts what any of the rest named; `jsd` compares
    with the rest's votes. The table keeps how many named each emotion and not who named which together, so the
    annotator left out is drawn emotion by emotion: one of n, of whom v named it, did so with probability v / n, and v
    minus that answer is left to the rest. Each emotion's figures are those of real people; those that look across one
    picture's emotions (`jaccard`, `jsd`) take a person's emotions as independent given the picture.

    Args:
        votes: int `(N, L)`, annotators who named each emotion.
        num_annotators: int `(N,)`.
        probabilities: float `(N, L)`, a model's. It answers as the annotator does, on the same images and the same
            rest: of each image it names its most probable emotions, as many as the annotator named.

    Returns:
        Under `human/` means over 20 draws of `FOR_PEOPLE`, and `num_examples`, the images with two annotators or more;
        the same under `as_human/` for the model; empty where there is no such image.
    """
    enough = num_annotators >= 2
    votes, totals = votes[enough], num_annotators[enough, None]
    if not len(votes):
        return {}
    rng = np.random.default_rng(0)
    places = np.argsort(np.argsort(-probabilities[enough], axis=1, kind="stable"), axis=1)
    drawn = {"human": [], "as_human": []}
    for _ in range(HUMAN_DRAWS):
        named = rng.random(votes.shape) < votes / totals
        rest, as_many = votes - named, places < named.sum(axis=1, keepdims=True)
        for who, answer in (("human", named), ("as_human", as_many)):
            drawn[who].append(compute_metrics(answer.astype(float), (rest > 0).astype(float), rest))
    found = {
        f"{who}/{key}": float(np.mean([draw[key] for draw in own])) for who, own in drawn.items() for key in FOR_PEOPLE
    }
    return found | {"human/num_examples": len(votes)}


def describe(
    probabilities: np.ndarray,
    table: Dataset,
    labels: np.ndarray,
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """What the report draws of one evaluation, as plain lists.

    Args:
        probabilities: float `(N, L)` for the rows of `table`.
        table: the split.
        labels: float `(N, L)`, its truth.
        thresholds: as in `compute_metrics`.

    Returns:
        - `emotions`: the names;
        - `average_precision`: of each, None where no row is positive; `prevalence`: the share of rows that carry it;
        - `reliability`: for each bin of probability with entries, `[mean probability, share true, entries]`;
        - `confusion` `[a][b]`: of the rows where a is true and not predicted, how many predict b, which is false;
          `missed` `[a]`: how many such rows there are;
        - `examples`: the rows that the model ranks best and worst (`lrap` of the row; ties by binary cross-entropy),
          `{"image_id", "kind", "predicted", "truth"}`, emotions by falling probability.
    """
    names = label_names(table)
    true = labels >= THRESHOLD
    cut = THRESHOLD if thresholds is None else np.asarray(thresholds)
    predicted = probabilities >= cut
    missed, wrong = true & ~predicted, predicted & ~true
    precisions = [average_precision(probabilities[:, own], true[:, own]) for own in range(len(names))]
    return {
        "emotions": names,
        "average_precision": [None if score != score else round(score, 6) for score in precisions],
        "prevalence": [round(float(share), 6) for share in true.mean(axis=0)],
        "reliability": _reliability(probabilities, labels),
        "confusion": (missed.T.astype(np.int64) @ wrong).tolist(),
        "missed": missed.sum(axis=0).tolist(),
        "examples": _examples(probabilities, labels, names, table["image_id"][:]),
    }


def _reliability(probabilities: np.ndarray, labels: np.ndarray) -> list[list[float]]:
    bins = np.maximum(np.ceil(probabilities * ECE_BINS).astype(np.intp) - 1, 0).ravel()
    counts = np.bincount(bins, minlength=ECE_BINS)
    means = [np.bincount(bins, weights=values.ravel(), minlength=ECE_BINS) for values in (probabilities, labels)]
    return [
        [round(float(means[0][index] / count), 6), round(float(means[1][index] / count), 6), int(count)]
        for index, count in enumerate(counts)
        if count
    ]


def _examples(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], image_ids: Sequence[str]
) -> list[dict[str, Any]]:
    true = labels >= THRESHOLD
    entropy = cross_entropies(probabilities, labels).mean(axis=1)
    rows = np.flatnonzero(true.any(axis=1))
    ranked = rows[np.lexsort((entropy[rows], -row_ranking_precisions(probabilities, true)[rows]))]
    number = min(NUM_EXAMPLES, len(ranked) // 2)
    chosen = [("best", row) for row in ranked[:number]] + [("worst", row) for row in ranked[::-1][:number]]
    return [
        {
            "image_id": image_ids[row],
            "kind": kind,
            "predicted": [names[label] for label in np.argsort(-probabilities[row], kind="stable")[:4]],
            "truth": [names[label] for label in np.flatnonzero(true[row]).tolist()],
        }
        for kind, row in chosen
    ]
