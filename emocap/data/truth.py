"""What people said of each row: targets, votes, how many were asked, and which rows belong together."""

from typing import NamedTuple

import numpy as np
from datasets import Dataset

from emocap.data.pairs import label_matrix
from emocap.data.schema import group_keys

__all__ = ["Truth", "known_votes", "read_truth", "row_groups", "truth_column"]


class Truth(NamedTuple):
    """The truth of a table's rows, as metrics and bootstrap take it.

    Attributes:
        labels: float32 `(N, L)`, multi-hot or soft.
        votes: int32 `(N, L)`, annotators who named each label; None where unknown.
        num_annotators: int `(N,)`, where the labels say whether any of so many annotators named each one; else None.
        groups: int `(N,)`, rows of one group with one number; None where every row is its own.
    """

    labels: np.ndarray
    votes: np.ndarray | None = None
    num_annotators: np.ndarray | None = None
    groups: np.ndarray | None = None

    @property
    def num_units(self) -> int:
        """Images, or groups of them, that a bootstrap draws."""
        return len(self.labels) if self.groups is None else len(np.unique(self.groups))


def read_truth(table: Dataset, column: str = "labels") -> Truth:
    """The truth in a column of a table, see `label_matrix`.

    Raises:
        ValueError: no such column, or rows without labels.
    """
    labels, votes, asked = label_matrix(table, column), known_votes(table), None
    if votes is not None and "num_annotators" in table.features and np.array_equal(labels, votes > 0):
        asked = np.asarray(table.with_format("numpy")["num_annotators"][:])
    return Truth(labels, votes, asked, row_groups(table))


def row_groups(table: Dataset) -> np.ndarray | None:
    """int `(rows,)`, rows of one group with one number; None for a table without `group`."""
    return np.unique(group_keys(table), return_inverse=True)[1] if "group" in table.features else None


def known_votes(table: Dataset) -> np.ndarray | None:
    """Votes int32 `(rows, L)`, or None where the table has none."""
    if "votes" not in table.features or table.with_format("arrow")["votes"][:].null_count:
        return None
    return np.asarray(table.with_format("numpy")["votes"][:])


def truth_column(table: Dataset) -> str:
    """The human labels, or the pseudo-labels where there are none."""
    human = "labels" in table.features and table.with_format("arrow")["labels"][:].null_count == 0
    return "labels" if human else "emotions"
