"""Fine-tunes onto the target (AnB, AnB+, controls): `python finetune.py --help`, also by `accelerate launch`."""

import sys

from emocap.cli import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
