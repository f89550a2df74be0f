"""Intervals over the seeds of a repeated run."""

import numpy as np

__all__ = ["t_interval"]


def t_interval(values: np.ndarray) -> tuple[float, float | None, float | None]:
    """Mean of a few values and their 95 % t interval; None for the bounds where there is one value."""
    mean, number = float(np.mean(values)), len(values)
    if number < 2:
        return mean, None, None
    half = t_quantile(0.975, number - 1) * float(np.std(values, ddof=1)) / number**0.5
    return mean, mean - half, mean + half


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t: with t = sqrt(df) tan(a) its density is cos(a)^(df - 1), summed on a fine grid."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    density = np.cos(angles).clip(0) ** (degrees - 1)
    shares = np.cumsum((density[1:] + density[:-1]) / 2)
    angle = np.interp(probability, np.concatenate([[0], shares / shares[-1]]), angles)
    return float(degrees**0.5 * np.tan(angle))
