"""Self-critical sequence training of a captioner (Rennie et al. 2017): sentences that it draws itself are rewarded.

Rewarded is what a wish is for, and what it must not cost: how probable the teacher holds the wished emotion of the
picture with the sentence; how likely the sentence was, without the wish, to the captioner before this stage, so that
it stays language that fits the picture; and how like it is to the picture's captions.
"""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from datasets import Dataset

from emocap.data.captions import CaptionDataset
from emocap.evaluation.candidates import draw
from emocap.evaluation.captioner import Captioner, read_pictures, with_captions
from emocap.evaluation.scoring import Committee
from emocap.metrics.captions import cider_d
from emocap.terminal import progress

__all__ = ["advantages", "reward_wishes"]

DRAWN = 4
"""Sentences of each picture: the others' mean reward is the baseline of one (Kool et al. 2019)."""

LIKELIHOOD, LIKENESS = 2.0, 0.3
"""Weights of log-probability a token and of CIDEr-D, against the logarithm of the wish's probability. With a quarter
of the first, sentences became few and short."""


def reward_wishes(
    captioner: Captioner,
    pairs: CaptionDataset,
    table: Dataset,
    teacher: Committee,
    *,
    steps: int,
    learning_rate: float,
    pictures_a_step: int,
    seed: int,
) -> None:
    """Trains the captioner's trainable parameters in place, for one wish a picture.

    Args:
        captioner: the model on its device, with `pairs` or what has their regions.
        pairs: of the training table, for the rows that have captions.
        table: its rows.
        teacher: loaded; its answers are rewarded.
        steps: of the optimizer.
        pictures_a_step: each with one wish, of weight 1, and `DRAWN` sentences.
        seed: of pictures, wishes and sentences.
    """
    model, processor = captioner.model.eval(), captioner.processor  # what is rewarded is drawn without dropout
    before = deepcopy(model).requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    rng, rows = np.random.default_rng([seed, 3]), np.unique(pairs.row_of_pair)
    references, emotions = table["captions"][:], processor.emotions
    torch.manual_seed(seed)
    with progress(desc="Rewarding wishes", total=steps, unit="steps") as bar:
        for _ in range(steps):
            chosen = rng.choice(rows, min(pictures_a_step, len(rows)), replace=False)
            wishes = rng.integers(len(emotions), size=len(chosen))
            inputs = read_pictures(captioner, chosen, [emotions[label] for label in wishes])
            drawn = draw(model, processor, inputs, DRAWN, do_sample=True, top_k=0)
            texts, number = [text.strip() for text in drawn.texts], drawn.counted.sum(1)
            with torch.no_grad():
                likely = drawn.log_probabilities(before, with_wish=False).sum(1) / number
            rewards = LIKELIHOOD * likely.double().cpu().numpy().reshape(-1, DRAWN)
            rewards += log_wished(teacher, table.select(chosen), texts, wishes)
            own = [references[row] for row in chosen for _ in range(DRAWN)]
            rewards += LIKENESS * np.reshape(cider_d(texts, own), (-1, DRAWN))
            gains = torch.from_numpy(advantages(rewards)).to(model.device, torch.float32).flatten()
            told = drawn.log_probabilities(model).sum(1)
            loss = -(gains * told).mean() / number.float().mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            bar.set_postfix_str(f"reward {rewards.mean():.3f}")
            bar.update()


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Of each sentence `(pictures, sentences)`: by how much its reward exceeds the mean of the picture's others."""
    others = rewards.shape[1] - 1
    return rewards - (rewards.sum(1, keepdims=True) - rewards) / others


def log_wished(teacher: Committee, table: Dataset, texts: Sequence[str], wishes: np.ndarray) -> np.ndarray:
    """The logarithm of the wish's probability for each sentence, `(pictures, sentences)`."""
    sentences = np.array(texts, dtype=object).reshape(len(table), -1).tolist()
    tables = [with_captions(own, sentences) for own in teacher.prepare(table)]
    probabilities = teacher.score(tables, len(texts)).probabilities.reshape(len(table), len(sentences[0]), -1)
    return np.log(np.clip(probabilities[np.arange(len(table)), :, wishes], 1e-6, None))
