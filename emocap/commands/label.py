"""Commands that add to a table: region features, and pseudo-labels."""

from pathlib import Path
from typing import Any, Literal

from emocap.options import Count, Options, Share, option, positional, required
from emocap.terminal import command_line

__all__ = ["Label", "Regions"]


class Regions(Options):
    """region features for every photo of a table"""

    dataset: str = positional("DATASET", "folder or Hub id of a table of pairs")
    output_dir: str = required("folder for the table with features")
    extractor: str | None = option(
        "folder or Hub id of a region extractor; 'scenes' is the built-in one, 'torchvision:NAME' one of "
        "torchvision's detectors, such as torchvision:fasterrcnn_resnet50_fpn_v2, and 'vision:ID' the 6 x 6 grid of a "
        "vision encoder's features (ViT, CLIP, SigLIP, DINOv2, ResNet, ConvNeXt, Swin: folder or Hub id)",
        metavar="ID_OR_DIR",
    )
    features: str | None = option(
        "in its place, features that exist already: bottom-up attention's .tsv, .safetensors, or a folder of .npz "
        "files",
        flag="import",
        metavar="FILE_OR_DIR",
    )
    batch_size: Count = option("photos a step on a GPU", 16)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "what the network computes in; auto: bfloat16 for large networks where the processor is fast in it "
        "(float16 on older GPUs), else float32",
        "auto",
    )
    num_workers: Count | None = option("threads that decode photos, and on a CPU compute (one a core)")

    def run(self) -> dict[str, Any]:
        if bool(self.extractor) == bool(self.features):
            raise ValueError("Give --extractor or --import, one of them.")
        import numpy as np

        from emocap.data.storage import load_table
        from emocap.regions import extract_regions, import_regions

        tables = load_table(self.dataset)
        if self.features:
            tables = import_regions(tables, self.features, self.output_dir)
        else:
            tables = extract_regions(tables, **self.but("dataset", "features"))
        counted = {name: np.asarray(split.with_format("arrow")["num_regions"][:]) for name, split in tables.items()}
        return {
            "output_dir": self.output_dir,
            "rows": {name: len(own) for name, own in counted.items()},
            "with_regions": {name: int((own > 0).sum()) for name, own in counted.items()},
            "has_labels": any("labels" in split.features for split in tables.values()),
        }

    def show(self, result: dict[str, Any]) -> None:
        for name, number in result["rows"].items():
            print(f"{name}: {number:,} rows, {result['with_regions'][name]:,} with regions")
        print(f"Table and report: {self.output_dir}, {Path(self.output_dir, 'data_report.json')}")

    def following(self, result: dict[str, Any]) -> str:
        if result["has_labels"]:
            own = ("--dataset", self.output_dir, "--model_name_or_path", "ID_OR_DIR", "--output_dir", "runs/teacher")
            return command_line("train-teacher", *own)
        labelled = ("--output_dir", f"{self.output_dir}-labelled")
        return command_line("label", self.output_dir, "--teacher", "ID_OR_DIR", *labelled)


class Label(Options):
    """pseudo-labels from a teacher, or from several"""

    dataset: str = positional("DATASET", "folder or Hub id of a table of pairs")
    teacher: list[str] = required(
        "folder or Hub id of the model that labels; several label together: the mean of their logits",
        metavar="ID_OR_DIR",
    )
    output_dir: str = required("folder for the augmented table")
    split: list[str] | None = option("splits to label (all)")
    labels_per_image: Count = option("best emotions kept an image", 4)
    images_per_label: Count | None = option("best images selected an emotion (all)", metavar="P")
    threshold: Share | None = option("keep only emotions above this probability (none)")
    label_shares: Literal["prevalence", "balanced"] | None = option(
        "prevalence: each emotion's best images, as large a share as carry it in the teacher's training set; "
        "balanced: the same share for each, --labels_per_image on average. An image may then carry any number (none)"
    )
    min_confidence: Share | None = option("no labels for images whose best score is lower (none)")
    max_disagreement: Share | None = option(
        "no labels for images whose scores vary more than this over their captions: standard deviation, mean over "
        "the emotions (none)"
    )
    bf16: bool | None = option("score in bfloat16 (on GPUs that have it)")
    batch_size: Count = option("pairs a step", 64)

    def run(self) -> dict[str, Any]:
        from emocap.records import STATISTICS_FILE, read_json
        from emocap.steps import label

        label(tables=self.dataset, **self.but("dataset"))
        return read_json(Path(self.output_dir, STATISTICS_FILE), "what the labels are")

    def show(self, result: dict[str, Any]) -> None:
        from emocap.commands.printing import print_labels

        print_labels(result)
        print(f"Table and page: {self.output_dir}, {Path(self.output_dir, 'labels.html')}")

    def following(self, result: dict[str, Any]) -> str:
        own = ("--dataset", self.output_dir, "--word_embeddings", "ID_OR_DIR", "--output_dir", "runs/student")
        return command_line("train-student", *own)
