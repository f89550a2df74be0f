"""The `emocap` command: one sub-command a step. The heavy imports wait until a step runs."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from emocap.commands import (
    run_calibrate,
    run_coco,
    run_cross_validate,
    run_evaluate,
    run_export,
    run_label,
    run_label_study,
    run_oasis,
    run_predict,
    run_publish,
    run_publish_family,
    run_quickstart,
    run_regions,
    run_report,
    run_scenes,
    run_socratis,
    run_study,
    run_training,
)
from emocap.limits import check_numbers

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one sub-command; bad input or an absent package ends with one sentence and exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] in ("train-teacher", "train-student", "finetune"):
            run_training(argv[0], argv[1:])
        elif argv and argv[0] == "cross-validate":
            run_cross_validate(argv[1:])
        elif argv and argv[0] == "transfer-study":
            run_study(argv[1:])
        elif argv and argv[0] == "label-study":
            run_label_study(argv[1:])
        else:
            arguments = make_parser().parse_args(argv)
            check_numbers(vars(arguments))
            arguments.run(arguments)
    except RecursionError:
        fail("An input, such as a config.json, is nested too deeply to be read.")
    # an ImportError names the extra to install; transformers says with an OSError that there is no such checkpoint
    except (ValueError, OSError, ImportError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    print(f"emocap: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emocap", description="Which emotions a picture with its caption raises in people."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_quickstart(commands)
    add_data(commands)
    add_regions(commands)
    add_label(commands)
    add_evaluate(commands)
    add_calibrate(commands)
    add_predict(commands)
    add_report(commands)
    add_export(commands)
    add_publish(commands)
    for name, text in (
        ("train-teacher", "train a teacher on human labels"),
        ("train-student", "train a student"),
        ("finetune", "fine-tune onto the target: AnB, AnB+ and controls"),
        ("cross-validate", "choose a teacher's settings and measure them, by nested cross-validation"),
        ("transfer-study", "every strategy, number of layers, size and seed in one table"),
        ("label-study", "whether pseudo-labels help: students with and without them"),
    ):
        commands.add_parser(name, help=text, add_help=False)  # `main` hands its flags to a parser of its own
    return parser


def add_command(commands, name: str, text: str, run) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(run=run)
    return command


def add_quickstart(commands) -> None:
    command = add_command(commands, "quickstart", "the whole job on the built-in corpus, offline", run_quickstart)
    command.add_argument("--output_dir", default="runs/quickstart", help="folder for every stage (%(default)s)")


def add_data(commands) -> None:
    data = commands.add_parser("data", help="build a table of pairs")
    sources = data.add_subparsers(dest="source", required=True, metavar="SOURCE")
    socratis = add_command(sources, "socratis", "table from Socratis annotations", run_socratis)
    socratis.add_argument("source", metavar="SOURCE", help="the raw per-annotator JSON, or a cleaned CSV")
    socratis.add_argument(
        "--images", metavar="DIR", help="folder of the photos; without it the table has captions only"
    )
    socratis.add_argument(
        "--min_count",
        type=int,
        help="keep emotions named for at least so many images (raw JSON: 100; cleaned CSV: keep all)",
    )
    socratis.add_argument("--labels", metavar="FILE", help="JSON list that fixes the emotions and their order")
    coco = add_command(sources, "coco", "table from COCO captions, without labels", run_coco)
    coco.add_argument("source", metavar="ROOT", help="folder of COCO's own layout, or a Hub data set id")
    coco.add_argument("--split", nargs="+", default=["train2017"], help="COCO splits (%(default)s)")
    coco.add_argument("--fraction", type=float, default=1.0, help="share of the images, drawn at random (%(default)s)")
    oasis = add_command(sources, "oasis", "table from OASIS valence and arousal norms", run_oasis)
    oasis.add_argument("source", metavar="ROOT", help="folder or Hub data set id with metadata.csv and images/")
    scenes = add_command(sources, "scenes", "the built-in corpus", run_scenes)
    scenes.add_argument("--num_target", type=int, default=2000, help="labelled images (%(default)s)")
    scenes.add_argument("--num_source", type=int, default=6000, help="images without labels (%(default)s)")
    scenes.add_argument("--num_labels", type=int, default=29, help="emotions, at most 29 (%(default)s)")
    for command in (socratis, coco, oasis, scenes):
        command.add_argument("--output_dir", required=True, help="folder for the table")
        command.add_argument("--seed", type=int, default=0, help="seed of splits and draws (%(default)s)")


def add_regions(commands) -> None:
    command = add_command(commands, "regions", "region features for every photo of a table", run_regions)
    command.add_argument("dataset", metavar="DATASET", help="folder or Hub id of a table of pairs")
    command.add_argument("--output_dir", required=True, help="folder for the table with features")
    how = command.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--extractor",
        metavar="ID_OR_DIR",
        help="folder or Hub id of a region extractor; 'scenes' is the built-in one, 'torchvision:NAME' one of "
        "torchvision's detectors, such as torchvision:fasterrcnn_resnet50_fpn_v2",
    )
    how.add_argument(
        "--import",
        dest="features",
        metavar="FILE_OR_DIR",
        help="features that exist already: bottom-up attention's .tsv, .safetensors, or a folder of .npz files",
    )
    command.add_argument("--batch_size", type=int, default=16, help="photos a step on a GPU (%(default)s)")
    command.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="what the network computes in; auto: bfloat16 for large networks where the processor is fast in it "
        "(float16 on older GPUs), else float32",
    )
    command.add_argument(
        "--num_workers", type=int, help="threads that decode photos, and on a CPU compute (one a core)"
    )


def add_label(commands) -> None:
    command = add_command(commands, "label", "pseudo-labels from a teacher", run_label)
    command.add_argument("dataset", metavar="DATASET", help="folder or Hub id of a table of pairs")
    command.add_argument(
        "--teacher", required=True, metavar="ID_OR_DIR", help="folder or Hub id of the model that labels"
    )
    command.add_argument("--output_dir", required=True, help="folder for the augmented table")
    command.add_argument("--split", nargs="+", help="splits to label (all)")
    command.add_argument("--labels_per_image", type=int, default=4, help="best emotions kept an image (%(default)s)")
    command.add_argument("--images_per_label", type=int, metavar="P", help="best images selected an emotion (all)")
    command.add_argument("--threshold", type=float, help="keep only emotions above this probability (none)")
    command.add_argument(
        "--label_shares",
        choices=["prevalence", "balanced"],
        help="prevalence: each emotion's best images, as large a share as carry it in the teacher's training set; "
        "balanced: the same share for each, --labels_per_image on average. An image may then carry any number (none)",
    )
    command.add_argument("--min_confidence", type=float, help="no labels for images whose best score is lower (none)")
    command.add_argument(
        "--max_disagreement",
        type=float,
        help="no labels for images whose scores vary more than this over their captions: standard deviation, mean "
        "over the emotions (none)",
    )
    command.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, help="score in bfloat16 (on GPUs that have it)"
    )
    command.add_argument("--batch_size", type=int, default=64, help="pairs a step (%(default)s)")


def add_evaluate(commands) -> None:
    command = add_command(commands, "evaluate", "every metric of a model beside the prior", run_evaluate)
    command.add_argument("model", metavar="MODEL", help="folder or Hub id of a teacher or student")
    command.add_argument("--dataset", required=True, help="folder or Hub id of a table with human labels")
    command.add_argument("--split", default="test", help="split to evaluate (%(default)s)")
    command.add_argument("--label_column", default="labels", help="column of the truth (%(default)s)")
    command.add_argument(
        "--modalities", choices=["both", "text", "image"], help="what the model sees (what it was trained to read)"
    )
    command.add_argument("--batch_size", type=int, default=64, help="pairs a step (%(default)s)")
    command.add_argument(
        "--controls",
        action="store_true",
        help="also one modality alone, shuffled pictures and captions, logistic regressions (counted words, lexica "
        "where the extra 'lexicon' is installed, the frozen encoder) and merged synonyms",
    )
    command.add_argument(
        "--valence_norms",
        metavar="FILE",
        help="instead, compare the valence that the emotions imply with people's ratings in the table (OASIS): a CSV "
        "with the columns Word and V.Mean.Sum, as Warriner et al. (2013) publish it; --split all takes every split",
    )
    command.add_argument(
        "--encoder",
        metavar="ID_OR_DIR",
        help="folder or Hub id of the frozen encoder among the controls (the body that the run started from)",
    )
    command.add_argument(
        "--num_resamples", type=int, default=1000, help="bootstrap draws behind the intervals; 0: none (%(default)s)"
    )
    command.add_argument(
        "--output", metavar="FILE", help="write the metrics there as JSON, and FILE_details.json beside it"
    )


def add_calibrate(commands) -> None:
    command = add_command(
        commands,
        "calibrate",
        "fit temperature and thresholds into a model's configuration",
        run_calibrate,
    )
    command.add_argument("model", metavar="MODEL", help="folder of a teacher or student; its config.json changes")
    command.add_argument("--dataset", required=True, help="folder or Hub id of a table with human labels")
    command.add_argument("--split", default="validation", help="split to fit on (%(default)s)")
    command.add_argument("--label_column", default="labels", help="column of the truth (%(default)s)")
    command.add_argument("--batch_size", type=int, default=64, help="pairs a step (%(default)s)")


def add_predict(commands) -> None:
    command = add_command(commands, "predict", "emotions of one picture, caption or both", run_predict)
    command.add_argument("model", metavar="MODEL", help="folder or Hub id of a teacher or student")
    command.add_argument("--caption", metavar="TEXT", help="the caption")
    command.add_argument("--image", metavar="FILE_OR_URL", help="the picture")
    command.add_argument("--top_k", type=int, default=5, help="emotions shown (%(default)s)")
    command.add_argument(
        "--explain",
        nargs="?",
        const=True,
        default=False,
        metavar="EMOTION",
        help="add the weights of words and picture parts for the most probable emotion, or for this one",
    )


def add_report(commands) -> None:
    command = add_command(commands, "report", "tables and figures from finished runs", run_report)
    command.add_argument(
        "runs",
        nargs="+",
        metavar="NAME=ID_OR_DIR",
        help="a name and a finished run's folder or Hub id; a name that comes again is another seed of that run",
    )
    command.add_argument("--output", metavar="FILE", help="write the self-contained HTML page there")
    command.add_argument("--dataset", help="folder or Hub id of the table measured on: shows best and worst examples")
    command.add_argument("--study", metavar="DIR", help="folder of a transfer study: shows its curves")
    command.add_argument("--figures", metavar="DIR", help="write the page's figures there as PNG and PDF files")
    command.add_argument("--title", default="emocap", help="title of the page (%(default)s)")
    command.add_argument("--readme", metavar="FILE", help="put the table into this markdown file")
    command.add_argument("--block", default="results", help="between its '<!-- BLOCK -->' comments (%(default)s)")


def add_export(commands) -> None:
    command = add_command(commands, "export", "a student as an ONNX file", run_export)
    command.add_argument("model", metavar="MODEL", help="folder or Hub id of a student")
    command.add_argument("--output", required=True, metavar="FILE.onnx", help="the file to write")
    command.add_argument("--int8", action="store_true", help="8-bit embeddings and products (dynamic quantisation)")
    command.add_argument(
        "--dataset", help="folder or Hub id of a table with human labels, to compare file and model on"
    )
    command.add_argument("--split", default="test", help="its split (%(default)s)")


def add_publish(commands) -> None:
    command = add_command(commands, "publish", "a run, an extractor or a table with its card, to the Hub", run_publish)
    command.add_argument(
        "folder", metavar="DIR", help="folder of a finished run, an extractor or a table; 'metric' for the metrics"
    )
    command.add_argument("--repo_id", required=True, metavar="NAME", help="name or owner/name")
    command.add_argument("--revision", help="branch to push to, made if absent (main)")
    command.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    family = add_command(
        commands,
        "publish-family",
        "every run, extractor and labelled table of a folder, linked",
        run_publish_family,
    )
    family.add_argument("folder", metavar="RUNS_DIR", help="folder of folders, such as a quickstart's")
    family.add_argument("--namespace", help="user or organisation (yourself)")
    family.add_argument("--prefix", default="emocap", help="names are PREFIX-FOLDER (%(default)s)")
    for own in (command, family):
        own.add_argument("--private", action="store_true", help="make new repositories private")
        own.add_argument("--license", help="the Hub's id of a licence for the card (that of the data, where known)")
        own.add_argument("--dry_run", action="store_true", help="list files, sizes and changes, and push nothing")


if __name__ == "__main__":
    main()
