"""Trains a student: `python train_student.py --help`, alone or under `accelerate launch`."""

import sys

from emocap.cli import main

if __name__ == "__main__":
    main(["train-student", *sys.argv[1:]])
