"""Training of the captioner with `Trainer`, from a labelled table to a finished run's folder."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedConfig,
    set_seed,
)

from emocap.arguments import CaptionArguments, CaptionerArguments, CaptionerTrainingArguments
from emocap.data.captions import CaptionDataset, caption_scores, check_captions
from emocap.data.licenses import license_of
from emocap.data.schema import NUM_REGIONS, label_names
from emocap.evaluation.candidates import labelling_teacher
from emocap.evaluation.captioner import Captioner, choose_pictures, open_committee, write
from emocap.evaluation.scoring import Committee, check_labels
from emocap.metrics.captions import cider_d
from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from emocap.models.modeling_emocap_captioner import split_gguf
from emocap.records import Result
from emocap.regions.bundling import bundle_extractor, find_extractor
from emocap.training.build import sample_regions
from emocap.training.jobs import finish, seed_of_data, warn_of_truncation
from emocap.training.lora import add_adapters, check_lora, merge_adapters
from emocap.training.rows import choose_splits
from emocap.training.sampling import PairSampler
from emocap.training.self_critical import reward_wishes
from emocap.training.trainer import EmocapTrainer, checkpoint_to_resume
from emocap.training.wishes import DrawnWishes, wish_statistics

__all__ = ["train_captioner"]

DEFAULT_LENGTH = 32

WATCHED = 200
"""Validation pictures at most of which captions are written in each evaluation."""


class Start(NamedTuple):
    """What a training starts from."""

    model: EmocapCaptionerForConditionalGeneration
    processor: EmocapCaptionerProcessor
    fresh: Collection[str]  # names of new parameters, which have a learning rate of their own


def train_captioner(
    tables: DatasetDict,
    data_args: CaptionArguments,
    model_args: CaptionerArguments,
    training_args: CaptionerTrainingArguments,
) -> Result:
    """One training, from a labelled table with region features to a finished run's folder.

    Args:
        tables: the table; `data_args.dataset` is its name, or None.
        data_args, model_args, training_args: what `emocap train-captioner` takes.

    Raises:
        ImportError: adapters are asked for and PEFT is not installed.
        ValueError: rows or options that do not fit, before any weights are loaded.
    """
    seed = seed_of_data(training_args)
    splits = DatasetDict(choose_splits(tables, data_args, seed))
    for name, split in splits.items():
        check_captions(name, split)
    watched = None
    if (training_args.metric_for_best_model or "loss").removeprefix("eval_") == "cider_d":
        watched = choose_pictures(splits["validation"], "validation", WATCHED, seed)
    rewarding = choose_rewarding(training_args, data_args, splits["train"])
    if model_args.language_model == "lora":
        check_lora()
    source, file = split_gguf(model_args.model_name_or_path)
    config = AutoConfig.from_pretrained(source, **file)
    check_start(config, model_args, data_args, splits)
    set_seed(training_args.seed)
    is_captioner = config.model_type == "emocap_captioner"
    start = (continue_captioner if is_captioner else new_captioner)(model_args, data_args, splits)
    start.model.config.label_smoothing = training_args.label_smoothing
    pairs = {name: CaptionDataset(split, start.processor) for name, split in splits.items()}
    warn_of_truncation(pairs, start.processor.max_length)
    if training_args.should_save:
        bundle_extractor(start.model.config, start.processor, Path(training_args.output_dir))
    trainer = make_trainer(start, pairs, watched, data_args, training_args, seed)
    trainer.train(resume_from_checkpoint=checkpoint_to_resume(training_args))
    if rewarding is not None:
        reward_wishes(
            Captioner(trainer.model, start.processor, pairs["train"], training_args.per_device_eval_batch_size),
            pairs["train"],
            splits["train"],
            rewarding.load(),
            steps=training_args.self_critical_steps,
            learning_rate=training_args.self_critical_learning_rate,
            pictures_a_step=training_args.per_device_train_batch_size,
            seed=seed,
        )
    if model_args.language_model == "lora":
        merge_adapters(start.model.language_model)
    measured = "test" if "test" in splits else "validation"
    metrics = measure(trainer, pairs[measured], data_args.no_wish_share, seed) | {"split": measured}
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        facts = {
            "kind": "captioner",
            "num_rows": {name: len(split) for name, split in splits.items()},
            "licenses": license_of([splits["train"]]),
        }
        arguments = (data_args, model_args, training_args)
        finish(Path(training_args.output_dir), metrics, {}, facts, arguments)
    return Result(metrics, Path(training_args.output_dir))


def choose_rewarding(
    training_args: CaptionerTrainingArguments, data_args: CaptionArguments, train: Dataset
) -> Committee | None:
    """Who rewards in the second stage, weights not loaded; None where there is no such stage."""
    named = training_args.self_critical_teacher
    if not training_args.self_critical_steps:
        if named:
            raise ValueError("--self_critical_teacher rewards in a second stage; give --self_critical_steps.")
        return None
    if training_args.world_size > 1:
        raise ValueError("--self_critical_steps run in one process; start this training without accelerate launch.")
    return open_committee(named or labelling_teacher(None, "--self_critical_teacher", data_args.dataset), train)


def check_start(
    config: PreTrainedConfig, model_args: CaptionerArguments, data_args: CaptionArguments, splits: DatasetDict
) -> None:
    """Refuses a start that does not fit the rows, before its weights are loaded."""
    start, train = model_args.model_name_or_path, splits["train"]
    is_captioner = config.model_type == "emocap_captioner"
    if is_captioner:
        check_labels(config, label_names(train), start)
        width = train.features["region_features"].length // NUM_REGIONS
        if width != config.visual_embedding_dim:
            raise ValueError(
                f"The data set's region features are {width}-d, but '{start}' reads {config.visual_embedding_dim}-d "
                "ones. Extract features with the captioner's own extractor."
            )
        if model_args.random_weights:
            raise ValueError("--random_weights takes a language model's configuration, but a captioner was given.")
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or not getattr(config, "is_decoder", True):
        raise ValueError(f"'{start}' is a '{config.model_type}' checkpoint; expected a causal language model.")
    words = data_args.max_length or (config.caption_length if is_captioner else DEFAULT_LENGTH)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and 2 + NUM_REGIONS + words > positions:
        raise ValueError(
            f"'{start}' has {positions} positions; a start, a wish, {NUM_REGIONS} regions and --max_length {words} "
            f"tokens need {2 + NUM_REGIONS + words}."
        )


def new_captioner(model_args: CaptionerArguments, data_args: CaptionArguments, splits: DatasetDict) -> Start:
    train, start = splits["train"], model_args.model_name_or_path
    source, file = split_gguf(start)
    emotions = label_names(train)
    extractor = model_args.region_extractor and find_extractor(model_args.region_extractor)
    max_length = data_args.max_length or DEFAULT_LENGTH
    processor = EmocapCaptionerProcessor(
        AutoTokenizer.from_pretrained(source, **file),
        region_extractor=extractor,
        emotions=emotions,
        max_length=max_length,
        **wish_statistics(caption_scores(train), emotions),
    )
    model = EmocapCaptionerForConditionalGeneration.from_language_model(
        start,
        processor,
        random_weights=model_args.random_weights,
        visual_embedding_dim=train.features["region_features"].length // NUM_REGIONS,
        soft_hidden_size=model_args.soft_hidden_size,
        num_region_layers=model_args.num_region_layers,
        region_extractor=extractor,
        caption_length=max_length,
    )
    if np.asarray(train.with_format("numpy")["num_regions"][:]).any():
        model.region_normalizer.fit(sample_regions(train), target_std=1.0)
    names = [name for name, _ in model.named_parameters()]
    fresh = {name for name in names if model_args.random_weights or not name.startswith("language_model.")}
    return Start(model, processor, prepare_language_model(model, model_args, fresh))


def continue_captioner(model_args: CaptionerArguments, data_args: CaptionArguments, splits: DatasetDict) -> Start:
    start, given = model_args.model_name_or_path, {}
    if model_args.region_extractor:
        given["region_extractor"] = find_extractor(model_args.region_extractor)
    model = EmocapCaptionerForConditionalGeneration.from_pretrained(start, dtype=torch.float32, **given)
    processor = EmocapCaptionerProcessor.from_pretrained(start, **given)
    processor.max_length = model.config.caption_length = data_args.max_length or processor.max_length
    model.generation_config.max_new_tokens = processor.max_length
    return Start(model, processor, prepare_language_model(model, model_args, set()))


def prepare_language_model(
    model: EmocapCaptionerForConditionalGeneration, model_args: CaptionerArguments, fresh: set[str]
) -> set[str]:
    """Freezes the language model or puts adapters into it, where that is asked for; names of new parameters."""
    if model_args.language_model == "trained":
        return fresh
    if model_args.random_weights:
        raise ValueError(f"--language_model is {model_args.language_model}, but --random_weights are not to be kept.")
    model.language_model.requires_grad_(False)
    if model_args.language_model == "lora":
        add_adapters(model.language_model, model_args.lora_rank)
        fresh = fresh | {
            name for name, own in model.language_model.named_parameters("language_model") if own.requires_grad
        }
    return fresh


class CaptionTrainer(EmocapTrainer):
    """The trainer that also writes captions where it evaluates.

    Args:
        watched: pictures with captions whose likeness to greedy ones without a wish is `cider_d`; None: none are
            written. (A wish for a caption's own emotions would tell what it says.)
    """

    def __init__(self, *args, watched: Dataset | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.watched = watched

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.watched is not None:
            output.metrics[f"{metric_key_prefix}_cider_d"] = self.likeness(self.watched)
        return output

    def likeness(self, pictures: Dataset) -> float:
        """CIDEr-D of greedy captions; every process of a distributed run computes all."""
        processor = self.processing_class
        size = self.args.per_device_eval_batch_size
        captioner = Captioner(self.model.eval(), processor, CaptionDataset(pictures, processor), size)
        with self.accelerator.autocast():
            written = write(captioner, np.arange(len(pictures)), [None] * len(pictures), 1.0)
        return float(cider_d(written, pictures["captions"][:]).mean())


def make_trainer(
    start: Start,
    pairs: dict[str, CaptionDataset],
    watched: Dataset | None,
    data_args: CaptionArguments,
    training_args: CaptionerTrainingArguments,
    seed: int,
) -> "CaptionTrainer":
    sampler = PairSampler(
        pairs["train"],
        captions=data_args.captions,
        pairs_a_step=training_args.train_batch_size
        * training_args.gradient_accumulation_steps
        * training_args.world_size,
        by_length=training_args.train_sampling_strategy == "group_by_length",
        seed=seed,
    )
    training_args.prediction_loss_only = True  # the logits of every word of the vocabulary are not kept
    trainer = CaptionTrainer(
        start.model,
        training_args,
        data_collator=CaptionDataset.collate,
        train_dataset=DrawnWishes(pairs["train"], data_args.no_wish_share, seed, sampler),
        eval_dataset=DrawnWishes(pairs["validation"], data_args.no_wish_share, seed),
        processing_class=start.processor,
        fresh=start.fresh,
        sampler=sampler,
        watched=watched,
    )
    if training_args.early_stopping_patience and training_args.load_best_model_at_end:
        trainer.add_callback(EarlyStoppingCallback(training_args.early_stopping_patience))
    return trainer


def measure(trainer: EmocapTrainer, pairs: CaptionDataset, no_wish_share: float, seed: int) -> dict[str, Any]:
    """Nats a token of held-back captions, their end included: with wishes drawn as in training, without, and with the
    levels of all their emotions."""
    shown = {
        "loss": DrawnWishes(pairs, no_wish_share, seed),
        "loss_without_wish": DrawnWishes(pairs, 1.0, seed),
        "loss_with_all_emotions": pairs,
    }
    order = np.argsort(pairs.lengths, kind="stable")  # little padding
    figures = {name: nats(trainer, own, order) for name, own in shown.items()}
    counts = {"num_examples": len(np.unique(pairs.row_of_pair)), "num_captions": len(pairs)}
    return {**figures, **counts, "truncated_captions": pairs.truncated_captions}


@torch.inference_mode()
def nats(trainer: EmocapTrainer, pairs: CaptionDataset | DrawnWishes, order: np.ndarray) -> float:
    """Mean over all tokens of the pairs, taken in that order; every process of a distributed run computes all."""
    model, total, tokens = trainer.model.eval(), 0.0, 0
    size = trainer.args.per_device_eval_batch_size
    for first in range(0, len(order), size):
        batch = pairs.__getitems__(order[first : first + size])
        batch = {name: values.to(model.device) for name, values in batch.items()}
        labels = batch.pop("labels")[:, 1:]
        with trainer.accelerator.autocast():
            logits = model(**batch).logits[:, :-1]
        total += F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum").item()
        tokens += int((labels != -100).sum())
    return total / tokens
