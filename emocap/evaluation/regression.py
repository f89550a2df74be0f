"""Logistic regression of every label at once: what the strongest simple control and a probed head are fitted by."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from emocap.metrics import compute_metrics

__all__ = ["STRENGTHS", "best_regression", "fit_regression", "regression_probabilities"]

STRENGTHS = (0.3, 1.0, 3.0)
"""Values of C to choose from, for rows of unit length."""

MAX_STEPS = 300


def fit_regression(features: np.ndarray, labels: np.ndarray, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Weight `(L, D)` and bias `(L,)`, float64, of logistic regressions with a squared penalty on the weights, as
    scikit-learn's `LogisticRegression(C=strength)` label by label: their sum is one convex problem.

    Args:
        features: float `(N, D)`.
        labels: float `(N, L)`, multi-hot or shares in 0..1.
        strength: C, the weight of the losses against the penalty.
    """
    inputs, targets = (torch.as_tensor(np.asarray(own), dtype=torch.float64) for own in (features, labels))
    mean = inputs.mean(0)
    inputs = inputs - mean  # the same problem, the bias being free; far fewer steps where all rows point one way
    weight = torch.zeros(targets.shape[1], inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.logit(targets.mean(0), eps=1e-4).requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_STEPS, history_size=20, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        losses = F.binary_cross_entropy_with_logits(F.linear(inputs, weight, bias), targets, reduction="sum")
        value = (strength * losses + (weight * weight).sum() / 2) / len(inputs)
        value.backward()
        return value

    optimizer.step(loss)
    weight, bias = weight.detach(), bias.detach()
    return weight.numpy(), (bias - weight @ mean).numpy()


def regression_probabilities(features: np.ndarray, fitted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Probabilities float64 `(N, L)` of what `fit_regression` gave."""
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
        The place of the features among the candidates, the strength, and what `fit_regression` gave for them.
    """
    best = None
    for place, (train, held_out) in enumerate(candidates):
        for strength in STRENGTHS:
            fitted = fit_regression(train, labels, strength)
            loss = compute_metrics(regression_probabilities(held_out, fitted), validation)["bce"]
            if best is None or loss < best[0]:
                best = loss, place, strength, fitted
    return best[1:]
