"""What a captioner's wishes do: whether a judge sees them in its captions, and whether these still fit the picture."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, concatenate_datasets
from torch.nn import functional as F
from transformers import AutoConfig, BatchFeature, set_seed
from transformers.utils import logging

from emocap.data.captions import CaptionDataset, caption_scores, check_captions
from emocap.data.pairs import tokenise
from emocap.data.schema import NUM_REGIONS, label_names
from emocap.data.storage import load_table
from emocap.data.truth import row_groups
from emocap.evaluation.candidates import (
    candidate_scores,
    check_reads_captions,
    labelling_teacher,
    revisions_of,
    selections,
    write_candidates,
)
from emocap.evaluation.scoring import Committee, check_labels
from emocap.metrics import Bootstrap, intervals
from emocap.metrics.captions import bleu, cider_d, distinct, mean_length, share_novel, share_unique
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from emocap.models.processing_emocap_captioner import Wish
from emocap.records import Result, write_metrics
from emocap.terminal import progress

__all__ = [
    "Captioner",
    "choose_pictures",
    "evaluate_captioner",
    "open_committee",
    "read_pictures",
    "with_captions",
    "write",
]

RETRIEVED = 100
"""Pictures at most among which a caption's own is looked for."""

logger = logging.get_logger(__name__)


class Captioner(NamedTuple):
    """A captioner, and pictures of which it writes and reads captions: to write, their regions are enough."""

    model: EmocapCaptionerForConditionalGeneration
    processor: EmocapCaptionerProcessor
    pairs: Any  # a CaptionDataset, or what has its regions
    batch_size: int


class Candidates(NamedTuple):
    """How many captions are drawn for each wish and picture, and who chooses among them."""

    number: int
    ranker: Committee | None


def evaluate_captioner(
    model: str | os.PathLike,
    tables: DatasetDict | str | os.PathLike,
    judge: str | os.PathLike | Sequence[str | os.PathLike],
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
    """What the wishes of a captioner do on pictures of one split, its captions written greedily.

    Keys are `WAY/FIGURE`. The ways of getting captions: `guidance_S`, one a wished emotion and picture, at scale S;
    `guidance_S/best_of_N`, the best of N drawn ones to a ranker, see `candidate_scores`; `no_wish`; and as controls
    `guidance_S/shuffled_wishes`, judged for the wishes that they were not written for (the mean over all of them),
    `guidance_S/shuffled_images` and `no_wish/shuffled_images`, laid beside another picture; `best_caption`, the
    picture's own caption to which the labelling teacher gives most of the emotion; `references`, its own captions.

    Figures of wishes, each again as `WAY/FIGURE/EMOTION`: `alignment@1` and `alignment@3`, the wish is among the
    judge's 1 or 3 most probable emotions; `probability`, the judge's; `lift`, this less that of the caption of the
    same picture without a wish. Without a wish, alignment says how often the judge would name each emotion anyway:
    its mean over all L emotions is 1 / L or 3 / L.

    Figures of one caption a picture, its wish drawn: `cider_d` and `bleu_4` against the picture's own captions (of
    `references` the first against the others, which is one fewer); `retrieval@1`, to the captioner without a wish the
    caption is likelier of its own picture than of any other among `num_retrieved`; `distinct_1`, `distinct_2`, `novel`
    (not among the train split's captions), `unique` and `length` in words. Of the references also `nats` a token
    without a wish, `perplexity`, `nats_with_all_emotions` (their own levels), `nats_with_shuffled_emotions` (those of
    another picture's caption) and `nats_with_shuffled_images`.

    Args:
        model: folder or Hub id of a captioner, or the result that it came with.
        tables: a table with regions and a teacher's scores of each caption, or its folder or Hub id.
        judge: folder or Hub id of a teacher or student, or several that judge together; it reads captions, and
            pictures where it was trained to.
        split: the one measured.
        guidance_scale: the scales; at 0 captions are written as if there were no wish.
        num_candidates: N, of captions that are drawn for each wish and picture; 1: none are.
        ranker: folder or Hub id of the teacher or student that chooses among them, or of several; None: the teacher
            that scored the captions.
        wishes: the emotions; None: all.
        num_images: pictures at most, drawn by the seed from those with regions and captions.
        batch_size: captions a step.
        num_resamples: bootstrap draws over pictures behind `KEY_low` and `KEY_high`; 0: none.
        seed: of the pictures, of the wish of the one caption, and of what is shuffled.
        output: where the figures are written as JSON, and beside them every sentence with the judge's probabilities
            of the wishes, which the report shows, see `details_path`.

    Raises:
        ValueError: checkpoints of other families, unlike emotions, a judge that reads no captions, that chooses among
            the candidates or that scored those captions that the captioner or this table have their levels from, or a
            table that does not fit.
    """
    judges = names_of(judge)
    name, scales = os.fspath(model), check_scales(guidance_scale)
    given, tables = tables, tables if isinstance(tables, DatasetDict) else load_table(tables)
    if split not in tables:
        raise ValueError(f"The data set has no split '{split}' (splits: {', '.join(tables)}).")
    check_captions(split, tables[split])
    pictures = choose_pictures(tables[split], split, num_images, seed)
    committee = open_committee(judges, pictures)
    labels = check_captioner(name, pictures, wishes)
    rankers = choose_ranker(name, given, pictures, num_candidates, ranker)
    committee = committee.load()
    check_judge(committee, selections(name, given))
    if rankers is not None:
        rankers = rankers.load()
        check_ranker(rankers, committee)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = EmocapCaptionerProcessor.from_pretrained(name)
    captioner = Captioner(
        EmocapCaptionerForConditionalGeneration.from_pretrained(name).eval().to(device),
        processor,
        CaptionDataset(pictures, processor),
        batch_size,
    )
    training = [text for own in tables["train"]["captions"][:] for text in own or []] if "train" in tables else None
    candidates = Candidates(num_candidates, rankers)
    by_picture, corpus, sentences = measure(captioner, committee, pictures, labels, scales, candidates, training, seed)
    facts = {"num_retrieved": min(len(pictures), RETRIEVED), "split": split, "judge": ", ".join(judges)}
    metrics = average(by_picture, Bootstrap(num_resamples, groups=row_groups(pictures))) | corpus | facts
    names = [processor.emotions[label] for label in labels]
    return finish(name, metrics, sentences, pictures, names, scales, candidates, output)


def finish(
    model: str,
    metrics: dict[str, Any],
    sentences: dict[str, dict[str, list]],
    pictures: Dataset,
    wishes: Sequence[str],
    scales: Sequence[float],
    candidates: Candidates,
    output: str | Path | None,
) -> Result:
    """The figures with what they were measured by, written where that is asked for, their sentences beside them."""
    metrics = metrics | {
        "num_examples": len(pictures),
        "wishes": ", ".join(wishes),
        "guidance_scales": ", ".join(f"{scale:g}" for scale in scales),
        "num_candidates": candidates.number,
    }
    if candidates.ranker is not None:
        metrics["ranker"] = ", ".join(candidates.ranker.names)
    if output is not None:
        details = {"wishes": list(wishes), "image_id": pictures["image_id"][:], "sentences": sentences}
        write_metrics(output, metrics, details)
    return Result(metrics, model)


def names_of(models: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    return [os.fspath(own) for own in ([models] if isinstance(models, (str, os.PathLike)) else models)]


def open_committee(names: Sequence[str], pictures: Dataset) -> Committee:
    """Models that can judge captions of the pictures, their weights not loaded."""
    committee = Committee(names)
    check_reads_captions(committee)
    committee.check(pictures, label_names(pictures))
    return committee


def choose_ranker(
    model: str,
    tables: DatasetDict | str | os.PathLike,
    pictures: Dataset,
    num_candidates: int,
    ranker: str | os.PathLike | Sequence[str | os.PathLike] | None,
) -> Committee | None:
    """Who chooses among candidates, weights not loaded; None where there are none."""
    if num_candidates > 1:
        return open_committee(names_of(ranker or labelling_teacher(model, "--ranker", tables)), pictures)
    if ranker:
        raise ValueError("--ranker chooses among candidates; give --num_candidates, 2 or more.")
    return None


def check_scales(guidance_scale: Sequence[float]) -> list[float]:
    scales = list(dict.fromkeys(guidance_scale))
    if not scales or not all(math.isfinite(scale) and scale >= 0 for scale in scales):
        raise ValueError(f"--guidance_scale is {list(guidance_scale)}; give finite numbers, 0 or more.")
    return scales


def choose_pictures(table: Dataset, split: str, num_images: int, seed: int) -> Dataset:
    """Rows with regions and captions, in random order, at most `num_images`, in memory."""
    counts = np.asarray(table.with_format("numpy")["num_regions"][:])
    able = np.flatnonzero((counts > 0) & [bool(own) for own in table["captions"][:]])
    if num_images < 2 or len(able) < 2:
        number = num_images if num_images < 2 else len(able)
        raise ValueError(f"{number} pictures of the {split} split with regions and captions are too few; 2 is least.")
    chosen = np.random.default_rng(seed).permutation(able)[:num_images]
    return table.select(chosen).flatten_indices(keep_in_memory=True)


def check_captioner(model: str, pictures: Dataset, wishes: Sequence[str] | None) -> list[int]:
    """The wishes' labels; refuses, before weights are loaded, what is no captioner of such pictures and wishes."""
    config = AutoConfig.from_pretrained(model)
    if config.model_type != "emocap_captioner":
        raise ValueError(f"'{model}' is a '{config.model_type}' checkpoint; expected an emocap captioner.")
    emotions = label_names(pictures)
    check_labels(config, emotions, model)
    width = pictures.features["region_features"].length // NUM_REGIONS
    if width != config.visual_embedding_dim:
        raise ValueError(
            f"The data set's region features are {width}-d, but '{model}' reads {config.visual_embedding_dim}-d "
            "ones. Extract features with the captioner's own extractor."
        )
    named = emotions if wishes is None else list(dict.fromkeys(wishes))
    if unknown := [name for name in named if name not in emotions] or ([] if named else ["none"]):
        raise ValueError(f"There is no emotion '{unknown[0]}' to wish for; there are {', '.join(emotions)}.")
    return [emotions.index(name) for name in named]


def check_judge(committee: Committee, recorded: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a judge that made the levels that the captioner was taught: it would find what it had put there."""
    if not recorded:
        logger.warning("No record tells which teacher scored the captions: the judge may be that very teacher.")
    for name, revisions in zip(committee.names, revisions_of(committee), strict=True):
        for selection in recorded:
            teachers, known = (
                own if isinstance(own, list) else [own] for own in (selection["teacher"], selection["revision"])
            )
            is_hub_id = not Path(name).is_dir()
            if revisions.intersection(known) or (is_hub_id and name in teachers):
                raise ValueError(
                    f"The judge '{name}' is the teacher that scored the captions, so it cannot judge what was learned "
                    "from its scores; give a model of another training."
                )


def check_ranker(ranker: Committee, committee: Committee) -> None:
    """Refuses a judge of captions that it chose itself."""
    chosen = set().union(*revisions_of(ranker))
    for name, revisions in zip(committee.names, revisions_of(committee), strict=True):
        if revisions & chosen:
            raise ValueError(
                f"The judge '{name}' chooses among the candidates as well, so it would find what it chose; give "
                "another --ranker, or another judge."
            )


def measure(
    captioner: Captioner,
    committee: Committee,
    pictures: Dataset,
    labels: Sequence[int],
    scales: Sequence[float],
    candidates: Candidates,
    training: Sequence[str] | None,
    seed: int,
) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, dict[str, list]]]:
    """Figures that are means over pictures, float64 `(pictures,)` with NaN where a picture has none; those of all
    captions together; and of each way the `captions`, `(pictures, wishes)`, or `(pictures, 1)` where one stands for
    all wishes, with the judge's `probabilities` of each wish, `(pictures, wishes)`."""
    rows, emotions = np.arange(len(pictures)), captioner.processor.emotions
    partner = np.roll(rows, 1)  # the pictures are in random order
    drawn = np.random.default_rng([seed, 1]).integers(len(labels), size=len(rows))
    unwished = write(captioner, rows, [None] * len(rows), 1.0)
    grid = np.repeat(rows, len(labels)), [emotions[label] for label in labels] * len(rows)
    written = {}
    for scale in scales:
        written[f"guidance_{scale:g}"] = write(captioner, *grid, scale)
        if candidates.ranker is not None:
            best = write_best(captioner, candidates, pictures, labels, scale, seed)
            written[f"guidance_{scale:g}/best_of_{candidates.number}"] = best
    written = {way: np.array(own, dtype=object).reshape(len(rows), -1) for way, own in written.items()}
    raised_by, first = steering(committee, pictures, unwished, written, labels, partner, captioner.batch_size)
    by_picture = {}
    for way, own in raised_by.items():
        for key, values in own.items():
            by_picture[f"{way}/{key}"] = values.mean(1)
            by_picture |= {f"{way}/{key}/{emotions[label]}": values[:, i] for i, label in enumerate(labels)}
    single = {way: captions[rows, drawn].tolist() for way, captions in written.items()} | {"no_wish": unwished}
    likeness, corpus = compare(single, pictures["captions"][:], partner)
    single["references"] = [own[0] for own in pictures["captions"][:]]
    shown = {way: (captions, raised_by[way]["probability"]) for way, captions in written.items()}
    shown["no_wish"] = np.array(unwished, dtype=object)[:, None], raised_by["no_wish"]["probability"]
    shown["references"] = np.array(single["references"], dtype=object)[:, None], first
    sentences = {
        way: {"captions": captions.tolist(), "probabilities": probabilities.round(4).tolist()}
        for way, (captions, probabilities) in shown.items()
    }
    for way, captions in single.items():
        likeness[f"{way}/retrieval@1"] = retrieved(captioner, captions)
        corpus |= {f"{way}/{key}": value for key, value in language(captions, training).items()}
    corpus |= {f"references/{key}": value for key, value in reference_nats(captioner, partner).items()}
    return by_picture | likeness, {key: own for key, own in corpus.items() if not math.isnan(own)}, sentences


def steering(
    committee: Committee,
    pictures: Dataset,
    unwished: Sequence[str],
    written: Mapping[str, np.ndarray],
    labels: Sequence[int],
    partner: np.ndarray,
    batch_size: int,
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray]:
    """Figures of wishes for each way of getting captions, each float64 `(pictures, wishes)`, and the judge's
    probabilities of the pictures' first captions, of that shape too; `written` holds captions `(pictures, wishes)`."""
    number, wishes = len(pictures), np.arange(len(labels))
    prepared = committee.prepare(pictures)

    def judged(captions: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """Of all captions of all pictures, `(captions, wishes)`."""
        tables = [with_captions(own, captions) for own in prepared]
        return raised(committee.score(tables, batch_size).probabilities, labels)

    figures = judged([[text] for text in unwished])
    found, plain = {"no_wish": figures}, figures["probability"]
    reads_photos = any(config.modalities != "text" for config in committee.configs)
    for way, captions in written.items():
        own = {key: values.reshape(number, len(labels), -1) for key, values in judged(captions.tolist()).items()}
        found[way] = {key: values[:, wishes, wishes] for key, values in own.items()}
        if len(labels) > 1:
            found[f"{way}/shuffled_wishes"] = {
                key: (values.sum(1) - found[way][key]) / (len(labels) - 1) for key, values in own.items()
            }
        if reads_photos:
            apart = judged(captions[partner].tolist())
            found[f"{way}/shuffled_images"] = {
                key: values.reshape(number, len(labels), -1)[:, wishes, wishes] for key, values in apart.items()
            }
    starts = np.cumsum([0, *map(len, pictures["captions"][:])])
    figures, told = judged(pictures["captions"][:]), caption_scores(pictures)[:, labels]
    best = np.stack([start + told[start:end].argmax(0) for start, end in itertools.pairwise(starts)])
    found["best_caption"] = {key: values[best, wishes] for key, values in figures.items()}
    for way, own in found.items():
        if way != "no_wish":
            own["lift"] = own["probability"] - plain
    counts = np.diff(starts)[:, None]
    found["references"] = {key: np.add.reduceat(own, starts[:-1]) / counts for key, own in figures.items()}
    return found, figures["probability"][starts[:-1]]


def compare(
    single: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]], partner: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """CIDEr-D of each picture and BLEU-4 of all: of a caption a picture, of another picture's, and of people's."""
    cider, corpus = {}, {}
    for way, captions in single.items():
        beside = [captions[row] for row in partner]
        for name, shown in ((way, captions), (f"{way}/shuffled_images", beside)):
            cider[f"{name}/cider_d"] = cider_d(shown, references)
            corpus[f"{name}/bleu_4"] = bleu(shown, references)
    several = [row for row, own in enumerate(references) if len(own) > 1]
    if several:
        firsts, others = [references[row][0] for row in several], [references[row][1:] for row in several]
        cider["references/cider_d"] = np.full(len(references), np.nan)
        cider["references/cider_d"][several] = cider_d(firsts, others)
        corpus["references/bleu_4"] = bleu(firsts, others)
    return cider, corpus


def with_captions(table: Dataset, captions: Sequence[Sequence[str]]) -> Dataset:
    """The same rows with other captions."""
    features = Features({"captions": table.features["captions"]})
    own = Dataset.from_dict({"captions": [list(texts) for texts in captions]}, features=features)
    return concatenate_datasets([table.remove_columns("captions"), own], axis=1)


@torch.inference_mode()
def write(
    captioner: Captioner,
    rows: np.ndarray,
    wishes: Sequence[Wish],
    scale: float,
    away_from: Sequence[str | None] | None = None,
) -> list[str]:
    """A greedy caption of each of the pairs' rows, for its wish and away from another emotion."""
    model, processor, _, size = captioner
    texts = []
    for first in progress(range(0, len(rows), size), desc="Captioning", unit="batches"):
        own = slice(first, first + size)
        inputs = read_pictures(captioner, rows[own], wishes[own], None if away_from is None else away_from[own])
        ids = model.generate(**inputs, guidance_scale=scale, do_sample=False, num_beams=1)
        told = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        texts += [text.strip() for text in told]
    return texts


def read_pictures(
    captioner: Captioner, rows: np.ndarray, wishes: Sequence[Wish], away_from: Sequence[str | None] | None = None
) -> BatchFeature:
    """What the captioner reads of the pairs' rows."""
    model, processor, pairs, _ = captioner
    counts = pairs.region_counts[rows]
    most = max(int(counts.max()), 1)
    return processor(
        emotions=list(wishes),
        away_from=None if away_from is None else list(away_from),
        visual_embeds=pairs.regions[rows].reshape(len(rows), NUM_REGIONS, -1)[:, :most],
        visual_attention_mask=(np.arange(most) < counts[:, None]).astype(np.int64),
        region_boxes=pairs.boxes[rows].reshape(len(rows), NUM_REGIONS, 4)[:, :most],
    ).to(model.device)


def write_best(
    captioner: Captioner, candidates: Candidates, pictures: Dataset, labels: Sequence[int], scale: float, seed: int
) -> list[str]:
    """Of each picture and wish the caption that the ranker and the captioner like best among drawn ones."""
    model, processor, _, size = captioner
    (number, ranker), emotions = candidates, processor.emotions
    assert ranker is not None
    set_seed(seed)
    rows, wishes = np.repeat(np.arange(len(pictures)), len(labels)), np.tile(labels, len(pictures))
    texts, nats, step = [], [], max(1, size // number)
    for first in progress(range(0, len(rows), step), desc="Captioning", unit="batches"):
        own = slice(first, first + step)
        inputs = read_pictures(captioner, rows[own], [emotions[label] for label in wishes[own]])
        told, costs = write_candidates(model, processor, inputs, number, guidance_scale=scale)
        texts += [text.strip() for text in told]
        nats.append(costs)
    captions = np.array(texts, dtype=object).reshape(len(rows), number)
    tables = [with_captions(own, captions.reshape(len(pictures), -1).tolist()) for own in ranker.prepare(pictures)]
    probabilities = ranker.score(tables, size).probabilities.reshape(len(rows), number, -1)
    scores = candidate_scores(
        np.concatenate(nats).reshape(len(rows), number), probabilities, np.eye(len(emotions))[wishes]
    )
    return captions[np.arange(len(rows)), scores.argmax(1)].tolist()


def raised(probabilities: np.ndarray, labels: Sequence[int]) -> dict[str, np.ndarray]:
    """What a judge's probabilities `(..., L)` say of each label wished for, float64 `(..., len(labels))`; an emotion
    that ties with another ranks behind it."""
    own = probabilities[..., labels]
    ranks = np.zeros(own.shape, dtype=np.int64)
    for label in range(probabilities.shape[-1]):
        ranks += probabilities[..., label, None] >= own
    hits = {f"alignment@{most}": (ranks <= most).astype(np.float64) for most in (1, 3)}
    return hits | {"probability": own}


def retrieved(captioner: Captioner, captions: Sequence[str]) -> np.ndarray:
    """1 where a caption, without a wish, is most likely of its own picture among the first `RETRIEVED`, 0 where it is
    not or another is as likely: float64 `(pictures,)`, NaN of the others."""
    number = min(len(captions), RETRIEVED)
    pairs = copy(captioner.pairs)
    pairs.token_ids, pairs.token_starts, _ = tokenise(captioner.processor, [[text] for text in captions[:number]])
    pairs.num_captions, pairs.levels = number, np.zeros((number, pairs.levels.shape[1]), dtype=np.float32)
    hits = np.full(len(captions), np.nan)
    nats = np.empty((number, number))
    for shift in range(number):
        pairs.row_of_pair = (np.arange(number) + shift) % number
        nats[:, shift] = caption_nats(captioner._replace(pairs=pairs))
    hits[:number] = (nats[:, 1:] > nats[:, :1]).all(1)
    return hits


@torch.inference_mode()
def caption_nats(captioner: Captioner, with_wish: bool = False) -> np.ndarray:
    """Nats of each caption and its end, without a wish or with the levels of all emotions: float64 `(pairs,)`."""
    model, _, pairs, size = captioner
    lengths = np.diff(pairs.token_starts)
    order, nats = np.argsort(lengths, kind="stable"), np.empty(len(pairs))
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        batch = {name: values.to(model.device) for name, values in pairs.__getitems__(chosen).items()}
        words = int(lengths[chosen].max())
        labels = batch.pop("labels")[:, -words:]
        if not with_wish:
            batch["wish_mask"] = torch.zeros_like(batch["wish_mask"])
        logits = model(**batch, logits_to_keep=words + 1).logits[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        nats[chosen] = losses.sum(1, dtype=torch.float64).cpu().numpy()
    return nats


def reference_nats(captioner: Captioner, partner: np.ndarray) -> dict[str, float]:
    """What the pictures' own captions cost, a token."""
    own = captioner.pairs
    other = partner[own.row_of_pair]
    wrong_levels, wrong_images = copy(own), copy(own)
    wrong_levels.levels = own.levels[np.searchsorted(own.row_of_pair, other)]  # of the first caption of the other
    wrong_images.row_of_pair = other
    tokens = int(own.token_starts[-1])
    nats = {
        "nats": caption_nats(captioner).sum() / tokens,
        "nats_with_all_emotions": caption_nats(captioner, with_wish=True).sum() / tokens,
        "nats_with_shuffled_emotions": caption_nats(captioner._replace(pairs=wrong_levels), True).sum() / tokens,
        "nats_with_shuffled_images": caption_nats(captioner._replace(pairs=wrong_images)).sum() / tokens,
    }
    return {key: float(value) for key, value in nats.items()} | {"perplexity": math.exp(nats["nats"])}


def language(captions: Sequence[str], training: Sequence[str] | None) -> dict[str, float]:
    """How varied captions are."""
    novel = {} if training is None else {"novel": share_novel(captions, training)}
    return novel | {
        "unique": share_unique(captions),
        "length": mean_length(captions),
        "distinct_1": distinct(captions, 1),
        "distinct_2": distinct(captions, 2),
    }


def average(by_picture: Mapping[str, np.ndarray], bootstrap: Bootstrap) -> dict[str, float]:
    """Means over the pictures that have a value, with intervals over pictures or groups of them."""
    values = np.stack(list(by_picture.values()), axis=1)
    known = ~np.isnan(values)
    summed = np.where(known, values, 0)
    means = dict(zip(by_picture, (summed.sum(0) / known.sum(0)).tolist(), strict=True))
    if not bootstrap.num_resamples:
        return means
    parts = []
    for weights in bootstrap.weights(len(values)):
        have = weights.T @ known
        parts.append(np.divide(weights.T @ summed, have, out=np.full(have.shape, np.nan), where=have > 0))
    drawn = dict(zip(by_picture, np.concatenate(parts).T, strict=True))
    return means | intervals(drawn, means)
