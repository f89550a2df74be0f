"""What an epoch sees: drawn again from seed and number, each row in its share; two tables as one data set."""

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, List
from transformers import AutoModel

from emocap.arguments import EmocapTrainingArguments
from emocap.data.pairs import PairDataset, label_matrix
from emocap.evaluation.scoring import predict_logits
from emocap.models import EmocapProcessor
from emocap.training.sampling import MixedPairs, PairSampler, rows_of_labels
from emocap.training.trainer import EmocapTrainer


@pytest.fixture
def pairs(tiny_table, tiny_teacher) -> PairDataset:
    return PairDataset(tiny_table["train"], EmocapProcessor.from_pretrained(tiny_teacher), "labels")


@pytest.fixture
def human(tiny_table, tiny_teacher) -> PairDataset:
    return PairDataset(tiny_table["validation"], EmocapProcessor.from_pretrained(tiny_teacher), "labels")


def epochs(sampler: PairSampler, number: int) -> list[list[int]]:
    drawn = []
    for epoch in range(number):
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
        assert len(drawn[-1]) == len(sampler)
    return drawn


def test_an_epoch_of_all_pairs_sees_each_once_and_fills_its_last_step(pairs):
    for step in (1, 7, 32, 500):
        for drawn in epochs(PairSampler(pairs, pairs_a_step=step), 2):
            assert len(drawn) % step == 0 and len(drawn) < len(pairs) + step
            assert sorted(drawn[: len(pairs)]) == list(range(len(pairs)))
            again = (drawn[: len(pairs)] * (1 + step))[: len(drawn)]
            assert drawn == again, "filled from its own beginning"


@pytest.mark.parametrize("captions", ["all", "random"])
@pytest.mark.parametrize("balanced", [False, True])
def test_an_epoch_depends_on_seed_and_number_alone(pairs, human, tiny_table, captions, balanced):
    rows = rows_of_labels(tiny_table["train"]) if balanced else None
    settings = {"captions": captions, "rows_of_labels": rows, "mix": human, "mix_share": 0.3, "pairs_a_step": 8}
    first = epochs(PairSampler(pairs, seed=3, **settings), 4)
    torch.manual_seed(11)
    np.random.seed(11)
    later = PairSampler(pairs, seed=3, **settings)
    later.set_epoch(2)
    assert list(later) == list(later) == first[2]
    assert len({tuple(drawn) for drawn in first}) == 4
    assert epochs(PairSampler(pairs, seed=4, **settings), 1)[0] != first[0]


def test_random_captions_take_every_image_once_and_its_captions_in_turn(pairs):
    counts, number = Counter(), 400
    for drawn in epochs(PairSampler(pairs, captions="random"), number):
        assert sorted(pairs.row_of_pair[drawn]) == list(range(60))
        counts.update(drawn)
    captions = Counter(pairs.row_of_pair.tolist())
    assert max(captions.values()) > 1
    for pair, row in enumerate(pairs.row_of_pair.tolist()):
        share = 1 / captions[row]
        assert abs(counts[pair] / number - share) <= 5 * (share * (1 - share) / number) ** 0.5


def with_selection(table: Dataset, selected: list[list[int]]) -> Dataset:
    return table.add_column("selected_for", selected).cast_column("selected_for", table.features["emotions"])


def test_balanced_draws_are_uniform_over_emotions_and_their_images(pairs, tiny_table, caplog):
    selected = [[0] if row < 30 else [0, 1] if row < 33 else [3] if row == 33 else [] for row in range(60)]
    table = with_selection(tiny_table["train"], selected)
    rows = rows_of_labels(table)
    assert "No image stands for excited, angry in 'selected_for'" in caplog.text
    expected = [[row for row, own in enumerate(selected) if label in own] for label in range(5)]
    assert [own.tolist() for own in rows] == expected
    number, counts = 300, Counter()
    sampler = PairSampler(pairs, rows_of_labels=rows, pairs_a_step=1)
    assert len(sampler) == 34, "as many draws as there are selected images"
    for drawn in epochs(sampler, number):
        counts.update(pairs.row_of_pair[drawn].tolist())
    total = number * 34
    for row in range(60):
        share = sum((row in own) / len(own) for own in expected if own) / 3  # three emotions have images
        assert abs(counts[row] / total - share) <= 5 * (share / total) ** 0.5, row


def test_without_a_selection_the_emotions_themselves_count(tiny_table):
    labels = label_matrix(tiny_table["train"], "emotions")
    for own, column in zip(rows_of_labels(tiny_table["train"]), labels.T, strict=True):
        assert own.tolist() == [row for row in range(60) if column[row]]
    with pytest.raises(ValueError, match="No image stands for any emotion"):
        rows_of_labels(with_selection(tiny_table["train"], [[]] * 60))


@pytest.mark.parametrize("captions", ["all", "random"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_second_table_has_its_share_of_an_epoch_and_comes_in_turn(pairs, human, captions, share):
    sampler = PairSampler(pairs, captions=captions, mix=human, mix_share=share)
    own, other = (len(pairs), len(human)) if captions == "all" else (60, 20)
    rows = np.concatenate([pairs.row_of_pair, human.row_of_pair + 60])
    for drawn in epochs(sampler, 3):
        mixed = [pair for pair in drawn if pair >= len(pairs)]
        assert len(drawn) - len(mixed) == own
        assert len(mixed) / len(drawn) == pytest.approx(share, abs=1 / len(drawn))
        counts = Counter(mixed if captions == "all" else rows[mixed].tolist())
        turns = len(mixed) / other
        assert set(counts.values()) <= {int(turns), int(turns) + 1} and len(counts) == min(other, len(mixed))
        assert drawn != sorted(drawn) and min(drawn.index(pair) for pair in mixed) < own, "shuffled together"


@pytest.mark.parametrize("lacking", ["nothing", "main regions", "mixed regions", "all regions"])
def test_mixed_batches_hold_what_each_table_has(tiny_table, tiny_teacher, lacking, rng):
    processor = EmocapProcessor.from_pretrained(tiny_teacher)
    with_captions = {
        name: table.filter(lambda captions: bool(captions), input_columns="captions")
        for name, table in tiny_table.items()
    }
    parts = [
        PairDataset(with_captions[name], processor, "labels", "text" if lacking in (gone, "all regions") else "both")
        for name, gone in (("train", "main regions"), ("validation", "mixed regions"))
    ]
    mixed = MixedPairs(*parts)
    assert len(mixed) == len(parts[0]) + len(parts[1])
    for chosen in (rng.permutation(len(mixed))[:17], np.arange(3), np.arange(len(mixed) - 3, len(mixed))):
        batch = mixed.__getitems__(chosen)
        assert ("visual_embeds" in batch) == (lacking != "all regions") == mixed.reads_photos
        for place, pair in enumerate(chosen):
            part, inside = (0, pair) if pair < len(parts[0]) else (1, pair - len(parts[0]))
            alone = parts[part][inside]
            for name, values in batch.items():
                filled = values[place].clone()
                if name in alone:
                    own = alone[name]
                    inside_own = tuple(map(slice, own.shape))
                    assert torch.equal(filled[inside_own], own), name
                    filled[inside_own] = 0
                assert not filled.any(), f"{name}: the rest is padding, whose entry of this vocabulary is 0"
                assert values.dtype == alone.get(name, values).dtype
    rows = len(with_captions["train"])
    assert np.array_equal(mixed.row_of_pair, np.concatenate([parts[0].row_of_pair, parts[1].row_of_pair + rows]))
    assert np.array_equal(np.diff(mixed.token_starts), np.concatenate([np.diff(part.token_starts) for part in parts]))


def test_ranked_targets_follow_the_order_of_the_kept_emotions(rng):
    emotions = [rng.permutation(5)[: rng.integers(0, 5)].tolist() for _ in range(20)]
    table = Dataset.from_dict({"emotions": emotions, "emotion_scores": [[0.1] * 5] * 20})
    table = table.cast_column("emotions", List(ClassLabel(names=list("abcde"))))
    expected = np.zeros((20, 5))
    for row, own in enumerate(emotions):
        for rank, label in enumerate(own, start=1):
            expected[row, label] = 1 / rank
    targets = label_matrix(table, "ranked_emotions")
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, expected, atol=1e-7)
    assert set(np.unique(label_matrix(table, "emotions"))) <= {0, 1}
    with pytest.raises(ValueError, match="ranked_emotions needs pseudo-labels"):
        label_matrix(table.remove_columns("emotion_scores"), "ranked_emotions")


@pytest.mark.parametrize("step", [1, 4, 16])
def test_steps_of_like_length_hold_the_same_pairs_with_less_padding(pairs, human, step):
    lengths = np.concatenate([np.diff(pairs.token_starts), np.diff(human.token_starts)])
    assert pairs.lengths.tolist() == np.diff(pairs.token_starts).tolist()
    options = {"pairs_a_step": step, "mix": human, "mix_share": 0.3, "seed": 5}
    plain, grouped = PairSampler(pairs, **options), PairSampler(pairs, **options, by_length=True)

    def padding(drawn: list[int]) -> int:
        steps = lengths[drawn].reshape(-1, step)
        return int((steps.max(1, keepdims=True) - steps).sum())

    first, second = epochs(grouped, 2)
    for drawn, random in zip((first, second), epochs(plain, 2), strict=True):
        assert Counter(drawn) == Counter(random), "no pair is lost, none comes more often"
        assert lengths[drawn[:step]].max() == lengths[drawn].max(), "the longest comes first"
        assert step == 1 or padding(drawn) < 0.5 * padding(random)
    assert first != second and epochs(grouped, 2) == [first, second], "drawn anew, and again alike"
    medians = np.median(lengths[first].reshape(-1, step), axis=1)
    assert (np.diff(medians) < 0).any() and (np.diff(medians) > 0).any(), "steps are not sorted"


def test_grouping_by_length_leaves_evaluation_in_the_rows_order(pairs, tiny_teacher, tmp_path):
    model = AutoModel.from_pretrained(tiny_teacher).eval()
    arguments = EmocapTrainingArguments(
        str(tmp_path), train_sampling_strategy="group_by_length", use_cpu=True, disable_tqdm=True
    )
    trainer = EmocapTrainer(
        model, arguments, data_collator=PairDataset.collate, eval_dataset=pairs, processing_class=pairs.processor
    )
    np.testing.assert_allclose(trainer.predict(pairs).predictions, predict_logits(model, pairs), atol=1e-5)
