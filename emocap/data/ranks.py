"""The processes of one job, as `accelerate launch` and torchrun start them."""

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import torch
from torch import distributed

__all__ = ["Ranks", "launched_ranks", "pick_device"]

LONGEST_WAIT = timedelta(days=30)
"""One rank may have work for days while another, after a stop, has none left."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its job; by default it is alone.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine.
        local_size: number of processes on this machine.
        group: how they talk, or None.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    group: distributed.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def first_decides(self, flags: list[bool]) -> list[bool]:
        """The flags of rank 0, for which the others wait; every rank gives equally many."""
        if self.group is None:
            return flags
        shared = torch.tensor(flags, dtype=torch.uint8)
        distributed.broadcast(shared, src=0, group=self.group)
        return shared.bool().tolist()

    def wait_for_all(self) -> None:
        """Returns once every rank has come here."""
        if self.group is not None:
            distributed.barrier(group=self.group)


@cache
def launched_ranks() -> Ranks:
    """The ranks that a launcher's environment tells of; they talk over gloo, whatever they compute on, since all they
    exchange is which work is left. Made once: torch hangs when it connects the same processes a second time."""
    names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    known = {field: int(os.environ[name]) for field, name in names.items() if name in os.environ}
    if known.get("size", 1) == 1:
        return Ranks()
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
        atexit.register(
            distributed.destroy_process_group
        )  # without it gloo's threads may abort the process at its end
    return Ranks(**known, group=distributed.new_group(backend="gloo", timeout=LONGEST_WAIT))


def pick_device(ranks: Ranks) -> torch.device:
    """A GPU for each process of a machine, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", ranks.local_rank % torch.cuda.device_count())
