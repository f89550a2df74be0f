"""Commands that build a table of pairs."""

from typing import Annotated

from emocap.options import Count, Options, Whole, option, positional, required

__all__ = ["Coco", "Oasis", "Scenes", "Socratis"]


class Table(Options):
    output_dir: str = required("folder for the table")
    seed: Whole = option("seed of splits and draws", 0)

    def run(self) -> None:
        from emocap.data.storage import check_output_dir, save_table

        check_output_dir(self.output_dir)
        tables, report = self.build()
        save_table(tables, self.output_dir, report)
        for what, number in report.counts.items() if report else ():
            print(f"{what}: {number}")

    def build(self) -> tuple:
        """The table, and the report on its rows or None."""
        raise NotImplementedError


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

    num_target: Whole = option("labelled images", 2000)
    num_source: Whole = option("images without labels", 6000)
    num_labels: Annotated[int, "[1, 29]"] = option("emotions", 29)

    def build(self):
        from emocap.scenes.corpus import load_scenes

        return load_scenes(**self.but("output_dir")), None
