"""Outputs of a frozen body, computed once: where the head alone trains, each epoch reads them instead of the body;
where the upper layers train too, what the frozen ones below make of the words."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from emocap.data.pairs import PairDataset
from emocap.models.modeling_emocap_teacher import EmocapTeacherForMultiLabelClassification
from emocap.terminal import progress
from emocap.training.heads import head_of
from emocap.training.layers import layers_of, parts_beside

__all__ = ["PairsWithStates", "PooledPairs", "frozen_layers", "only_head_trains", "skipped_layers"]


def only_head_trains(model: nn.Module) -> bool:
    """Whether every trainable parameter lies in the head: what is below gives the same output in every epoch."""
    head = {id(parameter) for parameter in head_of(model).parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return bool(trained) and all(id(parameter) in head for parameter in trained)


def frozen_layers(model: nn.Module) -> int:
    """How many of the body's first layers make the same of a caption in every epoch.

    0 unless the words pass them without regions (late fusion), all that lies beside the layers is frozen, its dropout
    included, and the head reads no layer below the last frozen one.
    """
    if not isinstance(model, EmocapTeacherForMultiLabelClassification) or model.config.fusion != "late":
        return 0
    if model.get_input_embeddings().weight.requires_grad:
        return 0
    layers, was_training, number = layers_of(model.body), model.training, 0
    model.train()
    if all(stands_still(part) for part in parts_beside(model.body)):
        while number < len(layers) and stands_still(layers[number]):
            number += 1
    model.train(was_training)
    read = [layer % (len(layers) + 1) for layer in model.config.pooled_layers or [-1]]
    return number if min(read) >= number else 0


def stands_still(part: nn.Module) -> bool:
    """Whether a part in training mode neither learns nor draws."""
    drawing = any(module.training and isinstance(module, nn.modules.dropout._DropoutNd) for module in part.modules())
    return not drawing and not any(parameter.requires_grad for parameter in part.parameters())


class PooledPairs(torch.utils.data.Dataset):
    """The pairs of a `PairDataset` as what the head reads of them: a list of items is one batch, as there.

    Every pair passes through the model once, in evaluation mode and by caption length; the outputs lie in files that
    are read through a memory map (float32, 3 kB a pair at width 768). Processes on one machine share the work and the
    files.

    Args:
        model: a teacher or student on its device.
        pairs: the pairs, captions and photos.
        folder: where the files go; whoever asked for them removes them.
        batch_size: pairs a step.
        precision: makes a context for a pass, such as the accelerator's `autocast`.
    """

    def __init__(
        self, model: nn.Module, pairs: PairDataset, folder: Path, batch_size: int, precision: Callable = nullcontext
    ):
        self.pairs, self.labels = pairs, pairs.labels

        def layout() -> dict[str, tuple]:
            first = pool(model, pairs, np.zeros(1, dtype=np.int64), precision)
            return {name: (values.dtype, (len(pairs), *values.shape[1:])) for name, values in first.items()}

        def write(files: dict[str, np.ndarray], chosen: np.ndarray) -> None:
            for name, values in pool(model, pairs, chosen, precision).items():
                files[name][chosen] = values

        self.outputs = write_once(model, pairs, folder, batch_size, layout, write)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, pairs: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        pairs = np.asarray(pairs)
        batch = {name: torch.from_numpy(values[pairs]) for name, values in self.outputs.items()}
        return batch if self.labels is None else batch | {"labels": self.labels[self.pairs.row_of_pair[pairs]]}

    def __getitem__(self, pair: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([pair]).items()}


class PairsWithStates(torch.utils.data.Dataset):
    """The pairs of a `PairDataset`, and beside them what a teacher's frozen layers make of each caption.

    Batches have `layer_states` float32 `(batch, words, hidden_size)` in addition, 0 where words are padding, which
    `skipped_layers` puts in the layers' place. In the file tokens stand one after the other, without padding: 3 kB a
    token at width 768.

    Args:
        number: of the frozen layers, see `frozen_layers`.
        model, pairs, folder, batch_size, precision: as in `PooledPairs`.
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: PairDataset,
        folder: Path,
        batch_size: int,
        precision: Callable = nullcontext,
        *,
        number: int,
    ):
        self.pairs, self.width = pairs, model.config.hidden_size
        last = layers_of(model.body)[number - 1]

        def layout() -> dict[str, tuple]:
            return {"states": (np.float32, (int(pairs.token_starts[-1]), self.width))}

        def write(files: dict[str, np.ndarray], chosen: np.ndarray) -> None:
            batch = pairs.__getitems__(chosen)
            words = {name: batch[name] for name in ("input_ids", "attention_mask")}
            inside, tokens = self.tokens_of(chosen, batch["input_ids"].shape[1])
            files["states"][tokens] = output_of(last, model, words, precision).float().cpu().numpy()[inside]

        self.states = write_once(model, pairs, folder, batch_size, layout, write)["states"]

    def __len__(self) -> int:
        return len(self.pairs)

    def tokens_of(self, pairs: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Which of `(pairs, columns)` are tokens, and where these stand in the file."""
        starts = self.pairs.token_starts[pairs][:, None]
        places = starts + np.arange(columns)
        inside = places < self.pairs.token_starts[pairs + 1][:, None]
        return inside, places[inside]

    def __getitems__(self, pairs: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        batch = self.pairs.__getitems__(pairs)
        inside, tokens = self.tokens_of(np.asarray(pairs), batch["input_ids"].shape[1])
        states = np.zeros((*inside.shape, self.width), dtype=np.float32)
        states[inside] = self.states[tokens]
        return batch | {"layer_states": torch.from_numpy(states)}

    def __getitem__(self, pair: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([pair]).items()}


@contextmanager
def skipped_layers(model: EmocapTeacherForMultiLabelClassification, number: int) -> Iterator[None]:
    """Inside, a batch that brings `layer_states` passes by the first `number` layers: the encoder runs as ever, with
    its own masks and positions, and the last of them gives these states. Other batches pass as ever."""
    given: dict[str, torch.Tensor | None] = {}

    def take(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        given["states"] = kwargs.pop("layer_states", None)
        return args, kwargs

    def passing_by(run: Callable, is_last: bool) -> Callable:
        def forward(*args, **kwargs):
            if given["states"] is None:
                return run(*args, **kwargs)
            states = given["states"] if is_last else args[0] if args else kwargs["hidden_states"]
            return (states, None) if gives_tuples else states

        return forward

    layers = layers_of(model.body)[:number]
    gives_tuples = isinstance(raw_output_of(layers[-1], model, {"input_ids": torch.zeros(1, 3).long()}), tuple)
    hook = model.register_forward_pre_hook(take, with_kwargs=True)
    for layer in layers:
        layer.forward = passing_by(layer.forward, layer is layers[-1])
    try:
        yield
    finally:
        hook.remove()
        for layer in layers:
            del layer.forward  # the class's own stands behind it


def write_once(
    model: nn.Module,
    pairs: PairDataset,
    folder: Path,
    batch_size: int,
    layout: Callable[[], dict[str, tuple]],
    write: Callable[[dict[str, np.ndarray], np.ndarray], None],
) -> dict[str, np.ndarray]:
    """Files of what the model in evaluation mode makes of every pair, by name, read through a memory map.

    Pairs go by caption length, so that little is padding. Processes on one machine share the work and the files.

    Args:
        layout: dtype and shape of each file.
        write: puts what the model makes of some pairs into the files.

    Raises:
        OSError: there is no room for them.
    """
    state, sharers = PartialState(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    folder = folder / f"machine{state.process_index // sharers}"
    order = np.argsort(np.diff(pairs.token_starts), kind="stable")[state.local_process_index :: sharers]
    was_training = model.training
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    if state.is_local_main_process:
        laid = layout()
        size = sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in laid.values())
        if size > (free := shutil.disk_usage(folder).free):
            raise OSError(
                f"What frozen parts give takes {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free in '{folder}'. "
                "Choose another --output_dir, or --no_cache_frozen_outputs."
            )
        for name, (dtype, shape) in laid.items():
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape).flush()
    state.wait_for_everyone()
    files = {path.stem: np.load(path, mmap_mode="r+") for path in sorted(folder.glob("*.npy"))}
    starts = range(0, len(order), batch_size)
    for start in progress(starts, desc="Outputs of what is frozen", unit="batches", disable=not state.is_main_process):
        write(files, order[start : start + batch_size])
    for values in files.values():
        values.flush()
    state.wait_for_everyone()
    model.train(was_training)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in files}


@torch.inference_mode()
def pool(model: nn.Module, pairs: PairDataset, chosen: np.ndarray, precision) -> dict[str, np.ndarray]:
    """What the head reads of some pairs, float32 (int64 for masks)."""
    batch = pairs.__getitems__(chosen)
    batch.pop("labels", None)
    with precision():
        outputs = model.pooled_outputs(**{name: values.to(model.device) for name, values in batch.items()})
    return {
        name: (values.float() if values.is_floating_point() else values).cpu().numpy()
        for name, values in outputs.items()
    }


@torch.inference_mode()
def raw_output_of(layer: nn.Module, model: nn.Module, words: dict[str, torch.Tensor]):
    """What one of the body's layers gives for some words, in evaluation mode."""

    class ReachedError(Exception):
        """What lies above need not run."""

    def stop(module: nn.Module, args: tuple, output: object) -> None:
        raise ReachedError(output)

    was_training, hook = model.training, layer.register_forward_hook(stop)
    model.eval()
    try:
        model(**{name: values.to(model.device) for name, values in words.items()})
    except ReachedError as reached:
        return reached.args[0]
    finally:
        hook.remove()
        model.train(was_training)
    raise AssertionError("The layer did not run.")


def output_of(layer: nn.Module, model: nn.Module, words: dict[str, torch.Tensor], precision) -> torch.Tensor:
    """The states `(batch, words, hidden_size)` among it."""
    with precision():
        output = raw_output_of(layer, model, words)
    return output[0] if isinstance(output, tuple) else output
