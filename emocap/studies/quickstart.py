"""The whole job on the built-in corpus: every stage as a user runs it, through the same functions as the commands."""

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from emocap.data.schema import label_names
from emocap.evaluation.scenes_captions import evaluate_on_scenes
from emocap.report.page import results_rows, write_report
from emocap.scenes.body import make_language_model
from emocap.steps import evaluate, finetune, train_captioner, train_student
from emocap.studies.scenes_corpus import make_corpus
from emocap.terminal import say, stage
from emocap.threads import one_thread

__all__ = ["quickstart"]

NUM_EXAMPLES = 24
NUM_CAPTIONED, GUIDANCE = 12, 2
"""Pictures that get a caption for each wish, and how far these go by it."""


@one_thread()
def quickstart(output_dir: str) -> list[dict[str, Any]]:
    """Corpus, regions, teacher, pseudo-labels, student, AnB, AnB+ and scratch, captioner, evaluation, report.

    Everything lies in a folder of `output_dir` of its own; report.html and the rows given back, see `results_rows`,
    compare the models.
    """
    output = Path(output_dir)
    settings = yaml.safe_load(resources.files("emocap.presets").joinpath("quickstart.yaml").read_text("utf-8"))
    runs = {name: output / name for name in ("teacher", "student", "scratch", "anb", "anb+")}
    captioner = output / "captioner"
    for folder in (*runs.values(), captioner):
        shutil.rmtree(folder, ignore_errors=True)
    tables, labelled = make_corpus(output, settings)
    with stage("Training the student on the pseudo-labels"):
        # its word embeddings are untrained: the target reaches the student by pseudo-labels alone
        words = {"word_embeddings": output / "body"}
        train_student(output / "labelled", runs["student"], **words, **settings["student"])
    with stage("Measuring the student on the target's human labels"):
        on_target = output / "student_on_target"
        evaluate(runs["student"], tables, output=on_target / "metrics.json")
        shutil.copy(runs["student"] / "trainer_state.json", on_target)
    for strategy in ("scratch", "anb", "anb+"):
        with stage(f"Fine-tuning the student onto the target: {strategy}"):
            own = {"student": runs["student"], "strategy": strategy, **settings["finetune"]}
            finetune(output / "regions", runs[strategy], **own)
    with stage("Training the captioner on the pseudo-labels"):
        make_language_model(output / "body", output / "language_model", settings["language_model"])
        own = {"region_extractor": output / "extractor", **settings["captioner"]}
        train_captioner(output / "labelled", output / "language_model", captioner, **own)
    with stage("Captions of held-back pictures under each wish"):
        wished = evaluate_on_scenes(
            captioner,
            tables,
            guidance_scale=[GUIDANCE],
            num_images=NUM_CAPTIONED,
            num_resamples=0,
            output=output / "captioner_on_scenes" / "metrics.json",
        )
    with stage("Writing the report"):
        runs["student"] = on_target
        write_report(
            output / "report.html",
            title="emocap quickstart",
            runs=runs | {"captioner": output / "captioner_on_scenes"},
            examples=labelled_examples(labelled["train"]),
            tables=tables,
        )
    way = f"guidance_{GUIDANCE}"
    told = [f"{wished[f'{own}/probability']:.3f}" for own in (way, "no_wish", "best")]
    say(
        "Captions for a wish: its exact probability is {}, without a wish {}, of the best sentence {}; ".format(*told)
        + f"{wished[f'{way}/parsed']:.0%} are sentences of the grammar"
    )
    return results_rows(runs)


def labelled_examples(table) -> list[dict[str, Any]]:
    """Pictures with their pseudo-labels for the report's grid."""
    names = label_names(table)
    return [
        {
            "image": row["image"],
            "caption": row["captions"][0],
            "emotions": [names[label] for label in row["emotions"]],
        }
        for row in table.select(range(min(NUM_EXAMPLES, len(table))))
    ]
