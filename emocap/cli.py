"""The `emocap` command: one sub-command a step. The heavy imports wait until a step runs."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one sub-command; bad input ends with one sentence and exit status 2."""
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
            arguments.run(arguments)
    except (ValueError, OSError) as error:  # transformers says with an OSError that there is no such checkpoint
        print(f"emocap: error: {error}", file=sys.stderr)
        sys.exit(2)


def run_training(name: str, argv: list[str]) -> None:
    from emocap import arguments
    from emocap.training import jobs

    job = {
        "train-teacher": (arguments.teacher_parser, jobs.train_teacher),
        "train-student": (arguments.student_parser, jobs.train_student),
        "finetune": (arguments.finetune_parser, jobs.finetune),
    }
    parser, function = job[name]
    data_args, job_args, training_args = arguments.parse_arguments(parser(), argv)
    metrics = function(data_args, job_args, training_args)
    if training_args.should_log:
        print_metrics(metrics)


def run_cross_validate(argv: list[str]) -> None:
    from emocap.evaluation.cross_validation import cross_validate

    print_metrics(cross_validate(argv))


def run_study(argv: list[str]) -> None:
    from emocap.transfer.study_arguments import parse_study, study_parser

    arguments, preset = parse_study(study_parser(), argv)
    from emocap.transfer.study import Study, transfer_study
    from emocap.transfer.study_report import study_table, write_study

    if preset == "scenes" and arguments.source_dataset is None:
        from emocap.transfer.study_corpus import scenes_corpus

        for name, path in scenes_corpus(Path(arguments.output_dir, "corpus")).items():
            setattr(arguments, name, path)
    study = Study(arguments)
    transfer_study(study)
    print(study_table(write_study(study), arguments.metric))
    print(f"Table and figure: {study.output_dir}")


def run_label_study(argv: list[str]) -> None:
    from emocap.pseudo_labels.study import LabelStudy, label_study_parser
    from emocap.pseudo_labels.study_report import format_study, write_study

    study = LabelStudy(*label_study_parser().parse_args_into_dataclasses(argv))
    study.perform_all()
    print(format_study(write_study(study)))
    print(f"Table, figure and figures as JSON: {study.output_dir}")


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
    coco.add_argument("source", metavar="ROOT", help="COCO's own layout, or a Hub data set id")
    coco.add_argument("--split", nargs="+", default=["train2017"], help="COCO splits (%(default)s)")
    coco.add_argument("--fraction", type=float, default=1.0, help="share of the images, drawn at random (%(default)s)")
    oasis = add_command(sources, "oasis", "table from OASIS valence and arousal norms", run_oasis)
    oasis.add_argument("source", metavar="ROOT", help="folder with metadata.csv and images/")
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
        help="region extractor; 'scenes' is the built-in one, 'torchvision:NAME' one of torchvision's detectors, such "
        "as torchvision:fasterrcnn_resnet50_fpn_v2",
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
    command.add_argument("--teacher", required=True, metavar="ID_OR_DIR", help="the model that labels")
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
        help="also one modality alone, shuffled pictures and captions, two logistic regressions and merged synonyms",
    )
    command.add_argument(
        "--valence_norms",
        metavar="FILE",
        help="instead, compare the valence that the emotions imply with people's ratings in the table (OASIS): a CSV "
        "with the columns Word and V.Mean.Sum, as Warriner et al. (2013) publish it; --split all takes every split",
    )
    command.add_argument(
        "--encoder", metavar="ID_OR_DIR", help="frozen encoder among the controls (the body that the run started from)"
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
        metavar="NAME=DIR",
        help="a name and a finished run's folder; a name that comes again is another seed of that run",
    )
    command.add_argument("--output", metavar="FILE", help="write the self-contained HTML page there")
    command.add_argument("--dataset", help="folder or Hub id of the table measured on: shows best and worst examples")
    command.add_argument("--study", metavar="DIR", help="folder of a transfer study: shows its curves")
    command.add_argument("--figures", metavar="DIR", help="write the page's charts there as PNG files")
    command.add_argument("--title", default="emocap", help="title of the page (%(default)s)")
    command.add_argument("--readme", metavar="FILE", help="put the table into this markdown file")
    command.add_argument("--block", default="results", help="between its '<!-- BLOCK -->' comments (%(default)s)")


def add_export(commands) -> None:
    command = add_command(commands, "export", "a student as an ONNX file", run_export)
    command.add_argument("model", metavar="MODEL", help="folder or Hub id of a student")
    command.add_argument("--output", required=True, metavar="FILE.onnx", help="the file to write")
    command.add_argument("--int8", action="store_true", help="8-bit embeddings and products (dynamic quantisation)")
    command.add_argument("--dataset", metavar="D", help="table with human labels on which to compare file and model")
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
        commands, "publish-family", "every run, extractor and labelled table of a folder, linked", run_publish_family
    )
    family.add_argument("folder", metavar="RUNS_DIR", help="folder of folders, such as a quickstart's")
    family.add_argument("--namespace", help="user or organisation (yourself)")
    family.add_argument("--prefix", default="emocap", help="names are PREFIX-FOLDER (%(default)s)")
    for own in (command, family):
        own.add_argument("--private", action="store_true", help="make new repositories private")
        own.add_argument("--dry_run", action="store_true", help="list files, sizes and changes, and push nothing")


def run_quickstart(arguments: argparse.Namespace) -> None:
    from emocap.quickstart import quickstart

    quickstart(arguments.output_dir)


def run_socratis(arguments: argparse.Namespace) -> None:
    from emocap.data.socratis import build_socratis

    save_built(
        arguments,
        build_socratis,
        images_dir=arguments.images,
        min_count=arguments.min_count,
        labels=arguments.labels,
    )


def run_coco(arguments: argparse.Namespace) -> None:
    from emocap.data.coco import build_coco

    save_built(arguments, build_coco, splits=arguments.split, fraction=arguments.fraction)


def run_oasis(arguments: argparse.Namespace) -> None:
    from emocap.data.oasis import build_oasis

    save_built(arguments, build_oasis)


def save_built(arguments: argparse.Namespace, build, **options) -> None:
    from emocap.data.storage import check_output_dir, save_table

    check_output_dir(arguments.output_dir)
    tables, report = build(arguments.source, seed=arguments.seed, **options)
    save_table(tables, arguments.output_dir, report)
    for what, number in report.counts.items():
        print(f"{what}: {number}")


def run_scenes(arguments: argparse.Namespace) -> None:
    from emocap.data.scenes import load_scenes
    from emocap.data.storage import check_output_dir, save_table

    check_output_dir(arguments.output_dir)
    sizes = {name: getattr(arguments, name) for name in ("num_target", "num_source", "num_labels", "seed")}
    save_table(load_scenes(**sizes), arguments.output_dir)


def run_regions(arguments: argparse.Namespace) -> None:
    from emocap.data.storage import load_table
    from emocap.regions import extract_regions, import_regions

    tables = load_table(arguments.dataset)
    if arguments.features:
        import_regions(tables, arguments.features, arguments.output_dir)
    else:
        extract_regions(
            tables,
            arguments.extractor,
            arguments.output_dir,
            arguments.batch_size,
            dtype=arguments.dtype,
            num_workers=arguments.num_workers,
        )


def run_label(arguments: argparse.Namespace) -> None:
    from datasets import DatasetDict

    from emocap.data.storage import load_table
    from emocap.pseudo_labels.labelling import label_tables

    tables = load_table(arguments.dataset)
    for name in arguments.split or []:
        if name not in tables:
            raise ValueError(f"'{arguments.dataset}' has no split '{name}' (splits: {', '.join(tables)}).")
    label_tables(
        DatasetDict({name: tables[name] for name in arguments.split or tables}),
        arguments.teacher,
        arguments.output_dir,
        labels_per_image=arguments.labels_per_image,
        images_per_label=arguments.images_per_label,
        threshold=arguments.threshold,
        label_shares=arguments.label_shares,
        min_confidence=arguments.min_confidence,
        max_disagreement=arguments.max_disagreement,
        batch_size=arguments.batch_size,
        bf16=arguments.bf16,
    )


def run_evaluate(arguments: argparse.Namespace) -> None:
    if arguments.valence_norms:
        return run_valence(arguments)
    from emocap.data.storage import load_table
    from emocap.evaluation.inference import evaluate_checkpoint

    metrics = evaluate_checkpoint(
        arguments.model,
        load_table(arguments.dataset),
        arguments.split,
        label_column=arguments.label_column,
        batch_size=arguments.batch_size,
        modalities=arguments.modalities,
        num_resamples=arguments.num_resamples,
        output=arguments.output,
        controls=arguments.controls,
        encoder=arguments.encoder,
    )
    print_metrics(metrics)


def run_valence(arguments: argparse.Namespace) -> None:
    from emocap.data.storage import load_table, write_json
    from emocap.evaluation.valence import evaluate_valence

    metrics = evaluate_valence(
        arguments.model,
        load_table(arguments.dataset),
        arguments.valence_norms,
        splits=None if arguments.split == "all" else [arguments.split],
        batch_size=arguments.batch_size,
        num_resamples=arguments.num_resamples,
    )
    if arguments.output:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output, metrics)
    for key, value in metrics.items():
        if key.startswith("spearman/") and not key.endswith(("_low", "_high")):
            bounds = [metrics[f"{key}_low"], metrics[f"{key}_high"]]
            interval = "" if None in bounds else " ({:.3f} to {:.3f})".format(*bounds)
            print(f"{key.removeprefix('spearman/'):16}" + ("     -" if value is None else f"{value:6.3f}") + interval)
    print(f"Spearman with people's mean valence, {metrics['num_examples']} photos, split '{metrics['split']}'")


def run_calibrate(arguments: argparse.Namespace) -> None:
    from emocap.data.storage import load_table
    from emocap.evaluation.inference import calibrate

    config = calibrate(
        arguments.model,
        load_table(arguments.dataset),
        arguments.split,
        label_column=arguments.label_column,
        batch_size=arguments.batch_size,
    )
    print(f"temperature {config.temperature}")
    for label, threshold in enumerate(config.thresholds):
        print(f"{config.id2label[label]:16}{threshold:9.4f}")


def run_predict(arguments: argparse.Namespace) -> None:
    if not arguments.caption and not arguments.image:
        raise ValueError("Give --caption, --image or both.")
    if arguments.top_k < 1:
        raise ValueError(f"--top_k is {arguments.top_k}; give a whole number from 1.")
    if arguments.image and "://" not in arguments.image:
        if not Path(arguments.image).is_file():
            raise FileNotFoundError(f"There is no picture at '{arguments.image}'.")
        from emocap.data.storage import photo_problem

        if problem := photo_problem(arguments.image):
            raise ValueError(f"The picture '{arguments.image}' cannot be read: {problem}.")
    from emocap.evaluation.inference import predict

    for row in predict(
        arguments.model, arguments.caption, arguments.image, top_k=arguments.top_k, explain=arguments.explain
    ):
        row.get("explanation", {}).pop("saliency", None)  # the boxes' weights once more
        print(json.dumps(row))


def run_report(arguments: argparse.Namespace) -> None:
    from emocap.data.storage import load_table
    from emocap.report.page import format_table, markdown_table, results_rows, update_block, write_report

    if any("=" not in run for run in arguments.runs):
        raise ValueError("Give each run as NAME=DIR, such as teacher=runs/teacher.")
    runs = {}
    for name, _, folder in (run.partition("=") for run in arguments.runs):
        runs.setdefault(name, []).append(Path(folder))
    rows = results_rows(runs)
    if arguments.output:
        write_report(
            Path(arguments.output),
            title=arguments.title,
            runs=runs,
            tables=load_table(arguments.dataset) if arguments.dataset else None,
            study=arguments.study,
            figures=arguments.figures,
        )
    elif arguments.figures:
        raise ValueError("--figures draws the charts of the page; give --output too.")
    if arguments.readme:
        update_block(Path(arguments.readme), arguments.block, markdown_table(rows))
    print(format_table(rows))


def run_export(arguments: argparse.Namespace) -> None:
    from emocap.data.storage import load_table
    from emocap.export import export_onnx, measure_export

    tables = load_table(arguments.dataset) if arguments.dataset else None
    if tables and arguments.split not in tables:
        raise ValueError(f"'{arguments.dataset}' has no split '{arguments.split}' (splits: {', '.join(tables)}).")
    path = export_onnx(arguments.model, arguments.output, int8=arguments.int8)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if tables:
        scores = measure_export(path, arguments.model, tables[arguments.split])
        for name in ("map_macro", "lrap", "bce"):
            model, file = scores["checkpoint"][name], scores["onnx"][name]
            print(f"{name:12} model {model:.4f}, file {file:.4f}, difference {file - model:+.4f}")


def run_publish(arguments: argparse.Namespace) -> None:
    from emocap.hub.publishing import publish

    publication = publish(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        dry_run=arguments.dry_run,
    )
    print_publication(publication, arguments.dry_run)


def run_publish_family(arguments: argparse.Namespace) -> None:
    from emocap.hub.family import publish_family

    publish_family(
        arguments.folder,
        namespace=arguments.namespace,
        prefix=arguments.prefix,
        private=arguments.private,
        dry_run=arguments.dry_run,
        report=lambda publication: print_publication(publication, arguments.dry_run),
    )


def print_publication(publication, dry_run: bool) -> None:
    if dry_run:
        print(publication.describe())
    elif publication.commit is None:
        print("Nothing has changed: no commit.")
    else:
        print(f"{len(publication.added)} files added, {len(publication.deleted)} deleted: {publication.commit}")
    print(publication.address, flush=True)


def print_metrics(metrics: dict[str, object]) -> None:
    """One line a metric, beside it the prior, ceiling and people, where known, and its interval."""
    from emocap.metrics import METRIC_KEYS

    shown = [
        prefix for prefix in ("prior", "tfidf", "encoder", "ceiling", "human") if f"{prefix}/map_macro" in metrics
    ]
    print(f"{'':20}{'model':>9}" + "".join(f"{prefix:>9}" for prefix in shown))
    for name in METRIC_KEYS:
        if isinstance(value := metrics.get(name), float):
            row = [value, *(metrics.get(f"{prefix}/{name}") for prefix in shown)]
            bounds = [metrics.get(f"{name}_low"), metrics.get(f"{name}_high")]
            interval = "" if None in bounds else "   {:.4f} to {:.4f}".format(*bounds)
            print(f"{name:20}" + "".join("        -" if cell is None else f"{cell:9.4f}" for cell in row) + interval)
    print(f"{metrics['num_examples']} images, split '{metrics['split']}', truth '{metrics['truth']}'", end="; ")
    print(f"decisions at {metrics['decisions']} thresholds; to the right 95 % intervals over images")
    print_controls(metrics)


def print_controls(metrics: dict[str, object]) -> None:
    """One line a control: its map_macro and by how much the model is ahead, each with its interval."""
    from emocap.evaluation.controls import CONTROLS

    def figure(key: str) -> str:
        value, low, high = (metrics.get(f"{key}{end}") for end in ("", "_low", "_high"))
        return f"{'':28}" if None in (value, low, high) else f"{value:8.4f} ({low:.4f} to {high:.4f})".ljust(28)

    names = [name for name in CONTROLS if f"{name}/map_macro_low" in metrics]
    if names:
        print(f"{'control':20}{'map_macro':>9}{'':20}model ahead by")
    for name in names:
        gain = figure(f"{name}/map_macro_gain")
        print(f"{name:20} {figure(f'{name}/map_macro')} {gain} {CONTROLS[name]}")


if __name__ == "__main__":
    main()
