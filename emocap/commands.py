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
    from emocap import arguments
    from emocap.hub.finishing import train_and_publish
    from emocap.training import jobs

    job = {
        "train-teacher": (arguments.teacher_parser, jobs.train_teacher),
        "train-student": (arguments.student_parser, jobs.train_student),
        "finetune": (arguments.finetune_parser, jobs.finetune),
    }
    parser, function = job[name]
    data_args, job_args, training_args = arguments.parse_arguments(parser(), argv)
    metrics = train_and_publish(function, data_args, job_args, training_args)
    if training_args.should_log:
        print_metrics(metrics)


def run_cross_validate(argv: list[str]) -> None:
    from emocap.studies.cross_validation import cross_validate

    print_metrics(cross_validate(argv))


def run_study(argv: list[str]) -> None:
    from emocap.studies.transfer_arguments import parse_study, study_parser

    arguments, preset = parse_study(study_parser(), argv)
    from emocap.studies.transfer_report import study_table, write_study
    from emocap.studies.transfer_study import Study, transfer_study

    if preset == "scenes" and arguments.source_dataset is None:
        from emocap.studies.scenes_corpus import scenes_corpus

        for name, path in scenes_corpus(Path(arguments.output_dir, "corpus")).items():
            setattr(arguments, name, path)
    study = Study(arguments)
    transfer_study(study)
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
    from datasets import DatasetDict

    from emocap.data.storage import load_table
    from emocap.pseudo_labels.labelling import label_tables

    tables = load_table(arguments.dataset)
    for name in arguments.split or []:
        if name not in tables:
            raise ValueError(f"'{arguments.dataset}' has no split '{name}' (splits: {', '.join(tables)}).")
    from emocap.data.ranks import launched_ranks
    from emocap.report.labels_page import write_label_page

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
    if launched_ranks().is_first:
        write_label_page(arguments.output_dir)


def run_evaluate(arguments: argparse.Namespace) -> None:
    if arguments.valence_norms:
        return run_valence(arguments)
    from emocap.data.storage import load_table
    from emocap.evaluation.evaluate import evaluate_checkpoint

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
    print_units(metrics)


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


def print_metrics(metrics: dict[str, object]) -> None:
    """One line a metric, beside it the prior, ceiling and people, where known, and its interval."""
    from emocap.metrics import METRIC_KEYS

    known = ("prior", "chance", "tfidf", "lexicon", "encoder", "ceiling", "human", "as_human")
    shown = [name for name in known if any(f"{name}/{key}" in metrics for key in METRIC_KEYS)]
    print(f"{'':20}{'model':>9}" + "".join(f"{name:>9}" for name in shown))
    for name in METRIC_KEYS:
        if isinstance(value := metrics.get(name), float):
            row = [value, *(metrics.get(f"{prefix}/{name}") for prefix in shown)]
            bounds = [metrics.get(f"{name}_low"), metrics.get(f"{name}_high")]
            interval = "" if None in bounds else "   {:.4f} to {:.4f}".format(*bounds)
            print(f"{name:20}" + "".join("        -" if cell is None else f"{cell:9.4f}" for cell in row) + interval)
    print(f"{metrics['num_examples']} images, split '{metrics['split']}', truth '{metrics['truth']}'", end="; ")
    print(f"decisions at {metrics['decisions']} thresholds; to the right 95 % intervals")
    print_units(metrics)
    if "as_human" in shown:
        print(
            "human: one annotator against the others; as_human: the model on the same answers, naming as many emotions"
        )
    print_controls(metrics)


def print_units(metrics: dict[str, object]) -> None:
    """What intervals were drawn over, where that is not the images, and whether it is little."""
    from emocap.metrics import FEW_UNITS

    groups = metrics.get("num_groups")
    what, units = ("images", metrics["num_examples"]) if groups is None else ("groups of images", groups)
    if groups is not None:
        print(f"Intervals are over {units} {what}, each drawn whole.")
    if units < FEW_UNITS:
        print(f"{units} {what} are few: intervals from fewer than {FEW_UNITS} are too narrow.")


def print_controls(metrics: dict[str, object]) -> None:
    """One line a control: its map_macro with its interval, and by how much the model is ahead of it."""
    from emocap.records import CONTROLS, GAIN_KEYS

    def figure(key: str, form: str) -> str:
        value, low, high = (metrics.get(f"{key}{end}") for end in ("", "_low", "_high"))
        text = "" if None in (value, low, high) else f"{value:{form}} ({low:{form}} to {high:{form}})"
        return text.ljust(30)

    names = [name for name in ("prior", *CONTROLS) if f"{name}/map_macro_gain" in metrics or name in CONTROLS]
    names = [name for name in names if f"{name}/map_macro_low" in metrics]
    if names:
        ahead = "".join(f"ahead in {key}".ljust(30) for key in GAIN_KEYS)
        print(f"{'control':20}{'map_macro':30}{ahead}".rstrip())
    for name in names:
        cells = [figure(f"{name}/map_macro", ".4f"), *(figure(f"{name}/{key}_gain", "+.4f") for key in GAIN_KEYS)]
        print(f"{name:20}{''.join(cells)}{CONTROLS.get(name, 'the constant answer')}")
