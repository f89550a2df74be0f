"""Ties of an exact answer, broken."""

import numpy as np

__all__ = ["break_ties"]


def break_ties(probabilities: np.ndarray, seed: int = 0) -> np.ndarray:
    """Equal probabilities in random order, moved by less than the step to the next float32; no others change places.

    Average precision takes equal scores as one threshold, so that the first of them count for no more than the last. A
    model that tells them apart by mere chance is expected to score higher: an exact posterior of few states has to
    break its ties, or it bounds nothing.
    Probabilities are float `(N, L)`, exact in float32; what comes is float64 of the same shape, from 0 to 1.
    """
    steps = np.spacing(np.asarray(probabilities, dtype=np.float32)).astype(np.float64)
    moved = probabilities + steps * np.random.default_rng(seed).random(steps.shape)
    return np.minimum(moved, 1)
