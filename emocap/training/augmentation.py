"""Random crops and mirrored photos for a student's training batches."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from emocap.data.pairs import PairDataset
from emocap.training.sampling import MixedPairs, PairSampler

__all__ = ["CroppedPhotos", "crop_photos"]

CROP_AREA = (0.5, 1.0)
"""Share of the photo that a crop keeps: what a crowd reacts to should stay in it."""

CROP_RATIO = (3 / 4, 4 / 3)
"""Width over height of a crop, of a square photo; torchvision's own bounds."""


class CroppedPhotos(torch.utils.data.Dataset):
    """Training pairs whose photos are cropped and mirrored at random, batch by batch, from the cached pixels.

    A pair's crop depends on the sampler's seed, the epoch and the pair alone: a resumed run, and every process of a
    distributed one, sees the same.

    Args:
        pairs: the training pairs of a student that reads photos.
        sampler: draws them, and knows seed and epoch.

    Raises:
        ValueError: the pairs have no pixels.
    """

    def __init__(self, pairs: PairDataset | MixedPairs, sampler: PairSampler):
        if "pixel_values" not in pairs[0]:
            raise ValueError(
                "--augment_photos needs photos, of which the training rows have none (or --modalities is text)."
            )
        self.pairs, self.sampler = pairs, sampler
        self.drawn: tuple[int, np.ndarray] | None = None  # an epoch and its numbers

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, pairs: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        batch = self.pairs.__getitems__(pairs)
        batch["pixel_values"] = crop_photos(batch["pixel_values"], self.draws()[np.asarray(pairs)])
        return batch

    def __getitem__(self, pair: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([pair]).items()}

    def draws(self) -> np.ndarray:
        """This epoch's random numbers of every pair, see `crop_photos`."""
        epoch = self.sampler.epoch
        if self.drawn is None or self.drawn[0] != epoch:
            rng = np.random.default_rng([self.sampler.seed, epoch, 1])  # without the 1: the sampler's own numbers
            self.drawn = epoch, rng.random((len(self), 5), dtype=np.float32)
        return self.drawn[1]


def crop_photos(pixels: torch.Tensor, draws: np.ndarray) -> torch.Tensor:
    """Crops of photos, resized bilinearly to the photos' own size, every second one mirrored.

    Args:
        pixels: uint8 `(batch, 3, size, size)`.
        draws: float32 `(batch, 5)` in 0..1: area (within `CROP_AREA`), width over height (within `CROP_RATIO`, even on
            a log scale), place from the left and from the top, and mirrored from 0.5.

    Returns:
        uint8 `(batch, 3, size, size)`.
    """
    area, ratio, left, top, mirrored = torch.from_numpy(draws).unbind(1)
    area = CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area
    low, high = np.log(CROP_RATIO)
    ratio = torch.exp(low + (high - low) * ratio)
    width, height = ((area * own).sqrt().clamp_max(1) for own in (ratio, 1 / ratio))
    grid = torch.zeros(len(pixels), 2, 3)
    grid[:, 0, 0] = torch.where(mirrored < 0.5, width, -width)
    grid[:, 1, 1] = height
    grid[:, 0, 2] = (2 * left - 1) * (1 - width)  # the crop's middle, from -1 to 1
    grid[:, 1, 2] = (2 * top - 1) * (1 - height)
    places = F.affine_grid(grid, list(pixels.shape), align_corners=False)
    cropped = F.grid_sample(pixels.float(), places, padding_mode="border", align_corners=False)
    return cropped.round().clamp(0, 255).to(torch.uint8)
