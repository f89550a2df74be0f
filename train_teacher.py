"""Trains a teacher on human labels: `python train_teacher.py --help`, alone or under `accelerate launch`."""

import sys

from emocap.cli import main

if __name__ == "__main__":
    main(["train-teacher", *sys.argv[1:]])
