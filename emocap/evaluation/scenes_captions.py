"""What a captioner's wishes do on the built-in corpus, where the exact answer for every sentence is known."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, DatasetDict

from emocap.data.pairs import FixedSizeColumn
from emocap.data.storage import load_table
from emocap.data.truth import row_groups
from emocap.evaluation.captioner import (
    Candidates,
    Captioner,
    average,
    check_captioner,
    check_scales,
    choose_pictures,
    choose_ranker,
    finish,
    raised,
    write,
    write_best,
)
from emocap.metrics import Bootstrap
from emocap.metrics.captions import mean_length, share_novel, share_unique
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from emocap.records import Result
from emocap.scenes.truth import find_pictures, judge_captions, posteriors_of_all_words

__all__ = ["SCENES_JUDGE", "evaluate_on_scenes"]

SCENES_JUDGE = "scenes"
"""The judge of this name is the corpus itself."""

WEIGHTS = (0.25, 0.5, 1.0)


class Scenes(NamedTuple):
    """Pictures whose exact answers are known, in random order, and the wishes."""

    table: Dataset
    states: np.ndarray
    """int64 `(pictures,)`, of `PICTURE_STATES`."""
    labels: list[int]
    names: list[str]
    """The emotions of these labels."""
    reachable: np.ndarray
    """float64 `(pictures, WORD_STATES, wishes)`, P(wish | picture, words) of all words."""

    @property
    def number(self) -> int:
        return len(self.states)


class PictureRegions(NamedTuple):
    """The regions of pictures, as `CaptionDataset` holds them."""

    regions: FixedSizeColumn
    boxes: FixedSizeColumn
    region_counts: np.ndarray


def evaluate_on_scenes(
    model: str | os.PathLike,
    tables: DatasetDict | str | os.PathLike,
    split: str = "test",
    *,
    guidance_scale: Sequence[float] = (1.0, 2.0),
    num_candidates: int = 1,
    ranker: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    wishes: Sequence[str] | None = None,
    num_images: int = 100,
    batch_size: int = 64,
    num_resamples: int = 1000,
    seed: int = 0,
    output: str | Path | None = None,
) -> Result:
    """What the wishes of a captioner do on pictures of the built-in corpus, its captions written greedily.

    Captions are parsed, and the judge's probabilities are exact: P(label | picture, words), with the picture's true
    state; all 0 for a caption that the grammar does not produce. Keys are `WAY/FIGURE`. Ways: `guidance_S`, a caption
    for each picture and wish, at scale S; `guidance_S/best_of_N`, see `evaluate_captioner`; `no_wish`; `references`,
    the picture's first caption; at the first scale `weight_W`, `away_from` (an emotion that captions shall not raise)
    and `pairs` (each emotion wished together with another, drawn for each picture). Controls: `WAY/shuffled_wishes`,
    captions judged for the wishes that they were not written for, and `WAY/shuffled_images`, captions beside another
    picture.

    Figures of wishes, each again as `WAY/FIGURE/EMOTION`: `probability`, `alignment@1`, `alignment@3` and `lift`, see
    `evaluate_captioner`; `share_of_best`, the probability as a share of what the best sentence would have beside this
    picture (`best/probability`); `parsed`. Of `pairs`: `probability`, of the less probable of the two emotions;
    `pairs/first_alone/probability`, of the same with the caption of one wish; `pairs/best/probability`, what one
    sentence could reach.

    Figures of what is seen: `thing`, `face` and `weather`, of captions that name one the share in which it is in the
    picture (no such key where none does); `thing_named` and so on, how many name one.

    Of all captions: `novel` (none of the table's), `unique`, `length` in words; and `monotone`, the share of the
    emotions whose probability rises from each weight to the next.

    Args:
        model: folder or Hub id of a captioner, or the result that it came with.
        tables: a table of the built-in corpus with regions, or its folder or Hub id.
        split: the one measured.
        guidance_scale: the scales.
        num_candidates, ranker: as in `evaluate_captioner`.
        wishes: the emotions; None: all.
        num_images: pictures at most, drawn by the seed.
        batch_size: captions a step.
        num_resamples: bootstrap draws over pictures behind `KEY_low` and `KEY_high`; 0: none.
        seed: of the pictures and the pairs.
        output: where the figures are written as JSON, and beside them every sentence with its exact probabilities.

    Raises:
        ValueError: no captioner, unlike emotions, or a table that is not of the built-in corpus.
    """
    name, scales = os.fspath(model), check_scales(guidance_scale)
    given, tables = tables, tables if isinstance(tables, DatasetDict) else load_table(tables)
    if split not in tables:
        raise ValueError(f"The data set has no split '{split}' (splits: {', '.join(tables)}).")
    for column in ("region_features", "region_boxes"):
        if column not in tables[split].features:
            raise ValueError(f"The {split} split has no column '{column}', which `emocap regions` writes.")
    pictures = choose_pictures(tables[split], split, num_images, seed)
    states = find_pictures(pictures)
    labels = check_captioner(name, pictures, wishes)
    candidates = Candidates(num_candidates, choose_ranker(name, given, pictures, num_candidates, ranker))
    if candidates.ranker is not None:
        candidates = candidates._replace(ranker=candidates.ranker.load())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    captioner = Captioner(
        EmocapCaptionerForConditionalGeneration.from_pretrained(name).eval().to(device),
        EmocapCaptionerProcessor.from_pretrained(name),
        PictureRegions(
            FixedSizeColumn(pictures, "region_features"),
            FixedSizeColumn(pictures, "region_boxes"),
            np.asarray(pictures.with_format("numpy")["num_regions"][:]).astype(np.int64),
        ),
        batch_size,
    )
    names = [captioner.processor.emotions[label] for label in labels]
    scenes = Scenes(pictures, states, labels, names, posteriors_of_all_words(pictures, states)[..., labels])
    written = write_all(captioner, scenes, scales, candidates, seed)
    known = {text.lower() for table in tables.values() for own in table["captions"][:] for text in own or []}
    by_picture, corpus, sentences = figures_of_ways(scenes, written, known)
    by_picture["best/probability"] = scenes.reachable.max(1).mean(1)
    if len(labels) > 1:
        by_picture |= pair_figures(captioner, scenes, written[f"guidance_{scales[0]:g}"], scales[0], seed)
    metrics: dict[str, Any] = average(by_picture, Bootstrap(num_resamples, groups=row_groups(pictures))) | corpus
    rising = [[metrics[f"weight_{weight:g}/probability/{own}"] for own in names] for weight in WEIGHTS]
    metrics |= {
        "monotone": float((np.diff(rising, axis=0) > 0).all(0).mean()),
        "split": split,
        "judge": SCENES_JUDGE,
    }
    return finish(name, metrics, sentences, pictures, names, scales, candidates, output)


def write_all(
    captioner: Captioner, scenes: Scenes, scales: Sequence[float], candidates: Candidates, seed: int
) -> dict[str, list[str]]:
    """The captions of each way, one a picture or one a picture and wish."""
    rows = np.arange(scenes.number)
    each, names, first = np.repeat(rows, len(scenes.names)), scenes.names * scenes.number, scales[0]
    written = {"no_wish": write(captioner, rows, [None] * len(rows), 1.0)}
    written |= {f"guidance_{scale:g}": write(captioner, each, names, scale) for scale in scales}
    for scale in scales if candidates.ranker is not None else []:
        best = write_best(captioner, candidates, scenes.table, scenes.labels, scale, seed)
        written[f"guidance_{scale:g}/best_of_{candidates.number}"] = best
    for weight in WEIGHTS:
        wishes = [{name: weight} for name in names]
        plain = written[f"guidance_{first:g}"]
        written[f"weight_{weight:g}"] = plain if weight == 1 else write(captioner, each, wishes, first)
    written["away_from"] = write(captioner, each, [None] * len(each), first, away_from=names)
    return written


def figures_of_ways(
    scenes: Scenes, written: dict[str, list[str]], known: set[str]
) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, dict[str, list]]]:
    """Figures that are means over pictures, float64 `(pictures,)` with NaN where a picture has none; those of all
    captions together; and of each way the `captions`, `(pictures, wishes)` or `(pictures, 1)`, with the exact
    `probabilities` of each wish, `(pictures, wishes)`."""
    by_picture, corpus, sentences = {}, {}, {}
    plain = None
    for way, captions in (written | {"references": [own[0] for own in scenes.table["captions"][:]]}).items():
        of_wishes, of_sights = figures_of(scenes, captions)
        own = of_wishes[""]["probability"]
        if plain is None:
            plain = own  # without a wish
        of_wishes[""]["lift"] = own - plain
        for control, figures in of_wishes.items():
            for key, values in figures.items():
                by_picture[f"{way}{control}/{key}"] = values.mean(1)
                by_picture |= {f"{way}{control}/{key}/{name}": values[:, i] for i, name in enumerate(scenes.names)}
        by_picture |= {f"{way}{key}": values for key, values in of_sights.items() if not np.isnan(values).all()}
        corpus |= {
            f"{way}/novel": share_novel([text.lower() for text in captions], known),
            f"{way}/unique": share_unique(captions),
            f"{way}/length": mean_length(captions),
        }
        told = np.array(captions, dtype=object).reshape(scenes.number, -1)
        sentences[way] = {"captions": told.tolist(), "probabilities": own.round(4).tolist()}
    return by_picture, corpus, sentences


def figures_of(
    scenes: Scenes, captions: Sequence[str]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Figures of captions, one a picture or one a picture and wish: of wishes `(pictures, wishes)`, for each control
    and none, and of what is seen `(pictures,)`."""
    each, wishes = len(captions) // scenes.number, np.arange(len(scenes.labels))
    of_wishes, of_sights = {}, {}
    for control, states in (("", scenes.states), ("/shuffled_images", np.roll(scenes.states, 1))):
        told = judge_captions(scenes.table, np.repeat(states, each), captions)
        beside = told.posterior.reshape(scenes.number, each, -1)
        for key, values in raised(beside, scenes.labels).items():  # (pictures, captions, wishes)
            own = values[:, wishes if each > 1 else 0, wishes]
            of_wishes.setdefault(control, {})[key] = own
            if each > 1 and not control:
                others = (values.sum(1) - own) / (each - 1)
                of_wishes.setdefault("/shuffled_wishes", {})[key] = others
        for attribute, named in told.named.items():
            counts = named.reshape(scenes.number, each).sum(1)
            true = told.true[attribute].reshape(scenes.number, each).sum(1)
            of_sights[f"{control}/{attribute}"] = np.divide(
                true, counts, out=np.full(scenes.number, np.nan), where=counts > 0
            )
            of_sights[f"/{attribute}_named"] = counts / each
        of_sights["/parsed"] = told.parsed.reshape(scenes.number, each).mean(1)
    own = of_wishes[""]["probability"]
    of_wishes[""]["share_of_best"] = own / scenes.reachable.max(1)
    return of_wishes, of_sights


def pair_figures(
    captioner: Captioner, scenes: Scenes, of_one: Sequence[str], scale: float, seed: int
) -> dict[str, np.ndarray]:
    """Each emotion wished together with another, drawn for each picture, beside `of_one`, captions of the first alone;
    each `(pictures,)`."""
    number, wishes, rows = scenes.number, np.arange(len(scenes.labels)), np.arange(scenes.number)[:, None]
    shifts = np.random.default_rng([seed, 2]).integers(1, len(wishes), size=(number, 1))
    other = (wishes + shifts) % len(wishes)  # (pictures, wishes)
    pairs = [(scenes.names[first], scenes.names[second]) for own in other for first, second in enumerate(own)]
    each, figures = np.repeat(np.arange(number), len(wishes)), {}
    for way, captions in (("pairs", write(captioner, each, pairs, scale)), ("pairs/first_alone", of_one)):
        told = judge_captions(scenes.table, scenes.states[each], captions)
        posterior = told.posterior.reshape(number, len(wishes), -1)[..., scenes.labels]
        lesser = np.minimum(posterior[rows, wishes, wishes], posterior[rows, wishes, other])
        figures |= {f"{way}/probability": lesser.mean(1), f"{way}/parsed": told.parsed.reshape(number, -1).mean(1)}
    both = np.minimum(scenes.reachable[rows, :, wishes], scenes.reachable[rows, :, other])
    return figures | {"pairs/best/probability": both.max(-1).mean(1)}
