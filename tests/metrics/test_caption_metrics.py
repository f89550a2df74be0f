"""Metrics of captions against the formulas of their papers, written out, and against examples worked by hand."""

import math

import numpy as np
import pytest

from emocap.metrics.captions import (
    bleu,
    cider_d,
    distinct,
    mean_length,
    share_novel,
    share_unique,
    words_of,
)

VOCABULARY = ["a", "the", "dog", "child", "runs", "sleeps", "red", "house", "don't", "two"]


def random_captions(rng, number: int, most: int = 12) -> list[str]:
    return [" ".join(rng.choice(VOCABULARY, rng.integers(0, most))) for _ in range(number)]


def random_corpus(rng, number: int = 25) -> tuple[list[str], list[list[str]]]:
    references = [random_captions(rng, rng.integers(1, 6)) for _ in range(number)]
    candidates = random_captions(rng, number)
    candidates[:5] = [own[0] for own in references[:5]]
    return candidates, references


def runs(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def slow_cider_d(candidate: str, own: list[str], references: list[list[str]]) -> float:
    """Equations 1 to 4 of Vedantam et al. (2015), term by term."""

    def weight(gram, text):
        documents = sum(any(gram in runs(other, len(gram)) for other in document) for document in references)
        return runs(text, len(gram)).count(gram) * math.log(len(references) / max(1, documents))

    total = 0.0
    for n in range(1, 5):
        for reference in own:
            grams = sorted(set(runs(candidate, n)) | set(runs(reference, n)))
            c = np.array([weight(gram, candidate) for gram in grams])
            r = np.array([weight(gram, reference) for gram in grams])
            norm = math.sqrt((c**2).sum()) * math.sqrt((r**2).sum())
            if norm:
                length = len(candidate.split()) - len(reference.split())
                total += 10 / len(own) * math.exp(-(length**2) / (2 * 6**2)) * (np.minimum(c, r) * r).sum() / norm / 4
    return total


def test_cider_d_is_its_formula(rng):
    candidates, references = random_corpus(rng, 12)
    slow = [slow_cider_d(own, others, references) for own, others in zip(candidates, references, strict=True)]
    np.testing.assert_allclose(cider_d(candidates, references), slow, atol=1e-12)
    assert max(slow) > 1


def test_cider_d_by_hand():
    # log(2) everywhere but for "a": 1 of the 1 kept unigrams, orders 3 and 4 have no gram
    assert cider_d(["a dog", "a cat"], [["a dog"], ["a bird"]]) == pytest.approx([5.0, 0.0])
    shorter = cider_d(["a dog", "x"], [["dog dog"], ["y"]])[0]  # min(1, 2) * 2 / (sqrt(2) * 2), no common pair
    assert shorter == pytest.approx(10 / 4 / math.sqrt(2))
    assert cider_d(["one two three four", "x"], [["one two three four"], ["y"]]) == pytest.approx([10.0, 0.0])


def slow_bleu(candidates: list[str], references: list[list[str]], n: int) -> float:
    logs, c, r = 0.0, 0, 0
    for order in range(1, n + 1):
        hits = total = 0
        for candidate, own in zip(candidates, references, strict=True):
            found = runs(candidate, order)
            total += len(found)
            hits += sum(min(found.count(g), max(runs(other, order).count(g) for other in own)) for g in set(found))
        if not hits:
            return 0.0
        logs += math.log(hits / total) / n
    for candidate, own in zip(candidates, references, strict=True):
        c += len(candidate.split())
        lengths = sorted(len(other.split()) for other in own)
        r += lengths[int(np.argmin([abs(length - len(candidate.split())) for length in lengths]))]
    return math.exp(logs) * (1 if c > r else math.exp(1 - r / c))


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("kept", [12, 3])
def test_bleu_is_its_formula(rng, n, kept):
    candidates, references = random_corpus(rng)
    candidates = [" ".join(own.split()[:kept]) for own in candidates]  # short ones are penalised
    value = bleu(candidates, references, n)
    assert value == pytest.approx(slow_bleu(candidates, references, n), abs=1e-12)
    assert value > 0 or kept < n


def test_bleu_by_hand():
    assert bleu(["the the the the the the the"], [["the cat is on the mat"]], 1) == pytest.approx(2 / 7)
    assert bleu(["The cat, the cat!"], [["the cat sat on it", "cat"]], 2) == pytest.approx(
        math.sqrt(2 / 4 * 1 / 3) * math.exp(1 - 5 / 4)
    )
    assert bleu(["a b c"], [["a b d"]]) == 0


def test_words_and_variety():
    assert words_of("Don't run: 2 dogs_here, Café-noir’s!") == ["don't", "run", "2", "dogs", "here", "café", "noir’s"]
    captions = ["a dog", "A dog.", "the dog sleeps", ""]
    assert distinct(captions, 1) == 4 / 7 and distinct(captions, 2) == 3 / 4 and math.isnan(distinct(captions, 4))
    assert share_unique(captions) == 3 / 4 and mean_length(captions) == 7 / 4
    assert share_novel(captions, ["A, dog", "nothing"]) == 1 / 2


@pytest.mark.parametrize("metric", [cider_d, bleu])
def test_references_that_do_not_fit_are_refused(metric):
    with pytest.raises(ValueError, match="2 candidates came with references of 1"):
        metric(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match=r"1 candidates have no reference \(first: 1\)"):
        metric(["a", "b"], [["a"], []])
