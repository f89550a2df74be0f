"""Training of teacher, student and fine-tuned models with `Trainer`, from tables and arguments to a finished run's
folder; `emocap.steps` adds card and publication."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from datasets import DatasetDict
from transformers import EarlyStoppingCallback, EvalPrediction, set_seed
from transformers.utils import logging

from emocap.arguments import (
    DataArguments,
    EmocapTrainingArguments,
    FinetuneArguments,
    StudentArguments,
    TeacherArguments,
    arguments_to_dict,
)
from emocap.data.licenses import license_of
from emocap.data.pairs import PairDataset
from emocap.data.storage import write_json
from emocap.evaluation.calibration import fit_decisions, temper
from emocap.evaluation.details import describe
from emocap.evaluation.evaluate import measure
from emocap.evaluation.scoring import check_features, check_labels, load_config, prepare_table
from emocap.metrics import check_metric, compute_metrics, prior_probabilities
from emocap.models import EmocapProcessor
from emocap.records import PATH_KEYS, Result, write_metrics
from emocap.regions.bundling import bundle_extractor
from emocap.training.augmentation import CroppedPhotos
from emocap.training.build import build_student, build_teacher, check_max_length
from emocap.training.heads import start_at_prior
from emocap.training.rows import TrainingRows, read_rows
from emocap.training.sampling import MixedPairs, PairSampler, rows_of_labels
from emocap.training.student_flags import check_student
from emocap.training.surgery import check_frozen, check_transfer, load_source, transfer_model
from emocap.training.trainer import EmocapTrainer, checkpoint_to_resume, frozen_outputs

__all__ = ["train"]

logger = logging.get_logger(__name__)


class Start(NamedTuple):
    """What a training starts from."""

    model: torch.nn.Module
    processor: EmocapProcessor
    fresh: Collection[str] = ()  # names of new parameters, which have a learning rate of their own
    surgery: dict | None = None  # what fine-tuning did to each tensor


def train(
    kind: str,
    tables: DatasetDict,
    data_args: DataArguments,
    model_args: TeacherArguments | StudentArguments | FinetuneArguments,
    training_args: EmocapTrainingArguments,
) -> Result:
    """One training of a kind of `STARTS`, from a table of pairs, whose name is `data_args.dataset`, to a finished
    run's folder; the arguments are what `make_arguments` makes of those of the kind's command."""
    if isinstance(model_args, StudentArguments):
        check_student(model_args, training_args)
    rows = read_rows(tables, data_args, seed_of_data(training_args))
    best = (training_args.metric_for_best_model or "loss").removeprefix("eval_")
    if best != "loss":
        check_metric(best, "--metric_for_best_model", has_votes=rows.truths["validation"].votes is not None)
    if data_args.max_length is not None and (reader := reader_of(model_args)):
        check_max_length(reader, data_args.max_length)
    start = STARTS[kind](model_args, rows, training_args.seed)
    if start.surgery is None:
        return run(start, rows, kind, (data_args, model_args, training_args))
    path = Path(training_args.output_dir) / "surgery.json"
    if training_args.should_save:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, start.surgery)
    result = run(start, rows, kind, (data_args, model_args, training_args))
    after = check_frozen(start.model, start.surgery)
    if training_args.should_save:
        write_json(path, start.surgery | {"after_training": after})
    if after["moved"]:
        raise RuntimeError(f"Training moved frozen tensors: {', '.join(after['moved'][:5])}.")
    return result


def reader_of(model_args: TeacherArguments | StudentArguments | FinetuneArguments) -> str | None:
    """The checkpoint whose body will read the captions, None where a new GRU does."""
    if isinstance(model_args, FinetuneArguments):
        return model_args.teacher or model_args.student
    return model_args.model_name_or_path or getattr(model_args, "text_encoder", None)


def start_teacher(model_args: TeacherArguments, rows: TrainingRows, seed: int) -> Start:
    set_seed(seed)
    start = Start(*build_teacher(model_args, rows.splits["train"]))
    start_at_prior(start.model, rows.prior)
    return start


def start_student(model_args: StudentArguments, rows: TrainingRows, seed: int) -> Start:
    if model_args.architecture == "visualbert":
        own = {name: getattr(model_args, name) for name in ("model_name_or_path", "reinit_visual_projection")}
        return start_teacher(TeacherArguments(**own), rows, seed)
    set_seed(seed)
    start = Start(*build_student(model_args, rows.names))
    if not model_args.model_name_or_path:
        start_at_prior(start.model, rows.prior)
    return start


def start_finetuning(model_args: FinetuneArguments, rows: TrainingRows, seed: int) -> Start:
    for checkpoint in filter(None, (model_args.student, model_args.teacher)):
        config = load_config(checkpoint)
        check_labels(config, rows.names, checkpoint)
        check_features(config, rows.splits["train"], checkpoint)
    flags = dict(vars(model_args))
    named = flags.pop("source_dataset")
    plan = check_transfer(**flags)
    source_table = load_source(named, plan)
    set_seed(seed)
    model, processor, surgery = transfer_model(plan, rows.prior, source_table)
    return Start(model, processor, surgery=surgery)


STARTS: dict[str, Callable[[Any, TrainingRows, int], Start]] = {
    "teacher": start_teacher,
    "student": start_student,
    "finetuned": start_finetuning,
}


def seed_of_data(training_args: EmocapTrainingArguments) -> int:
    return training_args.seed if training_args.data_seed is None else training_args.data_seed


def run(
    start: Start,
    rows: TrainingRows,
    kind: str,
    arguments: tuple[DataArguments, object, EmocapTrainingArguments],
) -> Result:
    """Trains, keeps the best checkpoint, measures it on the test split and writes the run's folder."""
    data_args, model_args, training_args = arguments
    model, processor, output_dir = start.model, start.processor, Path(training_args.output_dir)
    processor.max_length = data_args.max_length or processor.max_length
    with training_args.main_process_first(desc="photos are resized once"):
        prepared = {name: prepare_table(split, processor) for name, split in rows.splits.items()}
    pairs = {
        name: PairDataset(split, processor, rows.labels(name), data_args.modalities)
        for name, split in prepared.items()
    }
    warn_of_truncation(pairs, processor.max_length)
    seen = data_args.modalities if pairs["train"].reads_photos else "text"
    model.config.modalities = seen if model.config.modalities in (None, seen) else "both"
    set_loss(model.config, rows, data_args, training_args)
    if training_args.should_save:
        bundle_extractor(model.config, processor, output_dir)
    trainer = make_trainer(start, rows, pairs, arguments)
    with frozen_outputs(trainer):
        trainer.train(resume_from_checkpoint=checkpoint_to_resume(training_args))
        trainer.compute_metrics = None  # it belongs to the validation split
        logits = trainer.predict(trainer.eval_dataset).predictions
    fit_decisions(model.config, pairs["validation"], logits, rows.truths["validation"].labels)
    split, thresholds = rows.measured, model.config.thresholds
    logits = trainer.predict(pairs[split]).predictions
    probabilities = pairs[split].mean_over_captions(temper(logits, model.config.temperature))
    metrics = measure(probabilities, rows.splits[split], rows.truths[split], rows.reference, thresholds)
    metrics |= {"split": split, "truth": rows.columns[split], "truncated_captions": pairs[split].truncated_captions}
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        details = describe(probabilities, rows.splits[split], rows.truths[split].labels, thresholds)
        facts = {
            "kind": kind,
            "num_rows": {name: len(table) for name, table in rows.splits.items()},
            "licenses": license_of(rows.splits[name] for name in rows.targets),
        }
        finish(output_dir, metrics, details, facts, arguments)
    return Result(metrics, output_dir)


def make_trainer(start: Start, rows: TrainingRows, pairs: dict[str, PairDataset], arguments: tuple) -> EmocapTrainer:
    """The trainer of a run, its sampler and how it measures the validation rows."""
    data_args, model_args, training_args = arguments
    truth = rows.truths["validation"]

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        probabilities = pairs["validation"].mean_over_captions(sigmoid(prediction.predictions))
        return compute_metrics(probabilities, truth.labels, truth.votes, num_annotators=truth.num_annotators)

    sampler = make_sampler(pairs, rows.splits["train"], data_args, training_args)
    train = MixedPairs(pairs["train"], pairs["mix"]) if "mix" in pairs else pairs["train"]
    trainer = EmocapTrainer(
        start.model,
        training_args,
        data_collator=PairDataset.collate,
        train_dataset=CroppedPhotos(train, sampler) if getattr(model_args, "augment_photos", False) else train,
        eval_dataset=pairs["validation"],
        processing_class=start.processor,
        compute_metrics=compute,
        fresh=start.fresh,
        sampler=sampler,
    )
    if training_args.early_stopping_patience and training_args.load_best_model_at_end:
        trainer.add_callback(EarlyStoppingCallback(training_args.early_stopping_patience))
    return trainer


def warn_of_truncation(pairs: dict[str, PairDataset], max_length: int) -> None:
    """Says once how many captions of each split are longer than the model reads."""
    cut = [
        f"{name} {own.num_truncated:,} of {own.num_captions:,} ({own.truncated_captions:.1%})"
        for name, own in pairs.items()
        if own.num_truncated
    ]
    if cut:
        logger.warning(f"Captions cut at {max_length} tokens: {', '.join(cut)}. --max_length reads more of them.")


def set_loss(config, rows: TrainingRows, data_args: DataArguments, training_args: EmocapTrainingArguments) -> None:
    """Puts the run's loss into the model's configuration, and the prevalence of what it trains on."""
    prevalence = rows.prior
    if "mix" in rows.targets:
        human = prior_probabilities(rows.targets["mix"])
        prevalence = (1 - data_args.mix_share) * prevalence + data_args.mix_share * human
    config.label_prevalence = [round(share, 6) for share in prevalence.tolist()]
    config.loss, config.pos_weight = training_args.loss, training_args.pos_weight
    config.label_smoothing = training_args.label_smoothing


def make_sampler(
    pairs: dict[str, PairDataset],
    table: datasets.Dataset,
    data_args: DataArguments,
    training_args: EmocapTrainingArguments,
) -> PairSampler:
    """What draws the training pairs."""
    return PairSampler(
        pairs["train"],
        captions=data_args.captions,
        rows_of_labels=rows_of_labels(table) if data_args.sampling == "class_balanced" else None,
        mix=pairs.get("mix"),
        mix_share=data_args.mix_share,
        pairs_a_step=training_args.train_batch_size
        * training_args.gradient_accumulation_steps
        * training_args.world_size,
        by_length=training_args.train_sampling_strategy == "group_by_length",
        seed=seed_of_data(training_args),
    )


def finish(output_dir: Path, metrics: dict, details: dict, facts: dict[str, Any], arguments: tuple) -> None:
    """Metrics, and arguments with facts of the run, beside the checkpoint; the copy of the arguments in torch's
    own format goes. Folders are written down with their whole path: a relative one would look like a Hub id where it
    is not."""
    (output_dir / "training_args.bin").unlink(missing_ok=True)
    write_metrics(output_dir / "metrics.json", metrics, details)
    recorded = facts | arguments_to_dict(*arguments)
    folders = {name: os.path.abspath(recorded[name]) for name in PATH_KEYS if os.path.isdir(recorded.get(name) or "")}
    write_json(output_dir / "run_arguments.json", recorded | folders)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.asarray(logits, dtype=np.float32)).sigmoid().numpy()
