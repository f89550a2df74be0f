"""Tables as parquet files that `load_dataset` reads from the Hub: the same rows always give the same bytes."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Image
from datasets.info import DatasetInfo, DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.table import embed_table_storage
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from emocap.data.heavy_columns import PHOTOS_CONFIG, REGIONS_CONFIG, split_regions
from emocap.data.label_configs import label_configs
from emocap.data.pairs import has_photos

__all__ = ["table_configs", "write_configs"]

SHARD_BYTES = 500_000_000
BATCH_BYTES = 30_000_000
"""Held in memory at a time; one row group of a file."""


def table_configs(tables: DatasetDict) -> dict[str, DatasetDict]:
    """Tables by the name of their Hub configuration: those of `label_configs` for pseudo-labels, with the photos as
    `photos` unless each carries a licence of its own (the column `license`), and else the light table as `default` and
    its `regions`."""
    features = next(iter(tables.values())).features
    if "caption_scores" not in features:
        light, regions = split_regions(tables)
        return {"default": light} if regions is None else {"default": light, REGIONS_CONFIG: regions}
    configs = label_configs(tables)
    if "license" not in features and any(map(has_photos, tables.values())):
        configs[PHOTOS_CONFIG] = tables.select_columns(["image_id", "image"])
    return configs


def write_configs(configs: dict[str, DatasetDict], folder: Path) -> dict[str, Any]:
    """Writes every split of every configuration as parquet files into `folder`.

    Returns:
        `dataset_info` and `configs` for the YAML part of the card.
    """
    infos, data_files = DatasetInfosDict(), MetadataConfigs()
    for config, tables in configs.items():
        directory = "data" if config == "default" else config
        splits, download = SplitDict(), 0
        for name, split in tables.items():
            paths = write_shards(split, folder / directory, name)
            download += sum(path.stat().st_size for path in paths)
            splits[name] = SplitInfo(str(name), num_bytes=size_in_memory(paths), num_examples=len(split))
        infos[config] = DatasetInfo(
            features=next(iter(tables.values())).features,
            splits=splits,
            download_size=download,
            dataset_size=sum(split.num_bytes for split in splits.values()),
        )
        data_files[config] = {
            "data_files": [{"split": str(name), "path": f"{directory}/{name}-*.parquet"} for name in tables]
        }
    if "labels" in data_files:
        data_files["labels"]["default"] = True
    data = DatasetCardData()
    infos.to_dataset_card_data(data)
    data_files.to_dataset_card_data(data)
    return {"dataset_info": data["dataset_info"], "configs": data["configs"]}


def write_shards(split: Dataset, folder: Path, name: str) -> list[Path]:
    """One split as files of some 500 MB, photos embedded; memory holds one batch."""
    folder.mkdir(parents=True, exist_ok=True)
    schema, batches = split.features.arrow_schema, split.with_format("arrow").iter(rows_a_batch(split))
    parts, done = [], False
    while not done:
        parts.append(folder / f"{name}-part{len(parts)}.parquet")
        with pa.OSFile(str(parts[-1]), "wb") as file:
            writer = pq.ParquetWriter(file, schema, use_content_defined_chunking=True, write_page_index=True)
            with writer:
                while file.tell() < SHARD_BYTES:
                    batch = next(batches, None)
                    if done := batch is None:
                        break
                    writer.write_table(embed_table_storage(batch).cast(schema))
    if len(parts) > 1 and not pq.read_metadata(parts[-1]).num_rows:
        parts.pop().unlink()  # the last batch had filled the file before
    return [
        part.rename(folder / f"{name}-{index:05d}-of-{len(parts):05d}.parquet") for index, part in enumerate(parts)
    ]


def rows_a_batch(split: Dataset) -> int:
    """Rows of about `BATCH_BYTES`; at most 100 with photos, which may lie outside of the table."""
    most = 100 if any(isinstance(feature, Image) for feature in split.features.values()) else 10_000
    return max(1, min(most, BATCH_BYTES * len(split) // max(split.data.nbytes, 1)))


def size_in_memory(paths: list[Path]) -> int:
    """Uncompressed bytes of parquet files, by their own account."""
    groups = (pq.read_metadata(path) for path in paths)
    return sum(group.row_group(index).total_byte_size for group in groups for index in range(group.num_row_groups))
