"""Training of teacher, student and fine-tuned models with `Trainer`, from arguments to a finished run's folder."""

import os
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import DatasetDict
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    set_seed,
)
from transformers.utils import logging

from emocap.arguments import (
    DataArguments,
    EmocapTrainingArguments,
    FinetuneArguments,
    StudentArguments,
    TeacherArguments,
    arguments_to_dict,
    settle_sampling,
)
from emocap.data.licenses import license_of
from emocap.data.pairs import PairDataset, label_matrix
from emocap.data.schema import label_names
from emocap.data.storage import write_json
from emocap.data.truth import known_votes, read_truth, truth_column
from emocap.evaluation.calibration import fit_decisions, temper
from emocap.evaluation.details import describe
from emocap.evaluation.evaluate import evaluate
from emocap.evaluation.scoring import check_features, check_labels, load_config, prepare_table
from emocap.metrics import check_metric, compute_metrics, prior_probabilities
from emocap.models import (
    EmocapProcessor,
)
from emocap.records import PATH_KEYS, write_metrics
from emocap.regions.bundling import bundle_extractor
from emocap.training.augmentation import CroppedPhotos
from emocap.training.build import build_student, build_teacher, set_bias_to_prior
from emocap.training.sampling import MixedPairs, PairSampler, rows_of_labels
from emocap.training.splits import load_splits
from emocap.training.student_flags import check_student
from emocap.training.surgery import check_frozen, check_transfer, load_source, transfer_model
from emocap.training.trainer import EmocapTrainer, checkpoint_to_resume, frozen_outputs

__all__ = ["EmocapTrainer", "finetune", "train_student", "train_teacher"]

logger = logging.get_logger(__name__)


def train_teacher(
    data_args: DataArguments, model_args: TeacherArguments, training_args: EmocapTrainingArguments
) -> dict[str, float]:
    """Trains a teacher; returns what metrics.json holds."""
    splits = load_rows(data_args, training_args)
    set_seed(training_args.seed)
    model, processor, fresh = build_teacher(model_args, splits)
    set_bias_to_prior(model.classifier, splits["train"], data_args.label_column)
    return run(model, processor, splits, fresh, "teacher", (data_args, model_args, training_args))


def train_student(
    data_args: DataArguments, model_args: StudentArguments, training_args: EmocapTrainingArguments
) -> dict[str, float]:
    """Trains a student of either architecture; returns what metrics.json holds."""
    check_student(model_args, training_args)
    splits = load_rows(data_args, training_args)
    set_seed(training_args.seed)
    if model_args.architecture == "visualbert":
        teacher_args = TeacherArguments(
            model_args.model_name_or_path, reinit_visual_projection=model_args.reinit_visual_projection
        )
        model, processor, fresh = build_teacher(teacher_args, splits)
        head = model.classifier
    else:
        model, processor, fresh = build_student(model_args, splits)
        head = model.fc2
    if not (model_args.architecture == "gru_cnn" and model_args.model_name_or_path):
        set_bias_to_prior(head, splits["train"], data_args.label_column)
    return run(model, processor, splits, fresh, "student", (data_args, model_args, training_args))


def finetune(
    data_args: DataArguments, model_args: FinetuneArguments, training_args: EmocapTrainingArguments
) -> dict[str, float]:
    """Fine-tunes onto the target with AnB, AnB+ or a control; returns what metrics.json holds."""
    splits = load_rows(data_args, training_args)
    names = label_names(splits["train"])
    for checkpoint in filter(None, (model_args.student, model_args.teacher)):
        config = load_config(checkpoint)
        check_labels(config, names, checkpoint)
        check_features(config, splits["train"], checkpoint)
    flags = {
        name: getattr(model_args, name)
        for name in (
            "student",
            "teacher",
            "strategy",
            "num_layers",
            "head_init",
            "copy_word_embeddings",
            "freeze_word_embeddings",
        )
    }
    source_table = load_source(model_args.source_dataset, check_transfer(**flags))
    set_seed(training_args.seed)
    prior = prior_probabilities(label_matrix(splits["train"], data_args.label_column))
    model, processor, surgery = transfer_model(**flags, prior=prior, source_table=source_table)
    if training_args.should_save:
        Path(training_args.output_dir).mkdir(parents=True, exist_ok=True)
        write_json(Path(training_args.output_dir) / "surgery.json", surgery)
    metrics = run(model, processor, splits, set(), "finetuned", (data_args, model_args, training_args))
    after = check_frozen(model, surgery)
    if training_args.should_save:
        write_json(Path(training_args.output_dir) / "surgery.json", surgery | {"after_training": after})
    if after["moved"]:
        raise RuntimeError(f"Training moved frozen tensors: {', '.join(after['moved'][:5])}.")
    return metrics


def load_rows(data_args: DataArguments, training_args: EmocapTrainingArguments) -> DatasetDict:
    """The run's rows, which have what its best checkpoint goes by; settles how they are sampled.

    Raises:
        ValueError: as in `load_splits`, or a metric of votes for validation rows without.
    """
    settle_sampling(data_args, training_args.loss)
    splits = load_splits(data_args, seed_of_data(training_args))
    best = (training_args.metric_for_best_model or "loss").removeprefix("eval_")
    if best != "loss":
        check_metric(best, "--metric_for_best_model", has_votes=known_votes(splits["validation"]) is not None)
    return splits


def seed_of_data(training_args: EmocapTrainingArguments) -> int:
    return training_args.seed if training_args.data_seed is None else training_args.data_seed


def run(
    model: torch.nn.Module,
    processor: EmocapProcessor,
    splits: DatasetDict,
    fresh: set[str],
    kind: str,
    arguments: tuple[DataArguments, object, EmocapTrainingArguments],
) -> dict[str, float]:
    """Trains, keeps the best checkpoint, measures it on the test split and writes the run's folder."""
    data_args, model_args, training_args = arguments
    processor.max_length = data_args.max_length or processor.max_length
    with training_args.main_process_first(desc="photos are resized once"):
        prepared = {name: prepare_table(split, processor) for name, split in splits.items()}
    columns = {name: truth_column(split) for name, split in splits.items()} | {"train": data_args.label_column}
    pairs = {
        name: PairDataset(split, processor, columns[name], data_args.modalities) for name, split in prepared.items()
    }
    warn_of_truncation(pairs, processor.max_length)
    seen = data_args.modalities if pairs["train"].reads_photos else "text"
    model.config.modalities = seen if model.config.modalities in (None, seen) else "both"
    set_loss(model.config, splits, data_args, training_args)
    labels, votes, asked, _ = read_truth(splits["validation"], columns["validation"])
    if training_args.should_save:
        bundle_extractor(model.config, processor, Path(training_args.output_dir))

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        probabilities = pairs["validation"].mean_over_captions(sigmoid(prediction.predictions))
        return compute_metrics(probabilities, labels, votes, num_annotators=asked)

    sampler = make_sampler(pairs, splits["train"], data_args, training_args)
    train = MixedPairs(pairs["train"], pairs["mix"]) if "mix" in pairs else pairs["train"]
    trainer = EmocapTrainer(
        model,
        training_args,
        data_collator=PairDataset.collate,
        train_dataset=CroppedPhotos(train, sampler) if getattr(model_args, "augment_photos", False) else train,
        eval_dataset=pairs["validation"],
        processing_class=processor,
        compute_metrics=compute,
        fresh=fresh,
        sampler=sampler,
    )
    if training_args.early_stopping_patience and training_args.load_best_model_at_end:
        trainer.add_callback(EarlyStoppingCallback(training_args.early_stopping_patience))
    with frozen_outputs(trainer):
        trainer.train(resume_from_checkpoint=checkpoint_to_resume(training_args))
        trainer.compute_metrics = None  # it belongs to the validation split
        logits = trainer.predict(trainer.eval_dataset).predictions
    fit_decisions(model.config, pairs["validation"], logits, labels)
    split = "test" if "test" in pairs else "validation"
    logits = trainer.predict(pairs[split]).predictions
    probabilities = pairs[split].mean_over_captions(temper(logits, model.config.temperature))
    prior_column, thresholds = truth_column(splits["train"]), model.config.thresholds
    metrics = evaluate(probabilities, splits[split], splits["train"], columns[split], prior_column, thresholds)
    metrics |= {"split": split, "truth": columns[split], "truncated_captions": pairs[split].truncated_captions}
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        details = describe(probabilities, splits[split], columns[split], thresholds)
        facts = {
            "kind": kind,
            "num_rows": {name: len(table) for name, table in splits.items()},
            "licenses": license_of(splits[name] for name in ("train", "mix") if name in splits),
        }
        finish(Path(training_args.output_dir), metrics, details, facts, arguments)
    return metrics


def warn_of_truncation(pairs: dict[str, PairDataset], max_length: int) -> None:
    """Says once how many captions of each split are longer than the model reads."""
    cut = [
        f"{name} {own.num_truncated:,} of {own.num_captions:,} ({own.truncated_captions:.1%})"
        for name, own in pairs.items()
        if own.num_truncated
    ]
    if cut:
        logger.warning(f"Captions cut at {max_length} tokens: {', '.join(cut)}. --max_length reads more of them.")


def set_loss(config, splits: DatasetDict, data_args: DataArguments, training_args: EmocapTrainingArguments) -> None:
    """Puts the run's loss into the model's configuration, and the prevalence of what it trains on."""
    prevalence = prior_probabilities(label_matrix(splits["train"], data_args.label_column))
    if "mix" in splits:
        human = prior_probabilities(label_matrix(splits["mix"], truth_column(splits["mix"])))
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


def finish(output_dir: Path, metrics: dict, details: dict, facts: dict[str, object], arguments: tuple) -> None:
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
