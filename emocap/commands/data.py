"""Commands that build a table of pairs."""

from typing import Annotated, Any, Literal

from emocap.options import Count, Options, Whole, option, positional, required
from emocap.terminal import command_line

__all__ = ["Coco", "Oasis", "Pairs", "Photos", "Scenes", "Socratis"]


class Built(Options):
    extractor = "torchvision:fasterrcnn_resnet50_fpn_v2"  # one that anybody can have

    output_dir: str = required("folder for the table")

    def run(self) -> dict[str, Any]:
        from emocap.data.licenses import license_note, license_of
        from emocap.data.storage import check_output_dir, save_table

        check_output_dir(self.output_dir)
        tables, report = self.build()
        save_table(tables, self.output_dir, report)
        images = [split.data.column("image") for split in tables.values() if "image" in split.features]
        return {
            "output_dir": self.output_dir,
            "rows": {name: len(split) for name, split in tables.items()},
            "photos": sum(len(column) - column.null_count for column in images),
            **(report.to_dict() if report else {}),
            "license": license_note(license_of(tables.values())),
        }

    def show(self, result: dict[str, Any]) -> None:
        for what, column in result.get("columns", {}).items():
            print(f"column of {what}: {column}")
        for what, number in result.get("counts", {}).items():
            print(f"{what}: {number}")
        print(f"rows: {', '.join(f'{name} {number}' for name, number in result['rows'].items())}")
        if result["license"]:
            print(result["license"])

    def following(self, result: dict[str, Any]) -> str:
        if result["photos"]:
            return command_line(
                "regions", self.output_dir, "--extractor", self.extractor, "--output_dir", f"{self.output_dir}-regions"
            )
        own = ("--dataset", self.output_dir, "--model_name_or_path", "ID_OR_DIR", "--output_dir", "runs/teacher")
        return command_line("train-teacher", *own)

    def build(self) -> tuple:
        """The table, and the report on its rows or None."""
        raise NotImplementedError


class Table(Built):
    seed: Whole = option("seed of splits and draws", 0)


class Pairs(Table):
    """table from your own pairs, or from a published data set"""

    source: str = positional(
        "SOURCE",
        "CSV, TSV, JSON (lines) or Parquet; a folder of save_to_disk, or of photos with metadata.csv; a Hub id",
        may_be_json=True,
    )
    preset: Literal["goemotions", "artemis", "affection", "emoset"] | None = option(
        "SOURCE is that data set as it is published, so that its columns, emotions and licence are known"
    )
    config: str | None = option("configuration of a Hub data set", metavar="NAME")
    images: str | None = option("folder of the photos (that of SOURCE)", metavar="DIR")
    image_column: str | None = option(
        "photo's path or content, or a pattern of columns such as '{style}/{name}.jpg'. This and any other column is "
        "guessed where only one can be meant; 'none': there is none",
        metavar="NAME",
    )
    caption_column: list[str] | None = option("caption, or several of them", metavar="NAME")
    labels_column: list[str] | None = option(
        "emotions (lists, names with | ; or , between them, numbers of --labels), or one column an emotion with 0 and "
        "1, shares or votes",
        metavar="NAME",
    )
    group_column: str | None = option("rows of one group never stand in two splits", metavar="NAME")
    split_column: str | None = option("split of each row; without it drawn, by a hash of the image", metavar="NAME")
    id_column: str | None = option("what rows of one image have in common, if not its path", metavar="NAME")
    annotator_column: str | None = option("who answered: each row is one annotator's answer", metavar="NAME")
    num_annotators_column: str | None = option("how many people voted", metavar="NAME")
    annotators: bool | None = option(
        "each row is one annotator's answer: votes, their number and soft labels follow; --no_annotators joins what "
        "the rows of an image say"
    )
    labels: str | None = option("JSON list that fixes the emotions and their order", metavar="FILE")
    label_map: str | None = option(
        "YAML or JSON file of old emotions with new ones: a name, a list, or null to drop it", metavar="FILE"
    )
    min_count: Count | None = option("keep emotions of at least so many images (all)")
    license: str | None = option("licence of the data (that of SOURCE, if known)")

    def build(self):
        from emocap.data.own_pairs import build_pairs

        return build_pairs(self.source, images_dir=self.images, **self.but("source", "images", "output_dir"))


class Photos(Built):
    """table from a folder of photos, without labels"""

    folder: str = positional("DIR", "folder of photos, with further ones inside it")
    captions: Literal["auto", "text", "description", "none"] = option(
        "text: lines of the .txt file beside a photo; description: its IPTC or EXIF one; auto: either", "auto"
    )

    def build(self):
        from emocap.data.photo_folder import build_photos

        return build_photos(self.folder, captions=self.captions)


class Socratis(Table):
    """table from Socratis annotations"""

    source: str = positional("SOURCE", "the raw per-annotator JSON, or a cleaned CSV", may_be_json=True)
    images: str | None = option("folder of the photos; without it the table has captions only", metavar="DIR")
    min_count: Count | None = option(
        "keep emotions named for at least so many images (raw JSON: 100; cleaned CSV: keep all)"
    )
    labels: str | None = option("JSON list that fixes the emotions and their order", metavar="FILE")

    def build(self):
        from emocap.data.socratis import build_socratis

        return build_socratis(self.source, images_dir=self.images, **self.but("source", "images", "output_dir"))


class Coco(Table):
    """table from COCO captions, without labels"""

    source: str = positional("ROOT", "folder of COCO's own layout, or a Hub data set id")
    split: list[str] = option("COCO splits", ["train2017"])
    fraction: Annotated[float, "(0, 1]"] = option("share of the images, drawn at random", 1.0)

    def build(self):
        from emocap.data.coco import build_coco

        return build_coco(self.source, splits=self.split, fraction=self.fraction, seed=self.seed)


class Oasis(Table):
    """table from OASIS valence and arousal norms"""

    source: str = positional("ROOT", "folder or Hub data set id with metadata.csv and images/")

    def build(self):
        from emocap.data.oasis import build_oasis

        return build_oasis(self.source, seed=self.seed)


class Scenes(Table):
    """the built-in corpus"""

    extractor = "scenes"

    num_target: Whole = option("labelled images", 2000)
    num_source: Whole = option("images without labels", 6000)
    num_labels: Annotated[int, "[1, 29]"] = option("emotions", 29)

    def build(self):
        from emocap.scenes.corpus import load_scenes

        return load_scenes(**self.but("output_dir")), None
