"""Pseudo-labels: which emotions the teacher's scores give to each image, and which images stand for each emotion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["Selected", "Selection", "select_pseudo_labels"]

LABEL_SHARES = ("prevalence", "balanced")

BLOCK = 8192
"""Images ranked at a time."""


class Selected(NamedTuple):
    """A selection seen from both sides.

    Attributes:
        image_labels: label ids of each image, best first.
        label_images: image indices of each label, best first.
    """

    image_labels: list[list[int]]
    label_images: list[list[int]]


@dataclass(frozen=True)
class Selection:
    """Which of a teacher's scores become labels.

    Attributes:
        labels_per_image, images_per_label, threshold: see `select_pseudo_labels`.
        label_shares: None; "prevalence": each emotion's best images, as large a share as carry it in the teacher's
            training set; "balanced": the same share for each, so that `labels_per_image` is the mean. With either an
            image may carry any number of emotions.
        min_confidence: images whose highest score is lower get no labels.
        max_disagreement: images whose `caption_disagreement` is higher get no labels.

    Raises:
        ValueError: a value out of range.
    """

    labels_per_image: int | None = 4
    images_per_label: int | None = None
    threshold: float | None = None
    label_shares: str | None = None
    min_confidence: float | None = None
    max_disagreement: float | None = None

    def __post_init__(self):
        for name in ("threshold", "min_confidence", "max_disagreement"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected a number in 0..1.")
        if self.label_shares not in (None, *LABEL_SHARES):
            raise ValueError(f"label_shares is '{self.label_shares}'; expected one of {', '.join(LABEL_SHARES)}.")

    def select(
        self,
        scores: np.ndarray,
        disagreement: np.ndarray,
        prevalence: Sequence[float] | None,
        image_ids: Sequence[str],
    ) -> Selected:
        """The selection among some images.

        Args:
            scores: float `(N, L)`.
            disagreement: float `(N,)`, NaN for an image of one caption, which disagrees with none.
            prevalence: share of the teacher's training images that carry each label, where known.
            image_ids: N ids.
        """
        eligible = np.ones(len(scores), dtype=bool)
        if self.min_confidence is not None and len(scores):
            eligible &= scores.max(axis=1) >= self.min_confidence
        if self.max_disagreement is not None:
            eligible &= ~(disagreement > self.max_disagreement)
        number, shares = self.labels_per_image, None
        if self.label_shares == "prevalence":
            number, shares = None, prevalence
        elif self.label_shares == "balanced":
            if number is None or not 1 <= number <= scores.shape[1]:
                raise ValueError(
                    f"labels_per_image is {number}; label_shares 'balanced' needs 1 to {scores.shape[1]}, the mean "
                    "number of emotions an image."
                )
            number, shares = None, number / scores.shape[1]
        return select_pseudo_labels(
            scores,
            number,
            self.images_per_label,
            self.threshold,
            label_shares=shares,
            eligible=eligible,
            image_ids=image_ids,
        )


def select_pseudo_labels(
    scores: np.ndarray,
    labels_per_image: int | None = 4,
    images_per_label: int | None = None,
    threshold: float | None = None,
    *,
    label_shares: float | Sequence[float] | None = None,
    eligible: np.ndarray | None = None,
    image_ids: Sequence[str] | np.ndarray | None = None,
) -> Selected:
    """Keeps the best labels of each image, then the best images of each label.

    The two steps of Yalniz et al. 2019 ("Billion-scale semi-supervised learning for image classification", section 3),
    who call our `labels_per_image` P and our `images_per_label` K. An image may serve several labels.

    With `label_shares` a label is kept in that share of the images that score best for it: the class-wise thresholds
    of CAP (Xie et al. 2023, "Class-Distribution-Aware Pseudo-Labeling for Semi-Supervised Multi-Label Learning",
    section 3.2), whose shares are the labels' prevalence among human labels. One number for all labels balances them.
    All conditions hold together: give `labels_per_image=None` to match the shares exactly.

    Args:
        scores: float, shape (N, L): the teacher's probability of each label for each image.
        labels_per_image: at most this many labels an image; None: no limit.
        images_per_label: at most this many images a label, among those that kept the label; None: all of them.
        threshold: labels of an image must score strictly more than this; None: no threshold.
        label_shares: each label is kept by at most this share of the eligible images, rounded to whole images: one
            number in 0..1 for all labels, or L of them; None: no such limit.
        eligible: bool, shape (N,): images that may have labels; None: all of them.
        image_ids: N ids. Equal scores rank by id, so that the order of the rows does not matter; None: by row.
            Within an image equal scores rank by label id.

    Returns:
        `image_labels` (N lists) and `label_images` (L lists). `images_per_label` shortens `label_images` alone.

    Raises:
        ValueError: scores that are not (N, L) or hold NaN or infinities, a count below 1, shares outside 0..1, or
            options of another length than the scores.
    """
    scores = _checked_scores(scores)
    _check_options(scores.shape, labels_per_image, images_per_label, label_shares, eligible, image_ids)
    # everything below but `scores` goes by id: of equal scores the first row ranks first
    by_id = np.arange(len(scores)) if image_ids is None else np.argsort(np.asarray(image_ids), kind="stable")
    kept = np.ones(scores.shape, dtype=bool)
    if eligible is not None:
        kept &= np.asarray(eligible, dtype=bool)[by_id, None]
    if label_shares is not None:
        _keep_shares(scores, by_id, kept, np.broadcast_to(label_shares, scores.shape[1]))
    if threshold is not None:
        kept &= (scores > threshold)[by_id]
    best = _best_labels(scores, by_id, kept, labels_per_image)
    counts = np.minimum(kept.sum(axis=1), best.shape[1])
    kept[:] = False
    np.put_along_axis(kept, best, np.arange(best.shape[1]) < counts[:, None], axis=1)
    label_images = []
    for label in range(scores.shape[1]):
        images = by_id[np.flatnonzero(kept[:, label])]
        label_images.append(images[np.argsort(-scores[images, label], kind="stable")[:images_per_label]].tolist())
    row_of = np.argsort(by_id)
    best, counts = best[row_of], counts[row_of]
    image_labels = best.tolist()
    for image in np.flatnonzero(counts < best.shape[1]).tolist():
        del image_labels[image][counts[image] :]
    return Selected(image_labels, label_images)


def _best_labels(scores: np.ndarray, by_id: np.ndarray, kept: np.ndarray, number: int | None) -> np.ndarray:
    """The first labels of each image's ranking, kept ones first; a block of images at a time, as ranks take memory."""
    blocks = [np.empty((0, min(number or scores.shape[1], scores.shape[1])), dtype=np.int32)]
    for start in range(0, len(scores), BLOCK):
        own = slice(start, start + BLOCK)
        order = np.argsort(np.where(kept[own], -scores[by_id[own]], np.inf), axis=1, kind="stable")
        blocks.append(order[:, :number].astype(np.int32))
    return np.concatenate(blocks)


def _keep_shares(scores: np.ndarray, by_id: np.ndarray, kept: np.ndarray, shares: np.ndarray) -> None:
    """Clears `kept` for all but the best share of the kept images of each label; of equal scores the first stay."""
    for label, share in enumerate(shares):
        images = np.flatnonzero(kept[:, label])
        number = int(np.rint(share * len(images)))
        kept[images, label] = False
        if number:
            own = scores[by_id[images], label]
            cut = np.partition(own, len(own) - number)[len(own) - number]
            above = own > cut
            kept[images[above], label] = True
            kept[images[own == cut][: number - above.sum()], label] = True


def _checked_scores(scores: np.ndarray) -> np.ndarray:
    """`scores` as a floating (N, L) array; float32 stays, so that a threshold compares in that precision."""
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores has shape {scores.shape}, expected (N, L): one row an image, one column a label.")
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(scores)} rows of scores hold NaN or infinities, the first is row {bad[0]}. Score "
            "these images again, or leave them out, before selecting."
        )
    return scores


def _check_options(
    shape: tuple[int, int],
    labels_per_image: int | None,
    images_per_label: int | None,
    label_shares: float | Sequence[float] | None,
    eligible: np.ndarray | None,
    image_ids: Sequence[str] | np.ndarray | None,
) -> None:
    for name, count in (("labels_per_image", labels_per_image), ("images_per_label", images_per_label)):
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}, expected 1 or more, or None for no limit.")
    shares = np.asarray(0.0 if label_shares is None else label_shares, dtype=np.float64)
    if shares.shape not in ((), shape[1:]) or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(
            f"label_shares is {label_shares}; expected one number in 0..1, or one for each of the {shape[1]} labels."
        )
    for name, values in (("eligible", eligible), ("image_ids", image_ids)):
        if values is not None and np.shape(values) != shape[:1]:
            raise ValueError(f"{name} has shape {np.shape(values)}, expected ({shape[0]},): one entry an image.")
