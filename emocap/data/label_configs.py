"""The tables that a labelled data set is published as: light labels, heavy regions, and one row a caption."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Value

from emocap.data.heavy_columns import REGIONS_CONFIG, split_regions
from emocap.data.schema import label_names

__all__ = ["label_configs"]


def label_configs(tables: DatasetDict) -> dict[str, DatasetDict]:
    """Tables of a labelled data set by the name of their Hub configuration; push each with
    `push_to_hub(repo_id, config_name=name, set_default=name == "labels")`, which writes parquet shards.

    - `labels`: one row an image, without photo (which carries a licence of its own; `coco_url` leads to it), region
      features and the captions' own scores.
    - `captions`: one row a caption: `image_id`, `caption_index` within the image, `caption` and its own
      `emotion_scores` (null where the teacher read photos alone).
    - `regions`: `image_id` and the region columns, where the table has them.

    Raises:
        ValueError: the table is not labelled.
    """
    label_names(tables)
    features = next(iter(tables.values())).features
    if "caption_scores" not in features:
        raise ValueError(
            f"The data set has no pseudo-labels (columns: {', '.join(features)}); `emocap label` writes them."
        )
    light, regions = split_regions(tables)
    configs = {
        "labels": light.remove_columns([name for name in ("image", "caption_scores") if name in features]),
        "captions": DatasetDict({name: one_row_a_caption(split) for name, split in tables.items()}),
    }
    return configs if regions is None else {**configs, REGIONS_CONFIG: regions}


def one_row_a_caption(split: Dataset) -> Dataset:
    """Streams through the split: memory stays flat."""
    features = Features(
        {
            "image_id": Value("string"),
            "caption_index": Value("int32"),
            "caption": Value("string"),
            "emotion_scores": split.features["emotion_scores"],
        }
    )
    columns = ["image_id", "captions", "caption_scores"]
    return (
        split.select_columns(columns)
        .with_format("arrow")
        .map(rows_of_captions, batched=True, remove_columns=columns, features=features, desc="One row a caption")
        .with_format(None)
    )


def rows_of_captions(batch: pa.Table) -> pa.Table:
    image_ids, captions, scores = (batch[name].combine_chunks() for name in batch.column_names)
    counts = pc.list_value_length(captions).fill_null(0).to_numpy(zero_copy_only=False)
    number = int(counts.sum())
    index = np.arange(number) - np.repeat(np.cumsum(counts) - counts, counts)
    scores = pc.list_flatten(scores)
    return pa.table(
        {
            "image_id": image_ids.take(pc.list_parent_indices(captions)),
            "caption_index": pa.array(index, pa.int32()),
            "caption": pc.list_flatten(captions),
            "emotion_scores": scores if len(scores) == number else pa.nulls(number, scores.type),
        }
    )
