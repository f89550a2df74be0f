"""Which pairs an epoch sees and in what order, and pairs of two tables as one data set."""

from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import torch
from transformers.utils import logging

from emocap.data.pairs import PairDataset, label_matrix

__all__ = ["MixedPairs", "PairSampler", "rows_of_labels"]

logger = logging.get_logger(__name__)

STEPS_A_STRETCH = 50
"""As transformers' own grouping: long enough for hardly any padding, short enough for steps that differ each epoch."""


class PairSampler(torch.utils.data.Sampler):
    """The pairs of each epoch, drawn from the seed and the epoch's number alone: a resumed run and every process of a
    distributed one draw the same.

    An epoch is filled up to whole steps with pairs from its own beginning. So every optimizer step is a mean over
    equally many pairs, however they are spread over processes and accumulated batches.

    Args:
        pairs: the pairs of the training table.
        captions: "all": every pair once an epoch; "random": every image once, with one of its captions, drawn anew.
        rows_of_labels: for each label the rows that stand for it. Then each draw is a label, uniformly, one of its
            rows, and one of the row's captions; an epoch has as many draws as there are such rows.
        mix: pairs of a second table, which follow those of `pairs` in `MixedPairs`.
        mix_share: the second table's share of an epoch, in 0..1. Its pairs (or images) come in turn before any comes
            again.
        pairs_a_step: batch size times devices times accumulated batches.
        by_length: fill each step with pairs of like `lengths`, so that little is padding. Lengths are sorted within
            stretches of `STEPS_A_STRETCH` steps of the random order, whose steps are shuffled again.
        seed: with the epoch's number the only source of randomness.
    """

    def __init__(
        self,
        pairs: PairDataset,
        *,
        captions: str = "all",
        rows_of_labels: Sequence[np.ndarray] | None = None,
        mix: PairDataset | None = None,
        mix_share: float = 0.0,
        pairs_a_step: int = 1,
        by_length: bool = False,
        seed: int = 0,
    ):
        self.captions, self.pairs_a_step, self.seed, self.epoch = captions, pairs_a_step, seed, 0
        self.main, self.mix = FirstPairs(pairs), None if mix is None else FirstPairs(mix)
        tables = [own for own in (pairs, mix) if own is not None]
        self.lengths = np.concatenate([own.lengths for own in tables]) if by_length else None
        self.rows_of_labels = None
        if rows_of_labels is not None:
            self.rows_of_labels = [rows for rows in rows_of_labels if len(rows)]
            self.own = len(np.unique(np.concatenate(self.rows_of_labels)))
        else:
            self.own = self.main.number(captions)
        self.mixed = 0 if mix is None else round(self.own * mix_share / (1 - mix_share))

    def __len__(self) -> int:
        return -(-(self.own + self.mixed) // self.pairs_a_step) * self.pairs_a_step

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.rows_of_labels is None:
            order = self.main.draw(rng, self.own, self.captions)
        else:
            order = self.main.with_captions(rng, self.balanced_rows(rng, self.rows_of_labels))
        if self.mix is not None and self.mixed:
            order = np.concatenate([order, len(self.main) + self.mix.draw(rng, self.mixed, self.captions)])
            rng.shuffle(order)
        order = np.resize(order, len(self))
        yield from (order if self.lengths is None else self.like_lengths(rng, order, self.lengths)).tolist()

    def like_lengths(self, rng: np.random.Generator, order: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The same pairs, those of a step of like length. The step with the longest caption comes first: if memory is
        short, it shows at once."""
        stretch = STEPS_A_STRETCH * self.pairs_a_step
        stretches = np.split(order, range(stretch, len(order), stretch))
        order = np.concatenate([own[lengths[own].argsort(kind="stable")] for own in stretches])
        steps = rng.permutation(order.reshape(-1, self.pairs_a_step))
        longest = lengths[steps].max(1).argmax()
        steps[[0, longest]] = steps[[longest, 0]]
        return steps.ravel()

    def balanced_rows(self, rng: np.random.Generator, rows_of_labels: Sequence[np.ndarray]) -> np.ndarray:
        """Rows, by label first: every label is equally likely."""
        counts = np.array([len(rows) for rows in rows_of_labels])
        labels = rng.integers(len(counts), size=self.own)
        starts = np.cumsum(counts) - counts
        return np.concatenate(rows_of_labels)[starts[labels] + rng.integers(counts[labels])]


class FirstPairs:
    """Where each row's pairs begin."""

    def __init__(self, pairs: PairDataset):
        self.starts = np.flatnonzero(np.diff(pairs.row_of_pair, prepend=-1))
        self.counts = np.diff([*self.starts, len(pairs.row_of_pair)])

    def __len__(self) -> int:
        return int(self.counts.sum())

    def number(self, captions: str) -> int:
        return len(self) if captions == "all" else len(self.starts)

    def draw(self, rng: np.random.Generator, number: int, captions: str) -> np.ndarray:
        """So many pairs, or rows with a caption each, in random order; each comes again only after all others."""
        rounds = -(-number // self.number(captions))
        order = np.concatenate([rng.permutation(self.number(captions)) for _ in range(rounds)])[:number]
        return order if captions == "all" else self.with_captions(rng, order)

    def with_captions(self, rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        """A random pair of each row."""
        return self.starts[rows] + rng.integers(self.counts[rows])


class MixedPairs(torch.utils.data.Dataset):
    """The pairs of two tables as one data set: first those of `main`, then those of `mix`.

    Batches have the form of `PairDataset`'s. What one table has and the other lacks (regions, pixels) is 0 and masked
    in the other's pairs.
    """

    def __init__(self, main: PairDataset, mix: PairDataset):
        self.parts, self.starts = (main, mix), (0, len(main))
        self.processor = main.processor
        self.reads_photos = main.reads_photos or mix.reads_photos
        self.row_of_pair = np.concatenate([main.row_of_pair, mix.row_of_pair + main.row_of_pair[-1] + 1])
        self.token_starts = np.concatenate([main.token_starts, mix.token_starts[1:] + main.token_starts[-1]])
        self.labels = torch.cat([main.labels, mix.labels])
        self.likeness = {name: value for part in self.parts for name, value in part[0].items()}

    def __len__(self) -> int:
        return len(self.row_of_pair)

    def __getitems__(self, pairs: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        pairs, pieces = np.asarray(pairs), []
        for part, start in zip(self.parts, self.starts, strict=True):
            inside = np.flatnonzero((pairs >= start) & (pairs < start + len(part)))
            if len(inside):
                pieces.append((torch.from_numpy(inside), part.__getitems__(pairs[inside] - start)))
        batch = {}
        for name, like in self.likeness.items():
            found = [(inside, piece[name]) for inside, piece in pieces if name in piece]
            sizes = [values.shape[1:] for _, values in found] or [like.shape]
            filling = self.processor.tokenizer.pad_token_id if name == "input_ids" else 0
            batch[name] = torch.full((len(pairs), *map(max, *sizes, sizes[0])), filling, dtype=like.dtype)
            for inside, values in found:
                batch[name][(inside, *(slice(size) for size in values.shape[1:]))] = values
        return batch

    def __getitem__(self, pair: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([pair]).items()}


def rows_of_labels(table: datasets.Dataset) -> list[np.ndarray]:
    """For each label the rows that stand for it: those `selected_for` it, or, in a table without that column, those
    whose `emotions` hold it."""
    column = "selected_for" if "selected_for" in table.features else "emotions"
    matrix = label_matrix(table, column)
    rows = [np.flatnonzero(own) for own in matrix.T]
    names = table.features[column].feature.names
    if empty := [name for name, own in zip(names, rows, strict=True) if not len(own)]:
        logger.warning(f"No image stands for {', '.join(empty)} in '{column}': class-balanced draws leave them out.")
    if len(empty) == len(names):
        raise ValueError(f"No image stands for any emotion: '{column}' is empty in every row.")
    return rows
