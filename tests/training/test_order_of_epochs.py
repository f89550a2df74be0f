"""Grouping by length: steps of like captions, in an order that is drawn anew in each epoch."""

import numpy as np
import pytest

from emocap.arguments import DataArguments, EmocapTrainingArguments
from emocap.data.pairs import PairDataset
from emocap.models import EmocapProcessor
from emocap.training.jobs import make_sampler

BATCH = 4


@pytest.fixture
def pairs(tiny_table, tiny_teacher) -> PairDataset:
    return PairDataset(tiny_table["train"], EmocapProcessor.from_pretrained(tiny_teacher), "labels")


def epochs_of(pairs: PairDataset, table, tmp_path, strategy: str, number: int = 6) -> list[np.ndarray]:
    """Pairs of each epoch, int `(steps, BATCH)`, as a training run draws them."""
    arguments = EmocapTrainingArguments(
        str(tmp_path), train_sampling_strategy=strategy, per_device_train_batch_size=BATCH, use_cpu=True
    )
    sampler = make_sampler({"train": pairs}, table, DataArguments("table"), arguments)
    drawn = []
    for epoch in range(number):
        sampler.set_epoch(epoch)
        drawn.append(np.array(list(sampler)).reshape(-1, BATCH))
    return drawn


def test_steps_of_like_length_come_in_random_order(pairs, tiny_table, tmp_path):
    lengths = np.diff(pairs.token_starts)
    grouped, plain = (epochs_of(pairs, tiny_table["train"], tmp_path, how) for how in ("group_by_length", "random"))
    assert len(grouped[0]) > 20
    spread = {name: np.mean([np.ptp(lengths[own], axis=1).mean() for own in epochs])
              for name, epochs in (("grouped", grouped), ("plain", plain))}  # fmt: skip
    assert spread["grouped"] < 0.3 * spread["plain"], "a step's captions are of like length"
    assert len({own.tobytes() for own in grouped}) == len(grouped), "no epoch is another's"
    assert len({lengths[own].tobytes() for own in grouped}) == len(grouped), "nor are its lengths in the same order"
    for own in grouped:
        medians = np.median(lengths[own], axis=1)[1:]  # the longest comes first
        assert abs(np.corrcoef(np.arange(len(medians)), medians)[0, 1]) < 0.7, "steps are not sorted"


def test_the_plain_order_is_drawn_anew_too(pairs, tiny_table, tmp_path):
    drawn = epochs_of(pairs, tiny_table["train"], tmp_path, "random")
    assert len({own.tobytes() for own in drawn}) == len(drawn)
    assert not any((np.sort(own.ravel()) == own.ravel()).all() for own in drawn)
