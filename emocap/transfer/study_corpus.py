"""What the transfer study's preset for the built-in corpus stands on: labelled target, pseudo-labelled source."""

from importlib import resources
from pathlib import Path

import yaml

from emocap.quickstart import make_corpus

__all__ = ["scenes_corpus"]

SIZES = {"num_target": 4000, "num_source": 4000, "seed": 0}


def scenes_corpus(folder: Path) -> dict[str, str]:
    """The study's `source_dataset`, `target_dataset` and `word_embeddings`, made where they are not yet there.

    The teacher that labels the source learns from the target's training rows, all of them: what passes to a network
    that sees 100 of them is in part what the teacher saw in the others. It never sees a test row.
    """
    if not (folder / "labelled" / "dataset_dict.json").is_file():
        settings = yaml.safe_load(resources.files("emocap.presets").joinpath("quickstart.yaml").read_text("utf-8"))
        make_corpus(folder, settings | {"scenes": SIZES})
    parts = {"source_dataset": "labelled", "target_dataset": "regions", "word_embeddings": "body"}
    return {name: str(folder / part) for name, part in parts.items()}
