"""Pseudo-labels: which emotions the teacher's scores give to each image, and which images stand for each emotion."""

from typing import NamedTuple

import numpy as np

__all__ = ["PseudoLabels", "select_pseudo_labels"]


class PseudoLabels(NamedTuple):
    """A selection seen from both sides.

    Attributes:
        image_labels: label ids of each image, best first.
        label_images: image indices of each label, best first.
    """

    image_labels: list[list[int]]
    label_images: list[list[int]]


def select_pseudo_labels(
    scores: np.ndarray,
    labels_per_image: int | None = 4,
    images_per_label: int | None = None,
    threshold: float | None = None,
) -> PseudoLabels:
    """Keeps the best labels of each image, then the best images of each label.

    The two steps of Yalniz et al. 2019 ("Billion-scale semi-supervised learning for image classification", section 3),
    who call our `labels_per_image` P and our `images_per_label` K. An image may serve several labels. Equal scores
    rank by lower label id within an image and by lower image index within a label.

    Args:
        scores: float, shape (N, L): the teacher's probability of each label for each image.
        labels_per_image: at most this many labels an image; None: no limit.
        images_per_label: at most this many images a label, among those that kept the label; None: all of them.
        threshold: labels of an image must score strictly more than this; None: no threshold.

    Returns:
        `image_labels` (N lists) and `label_images` (L lists). `images_per_label` shortens `label_images` alone.

    Raises:
        ValueError: scores that are not (N, L) or hold NaN, or a count below 1.
    """
    scores = _checked_scores(scores)
    for name, count in (("labels_per_image", labels_per_image), ("images_per_label", images_per_label)):
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}, expected 1 or more, or None for no limit.")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :labels_per_image]
    kept = np.ones(best.shape, dtype=bool)
    if threshold is not None:
        kept = np.take_along_axis(scores, best, axis=1) > threshold
    image_labels = [
        labels[:count] for labels, count in zip(best.tolist(), kept.sum(axis=1).tolist(), strict=True)
    ]  # scores fall along a row, so the kept ones come first
    has_label = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(has_label, best, kept, axis=1)
    label_images = []
    for label in range(scores.shape[1]):
        images = np.flatnonzero(has_label[:, label])
        order = np.argsort(-scores[images, label], kind="stable")[:images_per_label]
        label_images.append(images[order].tolist())
    return PseudoLabels(image_labels, label_images)


def _checked_scores(scores: np.ndarray) -> np.ndarray:
    """`scores` as a floating (N, L) array; float32 stays, so that a threshold compares in that precision."""
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores has shape {scores.shape}, expected (N, L): one row an image, one column a label.")
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    bad = np.flatnonzero(np.isnan(scores).any(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(scores)} rows of scores hold NaN, the first is row {bad[0]}. Score these images "
            "again, or leave them out, before selecting."
        )
    return scores
