"""Crops of the student's photos: beside a plain loop, the same for one seed, and in training batches alone."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emocap.cli import main
from emocap.data.pairs import PairDataset
from emocap.evaluation.scoring import prepare_table
from emocap.models import EmocapProcessor
from emocap.training import jobs
from emocap.training.augmentation import CroppedPhotos, crop_photos
from emocap.training.sampling import MixedPairs, PairSampler


def plain_crop(photo: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """One photo `(3, size, size)`, pixel by pixel."""
    size = photo.shape[-1]
    area, ratio = 0.5 + 0.5 * draws[0], (3 / 4) ** (1 - 2 * draws[1])
    width, height = (min(1, math.sqrt(area * own)) * size for own in (ratio, 1 / ratio))
    left, top = draws[2] * (size - width), draws[3] * (size - height)
    cropped = np.zeros_like(photo)
    for row in range(size):
        for column in range(size):
            x = left + (column + 0.5) / size * width - 0.5
            y = top + (row + 0.5) / size * height - 0.5
            x0, y0 = math.floor(x), math.floor(y)
            value = np.zeros(3)
            for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
                share = (x - x0 if dx else 1 - x + x0) * (y - y0 if dy else 1 - y + y0)
                value += share * photo[:, min(max(y0 + dy, 0), size - 1), min(max(x0 + dx, 0), size - 1)]
            cropped[:, row, size - 1 - column if draws[4] >= 0.5 else column] = np.rint(value)
    return cropped


def test_crops_equal_a_loop_over_their_pixels(rng):
    photos = rng.integers(0, 256, (6, 3, 11, 11), dtype=np.uint8)
    draws = rng.random((6, 5), dtype=np.float32)
    found = crop_photos(torch.from_numpy(photos), draws)
    assert found.dtype == torch.uint8
    for photo, own, cropped in zip(photos, draws, found.numpy(), strict=True):
        assert np.abs(plain_crop(photo, own).astype(int) - cropped).max() <= 1, "up to rounding"


def test_the_whole_photo_stays_as_it_is_and_mirrored_is_mirrored():
    photos = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    whole = np.array([[1, 0.5, 0.3, 0.8, 0.1], [1, 0.5, 0.3, 0.8, 0.9]], dtype=np.float32)
    assert torch.equal(crop_photos(photos, whole), torch.stack([photos[0], photos[1].flip(-1)]))


@pytest.fixture
def parts(tiny_table, tiny_student) -> dict[str, PairDataset]:
    processor = EmocapProcessor.from_pretrained(tiny_student)
    return {name: PairDataset(prepare_table(tiny_table[name], processor), processor, "labels")
            for name in ("train", "validation")}  # fmt: skip


@pytest.mark.parametrize("mixed", [False, True])
def test_a_crop_depends_on_seed_epoch_and_pair_alone(parts, mixed):
    pairs = MixedPairs(parts["train"], parts["validation"]) if mixed else parts["train"]
    sampler = PairSampler(parts["train"], seed=3)
    cropped = CroppedPhotos(pairs, sampler)
    chosen = np.random.default_rng(0).permutation(len(pairs))[:20]
    batch, plain = cropped.__getitems__(chosen), pairs.__getitems__(chosen)
    assert len(cropped) == len(pairs)
    for name in plain:
        assert torch.equal(batch[name], plain[name]) == (name != "pixel_values"), name
    with_photo = batch["pixel_mask"].bool()
    assert (batch["pixel_values"][~with_photo] == 0).all() and not with_photo.all()
    for place, pair in enumerate(chosen):
        assert torch.equal(cropped[pair]["pixel_values"], batch["pixel_values"][place])
    again = CroppedPhotos(pairs, PairSampler(parts["train"], seed=3)).__getitems__(chosen)
    other = CroppedPhotos(pairs, PairSampler(parts["train"], seed=4)).__getitems__(chosen)
    assert torch.equal(again["pixel_values"], batch["pixel_values"])
    assert not torch.equal(other["pixel_values"], batch["pixel_values"])
    sampler.set_epoch(1)
    later = cropped.__getitems__(chosen)["pixel_values"]
    assert not torch.equal(later, batch["pixel_values"])
    sampler.set_epoch(0)
    assert torch.equal(cropped.__getitems__(chosen)["pixel_values"], batch["pixel_values"])


def test_one_seed_gives_one_student_and_evaluation_sees_whole_photos(
    tmp_path, tiny_table_dir, tiny_student, monkeypatch
):
    watched = []
    plain = jobs.EmocapTrainer

    def watch(*args, **kwargs):
        watched.append((type(kwargs["train_dataset"]), type(kwargs["eval_dataset"])))
        return plain(*args, **kwargs)

    monkeypatch.setattr(jobs, "EmocapTrainer", watch)
    flags = ["train-student", "--model_name_or_path", tiny_student, "--dataset", tiny_table_dir, "--use_cpu",
             "--disable_tqdm", "true", "--num_train_epochs", "2", "--learning_rate", "0.01"]  # fmt: skip
    cropped = ["--augment_photos", "true"]
    for name, own in (("one", cropped), ("same", cropped), ("other", [*cropped, "--seed", "5"]), ("whole", [])):
        main([*flags, *own, "--output_dir", str(tmp_path / name)])
    assert watched == [(CroppedPhotos, PairDataset)] * 3 + [(PairDataset, PairDataset)]
    weights = {
        name: load_file(tmp_path / name / "model.safetensors")["cnn.0.0.weight"]
        for name in ("one", "same", "other", "whole")
    }
    assert torch.equal(weights["one"], weights["same"])
    assert not torch.equal(weights["one"], weights["other"]) and not torch.equal(weights["one"], weights["whole"])
    assert json.loads((tmp_path / "one" / "run_arguments.json").read_text())["augment_photos"] is True


def test_photos_that_are_not_there_are_missed(tiny_table, tiny_student):
    words = tiny_table["train"].filter(lambda captions: bool(captions), input_columns="captions")
    pairs = PairDataset(words, EmocapProcessor.from_pretrained(tiny_student), "labels", "text")
    with pytest.raises(ValueError, match="--augment_photos needs photos, of which the training rows have none"):
        CroppedPhotos(pairs, PairSampler(pairs))
