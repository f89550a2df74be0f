"""What the training commands take: dataclasses behind one parser a job, shared by commands, studies and cards."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from transformers import TrainingArguments

from emocap.options import (
    Amount,
    Count,
    Options,
    OptionsParser,
    Share,
    Whole,
    check_names,
    check_options,
    option,
    option_fields,
    required,
)

__all__ = [
    "CaptionArguments",
    "CaptionerArguments",
    "CaptionerTrainingArguments",
    "DataArguments",
    "EmocapTrainingArguments",
    "FinetuneArguments",
    "RunArguments",
    "StudentArguments",
    "TableArguments",
    "TeacherArguments",
    "arguments_to_dict",
    "captioner_parser",
    "finetune_parser",
    "make_arguments",
    "student_parser",
    "teacher_parser",
]


class TableArguments(Options, kw_only=False):
    """Which rows. `dataset` is None where the tables came from memory."""

    dataset: str | None = required("Folder of a table of pairs, or a Hub data set id.")
    train_split: str = option("Split to train on.", "train")
    eval_split: str = option(
        "Split for early stopping. Where the data set lacks it, a tenth of the training rows.", "validation"
    )
    test_split: str = option(
        "Split that metrics.json reports. Where the data set lacks it, the evaluation split.", "test"
    )
    selected_only: bool = option(
        "Train on the rows that `emocap label` selected among the best images of some emotion.", False
    )
    train_fraction: Annotated[float, "(0, 1]"] = option(
        "Train on this share of the training rows, drawn at random by the seed.", 1.0
    )
    max_train_samples: Count | None = option("Keep the first N training rows.")
    max_eval_samples: Count | None = option("Keep the first N rows to evaluate on.")


class DataArguments(TableArguments, kw_only=False):
    """Which rows, which labels."""

    label_column: str | None = option(
        "Targets of training: labels, soft_labels; of pseudo-labels emotions (hard), emotion_scores "
        "(soft), ranked_emotions (1, 1/2, 1/3, ... by rank) or selected_for. By default labels, or emotions where "
        "there are no human labels."
    )
    modalities: Literal["both", "text", "image"] = option("What the model sees of each pair.", "both")
    max_length: Annotated[int, "[3, inf)"] | None = option(
        "Tokens kept of a caption: the starting checkpoint's own, or 32 as in the study."
    )
    captions: Literal["all", "random"] = option(
        "all: an epoch sees every pair; random: every image once, with one of its captions, drawn anew.", "all"
    )
    sampling: Literal["shuffle", "class_balanced"] | None = option(
        "shuffle: every pair or image once an epoch; class_balanced: draw an emotion uniformly, then one "
        "of the images selected_for it (without that column: that carry it), then a caption. By default shuffle; "
        "with --loss db class_balanced, which is part of it."
    )
    mix_dataset: str | None = option(
        "Folder or Hub id of a human-labelled table whose training rows train beside the others."
    )
    mix_share: Annotated[float, "(0, 1)"] = option("Share of mix_dataset's pairs in an epoch.", 0.2)


class CaptionArguments(TableArguments, kw_only=False):
    """Which rows, which captions of theirs, which wishes."""

    captions: Literal["all", "random"] = option(
        "random: an epoch sees every image once, with one of its captions, drawn anew; all: every caption.", "random"
    )
    max_length: Annotated[int, "[2, inf)"] | None = option(
        "Tokens kept of a caption, its end included: the starting captioner's own, or 32."
    )
    no_wish_share: Share = option(
        "Share of the captions that training shows without a wish; the others come with the levels of some of their "
        "emotions, drawn anew in each epoch.",
        0.2,
    )


class TeacherArguments(Options, kw_only=False):
    """The teacher to build."""

    model_name_or_path: str = required(
        "Body to start from: folder or Hub id of a VisualBERT, BERT, emocap teacher or, with late fusion, any text "
        "encoder's checkpoint (MPNet, RoBERTa, DeBERTa, ModernBERT, ...); a teacher of other emotions gets a new head."
    )
    pooling: Literal["pooler", "mean"] | None = option(
        "pooler: the body's trained pooler (published VisualBERTs); mean: mean over words and mean over "
        "regions, averaged (bodies without one). By default what the checkpoint calls for."
    )
    fusion: Literal["early", "late"] | None = option(
        "early: words and regions attend to each other, as in VisualBERT; late: regions pass the body's "
        "embeddings alone and the logits of both are averaged, for few photos. By default what the checkpoint "
        "says; early for a VisualBERT or BERT, late for any other encoder."
    )
    pooled_layers: list[Annotated[int, "[-1, inf)"]] | None = option(
        "With mean pooling: the head reads the means of these layers, each of unit length, side by side "
        "(0: the embeddings, -1: the last layer). By default what the checkpoint says, or the last layer's mean."
    )
    reinit_visual_projection: bool = option(
        "Learn a new visual projection, for features of another detector than the body's.", False
    )
    region_extractor: str | None = option(
        "Folder or Hub id of the extractor that made the data set's region features, 'scenes', "
        "torchvision:NAME or vision:ID: the teacher then reads photos by itself. A folder is copied into the "
        "checkpoint."
    )
    freeze_body: bool = option("Train the linear head alone.", False)
    freeze_layers: Whole | None = option(
        "Leave the words' embeddings, what all layers share and the body's first N layers as they are, for few rows."
    )


class StudentArguments(Options):
    """The student to build."""

    architecture: Literal["gru_cnn", "visualbert"] = option(
        "gru_cnn: word embeddings, GRU and a small CNN; visualbert: the teacher's own architecture.", "gru_cnn"
    )
    word_embeddings: str | None = option(
        "gru_cnn: folder or Hub id of the BERT checkpoint whose vocabulary and word embeddings it takes."
    )
    model_name_or_path: str | None = option(
        "Folder or Hub id. visualbert: body to start from. gru_cnn: a student checkpoint to go on from, if any."
    )
    reinit_visual_projection: bool = option("visualbert: learn a new visual projection.", False)
    freeze_word_embeddings: bool = option("Leave the pretrained word embeddings as they are.", True)
    word_projection_size: Count | None = option(
        "Width to which a learned layer brings the word embeddings (none: as they are)."
    )
    gru_hidden_size: Count = option("Hidden units of the GRU.", 256)
    gru_num_layers: Count = option("Layers of the GRU.", 1)
    text_encoder: str | None = option(
        "gru_cnn: folder or Hub id of a BERT checkpoint that reads the captions in place of word "
        "embeddings and GRU, as the study tried too. It brings the vocabulary: leave --word_embeddings out."
    )
    image_backbone: str | None = option(
        "gru_cnn: torchvision's name of a ResNet that reads the photos in place of the small CNN, such as resnet50."
    )
    image_weights: str | None = option(
        "Its weights: a .safetensors file of its state dict, or torchvision's name of trained ones, such "
        "as DEFAULT, downloaded once. By default random."
    )
    augment_photos: bool = option(
        "gru_cnn: training sees a random crop of each photo, at least half of it, every second one "
        "mirrored, drawn anew in each epoch by the seed.",
        False,
    )
    image_size: Count = option("Side in pixels to which photos are resized.", 224)
    cnn_channels: list[Count] = option("Channels of the strided convolutions.", [32, 64, 128, 256])
    fc_hidden_size: Count = option("Width of fc1.", 256)


class CaptionerArguments(Options):
    """The captioner to build."""

    model_name_or_path: str = required(
        "What to start from: folder or Hub id of a causal language model (GPT-2, Llama, Qwen, SmolLM2, ...), a GGUF "
        "file in one (package gguf), or an emocap captioner of the table's emotions."
    )
    random_weights: bool = option(
        "Of the language model take configuration and tokenizer alone, for one so small that it learns to write here.",
        False,
    )
    language_model: Literal["trained", "lora", "frozen"] = option(
        "trained: the whole language model trains; lora: adapters of low rank (Hu et al. 2021), merged into its "
        "weights at the end, for which the extra 'lora' is needed (a checkpoint on the way holds them apart: a run "
        "goes on from it, and nothing else reads it); frozen: only what reads regions and wishes.",
        "trained",
    )
    lora_rank: Count = option("Rank of the adapters.", 16)
    soft_hidden_size: Count = option("Width in which regions and wishes are read.", 256)
    num_region_layers: Whole = option("Layers in which the regions of a photo attend to each other.", 1)
    region_extractor: str | None = option(
        "Folder or Hub id of the extractor that made the data set's region features, 'scenes' or "
        "torchvision:NAME: the captioner then reads photos by itself. A folder is copied into the checkpoint."
    )


class FinetuneArguments(Options):
    """What passes from the student to the target model."""

    student: str | None = option("A: folder or Hub id of the student trained on the source (anb, anb+).")
    teacher: str | None = option(
        "B: folder or Hub id of a model trained on the target. Its architecture is fine-tuned; the copied "
        "layers of bnb and bnb+ come from it. By default B is the student's architecture, untrained."
    )
    strategy: Literal["anb", "anb+", "bnb", "bnb+", "random", "scratch"] = option(
        "anb: copied layers are frozen; anb+: nothing is frozen; bnb, bnb+: the same with layers copied "
        "from B itself (control); random: frozen layers that nobody trained; scratch: nothing is copied. (A "
        "student's word embeddings that are as published, moved by no training on emotions, are the start of "
        "random and scratch too.)",
        "anb+",
    )
    num_layers: str = option(
        "How many layers pass, counted from the input: embeddings, each encoder layer, pooler, head; of a "
        "gru_cnn student word embeddings, GRU, each convolution, fc1, fc2 (a BERT: embeddings, each layer; a "
        "ResNet: stem, each of its four groups). all: every one. The last always trains.",
        "all",
    )
    head_init: Literal["collapse", "ridge", "random"] = option(
        "How the head passes. collapse: the student's own between equal architectures; else fc2 times fc1 "
        "as one linear map, its columns laid over the target's width in proportion; ridge: the linear map on the "
        "target's pooled outputs that best reproduces the student's logits on source data; random: it does not.",
        "collapse",
    )
    source_dataset: str | None = option(
        "Source data for ridge: folder or Hub id, its split 'train'. By default what the student was trained on."
    )
    copy_word_embeddings: bool = option(
        "Between different architectures: pass the student's word embeddings too; width and vocabulary must be equal.",
        False,
    )
    freeze_word_embeddings: bool | None = option(
        "true: the word embeddings are frozen under every strategy, which on a CPU saves much of a step "
        "where the vocabulary is BERT's; false: they train under every strategy. By default as the strategy says."
    )


@dataclass
class RunArguments(TrainingArguments):
    """`TrainingArguments` with defaults that train well here, and what new layers need."""

    output_dir: str = option("Folder for the checkpoint and its metrics.", required=True)
    learning_rate: Amount = option("Peak learning rate of AdamW.", 1e-4)
    head_learning_rate: Amount | None = option(
        "Learning rate of new layers (head, new visual projection), if another."
    )
    num_train_epochs: Amount = option("Passes over the training pairs at most.", 8)
    per_device_train_batch_size: Count = option("Pairs a step and device.", 32)
    per_device_eval_batch_size: Count = option("Pairs a step and device in evaluation.", 64)
    weight_decay: Amount = option("Of weights; biases and norms have none.", 0.01)
    warmup_steps: Amount = option("Warm-up steps; below 1 a share of all steps.", 0.1)
    eval_strategy: str = option("When to evaluate: no, steps or epoch.", "epoch")
    save_strategy: str = option("When to save: no, steps, epoch or best.", "epoch")
    logging_strategy: str = option("When to log: no, steps or epoch.", "epoch")
    save_total_limit: Count | None = option("Checkpoints kept beside the best.", 1)
    load_best_model_at_end: bool = option("End with the best checkpoint.", True)
    metric_for_best_model: str | None = option("What best means.", "loss")
    early_stopping_patience: Whole = option("Stop after so many evaluations without a better one; 0: never.", 3)
    train_sampling_strategy: Literal["random", "group_by_length"] = option(
        "random, or group_by_length: captions of like length in a step, so that little is padding.", "random"
    )
    remove_unused_columns: bool = option("Kept off: batches come ready-made.", False)
    dataloader_pin_memory: bool = option(
        "Batches wait in memory that an accelerator reads at once; on by default where there is one.",
        torch.accelerator.is_available,
    )
    license: str | None = option("Licence that the card names. By default that of the training data, if known.")
    bf16: bool = option(
        "bfloat16 autocast; on by default on GPUs that have it.",
        lambda: torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
    )

    intervals: ClassVar[dict[str, tuple[str, ...]]] = {
        "[0, inf)": (
            "adam_epsilon", "data_seed", "dataloader_num_workers", "eval_delay", "max_grad_norm",
            "neftune_noise_alpha", "seed",
        ),
        "[1, inf)": (
            "dataloader_prefetch_factor", "ddp_bucket_cap_mb", "ddp_timeout", "eval_accumulation_steps",
            "gradient_accumulation_steps", "torch_empty_cache_steps",
        ),
        "(0, inf)": ("eval_steps", "logging_steps", "save_steps"),  # below 1 a share of all steps
        "[0, 1)": ("adam_beta1", "adam_beta2", "label_smoothing_factor"),
        "[-1, inf)": ("max_steps",),
        "(-inf, inf)": ("local_rank",),  # launchers set it: -1 where one process runs, a rank where several do
    }  # fmt: skip
    """What the numbers among transformers' own options may be."""

    def __post_init__(self):
        check_options(self)  # before transformers works with them
        super().__post_init__()


@dataclass
class EmocapTrainingArguments(RunArguments):
    """Of models that tell emotions: their losses, and metrics."""

    loss: Literal["bce", "asl", "db"] = option(
        "bce: binary cross-entropy; asl: asymmetric loss, which counts easy negatives less; db: "
        "distribution-balanced loss with its focal term, which counts frequent emotions and easy entries less; it "
        "implies --sampling class_balanced. The probabilities of asl and db are not calibrated to how frequent "
        "an emotion is; temperature and thresholds, fitted on validation rows, mend their scale only.",
        "bce",
    )
    pos_weight: Annotated[float, "(0, inf)"] | None = option(
        "bce: positives of each emotion weigh as much as its negatives, but at most this. By default 1."
    )
    label_smoothing: Annotated[float, "[0, 1)"] = option(
        "How far targets move toward each emotion's share of the training rows, from 0 to below 1. (Not "
        "label_smoothing_factor, which knows single-label classes alone.)",
        0.0,
    )
    metric_for_best_model: str | None = option("What best means.", "map_macro")
    cache_frozen_outputs: bool = option(
        "Compute once what frozen parts give, and keep it in the output folder until the end, instead of running them "
        "in every epoch: where the head alone trains what it reads (float32: 3 kB a pair at width 768); where a "
        "text encoder's first layers are frozen what they make of the words (3 kB a token).",
        True,
    )

    def __post_init__(self):
        from emocap.metrics import GREATER_IS_BETTER, check_metric
        from emocap.models.common_emocap import check_loss

        if self.metric_for_best_model is not None:
            best = self.metric_for_best_model.removeprefix("eval_")
            if best != "loss":
                check_metric(best, "--metric_for_best_model")
            self.greater_is_better = GREATER_IS_BETTER.get(best, False)  # Trainer would take all but loss to be so
        super().__post_init__()
        check_loss(self.loss, self.pos_weight, self.label_smoothing)
        if self.label_smoothing_factor:
            raise ValueError("--label_smoothing_factor knows single-label classes alone; use --label_smoothing.")


@dataclass
class CaptionerTrainingArguments(RunArguments):
    """Of the captioner."""

    label_smoothing: Annotated[float, "[0, 1)"] = option(
        "Share of each word's target that is spread over the vocabulary, in training alone. (Not "
        "label_smoothing_factor, which would smooth the loss of validation rows too.)",
        0.0,
    )

    metric_for_best_model: str | None = option(
        "What best means: loss, of validation captions with wishes as in training; cider_d, how like greedy captions "
        "without a wish are to the pictures' own (CIDEr-D), on 200 validation pictures at most.",
        "loss",
    )
    self_critical_steps: Whole = option(
        "Steps of a second stage, in one process: sentences that the captioner draws itself for a wish are rewarded "
        "where the teacher finds the wish in them, for what they were worth without it, and for likeness to the "
        "picture's captions (self-critical sequence training, Rennie et al. 2017). 0: none.",
        0,
    )
    self_critical_learning_rate: Amount = option("Its learning rate.", 1e-4)
    self_critical_teacher: list[str] | None = option(
        "Folder or Hub id of the teacher that rewards, or of several (the one that scored the table's captions)."
    )

    def __post_init__(self):
        best = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if best not in ("loss", "cider_d"):
            raise ValueError(f"--metric_for_best_model is {self.metric_for_best_model}; it may be loss or cider_d.")
        self.greater_is_better = best == "cider_d"
        super().__post_init__()
        if self.label_smoothing_factor:
            raise ValueError(
                "--label_smoothing_factor smooths the loss of validation rows too; use --label_smoothing."
            )


def captioner_parser() -> OptionsParser:
    defaults = {"head_learning_rate": 1e-3}
    parts = (CaptionArguments, CaptionerArguments, CaptionerTrainingArguments)
    return OptionsParser(*parts, prog="emocap train-captioner", defaults=defaults)


def teacher_parser() -> OptionsParser:
    return make_parser("train-teacher", TeacherArguments, head_learning_rate=1e-3)


def student_parser() -> OptionsParser:
    return make_parser("train-student", StudentArguments, learning_rate=1e-3)


def finetune_parser() -> OptionsParser:
    return make_parser("finetune", FinetuneArguments, learning_rate=1e-3)


def make_parser(name: str, job: type, **defaults: Any) -> OptionsParser:
    return OptionsParser(DataArguments, job, EmocapTrainingArguments, prog=f"emocap {name}", defaults=defaults)


def make_arguments(parser: OptionsParser, options: Mapping[str, Any]) -> tuple:
    """A job's dataclasses from options by name; what is left out is the job's own default.

    Raises:
        TypeError: an option that the job does not have; names the nearest.
        ValueError: a value that the option may not have.
    """
    check_names(options, [own.name for part in parser.parts for own in option_fields(part)], f"`{parser.prog}`")
    values = {name: os.fspath(own) if isinstance(own, os.PathLike) else own for name, own in options.items()}
    data_args, job_args, training_args = parser.make(values)
    if isinstance(data_args, DataArguments):
        settle_sampling(data_args, training_args.loss)
    return data_args, job_args, training_args


def settle_sampling(data_args: DataArguments, loss: str) -> None:
    """Sets `sampling` where it was left open: class_balanced with the distribution-balanced loss, else shuffle.

    Raises:
        ValueError: another sampling beside that loss, whose weights undo what class-balanced draws do.
    """
    needed: Literal["class_balanced"] | None = "class_balanced" if loss == "db" else None
    data_args.sampling = data_args.sampling or needed or "shuffle"
    if needed and data_args.sampling != needed:
        raise ValueError(
            f"--sampling is {data_args.sampling} with --loss db; the distribution-balanced loss goes with "
            "class_balanced alone, which its weights presuppose. Leave --sampling out, or choose another loss."
        )


def arguments_to_dict(*groups: Any) -> dict[str, Any]:
    """All arguments of a run as plain values, tokens masked as `TrainingArguments.to_dict` does."""
    merged = {}
    for group in groups:
        merged |= group.to_dict() if isinstance(group, TrainingArguments) else dataclasses.asdict(group)
    return merged
