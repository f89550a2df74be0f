"""Round numbers along the axes of figures."""

import math

__all__ = ["axis_ticks", "tick_labels"]


def axis_ticks(low: float, high: float, number: int = 4) -> list[float]:
    """About `number` round steps that span low..high; at least two values."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    rough = (high - low) / number
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def tick_labels(ticks: list[float]) -> list[str]:
    """The ticks as texts with equally many decimals."""
    decimals = max(len(f"{value:.12g}".partition(".")[2]) for value in ticks)
    return [f"{value:.{decimals}f}" for value in ticks]
