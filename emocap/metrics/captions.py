"""Metrics of written captions: how like they are to people's, and how varied they are. All of words in lower case."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["bleu", "cider_d", "distinct", "mean_length", "share_novel", "share_unique", "words_of"]

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

CIDER_ORDERS, CIDER_SIGMA = 4, 6.0


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation; an apostrophe within one stays."""
    return WORD.findall(text.lower())


def ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of n words comes."""
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D of each candidate (Vedantam et al. 2015), float64 `(candidates,)`, from 0 to 10.

    Cosines of TF-IDF vectors of 1 to 4 words, a candidate's entries cut to the reference's, times
    `exp(-(difference of lengths)^2 / (2 * 6^2))`, mean over orders and references, times 10. A document is the
    references of a candidate: `log(documents / max(1, documents with the n-gram))`.

    Args:
        candidates: a caption each.
        references: those of each candidate, one or more. Few of them make poor document frequencies, a single
            candidate makes every score 0.

    Raises:
        ValueError: other numbers of candidates and references, none, or a candidate without reference.
    """
    check_references(candidates, references)
    told = {text: words_of(text) for own in (candidates, *references) for text in own}
    scores = np.zeros(len(candidates))
    for n in range(1, CIDER_ORDERS + 1):
        counts = {text: ngrams(words, n) for text, words in told.items()}
        frequency = Counter(gram for own in references for gram in set().union(*(counts[text] for text in own)))
        everything = math.log(len(references))
        vectors = {
            text: {gram: times * (everything - math.log(max(1, frequency[gram]))) for gram, times in own.items()}
            for text, own in counts.items()
        }
        norms = {text: math.sqrt(sum(weight * weight for weight in own.values())) for text, own in vectors.items()}
        for row, (candidate, own) in enumerate(zip(candidates, references, strict=True)):
            for reference in own:
                length = norms[candidate] * norms[reference]
                if not length:
                    continue
                other = vectors[reference]
                shared = sum(
                    min(weight, other[gram]) * other[gram]
                    for gram, weight in vectors[candidate].items()
                    if gram in other
                )
                apart = len(told[candidate]) - len(told[reference])
                scores[row] += shared / length * math.exp(-(apart**2) / (2 * CIDER_SIGMA**2)) / len(own)
    return 10 * scores / CIDER_ORDERS


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]], n: int = 4) -> float:
    """BLEU of the corpus (Papineni et al. 2002), from 0 to 1: the geometric mean of the clipped precisions of 1 to n
    words over all candidates, times the brevity penalty against the references of nearest length, the shorter of two
    as near. No smoothing: 0 where no run of n words is found.

    Raises:
        ValueError: as `cider_d`.
    """
    check_references(candidates, references)
    hits, totals = np.zeros(n), np.zeros(n)
    length = nearest = 0
    for candidate, own in zip(candidates, references, strict=True):
        words, others = words_of(candidate), list(map(words_of, own))
        length += len(words)
        nearest += min(map(len, others), key=lambda other: (abs(other - len(words)), other))
        for order in range(1, n + 1):
            most: Counter[tuple[str, ...]] = Counter()
            for other in others:
                most |= ngrams(other, order)
            found = ngrams(words, order)
            hits[order - 1] += (found & most).total()
            totals[order - 1] += found.total()
    if not hits.all():
        return 0.0
    penalty = min(0.0, 1 - nearest / length)
    return math.exp(penalty + float(np.log(hits / totals).mean()))


def distinct(candidates: Sequence[str], n: int) -> float:
    """Different runs of n words among all of them (Li et al. 2016); NaN where there is none."""
    found: Counter[tuple[str, ...]] = Counter()
    for candidate in candidates:
        found.update(ngrams(words_of(candidate), n))
    return len(found) / found.total() if found else float("nan")


def share_novel(candidates: Sequence[str], training: Iterable[str]) -> float:
    """Share of the candidates whose words no training caption has in that order."""
    known = {tuple(words_of(caption)) for caption in training}
    return float(np.mean([tuple(words_of(candidate)) not in known for candidate in candidates]))


def share_unique(candidates: Sequence[str]) -> float:
    """Different candidates, by their words, among all."""
    return len({tuple(words_of(candidate)) for candidate in candidates}) / len(candidates)


def mean_length(candidates: Sequence[str]) -> float:
    """Words a candidate."""
    return float(np.mean([len(words_of(candidate)) for candidate in candidates]))


def check_references(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(candidates) != len(references) or not len(candidates):
        raise ValueError(
            f"{len(candidates)} candidates came with references of {len(references)}; give each its own, 1 or more."
        )
    if empty := [row for row, own in enumerate(references) if not len(own)]:
        raise ValueError(f"{len(empty)} candidates have no reference (first: {empty[0]}).")
