"""Captions of photos that raise wished emotions."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, set_seed

from emocap.data.label_cells import read_label_map
from emocap.data.storage import photo_problem
from emocap.evaluation.candidates import (
    candidate_scores,
    check_reads_captions,
    check_same_emotions,
    judge_photos,
    labelling_teacher,
    sets_of,
    write_candidates,
)
from emocap.evaluation.scoring import Committee
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor, EmocapProcessor
from emocap.models.photo_emocap import photos_in_folder
from emocap.terminal import progress

__all__ = ["find_photos", "fold_wishes", "read_wishes", "write_captions"]


def find_photos(path: str | os.PathLike) -> list[Path]:
    """A photo, or those of a folder, see `photos_in_folder`.

    Raises:
        FileNotFoundError: there is nothing at the path, or no photo in the folder.
        ValueError: a file that is no photo.
    """
    own = Path(path)
    if own.is_dir():
        return [Path(str(photo["image"])) for photo in photos_in_folder(own)]
    if not own.is_file():
        raise FileNotFoundError(f"There is no photo or folder at '{own}'.")
    if problem := photo_problem(own):
        raise ValueError(f"The photo '{own}' cannot be read: {problem}.")
    return [own]


def read_wishes(words: Sequence[str]) -> dict[str, float]:
    """Emotions with their weights, from `NAME` or `NAME=WEIGHT`.

    Raises:
        ValueError: a weight that is no number, or an emotion that comes twice.
    """
    wishes = {}
    for word in words:
        name, equals, weight = word.partition("=")
        if name in wishes:
            raise ValueError(f"The emotion '{name}' is named twice.")
        try:
            wishes[name] = float(weight) if equals else 1.0
        except ValueError:
            raise ValueError(f"'{word}' is no wish; expected an emotion, or EMOTION=WEIGHT such as calm=.5.") from None
    return wishes


def fold_wishes(
    wishes: Mapping[str, float], label_map: Mapping[str, Sequence[str]], known: Sequence[str]
) -> dict[str, float]:
    """Wishes in the captioner's emotions, from those of another set, such as Ekman's seven, or its own.

    An emotion of the map becomes all of its new names, each with its weight; one that is the same for several has the
    largest of their weights.

    Args:
        wishes: emotions with their weights.
        label_map: old names with new ones, see `read_label_map`.
        known: the captioner's emotions.

    Raises:
        ValueError: an emotion that neither the map nor the captioner knows, a new name that the captioner does not
            know, or wishes of which the map leaves none.
    """
    for old, names in label_map.items():
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"The label map makes '{old}' '{unknown[0]}', but the captioner knows {', '.join(known)}."
            )
    folded: dict[str, float] = {}
    for name, weight in wishes.items():
        if name not in label_map and name not in known:
            both = dict.fromkeys([*label_map, *known])
            raise ValueError(f"There is no emotion '{name}'; the label map and the captioner know {', '.join(both)}.")
        for new in label_map.get(name, [name]):
            folded[new] = max(weight, folded.get(new, weight))
    if wishes and not folded:
        raise ValueError(f"The label map drops {', '.join(wishes)}, so nothing is left to wish for.")
    return folded


def write_captions(
    model: str | os.PathLike,
    photos: Sequence[str | os.PathLike],
    emotions: Mapping[str, float] | None = None,
    away_from: Sequence[str] | None = None,
    *,
    text: str | None = None,
    label_map: Mapping[str, Sequence[str]] | str | os.PathLike | None = None,
    num_candidates: int = 1,
    judge: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    batch_size: int = 16,
    seed: int = 0,
    **generation: Any,
) -> Iterator[dict[str, Any]]:
    """Captions of photos, in their order.

    Args:
        model: folder or Hub id of a captioner that names a region extractor.
        photos: paths; a photo that cannot be read has an `error` in place of captions.
        emotions: what the captions shall raise, with weights; None: no wish.
        away_from: what they shall not raise.
        text: how each caption begins; captions hold it.
        label_map: makes the wishes' emotions those of the captioner, see `fold_wishes`; a mapping, or a file that
            `read_label_map` reads.
        num_candidates: captions that are written of each photo, drawn or as beams where there are as many, and of
            which those are kept that a teacher and the captioner together like best, see `candidate_scores`.
        judge: folder or Hub id of that teacher or student, or of several together; None: the teacher that scored the
            captions which the captioner learned from, by its records.
        batch_size: photos a step.
        seed: of sampling.
        **generation: what `generate` takes, such as `guidance_scale`.

    Yields:
        `image`, `emotions`, `away_from` and `captions`, best first (of candidates, equal ones once).

    Raises:
        FileNotFoundError: there is no such label map.
        ValueError: a checkpoint of another family, a wish that the captioner does not know, one that reads no photos,
            or a judge of other emotions or that reads no captions: before any weights are loaded.
    """
    kind = AutoConfig.from_pretrained(model).model_type
    if kind != "emocap_captioner":
        raise ValueError(f"'{model}' is a '{kind}' checkpoint; expected an emocap captioner.")
    processor = EmocapCaptionerProcessor.from_pretrained(model)
    wished, away = None if emotions is None else dict(emotions), tuple(away_from or ()) or None
    if label_map is not None:
        folds = label_map if isinstance(label_map, Mapping) else read_label_map(label_map)
        wished = wished and fold_wishes(wished, folds, processor.emotions)
        away = away and tuple(fold_wishes(dict.fromkeys(away, 1.0), folds, processor.emotions))
    wishes = {"emotions": wished, "away_from": away}
    processor.encode_wishes(1, **wishes)
    if processor.region_extractor is None:
        raise ValueError(
            f"'{model}' names no region extractor, so it reads no photos: train it with --region_extractor."
        )
    choice = None
    if num_candidates > 1:
        choice = choose_judge(os.fspath(model), processor, wishes, num_candidates, judge)
        if (kept := generation.get("num_return_sequences", 1)) > num_candidates:
            raise ValueError(f"{kept} captions of {num_candidates} candidates cannot be kept; write more candidates.")
    elif judge is not None:
        raise ValueError("A judge chooses among candidates; write 2 or more of each photo (num_candidates).")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    captioner = EmocapCaptionerForConditionalGeneration.from_pretrained(model).eval().to(device)
    if choice is not None:
        choice = choice._replace(judge=choice.judge.load())
    set_seed(seed)
    given = {**wishes, "text": text}
    for first in progress(range(0, len(photos), batch_size), desc="Captioning", unit="batches"):
        part = photos[first : first + batch_size]
        problems = [photo_problem(photo) for photo in part]
        read = [photo for photo, problem in zip(part, problems, strict=True) if problem is None]
        captions = iter(caption_batch(captioner, processor, read, given, choice, generation) if read else [])
        for photo, problem in zip(part, problems, strict=True):
            told = {"error": problem} if problem else {"captions": next(captions)}
            yield {"image": os.fspath(photo), **wishes, **told}


class Choice(NamedTuple):
    """What is kept of the candidates."""

    judge: Committee
    num_candidates: int
    weights: np.ndarray  # of the wish (1, L), negative for what captions shall not raise


def choose_judge(
    model: str,
    processor: EmocapCaptionerProcessor,
    wishes: Mapping[str, Any],
    num_candidates: int,
    judge: str | os.PathLike | Sequence[str | os.PathLike] | None,
) -> Choice:
    """Who chooses among the candidates, weights not loaded."""
    if wishes["emotions"] is None and wishes["away_from"] is None:
        raise ValueError("Candidates are chosen by the wish; name an emotion to raise or to keep away from.")
    named = judge or labelling_teacher(model, "--judge")
    committee = Committee([os.fspath(own) for own in ([named] if isinstance(named, (str, os.PathLike)) else named)])
    check_reads_captions(committee)
    check_same_emotions(committee, processor.emotions, model)
    for name, config in zip(committee.names, committee.configs, strict=True):
        reader = EmocapProcessor.from_pretrained(name)
        if config.modalities != "text" and reader.image_size is None and reader.region_extractor is None:
            raise ValueError(
                f"The judge '{name}' names no region extractor, so it reads no photos: give one that does, or one of "
                "captions alone."
            )
    weights = np.nan_to_num(processor.weigh_wishes(1, wishes["emotions"], wishes["away_from"]))
    return Choice(committee, num_candidates, weights)


def caption_batch(
    captioner: EmocapCaptionerForConditionalGeneration,
    processor: EmocapCaptionerProcessor,
    photos: Sequence[str | os.PathLike],
    given: dict[str, Any],
    choice: Choice | None,
    generation: dict[str, Any],
) -> list[list[str]]:
    """The captions of each photo of a batch."""
    inputs, beginning = processor(images=list(photos), device=captioner.device, **given), given["text"] or ""
    inputs = inputs.to(captioner.device)
    if choice is None:
        written = captioner.generate(**inputs, **generation)[:, inputs["input_ids"].shape[1] :]
        told = processor.batch_decode(written, skip_special_tokens=True)
        return sets_of(len(told) // len(photos), [(beginning + text).strip() for text in told])
    told, nats = write_candidates(captioner, processor, inputs, choice.num_candidates, **generation)
    captions = sets_of(choice.num_candidates, [(beginning + text).strip() for text in told])
    probabilities = judge_photos(choice.judge, processor.emotions, photos, captions)
    scores = candidate_scores(nats.reshape(len(photos), -1), probabilities, choice.weights.repeat(len(photos), 0))
    kept = generation.get("num_return_sequences", 1)
    ordered = [[own[place] for place in np.argsort(-row)] for own, row in zip(captions, scores, strict=True)]
    return [list(dict.fromkeys(own))[:kept] for own in ordered]
