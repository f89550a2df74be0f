"""What a caption's wish is in training: the levels of some of its emotions, or nothing."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers.utils import logging

from emocap.data.captions import CaptionDataset
from emocap.models.processing_emocap_captioner import logits_of
from emocap.training.sampling import PairSampler

__all__ = ["HIGH", "DrawnWishes", "draw_wishes", "wish_statistics"]

logger = logging.get_logger(__name__)

HIGH = 98
"""The percentile of an emotion over the training captions that a weight of 1 wishes for."""


class DrawnWishes(torch.utils.data.Dataset):
    """Captions of which some emotions are shown, by random numbers of the seed, the epoch and the caption alone: a
    resumed run, and every process of a distributed one, sees the same.

    Args:
        pairs: the captions.
        no_wish_share: share of them that come without a wish.
        seed: of the random numbers.
        sampler: knows the epoch; None: every epoch is the first.
    """

    def __init__(self, pairs: CaptionDataset, no_wish_share: float, seed: int, sampler: PairSampler | None = None):
        self.pairs, self.no_wish_share, self.seed, self.sampler = pairs, no_wish_share, seed, sampler
        self.drawn: tuple[int, np.ndarray] | None = None  # an epoch and its masks

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, pairs: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        batch = self.pairs.__getitems__(pairs)
        batch["wish_mask"] = torch.from_numpy(self.masks()[np.asarray(pairs)].astype(np.int64))
        return batch

    def __getitem__(self, pair: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([pair]).items()}

    def masks(self) -> np.ndarray:
        """This epoch's wishes, bool `(pairs, L)`."""
        epoch = 0 if self.sampler is None else self.sampler.epoch
        if self.drawn is None or self.drawn[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, 2])  # without the 2: the sampler's own numbers
            self.drawn = epoch, draw_wishes(rng, self.pairs.levels.shape, self.no_wish_share)
        return self.drawn[1]


def draw_wishes(rng: np.random.Generator, shape: tuple[int, int], no_wish_share: float) -> np.ndarray:
    """Which emotions are shown, bool `(captions, L)`.

    A caption has a wish with probability `1 - no_wish_share`. Then each of its emotions is shown with a probability of
    the caption's own, uniform in 0..1, one at random where that shows none: from one emotion to all, every number as
    often. (Showing few mostly, a captioner took far longer to read wishes at all.)
    """
    captions, labels = shape
    draws = rng.random((captions, labels), dtype=np.float32)
    shown = draws < rng.random((captions, 1), dtype=np.float32)
    nobody = np.flatnonzero(~shown.any(1))
    shown[nobody, draws[nobody].argmin(1)] = True
    return shown & (rng.random((captions, 1), dtype=np.float32) >= no_wish_share)


def wish_statistics(scores: np.ndarray, emotions: Sequence[str]) -> dict[str, list[float]]:
    """`wish_mean`, `wish_spread` and `wish_high` of `EmocapCaptionerConfig`, from probabilities `(captions, L)`."""
    logits = logits_of(scores)
    mean, std = logits.mean(0), logits.std(0)
    constant = std < 1e-6
    if constant.any():
        names = ", ".join(name for name, own in zip(emotions, constant, strict=True) if own)
        logger.warning(f"The teacher gives every training caption the same {names}: such a wish cannot be learned.")
    std = np.where(constant, 1.0, std)
    high = np.percentile((logits - mean) / std, HIGH, axis=0)
    named = {"wish_mean": mean, "wish_spread": std, "wish_high": high}
    return {name: [round(own, 6) for own in values.tolist()] for name, values in named.items()}
