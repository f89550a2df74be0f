"""Trains the built-in region extractor on pictures of the built-in corpus.

The shipped weights in `emocap/scenes/detector` come from

    OMP_NUM_THREADS=1 python -m emocap.scenes.train_detector --output_dir emocap/scenes/detector
"""

import argparse

import numpy as np
import torch
from transformers import set_seed

from emocap.models import EmocapRegionConfig, EmocapRegionExtractor
from emocap.scenes.corpus import SCENE_CLASSES, draw_scene, random_scene
from emocap.terminal import progress

__all__ = ["train_scenes_detector"]

BATCH_SIZE, LEARNING_RATE = 16, 2e-3
CORPUS_SEED = 1_000_003  # other pictures than `load_scenes` draws


def train_scenes_detector(steps: int) -> EmocapRegionExtractor:
    """A Faster R-CNN trained with torchvision's own losses on so many steps of fresh pictures, AdamW in one cycle."""
    set_seed(0)
    names = dict(enumerate(SCENE_CLASSES))
    model = EmocapRegionExtractor(
        EmocapRegionConfig(id2label=names, label2id={name: index for index, name in names.items()})
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    rng = np.random.default_rng(CORPUS_SEED)
    for _ in progress(range(steps), desc="Training the detector", unit="steps"):
        images, targets = zip(*(training_example(rng) for _ in range(BATCH_SIZE)), strict=True)
        loss = sum(model.detector(list(images), list(targets)).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def training_example(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A picture float32 `(3, 96, 96)` in 0..1 with its boxes (pixels) and labels (0 is background)."""
    picture, things = draw_scene(random_scene(rng), rng)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    size = torch.tensor([picture.width, picture.height] * 2)
    boxes = torch.tensor([box for _, box in things]) * size
    labels = torch.tensor([SCENE_CLASSES.index(name) + 1 for name, _ in things])
    wide = ((boxes[:, 2:] - boxes[:, :2]) > 1).all(1)
    return pixels, {"boxes": boxes[wide], "labels": labels[wide]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=1500, help="training steps (%(default)s)")
    arguments = parser.parse_args()
    train_scenes_detector(arguments.steps).save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    main()
