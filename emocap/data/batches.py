"""Models as functions of a batch of columns: what resumable jobs, `datasets`' maps, Ray Data and users call alike."""

import hashlib
import io
import json
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from uuid import uuid4

import multiprocess
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, Image, List, Value
from datasets.formatting.formatting import LazyBatch
from datasets.utils._dill import pklregister
from transformers import PreTrainedModel

from emocap.data.ranks import Ranks, pick_device
from emocap.models.photo_emocap import open_photo, to_rgb

__all__ = ["BatchFunction", "Columns", "config_fields", "digest_of", "pick_rank_device", "weights_hash"]

Columns: TypeAlias = Mapping[str, Any] | pa.Table
"""Columns by name: lists, numpy arrays or Arrow's, as a mapping or a table."""


class BatchFunction(ABC):
    """From a batch of columns to new columns.

    A mapping gives a dict of the new columns alone, which `datasets` merges: float arrays `(rows, width)`, or lists
    where rows differ or are null. A `pyarrow.Table`, which neither `datasets` nor Ray merge, comes back with the new
    columns in it.

    A pickle holds names, options and a hash, no tensors: each process loads its model when it is first called, and
    refuses one that has changed in the meantime. `datasets.fingerprint.Hasher` sees `fingerprint` alone, so that
    a map's cache outlasts the process, the model's place and the first call. Making one touches no GPU; where
    something else has, the processes of `Dataset.map(num_proc=...)` need `multiprocess.set_start_method("spawn")`, as
    CUDA does not survive a fork.

    Attributes:
        features: the new columns; `Features(table.features | function.features)` is what `Dataset.map` should write.
        fingerprint: hexadecimal hash of the weights, their configuration and the options that change more than the
            last bits: not of where the model lies, the device or the batch size.
    """

    features: Features
    reads: tuple[str, ...]
    """Columns that are looked at, where they are there."""
    source: list[str]
    """Names of the models."""
    loaded: Any = None

    def __init__(self, **options: Any) -> None:
        """`options` are those that change more than the last bits; JSON values."""
        self.options = options
        self.loaded = self.load()
        described = self.describe(self.loaded)
        self.known, self.weights = digest_of(described), described["weights"]
        self.fingerprint = digest_of(self.known, options)

    def __init_subclass__(cls) -> None:
        pklregister(cls)(save_fingerprint)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "loaded"}

    def __call__(self, batch: Columns, rank: int | None = None) -> dict[str, Any] | pa.Table:
        """
        Args:
            batch: some rows' columns.
            rank: which GPU computes, modulo their number, as `Dataset.map(with_rank=True)` counts its processes; None:
                the one of this process under a launcher, else the first. Without GPUs the CPU computes.

        Raises:
            ValueError: a column is missing or does not fit the model, or the model has changed.
        """
        new = self.compute(rows_of(batch, self.reads), rank)
        if isinstance(batch, pa.Table):
            return with_columns(batch, new)
        return {name: values_of(new[name]) for name in new.column_names}

    def open(self) -> Any:
        """What `load` gives, which each process loads once.

        A worker of a pool then computes in one thread: workers share the cores, and one that was forked from a process
        whose OpenMP threads have run would wait for them forever.

        Raises:
            ValueError: it is no longer what it was.
        """
        if self.loaded is None:
            if multiprocess.parent_process() or multiprocessing.parent_process():
                torch.set_num_threads(1)
            loaded = self.load()
            if digest_of(self.describe(loaded)) != self.known:
                names, kind = ", ".join(self.source), type(self).__name__
                raise ValueError(f"'{names}' has changed since its {kind} was made: make it again.")
            self.loaded = loaded
        return self.loaded

    @abstractmethod
    def load(self) -> Any:
        """The model or models, on the CPU: a process that starts others must not touch a GPU."""

    @abstractmethod
    def describe(self, loaded: Any) -> dict[str, Any]:
        """JSON values of what the result depends on: `weights`, a hash, and configuration."""

    @abstractmethod
    def compute(self, rows: Dataset, rank: int | None) -> pa.Table:
        """The new columns of some rows."""


def save_fingerprint(pickler, function: BatchFunction) -> None:
    """How `datasets` hashes: with a pickler of its own, which pickles nothing for anybody to read."""
    pickler.save_reduce(str, (f"{type(function).__name__} {function.fingerprint}",), obj=function)


def pick_rank_device(rank: int | None) -> torch.device:
    """See `BatchFunction.__call__`."""
    return pick_device(Ranks(local_rank=int(os.environ.get("LOCAL_RANK", 0)) if rank is None else rank))


def weights_hash(model: PreTrainedModel) -> str:
    """Hexadecimal hash of every tensor of a model: another checkpoint under the same name is another model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def config_fields(model: PreTrainedModel) -> dict[str, Any]:
    """What the configuration says about the result: not where it was read from, nor by which version."""
    fields = json.loads(model.config.to_json_string(use_diff=False))
    return {name: value for name, value in fields.items() if name not in ("transformers_version", "_name_or_path")}


def digest_of(*settings: object) -> str:
    """Hexadecimal hash of JSON values."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def rows_of(batch: Columns, names: Sequence[str]) -> Dataset:
    """The named columns of a batch, of those that it has, as a data set in memory; rows without `image_id` are
    called by their number."""
    if isinstance(batch, LazyBatch):  # what nobody has touched is not decoded yet, which our threads do better
        raw = batch.pa_table
        batch = {name: raw[name] if name in batch.keys_to_format else batch.data[name] for name in batch}
    present = set(batch.column_names if isinstance(batch, pa.Table) else batch)
    columns = {name: CONVERTERS[name](batch[name]) for name in names if name in present}
    if not columns:
        raise ValueError(f"The batch has none of the columns {', '.join(names)} (columns: {', '.join(present)}).")
    if "image_id" not in columns:
        columns["image_id"] = pa.array([f"row {row}" for row in range(len(next(iter(columns.values()))))])
    features = Features({name: feature_of(name, column.type) for name, column in columns.items()})
    table = pa.table(list(columns.values()), schema=features.arrow_schema)
    return Dataset(table, fingerprint=uuid4().hex)  # without one, all bytes would be hashed


def feature_of(name: str, kind: pa.DataType) -> Any:
    known = {"image_id": Value("string"), "image": Image(), "captions": List(Value("string"))}
    known |= {"num_regions": Value("int32")}
    return known[name] if name in known else List(Value("float16"), length=kind.list_size)


def texts(column: Any) -> pa.Array:
    return pa.array([str(value) for value in plain(column)], pa.string())


def lists_of_texts(column: Any) -> pa.Array:
    lists = [None if own is None else [str(text) for text in own] for own in plain(column)]
    return pa.array(lists, pa.list_(pa.string()))


def counts(column: Any) -> pa.Array:
    return pa.array(np.asarray(plain(column)).astype(np.int32))


def photos(column: Any) -> pa.ChunkedArray | pa.Array:
    """Photos as `datasets` stores them; Arrow's are taken as they lie."""
    if isinstance(column, (pa.Array, pa.ChunkedArray)):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        return pa.chunked_array([Image().cast_storage(chunk) for chunk in chunks], Image().pa_type)
    return pa.array([photo_content(photo) for photo in column], Image().pa_type)


def photo_content(photo: Any) -> dict[str, Any] | None:
    """Struct of `bytes` and `path` of a photo: it may come as that, bytes, a path, or a decoded picture, whose pixels
    go into a format without loss or much work."""
    if photo is None or isinstance(photo, dict):
        return photo
    if isinstance(photo, bytes):
        return {"bytes": photo, "path": None}
    if isinstance(photo, (str, os.PathLike)):
        return {"bytes": None, "path": os.fspath(photo)}
    content = io.BytesIO()
    to_rgb(open_photo(photo)).save(content, "BMP")
    return {"bytes": content.getvalue(), "path": None}


def half_floats(column: Any) -> pa.ChunkedArray | pa.Array:
    """Rows of one width in float16, without a copy where that is what Arrow holds."""
    kind = getattr(column, "type", None)
    if kind is not None and pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float16():
        return column
    values = [np.asarray(row, dtype=np.float16) for row in plain(column)]
    widths = {row.shape for row in values}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        raise ValueError(f"region_features are of the shapes {sorted(widths)}; expected one width for all rows.")
    return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(values)), len(values[0]))


def plain(column: Any) -> Any:
    """Python's values of an Arrow column; any other as it is."""
    return column.to_pylist() if isinstance(column, (pa.Array, pa.ChunkedArray)) else column


CONVERTERS = {
    "image_id": texts,
    "image": photos,
    "captions": lists_of_texts,
    "region_features": half_floats,
    "num_regions": counts,
}
"""From a column of a batch to Arrow's."""


def with_columns(table: pa.Table, new: pa.Table) -> pa.Table:
    """The table with the new columns, in place of those of the same name; where `datasets` has left its features in
    the schema, with those of the new ones."""
    kept = table.drop_columns([name for name in new.column_names if name in table.column_names])
    for name in new.column_names:
        kept = kept.append_column(new.schema.field(name), new[name])
    if b"huggingface" not in (table.schema.metadata or {}):
        return kept
    known = Features.from_arrow_schema(table.schema) | Features.from_arrow_schema(new.schema)
    features = Features({name: known[name] for name in kept.column_names})
    return kept.replace_schema_metadata(features.arrow_schema.metadata)


def values_of(column: pa.ChunkedArray) -> Any:
    """A column as numpy arrays, where rows are alike, or else a list of each row's value."""
    if column.null_count or not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy() if pa.types.is_integer(column.type) else column.to_pylist()
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
