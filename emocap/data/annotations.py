"""What people said of an image, gathered from any number of rows: its captions, its emotions and who named them."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from emocap.data.storage import DataReport, parse_json, read_text

__all__ = [
    "Annotated",
    "by_count",
    "fixed_labels",
    "frequent_first",
    "keep_labels",
    "parse_list",
    "refuse_unknown",
]

# A list of strings as Python prints it: ['happy', "don't know"].
_STRING = r"""(?:'(?:[^'\\]|\\['"\\])*'|"(?:[^"\\]|\\['"\\])*")"""
_STRING_LIST = re.compile(rf"\s*\[\s*(?:{_STRING}\s*(?:,\s*{_STRING}\s*)*,?\s*)?\]\s*")


@dataclass
class Annotated:
    """One image with what its annotators said.

    Attributes:
        captions: distinct captions, in order.
        votes: annotators who named each emotion.
        num_annotators: how many there were, those who named none included.
        shares: in place of votes, the share of people who named each emotion, where no more is known.
        columns: further columns of its row, such as `group`.
    """

    captions: dict[str, None] = field(default_factory=dict)
    votes: Counter[str] = field(default_factory=Counter)
    num_annotators: int = 0
    shares: dict[str, float] | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    def add_caption(self, caption: str) -> None:
        if caption.strip():
            self.captions[caption] = None

    def add_answer(self, emotions: Iterable[str]) -> None:
        self.votes.update(emotions)
        self.num_annotators += 1

    def row(self, image_id: str, names: Sequence[str] | None, *, votes: bool) -> dict[str, Any]:
        """The image's row of a table with these emotions, or without any; its `image` is another matter, see
        `attach_photos`.

        `labels` are multi-hot, or the shares where there are such: then `emotions` are those above 0.5, best first.
        With `votes` they come by votes, then in label order.
        """
        row = {"image_id": image_id, "captions": list(self.captions), **self.columns}
        if names is None:
            return row
        if self.shares is not None:
            labels = [self.shares[name] for name in names]
            strong = [label for label, share in enumerate(labels) if share > 0.5]
            return {**row, "labels": labels, "emotions": sorted(strong, key=lambda label: -labels[label])}
        counts = [self.votes[name] for name in names]
        emotions = [label for label, count in enumerate(counts) if count]
        row |= {"labels": [float(count > 0) for count in counts], "emotions": emotions}
        if votes:
            emotions.sort(key=lambda label: -counts[label])
            row |= {"votes": counts, "num_annotators": self.num_annotators}
            row["soft_labels"] = [count / self.num_annotators for count in counts]
        return row


def parse_list(cell: str) -> list[str] | None:
    """Strings of a Python-style list, read by pattern and never evaluated; None if the cell is no such list."""
    if not _STRING_LIST.fullmatch(cell):
        return None
    return [re.sub(r"\\(.)", r"\1", quoted[1:-1]) for quoted in re.findall(_STRING, cell)]


def fixed_labels(labels: Sequence[str] | str | os.PathLike | None) -> list[str] | None:
    """The emotions to keep, in order, from a list or the path of a JSON list; None stays None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no list of distinct names.
    """
    if labels is None:
        return None
    where = "labels"
    if isinstance(labels, str | os.PathLike):
        where = f"'{labels}'"
        text = read_text(labels, "a JSON list of emotions")
        try:
            labels = parse_json(text)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}. Expected a list of emotions.") from error
    names = list(labels) if isinstance(labels, list | tuple) else []
    valid = all(isinstance(name, str) and name.strip() for name in names)
    if not names or not valid or len(set(names)) < len(names):
        raise ValueError(f'{where} holds {str(labels)[:200]}; expected a list of distinct emotions such as ["happy"].')
    return names


def refuse_unknown(found: Iterable[str], names: Sequence[str], source: object) -> None:
    """Refuses emotions of a source that are not among the labels it was given.

    Raises:
        ValueError: names the first of them.
    """
    unknown = sorted(set(found) - set(names))
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise ValueError(
            f"'{source}' names {len(unknown)} emotion(s) that the given labels lack: {shown}. Add them to the labels, "
            "or leave the labels out to keep all of the file's own."
        )


def keep_labels(
    counts: Counter[str], order: Sequence[str], min_count: int, fixed: list[str] | None, report: DataReport
) -> list[str]:
    """Label names in order; the others go to the report's `dropped_labels`, with the images that carry them.

    Args:
        counts: images that carry each emotion.
        order: every emotion, in the order in which those are kept that at least `min_count` images carry.
        fixed: in place of both, the names to keep.

    Raises:
        ValueError: no emotion is left.
    """
    names = [name for name in order if counts[name] >= min_count] if fixed is None else fixed
    if not any(counts[name] for name in names):
        frequent = ", ".join(f"{emotion} ({count})" for emotion, count in counts.most_common(5)) or "none at all"
        wanted = f"min_count = {min_count} images" if fixed is None else f"the labels {', '.join(fixed[:5])}"
        raise ValueError(
            f"No emotion matches {wanted}; most frequent: {frequent}. Lower min_count or mend the labels."
        )
    report.extra["label_counts"] = {name: counts[name] for name in names}
    left_out = Counter({emotion: count for emotion, count in counts.items() if emotion not in set(names)})
    dropped = report.extra.setdefault("dropped_labels", {})
    dropped["below_min_count" if fixed is None else "not_in_labels"] = by_count(left_out)
    return names


def frequent_first(counts: Counter[str]) -> list[str]:
    """Names by how often they come, then by the alphabet."""
    return sorted(counts, key=lambda name: (-counts[name], name))


def by_count(strings: Counter[str]) -> dict[str, int]:
    return {name: strings[name] for name in frequent_first(strings)}
