"""From the table of pairs to batches of tensors: what every training and scoring loop reads."""

import io
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from datasets import ClassLabel, Features, List, Value
from PIL import Image
from transformers.utils import logging

from emocap.data.schema import NUM_REGIONS
from emocap.models.photo_emocap import resize_to_array
from emocap.models.processing_emocap import pad_tokens

__all__ = ["FixedSizeColumn", "PairDataset", "has_photos", "label_matrix", "with_pixels"]

logger = logging.get_logger(__name__)

MODALITIES = ("both", "text", "image")

CAPTIONS_A_CALL = 10_000
"""The tokenizer's own records take 4 kB a caption: COCO's 590,000 at once would take 2.5 GB."""


WIDE_ROW = 8192
"""Bytes of a row from which copying it takes longer than a step of a Python loop."""


class FixedSizeColumn:
    """A fixed-size list column of a data set as zero-copy numpy views, gathered a batch of rows at a time.

    Arrow keeps a table in chunks, as it was written or read: one view each. A selection or shuffle of the table costs
    an index, not a copy.

    Args:
        table: a data set from memory, `save_to_disk`, a cache file or parquet.
        name: a column `List(dtype, length=width)` without nulls.

    Raises:
        ValueError: there are nulls in the column.
    """

    def __init__(self, table: datasets.Dataset, name: str):
        self.width = table.features[name].length
        self.views = []
        for chunk in table.data.column(name).chunks:
            if chunk.null_count:
                raise ValueError(
                    f"{chunk.null_count} rows have no '{name}'. Rows without regions hold zeros and num_regions 0: "
                    "write them with `emocap regions`, or leave such rows out."
                )
            values = chunk.values.slice(chunk.offset * self.width, len(chunk) * self.width)
            self.views.append(values.to_numpy(zero_copy_only=True).reshape(-1, self.width))
        self.starts = np.cumsum([0, *map(len, self.views)])
        self.rows = row_indices(table)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The rows' values, `(len(rows), width)`, in the column's own dtype, copied once."""
        rows = self.rows[rows]
        if len(self.views) == 1:
            return self.views[0][rows]
        gathered = np.empty((len(rows), self.width), dtype=self.views[0].dtype if self.views else np.float32)
        parts = np.searchsorted(self.starts, rows, side="right") - 1
        if gathered.itemsize * self.width >= WIDE_ROW:  # a view's fancy index would copy its rows twice
            for target, part, row in zip(gathered, parts.tolist(), (rows - self.starts[parts]).tolist(), strict=True):
                target[:] = self.views[part][row]
            return gathered
        for part in np.unique(parts):
            inside = parts == part
            gathered[inside] = self.views[part][rows[inside] - self.starts[part]]
        return gathered


class PairDataset(torch.utils.data.Dataset):
    """(photo, caption) pairs of a table, ready for a model: item i is a pair, and a list of items is one batch.

    A row with several captions gives several pairs, a row without a caption one. Captions are tokenised once; region
    features, pixels and labels are gathered from Arrow's memory map a batch at a time, without a loop over rows.

    Args:
        table: rows of the table of pairs; for a student with photos, one that passed `with_pixels`.
        processor: an `EmocapProcessor`.
        labels: the targets, float32 `(rows, L)`, or their column, see `label_matrix`; None: batches have none.
        modalities: "both", or "text" or "image" alone.

    Attributes:
        row_of_pair: int64 `(pairs,)`, the table row of each pair.
        reads_photos: whether batches carry region features or pixels.
        num_captions: how many captions there are.
        num_truncated: how many of them are longer than the processor's `max_length` tokens, and were cut there.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        processor,
        labels: str | np.ndarray | None = None,
        modalities: str = "both",
    ):
        if modalities not in MODALITIES:
            raise ValueError(f"modalities is '{modalities}'; it must be one of {', '.join(MODALITIES)}.")
        self.processor = processor
        self.pixels = self.regions = None
        if modalities != "text":
            if processor.image_size is not None and "pixel_values" in table.features:
                self.pixels = FixedSizeColumn(table, "pixel_values")
                self.photo_counts = np.asarray(table.with_format("numpy")["has_pixels"][:]).astype(np.int64)
            elif processor.image_size is None and "region_features" in table.features:
                self.regions = FixedSizeColumn(table, "region_features")
                self.photo_counts = np.asarray(table.with_format("numpy")["num_regions"][:]).astype(np.int64)
        self.reads_photos = self.pixels is not None or self.regions is not None
        captions = table["captions"][:] if modalities != "image" else [[]] * len(table)
        blind = [
            row for row, own in enumerate(captions) if not own and not (self.reads_photos and self.photo_counts[row])
        ]
        if blind:
            raise ValueError(
                f"{len(blind)} of {len(table)} rows have nothing to read with modalities '{modalities}' (first: "
                f"'{table[blind[0]]['image_id']}'): neither a caption nor a photo's features. Run `emocap regions` "
                "for a teacher, or leave such rows out."
            )
        self.row_of_pair = np.repeat(np.arange(len(table)), [max(len(own), 1) for own in captions])
        self.token_ids, self.token_starts, self.num_truncated = tokenise(processor, captions)
        self.framing = processor.tokenizer.num_special_tokens_to_add()
        self.num_captions = sum(map(len, captions))
        labels = label_matrix(table, labels) if isinstance(labels, str) else labels
        self.labels = None if labels is None else torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.row_of_pair)

    def __getitems__(self, pairs: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        pairs = np.asarray(pairs)
        rows = self.row_of_pair[pairs]
        starts = self.token_starts[pairs]
        lengths = self.token_starts[pairs + 1] - starts
        words = pad_tokens(self.token_ids, starts, lengths, self.processor.tokenizer.pad_token_id, self.framing)
        batch = {name: torch.from_numpy(values) for name, values in words.items()}
        if self.regions is not None:
            counts = self.photo_counts[rows]
            most = max(int(counts.max()), 1)
            features = torch.from_numpy(self.regions[rows])
            batch["visual_embeds"] = features.view(len(rows), NUM_REGIONS, -1)[:, :most]
            inside = np.arange(most) < counts[:, None]
            batch["visual_attention_mask"] = torch.from_numpy(inside.astype(np.int64))
        if self.pixels is not None:
            size = self.processor.image_size
            batch["pixel_values"] = torch.from_numpy(self.pixels[rows]).view(len(rows), 3, size, size)
            batch["pixel_mask"] = torch.from_numpy(self.photo_counts[rows])
        if self.labels is not None:
            batch["labels"] = self.labels[rows]
        return batch

    def __getitem__(self, pair: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([pair]).items()}

    @staticmethod
    def collate(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The collator that goes with it: `__getitems__` gave a batch already."""
        return batch

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each pair's caption: int64 `(pairs,)`."""
        return np.diff(self.token_starts)

    @property
    def truncated_captions(self) -> float:
        """Share of the captions that were cut, 0 where there are none."""
        return self.num_truncated / max(self.num_captions, 1)

    def mean_over_captions(self, values: np.ndarray) -> np.ndarray:
        """Values of pairs `(pairs, L)` averaged over the captions of each row, float64 `(rows, L)`."""
        starts = np.flatnonzero(np.diff(self.row_of_pair, prepend=-1))
        counts = np.diff([*starts, len(self.row_of_pair)])
        return np.add.reduceat(np.asarray(values, dtype=np.float64), starts, axis=0) / counts[:, None]


def label_matrix(table: datasets.Dataset, column: str) -> np.ndarray:
    """Targets float32 `(rows, L)` from a column of shares (`labels`, `soft_labels`, `emotion_scores`) or of class ids
    (`emotions`, `selected_for`), which become multi-hot.

    `ranked_emotions` reads `emotions` of a table with pseudo-labels, where they come best first, as graded targets:
    1 for the best, 1/2, 1/3, 1/4 for those that follow, 0 for the rest.

    Raises:
        ValueError: no such column, or rows without labels.
    """
    ranked = column == "ranked_emotions"
    if ranked:
        column = "emotions"
        if "emotion_scores" not in table.features:
            raise ValueError("ranked_emotions needs pseudo-labels, which come best first: run `emocap label`.")
    feature = table.features.get(column)
    if feature is None:
        raise ValueError(f"The data set has no column '{column}' for labels (columns: {', '.join(table.features)}).")
    if not isinstance(feature, List):
        raise ValueError(f"Column '{column}' is {feature}; labels are a List of float32 or of ClassLabel.")
    values = table.with_format("arrow")[column][:].combine_chunks()
    if values.null_count:
        raise ValueError(
            f"{values.null_count} of {len(table)} rows have no '{column}': they carry no labels. Label them with "
            "`emocap label`, or choose another split."
        )
    if isinstance(feature.feature, ClassLabel):
        matrix = np.zeros((len(table), feature.feature.num_classes), dtype=np.float32)
        lengths = pa.compute.list_value_length(values).to_numpy()
        targets = 1.0
        if ranked:
            targets = 1 / (1 + np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths))
        matrix[np.repeat(np.arange(len(table)), lengths), values.flatten().to_numpy()] = targets
        return matrix
    return values.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), feature.length)


def has_photos(table: datasets.Dataset) -> bool:
    """Whether any row has its photo at hand."""
    return "image" in table.features and table.data.column("image").null_count < len(table.data)


def with_pixels(table: datasets.Dataset, image_size: int) -> datasets.Dataset:
    """Adds `pixel_values` (uint8, flat `3 * image_size**2`) and `has_pixels`: photos decoded and resized once, cached
    by `datasets` and read zero-copy ever after. Unreadable photos are counted and logged, and count as no photo."""
    photos = table.select_columns(["image_id", "image"]).with_format("arrow")
    features = Features({"pixel_values": List(Value("uint8"), length=3 * image_size**2), "has_pixels": Value("bool")})
    resized = photos.map(
        resize_batch,
        remove_columns=photos.column_names,
        batched=True,
        batch_size=256,
        features=features,
        fn_kwargs={"image_size": image_size},
        desc=f"Resizing photos to {image_size}x{image_size}",
    )
    return datasets.concatenate_datasets([table, resized.with_format(None)], axis=1)


def resize_batch(batch: pa.Table, image_size: int) -> pa.Table:
    photos = batch["image"].to_pylist()
    pixels = np.zeros((len(photos), 3, image_size, image_size), dtype=np.uint8)

    def resize(row: int) -> bool:
        try:
            if photos[row] is not None:
                content = photos[row]["bytes"]
                with Image.open(photos[row]["path"] if content is None else io.BytesIO(content)) as photo:
                    pixels[row] = resize_to_array(photo, image_size)
        except Exception as error:  # decoders raise whatever a damaged file makes them trip over
            logger.warning(f"Photo of '{batch['image_id'][row]}' left out: {error}")
            return False
        return photos[row] is not None

    with ThreadPoolExecutor() as pool:  # PIL decodes and resizes outside the interpreter's lock
        readable = list(pool.map(resize, range(len(photos))))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 3 * image_size**2)
    return pa.table({"pixel_values": flat, "has_pixels": pa.array(readable)})


def row_indices(table: datasets.Dataset) -> np.ndarray:
    """Rows of the underlying Arrow table that the data set shows, in its order (after select, shuffle, filter)."""
    if table._indices is None:
        return np.arange(len(table))
    return table._indices.column(0).to_numpy().astype(np.int64)


def tokenise(processor, captions: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Token ids of every pair's caption in one flat int64 array, where each pair's begin (one more at the end), and
    how many captions were cut."""
    texts = [caption for own in captions for caption in (own or [""])]
    flat, lengths, longest, truncated = [np.empty(0, dtype=np.int64)], [0], processor.max_length, 0
    for start in range(0, len(texts), CAPTIONS_A_CALL):
        part = texts[start : start + CAPTIONS_A_CALL]
        ids = processor.encode_captions(part)
        flat.append(np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64))
        lengths += map(len, ids)
        full = [text for text, own in zip(part, ids, strict=True) if len(own) == longest]
        if full:  # room for one token more tells a cut caption from one that just fits
            truncated += sum(len(own) > longest for own in processor.encode_captions(full, longest + 1))
    return np.concatenate(flat), np.cumsum(lengths), truncated
