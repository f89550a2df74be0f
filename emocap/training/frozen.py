"""Outputs of a frozen body, computed once: where the head alone trains, each epoch reads them instead of the body."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets.utils.logging import tqdm
from torch import nn

from emocap.data.pairs import PairDataset
from emocap.training.heads import head_of

__all__ = ["PooledPairs", "only_head_trains"]


def only_head_trains(model: nn.Module) -> bool:
    """Whether every trainable parameter lies in the head: what is below gives the same output in every epoch."""
    head = {id(parameter) for parameter in head_of(model).parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return bool(trained) and all(id(parameter) in head for parameter in trained)


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
        state, sharers = PartialState(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        folder = folder / f"machine{state.process_index // sharers}"
        order = np.argsort(np.diff(pairs.token_starts), kind="stable")[state.local_process_index :: sharers]
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        was_training = model.training
        model.eval()
        folder.mkdir(parents=True, exist_ok=True)
        if state.is_local_main_process:
            for name, values in pool(model, pairs, np.zeros(1, dtype=np.int64), precision).items():
                shape = (len(pairs), *values.shape[1:])
                np.lib.format.open_memmap(folder / f"{name}.npy", "w+", values.dtype, shape).flush()
        state.wait_for_everyone()
        files = {path.stem: np.load(path, mmap_mode="r+") for path in sorted(folder.glob("*.npy"))}
        for chosen in tqdm(batches, desc="Outputs below the head, once", disable=not state.is_main_process):
            for name, values in pool(model, pairs, chosen, precision).items():
                files[name][chosen] = values
        for values in files.values():
            values.flush()
        state.wait_for_everyone()
        model.train(was_training)
        self.outputs = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in files}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, pairs: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        pairs = np.asarray(pairs)
        batch = {name: torch.from_numpy(values[pairs]) for name, values in self.outputs.items()}
        return batch if self.labels is None else batch | {"labels": self.labels[self.pairs.row_of_pair[pairs]]}

    def __getitem__(self, pair: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([pair]).items()}


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
