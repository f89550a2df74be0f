"""What the cells of label columns say: emotions by name or number, or marks, shares or votes, a column each."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emocap.data.annotations import frequent_first, parse_list
from emocap.data.columns import Columns, class_names, numbers_of
from emocap.data.sources import Source
from emocap.data.storage import parse_json
from emocap.options import read_run_file

__all__ = ["Answers", "read_answers", "read_label_map"]

SEPARATORS = re.compile(r"[|;,]")
NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass
class Answers:
    """What each row of a source says about emotions.

    Attributes:
        names: the emotions in the source's own order; None: it has none, they come as words.
        named: of each row, the emotions that it names; None: the row says nothing. Or, in its place:
        amounts: of each row, a number for each of `names`: shares from 0 to 1, or votes.
        votes: whether the amounts are votes.
    """

    names: list[str] | None
    named: list[set[str] | None] | None = None
    amounts: list[list[float]] | None = None
    votes: bool = False

    def found(self) -> list[str]:
        """Every emotion that the source knows, in its own order or else as `frequent_first`."""
        return self.names or frequent_first(Counter(name for own in self.named or [] for name in own or ()))

    def renamed(self, label_map: Mapping[str, Sequence[str]], source: Source) -> "Answers":
        """The same answers in other emotions.

        Raises:
            ValueError: the map lacks emotions, has others, or adds up people who may have named several.
        """
        found = self.found()
        if missing := [name for name in found if name not in label_map]:
            raise ValueError(
                f"The label map lacks {len(missing)} emotion(s) of '{source.name}': {', '.join(missing)}. Give each a "
                "new name, a list of them, or null to drop it."
            )
        if unknown := [name for name in label_map if name not in found]:
            raise ValueError(
                f"The label map has {len(unknown)} emotion(s) that '{source.name}' lacks: {', '.join(unknown)}. Those "
                f"of the source: {', '.join(found)}."
            )
        names = list(dict.fromkeys(new for old in found for new in label_map[old]))
        if self.named is not None:
            # who named nothing but dropped emotions says nothing of the others
            named = [own and ({new for old in own for new in label_map[old]} or None) for own in self.named]
            return Answers(names if self.names else None, named=named)
        amounts = []
        for row, own in enumerate(self.amounts or []):
            sums = dict.fromkeys(names, 0.0)
            for old, amount in zip(found, own, strict=True):
                for new in label_map[old]:
                    if sums[new] and amount and not (self.votes is False and sum(own) <= 1 + 1e-6):
                        raise ValueError(
                            f"{source.place(row)}: several of the emotions that become '{new}' were named, and it is "
                            "not known by how many people together. Map one row an annotator, or shares that sum to 1."
                        )
                    sums[new] += amount
            amounts.append([min(value, 1.0) if not self.votes else value for value in sums.values()])
        return Answers(names, amounts=amounts, votes=self.votes)


def read_label_map(path: str | os.PathLike) -> dict[str, list[str]]:
    """A YAML or JSON file of old names with new ones: a name, a list of names, or null, which drops the old one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file of another form.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no label map '{path}'; expected a YAML or JSON file of old and new names.")
    content = read_run_file(Path(path))
    if not isinstance(content, dict) or not content:
        raise ValueError(f"'{path}' holds {str(content)[:80]}; expected old names with new ones, a line each.")
    label_map = {}
    for old, new in content.items():
        names = [] if new is None else [new] if isinstance(new, str) else new
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError(f"'{path}' gives '{old}' the name {str(new)[:80]}; expected a name, a list, or null.")
        label_map[str(old)] = names
    return label_map


def read_answers(source: Source, columns: Columns, labels: Sequence[str] | None) -> Answers | None:
    """What every row says, None where the source has no labels.

    Args:
        source: the opened source.
        columns: its columns. One of labels holds names (a list, or text with | ; or , between them), class ids, or a
            vector with a number an emotion; several hold a number an emotion each.
        labels: the emotions, in order, of class ids and vectors under no name.

    Raises:
        ValueError: a cell that is none of these, a number out of range, or emotions under no name.
    """
    if not columns.labels:
        return None
    if len(columns.labels) > 1:
        cells = [row.values() for _, row in source.rows(columns.labels)]
        return read_amounts(source, cells, columns.labels, bool(columns.num_annotators))
    (column,) = columns.labels
    cells = [row[column] for _, row in source.rows([column])]
    own_names = columns.label_names or class_names(source, column)
    parsed = [parse_cell(cell) for cell in cells]
    numbers = [numbers_of(own) if own is not None else None for own in parsed]
    is_numeric = any(parsed) and all(
        own is None or (values is not None and not any(isinstance(atom, bool) for atom in own))
        for own, values in zip(parsed, numbers, strict=True)
    )
    if not is_numeric:
        for row, own in enumerate(parsed):
            if own is not None and not all(isinstance(atom, str) for atom in own):
                raise ValueError(
                    f"{source.place(row)}: '{column}' is {str(cells[row])[:80]!r}; expected emotions: a list of "
                    "names, or names with | ; or , between them."
                )
        return Answers(None, named=one_spelling(parsed, labels))
    names = own_names or labels
    if names is None:
        raise ValueError(
            f"'{source.name}': the column '{column}' holds numbers under no name. Give the emotions' names in order "
            "with --labels FILE, a JSON list."
        )
    is_vector = columns.label_names is not None or (
        len(names) > 1 and own_names is None and all(own is not None and len(own) == len(names) for own in numbers)
    )
    if is_vector:
        vectors = [own or [] for own in numbers]
        for row, vector in enumerate(vectors):
            if len(vector) != len(names):
                raise ValueError(f"{source.place(row)}: '{column}' holds no number for each of {len(names)} emotions.")
        return read_amounts(source, vectors, names, bool(columns.num_annotators) and column == "votes")
    named: list[set[str] | None] = []
    for row, own in enumerate(numbers):
        if own is None or (own_names and own == [-1]):  # -1: no class, to `datasets`
            named.append(None)
            continue
        for number in own:
            if not (number.is_integer() and 0 <= number < len(names)):
                raise ValueError(
                    f"{source.place(row)}: '{column}' is {number:g}; expected the number of one of {len(names)} "
                    f"emotions, from 0 to {len(names) - 1}."
                )
        named.append({names[int(number)] for number in own})
    return Answers(list(names), named=named)


def parse_cell(cell: Any) -> list | None:
    """Names or numbers of a cell, None for an empty one. A text is a JSON or Python list, or has separators."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, str):
        text = cell.strip()
        if not text:
            return None
        if text.startswith("["):
            try:
                cell = parse_json(text)
            except ValueError:
                cell = parse_list(text)
            return parse_atoms(cell) if isinstance(cell, list) else [None]
        return parse_atoms(SEPARATORS.split(text))
    return parse_atoms(cell) if isinstance(cell, list | tuple) else [cell]


def parse_atoms(atoms: Iterable) -> list:
    atoms = [" ".join(atom.split()) if isinstance(atom, str) else atom for atom in atoms]
    return [float(own) if isinstance(own, str) and NUMBER.fullmatch(own) else own for own in atoms if own != ""]


def one_spelling(cells: Sequence[list[str] | None], labels: Sequence[str] | None) -> list[set[str] | None]:
    """Names that differ by case alone become one: that of the labels, or the most frequent."""
    spellings = Counter(name for own in cells for name in own or ())
    chosen = {name.casefold(): name for name in reversed(labels or frequent_first(spellings))}
    return [own if own is None else {chosen.get(name.casefold(), name) for name in own} for own in cells]


def read_amounts(source: Source, cells: Sequence[Iterable], names: Sequence[str], votes: bool) -> Answers:
    """Marks (0 and 1 alone), shares from 0 to 1, or votes where `votes` says that they may be such."""
    amounts = []
    for row, own in enumerate(cells):
        values = []
        for name, cell in zip(names, own, strict=True):
            value = (numbers_of([cell]) or [math.nan])[0]
            if not 0 <= value < math.inf:
                raise ValueError(f"{source.place(row)}: {name} is {str(cell)[:80]!r}; expected a number, 0 or more.")
            values.append(value)
        amounts.append(values)
    highest = max(max(own) for own in amounts)
    is_whole = all(value.is_integer() for own in amounts for value in own)
    if votes and is_whole:
        return Answers(list(names), amounts=amounts, votes=True)
    if highest > 1:
        row = next(row for row, own in enumerate(amounts) if max(own) > 1)
        name = names[amounts[row].index(max(amounts[row]))]
        cure = "Votes need the number of annotators beside them: --num_annotators_column NAME." if is_whole else ""
        raise ValueError(
            f"{source.place(row)}: {name} is {max(amounts[row]):g}; expected 0 or 1, or a share from 0 to 1. {cure}"
        )
    if is_whole:
        return Answers(
            list(names), named=[{name for name, mark in zip(names, own, strict=True) if mark} for own in amounts]
        )
    return Answers(list(names), amounts=amounts)
