"""From the table of pairs to batches that a captioner learns from."""

from collections.abc import Sequence

import datasets
import numpy as np
import pyarrow.compute as pc
import torch

from emocap.data.pairs import FixedSizeColumn, tokenise
from emocap.data.schema import NUM_REGIONS
from emocap.models import EmocapCaptionerProcessor

__all__ = ["CaptionDataset", "caption_scores", "check_captions"]


class CaptionDataset(torch.utils.data.Dataset):
    """(photo, caption) pairs with the levels of the caption's emotions: item i is a pair, a list of items one batch.

    Rows without a caption have no pair. Batches are what the captioner takes, with `labels`, and with `wish_mask` all
    1: `DrawnWishes` shows less.

    Args:
        table: rows that passed `check_captions`.
        processor: of the captioner, with the statistics of its wishes.

    Attributes:
        row_of_pair: int64 `(pairs,)`, the table row of each pair.
        token_starts: int64 `(pairs + 1,)`, where each caption begins among all tokens.
        num_captions: how many captions there are.
        num_truncated: how many of them are longer than the processor's `max_length` tokens, and were cut there.
    """

    def __init__(self, table: datasets.Dataset, processor: EmocapCaptionerProcessor):
        self.processor = processor
        captions = table["captions"][:]
        counts = [len(own or []) for own in captions]
        self.row_of_pair = np.repeat(np.arange(len(table)), counts)
        self.token_ids, self.token_starts, self.num_truncated = tokenise(processor, [own for own in captions if own])
        self.num_captions = len(self.row_of_pair)
        self.levels = processor.standardise(caption_scores(table)).astype(np.float32)
        self.regions, self.boxes = FixedSizeColumn(table, "region_features"), FixedSizeColumn(table, "region_boxes")
        self.region_counts = np.asarray(table.with_format("numpy")["num_regions"][:]).astype(np.int64)

    def __len__(self) -> int:
        return self.num_captions

    def __getitems__(self, pairs: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        pairs = np.asarray(pairs)
        rows = self.row_of_pair[pairs]
        starts, counts = self.token_starts[pairs], self.region_counts[rows]
        before = len(self.processor.start_ids) + 1 + counts  # what stands before the words
        lengths = self.token_starts[pairs + 1] - starts
        total = before + lengths
        places = np.arange(total.max()) - (total.max() - total)[:, None]  # within each row, which ends at the right
        words = places - before[:, None]
        input_ids = np.where(words < 0, self.processor.image_token_id, 0)
        for place, own in enumerate(self.processor.start_ids):
            input_ids[places == place] = own
        input_ids[words >= 0] = self.token_ids[(starts[:, None] + words)[words >= 0]]
        input_ids[places < 0] = self.processor.tokenizer.pad_token_id
        size = max(int(counts.max()), 1)
        levels = self.levels[pairs]
        batch = {
            "input_ids": input_ids,
            "attention_mask": (places >= 0).astype(np.int64),
            "labels": np.where(words >= 0, input_ids, -100),
            "visual_embeds": self.regions[rows].reshape(len(rows), NUM_REGIONS, -1)[:, :size],
            "visual_attention_mask": (np.arange(size) < counts[:, None]).astype(np.int64),
            "region_boxes": self.boxes[rows].reshape(len(rows), NUM_REGIONS, 4)[:, :size],
            "wish_levels": levels,
            "wish_mask": np.ones(levels.shape, dtype=np.int64),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in batch.items()}

    def __getitem__(self, pair: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([pair]).items()}

    @staticmethod
    def collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The collator that goes with it: `__getitems__` gave a batch already."""
        return batch

    @property
    def lengths(self) -> np.ndarray:
        """Regions and words of each pair together: int64 `(pairs,)`."""
        return self.region_counts[self.row_of_pair] + np.diff(self.token_starts)

    @property
    def truncated_captions(self) -> float:
        """Share of the captions that were cut."""
        return self.num_truncated / self.num_captions


def caption_scores(table: datasets.Dataset) -> np.ndarray:
    """The teacher's probabilities of every caption, float32 `(captions, L)`, in the table's order."""
    scores = table.with_format("arrow")["caption_scores"][:].combine_chunks().flatten()
    width = table.features["caption_scores"].feature.length
    return scores.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)


def check_captions(name: str, table: datasets.Dataset) -> None:
    """Refuses a split from which no captioner can learn.

    Raises:
        ValueError: columns are missing, captions and scores do not go together, or there is no caption.
    """
    wanted = {"caption_scores": "emocap label", "region_features": "emocap regions", "region_boxes": "emocap regions"}
    for column, command in wanted.items():
        if column not in table.features:
            raise ValueError(f"The {name} split has no column '{column}', which `{command}` writes.")
    counts = []
    for column in ("captions", "caption_scores"):
        lengths = pc.list_value_length(table.with_format("arrow")[column][:].combine_chunks())
        counts.append(lengths.fill_null(0).to_numpy(zero_copy_only=False))
    apart = np.flatnonzero(counts[0] != counts[1])
    if len(apart):
        row = int(apart[0])
        raise ValueError(
            f"{len(apart)} rows of the {name} split have other numbers of captions and caption_scores (first: "
            f"'{table[row]['image_id']}', {counts[0][row]} and {counts[1][row]}): label the table again."
        )
    if not counts[0].sum():
        raise ValueError(f"The {name} split has no caption to learn from.")
