"""What the studies of the built-in corpus stand on: its tables with region features, a teacher of the target, and the
source pictures labelled by it."""

from importlib import resources
from pathlib import Path

import yaml
from datasets import DatasetDict

from emocap.data.storage import load_table, save_table
from emocap.models import EmocapRegionExtractor
from emocap.regions import SCENES_DETECTOR, extract_regions
from emocap.scenes.body import make_body
from emocap.scenes.corpus import load_scenes
from emocap.steps import label, train_teacher
from emocap.terminal import stage

__all__ = ["make_corpus", "scenes_corpus"]

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


def make_corpus(output: Path, settings: dict[str, dict]) -> tuple[DatasetDict, DatasetDict]:
    """The corpus with region features, and its source pictures labelled by a teacher of the target: folders `scenes`,
    `extractor`, `regions`, `body`, `teacher` and `labelled` of `output`."""
    with stage("Drawing the corpus"):
        save_table(load_scenes(**settings["scenes"]), output / "scenes")
    with stage("Extracting region features"):
        detector = EmocapRegionExtractor.from_pretrained(SCENES_DETECTOR, **settings["extractor"])
        detector.save_pretrained(output / "extractor")
        tables = extract_regions(load_table(output / "scenes"), str(output / "extractor"), output / "regions")
    with stage("Training the teacher"):
        make_body(tables, output / "body", settings["body"])
        extractor = {"region_extractor": output / "extractor"}
        train_teacher(output / "regions", output / "body", output / "teacher", **extractor, **settings["teacher"])
    with stage("Labelling the source pictures"):
        source = DatasetDict({"train": tables["source"]})
        labelled = label(source, output / "teacher", output / "labelled", **settings["label"])
    return tables, labelled
