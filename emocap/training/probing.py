"""A head that starts from logistic regression on the body's own outputs: linear probing, then fine-tuning."""

import numpy as np
import torch
from torch import nn

from emocap.evaluation.regression import best_regression
from emocap.training.frozen import PooledPairs
from emocap.transfer.heads import head_of

__all__ = ["probe_head"]


def probe_head(model: nn.Module, train: PooledPairs, validation: PooledPairs) -> None:
    """Sets the head's weight and bias to the logistic regression on what the head reads (LP-FT, Kumar et al. 2022,
    section 3.3): fine-tuning then need not bend the body to a head that knows nothing.

    The regression's penalty is chosen by binary cross-entropy on the validation pairs. With late fusion the mean over
    a row's modalities is fitted, in which the logits are linear.

    Args:
        model: a teacher or student; its head alone changes.
        train, validation: what the head reads of the pairs, with their labels.
    """
    features = [head_inputs(own) for own in (train, validation)]
    length = float(np.sqrt((features[0] ** 2).sum(axis=1).mean()))  # the penalties are for rows of unit length
    labels = [own.labels.numpy()[own.pairs.row_of_pair] for own in (train, validation)]
    _, _, (weight, bias) = best_regression([[own / length for own in features]], *labels)
    head = head_of(model)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight / length))
        head.bias.copy_(torch.from_numpy(bias))


def head_inputs(pooled: PooledPairs) -> np.ndarray:
    """float64 `(pairs, width)`."""
    values = np.asarray(pooled.outputs["pooled_output"], dtype=np.float64)
    if "pooled_mask" not in pooled.outputs:
        return values
    present = np.asarray(pooled.outputs["pooled_mask"])[..., None]
    return (values * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
