"""Commands that add to a table: region features, and pseudo-labels."""

from typing import Literal

from emocap.options import Count, Options, Share, option, positional, required

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

    def run(self) -> None:
        if bool(self.extractor) == bool(self.features):
            raise ValueError("Give --extractor or --import, one of them.")
        from emocap.data.storage import load_table
        from emocap.regions import extract_regions, import_regions

        tables = load_table(self.dataset)
        if self.features:
            import_regions(tables, self.features, self.output_dir)
        else:
            extract_regions(tables, **self.but("dataset", "features"))


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

    def run(self) -> None:
        from emocap.steps import label

        label(tables=self.dataset, **self.but("dataset"))
