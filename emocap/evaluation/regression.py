"""Logistic regression of every label at once: what the strongest simple control and a probed head are fitted by."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from emocap.metrics import compute_metrics

__all__ = ["STRENGTHS", "best_regression", "fit_regressions", "regression_probabilities"]

STRENGTHS = (0.3, 1.0, 3.0, 10.0)
"""Values of C to choose from, for rows of unit length."""

MAX_STEPS = 500


def fit_regressions(
    features: np.ndarray, labels: np.ndarray, strengths: Sequence[float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each strength the weight `(L, D)` and bias `(L,)`, float64, of logistic regressions with a squared penalty
    on the weights, as scikit-learn's `LogisticRegression(C=strength)` fits them label by label.

    All labels are one convex problem. It is solved in the features' principal axes; they and the biases are scaled by
    the curvature that the prior gives each, and each strength starts from the solution of the one before.

    Args:
        features: float `(N, D)`.
        labels: float `(N, L)`, multi-hot or shares in 0..1.
        strengths: values of C, the weight of the losses against the penalty, in ascending order.
    """
    inputs, targets = (torch.as_tensor(np.asarray(own), dtype=torch.float64) for own in (features, labels))
    centre = inputs.mean(0)
    inputs, axes = principal_axes(inputs - centre)
    prior = targets.mean(0).clamp(1e-4, 1 - 1e-4)
    weight, bias = torch.zeros(len(prior), len(axes), dtype=torch.float64), torch.logit(prior)
    found = []
    for strength in strengths:
        curvature = strength * prior * (1 - prior)
        units = (1 + curvature[:, None] * inputs.square().sum(0)).rsqrt(), (curvature * len(inputs)).rsqrt()
        weight, bias = minimise(inputs, targets, strength, units, (weight, bias))
        turned = weight @ axes
        found.append((turned.numpy(), (bias - turned @ centre).numpy()))
    return found


def principal_axes(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred rows `(N, D)` in their principal axes `(N, R)`, and the axes `(R, D)`, by the smaller of the two Gram
    matrices; axes in which the rows do not differ are left out."""
    wide = inputs.shape[1] > len(inputs)
    squares, vectors = torch.linalg.eigh(inputs @ inputs.T if wide else inputs.T @ inputs)
    kept = squares > 1e-12 * squares[-1]
    vectors, lengths = vectors[:, kept], squares[kept].sqrt()
    if wide:
        return vectors * lengths, (vectors / lengths).T @ inputs
    return inputs @ vectors, vectors.T


def minimise(inputs, targets, strength: float, units, start) -> list[torch.Tensor]:
    """The best weight and bias, searched for in steps of `units` from those given."""
    steps = [(own / unit).requires_grad_(True) for own, unit in zip(start, units, strict=True)]
    optimizer = torch.optim.LBFGS(
        steps,
        max_iter=MAX_STEPS,
        history_size=20,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        weight, bias = (own * unit for own, unit in zip(steps, units, strict=True))
        losses = F.binary_cross_entropy_with_logits(F.linear(inputs, weight, bias), targets, reduction="sum")
        value = (losses + (weight * weight).sum() / (2 * strength)) / len(inputs)
        value.backward()
        return value

    optimizer.step(loss)
    return [(own * unit).detach() for own, unit in zip(steps, units, strict=True)]


def regression_probabilities(features: np.ndarray, fitted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Probabilities float64 `(N, L)` of what `fit_regressions` gave for a strength."""
    weight, bias = fitted
    return np.exp(-np.logaddexp(0.0, -(features @ weight.T + bias)))


def best_regression(
    candidates: Iterable[Sequence[np.ndarray]], labels: np.ndarray, validation: np.ndarray
) -> tuple[int, float, tuple[np.ndarray, np.ndarray]]:
    """The features and strength whose regression has the least binary cross-entropy on the validation rows.

    Args:
        candidates: of each choice of features, those of the training rows and those of the validation rows.
        labels, validation: float `(N, L)` and `(M, L)`.

    Returns:
        The place of the features among the candidates, the strength, and what `fit_regressions` gave for them.
    """
    best: Any = None
    for place, (train, held_out) in enumerate(candidates):
        for strength, fitted in zip(STRENGTHS, fit_regressions(train, labels, STRENGTHS), strict=True):
            loss = compute_metrics(regression_probabilities(held_out, fitted), validation)["bce"]
            if best is None or loss < best[0]:
                best = loss, place, strength, fitted
    return best[1:]
