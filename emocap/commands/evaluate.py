"""Commands that measure a model, or look at what it says."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emocap.options import Amount, Count, Options, Whole, option, positional, required
from emocap.terminal import command_line

if TYPE_CHECKING:
    from emocap.records import Result

__all__ = ["Calibrate", "Evaluate", "Predict"]


class Evaluate(Options):
    """every metric of a model beside the prior; of a captioner, what its wishes do"""

    model: list[str] = positional(
        "MODEL",
        "folder or Hub id of a teacher or student; several answer together: the mean of their logits; or of a "
        "captioner",
    )
    dataset: str = required(
        "folder or Hub id of a table with human labels; for a captioner, with regions and a teacher's scores of each "
        "caption"
    )
    split: str = option("split to evaluate", "test")
    label_column: str = option("column of the truth", "labels")
    modalities: Literal["both", "text", "image"] | None = option("what the model sees (what it was trained to read)")
    batch_size: Count = option("pairs a step", 64)
    controls: bool = option(
        "also one modality alone, shuffled pictures and captions, logistic regressions (counted words, lexica where "
        "the extra 'lexicon' is installed, the frozen encoder) and merged synonyms",
        False,
    )
    valence_norms: str | None = option(
        "instead, compare the valence that the emotions imply with people's ratings in the table (OASIS): a CSV with "
        "the columns Word and V.Mean.Sum, as Warriner et al. (2013) publish it; --split all takes every split",
        metavar="FILE",
    )
    encoder: str | None = option(
        "folder or Hub id of the frozen encoder among the controls (the body that the run started from)",
        metavar="ID_OR_DIR",
    )
    judge: list[str] | None = option(
        "of a captioner: folder or Hub id of the teacher or student that looks for the wish in its captions, or of "
        "several together; not the teacher that scored the captions which it learned from; scenes: the exact answer, "
        "on the built-in corpus",
        metavar="ID_OR_DIR",
    )
    wishes: list[str] | None = option("of a captioner: emotions to wish for (all)", metavar="NAME")
    guidance_scale: list[Amount] = option("of a captioner: scales to measure", [1.0, 2.0])
    num_candidates: Count = option(
        "of a captioner: captions drawn for each wish and picture, of which the best to a teacher and the captioner "
        "is measured beside the others; 1: none",
        1,
    )
    ranker: list[str] | None = option(
        "of a captioner: folder or Hub id of the teacher or student that chooses among them, or of several; not the "
        "judge (the teacher that scored the captions)",
        metavar="ID_OR_DIR",
    )
    num_images: Count = option("of a captioner: pictures at most", 100)
    num_resamples: Whole = option("bootstrap draws behind the intervals; 0: none", 1000)
    output: str | None = option(
        "write the metrics there as JSON and FILE_details.json beside it, what the report shows", metavar="FILE"
    )

    def run(self) -> "Result":
        from emocap.steps import evaluate

        if self.is_captioner():
            return self.run_captioner()
        for name in ("judge", "wishes", "ranker"):
            if getattr(self, name):
                raise ValueError(f"--{name} goes with a captioner, and '{self.model[0]}' is none; leave it out.")
        if self.valence_norms:
            return self.run_valence(self.valence_norms)
        of_captioners = ("judge", "wishes", "guidance_scale", "num_candidates", "ranker", "num_images")
        return evaluate(tables=self.dataset, **self.but("dataset", "valence_norms", *of_captioners))

    def show(self, result: "Result") -> None:
        from emocap.commands.printing import print_captioner, print_on_scenes, print_result, print_valence
        from emocap.evaluation.scenes_captions import SCENES_JUDGE

        if self.judge == [SCENES_JUDGE]:
            print_on_scenes(result)
        elif "guidance_scales" in result:
            print_captioner(result)
        elif self.valence_norms:
            print_valence(result)
        else:
            print_result(result)

    def following(self, result: "Result") -> str:
        model = self.model[0]
        if self.judge:
            return command_line("caption", model, "--image", "FILE_OR_DIR", "--emotion", "NAME")
        if self.valence_norms or len(self.model) > 1:
            return command_line("predict", *self.model, "--image", "FILE")
        if not self.controls:
            return command_line("evaluate", model, "--dataset", self.dataset, "--split", self.split, "--controls")
        return command_line("report", f"model={model}", "--dataset", self.dataset, "--output", "report.html")

    def is_captioner(self) -> bool:
        from transformers import AutoConfig

        return len(self.model) == 1 and AutoConfig.from_pretrained(self.model[0]).model_type == "emocap_captioner"

    def run_captioner(self) -> "Result":
        from emocap.evaluation.scenes_captions import SCENES_JUDGE, evaluate_on_scenes
        from emocap.steps import evaluate_captioner

        for name in ("modalities", "controls", "valence_norms", "encoder"):
            if getattr(self, name):
                raise ValueError(f"--{name} goes with a teacher or student, and '{self.model[0]}' is a captioner.")
        if not self.judge:
            raise ValueError(
                f"'{self.model[0]}' is a captioner; name the model that looks for its wishes with --judge."
            )
        options = self.but(
            "model", "dataset", "judge", "label_column", "modalities", "controls", "valence_norms", "encoder"
        )
        if self.judge == [SCENES_JUDGE]:
            return evaluate_on_scenes(self.model[0], self.dataset, **options)
        return evaluate_captioner(self.model[0], self.dataset, self.judge, **options)

    def run_valence(self, norms: str) -> "Result":
        from emocap.data.storage import load_table, write_json
        from emocap.evaluation.valence import evaluate_valence

        if len(self.model) > 1:
            raise ValueError("--valence_norms are compared with a single model's emotions; give one model.")
        result = evaluate_valence(
            self.model[0],
            load_table(self.dataset),
            norms,
            splits=None if self.split == "all" else [self.split],
            batch_size=self.batch_size,
            num_resamples=self.num_resamples,
        )
        if self.output:
            Path(self.output).parent.mkdir(parents=True, exist_ok=True)
            write_json(self.output, result.metrics)
        return result


class Calibrate(Options):
    """fit temperature and thresholds into a model's configuration"""

    model: str = positional("MODEL", "folder of a teacher or student; its config.json changes")
    dataset: str = required("folder or Hub id of a table with human labels")
    split: str = option("split to fit on", "validation")
    label_column: str = option("column of the truth", "labels")
    batch_size: Count = option("pairs a step", 64)

    def run(self) -> dict[str, Any]:
        from emocap.data.storage import load_table
        from emocap.evaluation.evaluate import calibrate

        config = calibrate(self.model, load_table(self.dataset), **self.but("model", "dataset"))
        thresholds = {config.id2label[label]: threshold for label, threshold in enumerate(config.thresholds)}
        return {"temperature": config.temperature, "thresholds": thresholds}

    def show(self, result: dict[str, Any]) -> None:
        print(f"temperature {result['temperature']}")
        for label, threshold in result["thresholds"].items():
            print(f"{label:16}{threshold:9.4f}")

    def following(self, result: dict[str, Any]) -> str:
        return command_line("evaluate", self.model, "--dataset", self.dataset)


class Predict(Options):
    """emotions of one picture, caption or both, or of a folder of pictures"""

    model: list[str] = positional(
        "MODEL", "folder or Hub id of a teacher or student; several answer together: the mean of their logits"
    )
    caption: str | None = option("the caption", metavar="TEXT")
    image: str | None = option("the picture", metavar="FILE_OR_URL")
    top_k: Count = option("emotions shown", 5)
    figure: str | None = option(
        "draw the pair and its emotions beside the prior there: .png, .pdf or .svg", metavar="FILE"
    )
    explain: bool | str = option(
        "add the weights of words and picture parts for the most probable emotion, or for this one",
        False,
        metavar="EMOTION",
    )
    images: str | None = option(
        "in place of one picture, every picture of this folder and of those in it, beside each its caption where a "
        ".txt of the same name has one; or every row of a CSV with columns image, caption or both",
        metavar="DIR_OR_CSV",
    )
    output: str | None = option(
        "where the answers of --images go, a row a picture: .csv, .jsonl or .parquet", metavar="FILE"
    )
    batch_size: Count = option("pictures of --images a step", 16)

    def run(self) -> list[dict] | dict[str, Any]:
        if self.images or self.output:
            return self.run_folder()
        if not self.caption and not self.image:
            raise ValueError("Give --caption, --image or both.")
        if self.figure and not self.figure.endswith((".png", ".pdf", ".svg")):
            raise ValueError(f"--figure is '{self.figure}'; its name must end in .png, .pdf or .svg.")
        if self.image and "://" not in self.image:
            if not Path(self.image).is_file():
                raise FileNotFoundError(f"There is no picture at '{self.image}'.")
            from emocap.data.storage import photo_problem

            if problem := photo_problem(self.image):
                raise ValueError(f"The picture '{self.image}' cannot be read: {problem}.")
        from emocap.evaluation.evaluate import predict

        rows = predict(self.model, **self.but("model", "figure", "images", "output", "batch_size"))
        if self.figure:
            self.draw(rows, self.figure)
        for row in rows:
            row.get("explanation", {}).pop("saliency", None)  # the boxes' weights once more
        return rows

    def run_folder(self) -> dict[str, Any]:
        if not (self.images and self.output):
            raise ValueError("--images and --output go together: a folder of pictures, and a file for the answers.")
        if self.caption or self.image or self.figure or self.explain:
            raise ValueError("--images goes without --caption, --image, --figure and --explain.")
        from emocap.evaluation.folder import predict_folder

        return predict_folder(self.model, self.images, self.output, batch_size=self.batch_size)

    def show(self, result: list[dict] | dict[str, Any]) -> None:
        """A line of JSON an emotion, or, of a folder, what became of its photos."""
        if isinstance(result, list):
            for row in result:
                print(json.dumps(row))
            return
        for problem in result["problems"]:
            print(f"{problem['image_id']}: {problem['reason']}")
        answered, left_out = (result["counts"].get(name, 0) for name in ("photos answered", "left out"))
        print(f"{answered} photos in '{self.output}', {left_out} left out, see '{self.output}.report.json'")

    def following(self, result: list[dict] | dict[str, Any]) -> str:
        if self.images:
            return command_line("data", "photos", self.images, "--output_dir", "data/photos")
        if self.explain:
            return command_line("predict", *self.model, "--images", "DIR", "--output", "answers.csv")
        pair = [text for name in ("caption", "image") if (own := getattr(self, name)) for text in (f"--{name}", own)]
        return command_line("predict", *self.model, *pair, "--explain")

    def draw(self, rows: list[dict], figure: str) -> None:
        from emocap.evaluation.scoring import Committee
        from emocap.models.photo_emocap import open_photo, to_rgb
        from emocap.report.drawing import save_figure
        from emocap.report.figures import prediction_figure

        config, photo = Committee(self.model).config, to_rgb(open_photo(self.image)) if self.image else None
        shares = config.label_prevalence
        prior = None if shares is None else dict(zip(config.id2label.values(), shares, strict=True))
        save_figure(prediction_figure(rows, prior, self.caption, photo), Path(figure))
