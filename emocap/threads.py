"""Computing in one thread, and in as many as before afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, or in a function that it decorates, PyTorch computes in one thread: models of a study are so small that
    they gain nothing from more, and sums come out alike on any machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
