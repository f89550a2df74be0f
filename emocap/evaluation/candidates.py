"""Several captions of a picture, of which the one is kept that its teacher and its captioner together like best."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import DatasetDict
from torch.nn import functional as F

from emocap.data.batches import weights_hash
from emocap.data.storage import HUB_ID, local_folder
from emocap.evaluation.calibration import temper
from emocap.evaluation.scoring import Committee
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from emocap.records import STATISTICS_FILE, read_json, recorded_arguments

__all__ = [
    "candidate_scores",
    "check_reads_captions",
    "check_same_emotions",
    "draw",
    "judge_photos",
    "labelling_teacher",
    "revisions_of",
    "selections",
    "sets_of",
    "write_candidates",
]


def candidate_scores(nats: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How good each candidate of a picture is, float64 `(pictures, candidates)`, the higher the better.

    The sum of two numbers, each standardised over the candidates of the picture, so that neither outweighs the other
    by its scale: how likely the wish is to be raised, the weighted mean of `log p` over the emotions wished for and of
    `log(1 - p)` over those to be kept away from; and how likely the words are of the picture, in log-probability a
    token. A number in which the candidates tie says nothing.

    Args:
        nats: a token, of each candidate to the captioner without the wish, `(pictures, candidates)`.
        probabilities: the teacher's, `(pictures, candidates, L)`.
        weights: of the wishes `(pictures, L)`, negative for emotions to be kept away from, 0 for others.
    """
    bounded = np.clip(probabilities, 1e-9, 1 - 1e-9)
    wished, away = np.maximum(weights, 0), np.maximum(-weights, 0)
    told = np.einsum("pcl,pl->pc", np.log(bounded), wished) + np.einsum("pcl,pl->pc", np.log1p(-bounded), away)
    total = np.abs(weights).sum(1, keepdims=True)
    raised = np.divide(told, total, out=np.zeros_like(told), where=total > 0)
    return standardised(raised) + standardised(-np.asarray(nats, dtype=np.float64))


def standardised(values: np.ndarray) -> np.ndarray:
    """Of each row."""
    apart = values - values.mean(1, keepdims=True)
    spread = apart.std(1, keepdims=True)
    return np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 1e-9)


@torch.inference_mode()
def write_candidates(
    model: EmocapCaptionerForConditionalGeneration,
    processor: EmocapCaptionerProcessor,
    inputs: Mapping[str, torch.Tensor],
    number: int,
    **generation: Any,
) -> tuple[list[str], np.ndarray]:
    """So many captions of each picture, and their nats a token without the wish, float64 `(pictures * number,)`.

    Args:
        inputs: what the processor made of the pictures and their wishes.
        number: how many; the beams where there are as many, else drawn.
        **generation: what `generate` takes.
    """
    beams = not generation.get("do_sample") and generation.get("num_beams", 1) >= number
    options = generation if beams else {**generation, "do_sample": True, "num_beams": 1}
    drawn = draw(model, processor, inputs, number, **options)
    nats = -drawn.log_probabilities(model, with_wish=False).sum(1, dtype=torch.float64) / drawn.counted.sum(1)
    return drawn.texts, nats.cpu().numpy()


class Drawn(NamedTuple):
    """Captions that a captioner wrote, several a picture, and what it read."""

    texts: list[str]
    inputs: dict[str, torch.Tensor]
    """A row a caption, its words among the tokens."""
    words: torch.Tensor
    """int64 `(captions, words)`."""
    counted: torch.Tensor
    """bool `(captions, words)`: up to the first end, which is one of them."""

    def log_probabilities(
        self, model: EmocapCaptionerForConditionalGeneration, with_wish: bool = True
    ) -> torch.Tensor:
        """Of each word to a captioner, float32 `(captions, words)`, 0 behind a caption's end."""
        inputs = self.inputs
        if not with_wish and "wish_mask" in inputs:
            inputs = inputs | {"wish_mask": torch.zeros_like(inputs["wish_mask"])}
        logits = model(**inputs, logits_to_keep=self.words.shape[1] + 1).logits[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), self.words, reduction="none")
        return -losses.masked_fill(~self.counted, 0)


def draw(
    model: EmocapCaptionerForConditionalGeneration,
    processor: EmocapCaptionerProcessor,
    inputs: Mapping[str, torch.Tensor],
    number: int,
    **generation: Any,
) -> Drawn:
    """So many captions of each picture, written without gradients; arguments as in `write_candidates`."""
    with torch.no_grad():
        ids = model.generate(**inputs, **{**generation, "num_return_sequences": number})
    words = ids[:, inputs["input_ids"].shape[1] :]
    ended = words == processor.end_token_id
    counted = ended.cumsum(1) - ended.long() == 0
    repeated = {name: values.repeat_interleave(number, 0) for name, values in inputs.items()}
    mask = torch.cat([repeated["attention_mask"], counted.long()], 1)
    texts = processor.batch_decode(words, skip_special_tokens=True)
    return Drawn(texts, repeated | {"input_ids": ids, "attention_mask": mask}, words, counted)


@torch.inference_mode()
def judge_photos(
    committee: Committee, emotions: Sequence[str], photos: Sequence[Any], captions: Sequence[Sequence[str]]
) -> np.ndarray:
    """Probabilities of captions beside their photos, of which each has as many: float64 `(photos, captions, L)`, in
    the order of `emotions`."""
    number, logits = len(captions[0]), []
    texts = [text for own in captions for text in own]
    for model, processor in committee.members:
        inputs = {name: torch.as_tensor(own) for name, own in processor.encode_text(texts).items()}
        if model.config.modalities != "text":
            seen = processor.encode_photos(photos, device=model.device)
            inputs |= {name: torch.as_tensor(own).repeat_interleave(number, 0) for name, own in seen.items()}
        told = model(**{name: own.to(model.device) for name, own in inputs.items()}).logits
        logits.append(told.double().cpu().numpy())
    found = temper(committee.config.mean(committee.config.scaled(logits)), None)
    order = [committee.config.label2id[name] for name in emotions]
    return found.reshape(len(photos), number, -1)[..., order]


def sets_of(number: int, values: Sequence) -> list[list]:
    """Neighbours together, so many a set."""
    return [list(values[first : first + number]) for first in range(0, len(values), number)]


def check_reads_captions(committee: Committee) -> None:
    """Refuses a judge whom no caption moves."""
    for name, config in zip(committee.names, committee.configs, strict=True):
        if config.modalities == "image":
            raise ValueError(f"The judge '{name}' reads pictures alone, so no caption moves it.")


def check_same_emotions(committee: Committee, emotions: Sequence[str], captioner: str) -> None:
    """Refuses a judge of other emotions than the captioner's, in whatever order."""
    known = set(committee.config.label2id)
    if known != set(emotions):
        raise ValueError(
            f"The judge '{committee.names[0]}' tells other emotions than '{captioner}' writes for: only in the judge "
            f"{sorted(known - set(emotions))[:5]}, only in the captioner {sorted(set(emotions) - known)[:5]}."
        )


def selections(model: str | None, tables: DatasetDict | str | os.PathLike | None = None) -> list[dict[str, Any]]:
    """What is recorded of the labelling of a table, and of the table that the captioner learned from."""
    taught = (recorded_arguments(model) or {}).get("dataset") if model else None
    found = []
    for source in dict.fromkeys(
        os.fspath(own) for own in (tables, taught) if own and not isinstance(own, DatasetDict)
    ):
        try:
            path = local_folder(source, "dataset", (STATISTICS_FILE,)) / STATISTICS_FILE
        except FileNotFoundError:  # a table that the captioner learned from and nobody has any more
            continue
        if path.is_file():
            found.append(read_json(path, "what `emocap label` records of a table")["selection"])
    return found


def labelling_teacher(
    model: str | None, option: str, tables: DatasetDict | str | os.PathLike | None = None
) -> list[str]:
    """The teacher, or those together, that scored the captions which a captioner learned from, by its records.

    Args:
        model: the captioner; None: there is none yet.
        option: the flag that names another one.

    Raises:
        ValueError: there is no record, or what it names is not within reach.
    """
    for selection in selections(model, tables):
        named = selection["teacher"]
        teachers = named if isinstance(named, list) else [named]
        if all(Path(name).is_dir() or HUB_ID.fullmatch(name) for name in teachers):
            return teachers
    raise ValueError(
        f"No record of '{model or tables}' leads to the teacher that scored its training captions: "
        f"name one with {option}."
    )


def revisions_of(committee: Committee) -> list[set]:
    """By what each loaded member is told from others: the hash of its weights and its commit on the Hub."""
    return [
        {f"sha256:{weights_hash(model)[:16]}", getattr(config, "_commit_hash", None)} - {None}
        for config, (model, _) in zip(committee.configs, committee.members, strict=True)
    ]
