"""What the sub-commands of `emocap` do with their flags: call the library, print what it found. The heavy imports wait
until a command runs."""

import argparse
import json
from pathlib import Path

__all__ = [
    "run_calibrate",
    "run_coco",
    "run_cross_validate",
    "run_evaluate",
    "run_export",
    "run_label",
    "run_label_study",
    "run_oasis",
    "run_predict",
    "run_publish",
    "run_publish_family",
    "run_quickstart",
    "run_regions",
    "run_report",
    "run_scenes",
    "run_socratis",
    "run_study",
    "run_training",
]


def run_training(name: str, argv: list[str]) -> None:
    from accelerate import PartialState

    from emocap import arguments, steps
    from emocap.report.summary import print_result

    step = {
        "train-teacher": (arguments.teacher_parser, steps.train_teacher),
        "train-student": (arguments.student_parser, steps.train_student),
        "finetune": (arguments.finetune_parser, steps.finetune),
    }
    parser, function = step[name]
    options = arguments.parse_options(parser(), argv)
    result = function(options.pop("dataset"), **options)
    if PartialState().is_main_process:
        print_result(result)


def run_cross_validate(argv: list[str]) -> None:
    from emocap.report.summary import print_result
    from emocap.studies.cross_validation import cross_validate

    print_result(cross_validate(argv))


def run_study(argv: list[str]) -> None:
    from emocap.studies.transfer_arguments import parse_study, study_parser

    arguments, preset = parse_study(study_parser(), argv)
    from emocap.studies.transfer_report import study_table, write_study
    from emocap.studies.transfer_study import TransferStudy

    if preset == "scenes" and arguments.source_dataset is None:
        from emocap.studies.scenes_corpus import scenes_corpus

        for name, path in scenes_corpus(Path(arguments.output_dir, "corpus")).items():
            setattr(arguments, name, path)
    study = TransferStudy(arguments)
    study.perform_all()
    print(study_table(write_study(study), arguments.metric))
    print(f"Table and figure: {study.output_dir}")


def run_label_study(argv: list[str]) -> None:
    from emocap.studies.label_report import format_study, write_study
    from emocap.studies.label_study import LabelStudy, label_study_parser

    study = LabelStudy(*label_study_parser().parse_args_into_dataclasses(argv))
    study.perform_all()
    print(format_study(write_study(study)))
    print(f"Table, figure and figures as JSON: {study.output_dir}")


def run_quickstart(arguments: argparse.Namespace) -> None:
    from emocap.studies.quickstart import quickstart

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
    from emocap.data.storage import check_output_dir, save_table
    from emocap.scenes.corpus import load_scenes

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
    from emocap.steps import label

    label(**options_of(arguments, "dataset"), tables=arguments.dataset)


def run_evaluate(arguments: argparse.Namespace) -> None:
    if arguments.valence_norms:
        return run_valence(arguments)
    from emocap.report.summary import print_result
    from emocap.steps import evaluate

    print_result(evaluate(**options_of(arguments, "dataset", "valence_norms"), tables=arguments.dataset))


def options_of(arguments: argparse.Namespace, *others: str) -> dict[str, object]:
    """The flags that are arguments of the command's function by the same name."""
    known = ("run", "command", *others)
    return {name: value for name, value in vars(arguments).items() if name not in known}


def run_valence(arguments: argparse.Namespace) -> None:
    from emocap.data.storage import load_table, write_json
    from emocap.evaluation.valence import evaluate_valence
    from emocap.report.summary import print_valence

    result = evaluate_valence(
        arguments.model,
        load_table(arguments.dataset),
        arguments.valence_norms,
        splits=None if arguments.split == "all" else [arguments.split],
        batch_size=arguments.batch_size,
        num_resamples=arguments.num_resamples,
    )
    if arguments.output:
        Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output, result.metrics)
    print_valence(result)


def run_calibrate(arguments: argparse.Namespace) -> None:
    from emocap.data.storage import load_table
    from emocap.evaluation.evaluate import calibrate

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
    if arguments.image and "://" not in arguments.image:
        if not Path(arguments.image).is_file():
            raise FileNotFoundError(f"There is no picture at '{arguments.image}'.")
        from emocap.data.storage import photo_problem

        if problem := photo_problem(arguments.image):
            raise ValueError(f"The picture '{arguments.image}' cannot be read: {problem}.")
    from emocap.evaluation.evaluate import predict

    for row in predict(
        arguments.model, arguments.caption, arguments.image, top_k=arguments.top_k, explain=arguments.explain
    ):
        row.get("explanation", {}).pop("saliency", None)  # the boxes' weights once more
        print(json.dumps(row))


def run_report(arguments: argparse.Namespace) -> None:
    from emocap.data.storage import load_table
    from emocap.records import records_folder
    from emocap.report.page import format_table, markdown_table, results_rows, update_block, write_report

    if any("=" not in run for run in arguments.runs):
        raise ValueError("Give each run as NAME=ID_OR_DIR, such as teacher=runs/teacher.")
    runs = {}
    for name, _, folder in (run.partition("=") for run in arguments.runs):
        runs.setdefault(name, []).append(records_folder(folder))
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
        license=arguments.license,
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
        license=arguments.license,
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
