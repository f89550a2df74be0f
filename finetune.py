"""Fine-tunes onto the target: AnB, AnB+ and controls: `python finetune.py --help`, alone or under `accelerate launch`."""

import sys

from emocap.cli import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
