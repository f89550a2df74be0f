"""What the training commands take: dataclasses behind one parser a job, shared by script and sub-command."""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from emocap.data.storage import parse_json, read_text
from emocap.limits import check_names, check_numbers

__all__ = [
    "DataArguments",
    "EmocapTrainingArguments",
    "FinetuneArguments",
    "StudentArguments",
    "TeacherArguments",
    "arguments_to_dict",
    "file_flags",
    "finetune_parser",
    "make_arguments",
    "parse_arguments",
    "parse_options",
    "settle_sampling",
    "student_parser",
    "teacher_parser",
]


@dataclass
class DataArguments:
    """Which rows, which labels. `dataset` is None where the tables came from memory."""

    dataset: str | None = field(metadata={"help": "Folder of a table of pairs, or a Hub data set id."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(
        default="validation",
        metadata={"help": "Split for early stopping. Where the data set lacks it, a tenth of the training rows."},
    )
    test_split: str = field(
        default="test",
        metadata={"help": "Split that metrics.json reports. Where the data set lacks it, the evaluation split."},
    )
    label_column: str | None = field(
        default=None,
        metadata={
            "help": "Targets of training: labels, soft_labels; of pseudo-labels emotions (hard), emotion_scores "
            "(soft), ranked_emotions (1, 1/2, 1/3, ... by rank) or selected_for. By default labels, or emotions where "
            "there are no human labels."
        },
    )
    modalities: str = field(
        default="both", metadata={"help": "What the model sees of each pair.", "choices": ["both", "text", "image"]}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Tokens kept of a caption: the starting checkpoint's own, or 32 as in the study."},
    )
    selected_only: bool = field(
        default=False,
        metadata={"help": "Train on the rows that `emocap label` selected among the best images of some emotion."},
    )
    captions: str = field(
        default="all",
        metadata={
            "help": "all: an epoch sees every pair; random: every image once, with one of its captions, drawn anew.",
            "choices": ["all", "random"],
        },
    )
    sampling: str | None = field(
        default=None,
        metadata={
            "help": "shuffle: every pair or image once an epoch; class_balanced: draw an emotion uniformly, then one "
            "of the images selected_for it (without that column: that carry it), then a caption. By default shuffle; "
            "with --loss db class_balanced, which is part of it.",
            "choices": ["shuffle", "class_balanced"],
        },
    )
    mix_dataset: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a human-labelled table whose training rows train beside the others."},
    )
    mix_share: float = field(default=0.2, metadata={"help": "Share of mix_dataset's pairs in an epoch."})
    train_fraction: float = field(
        default=1.0, metadata={"help": "Train on this share of the training rows, drawn at random by the seed."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Keep the first N training rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Keep the first N rows to evaluate on."})


@dataclass
class TeacherArguments:
    """The teacher to build."""

    model_name_or_path: str = field(
        metadata={
            "help": "Body to start from: folder or Hub id of a VisualBERT, BERT or emocap teacher checkpoint; that of "
            "a teacher of other emotions gets a new head."
        }
    )
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "pooler: the body's trained pooler (published VisualBERTs); mean: mean over words and mean over "
            "regions, averaged (bodies without one). By default what the checkpoint calls for.",
            "choices": ["pooler", "mean"],
        },
    )
    fusion: str | None = field(
        default=None,
        metadata={
            "help": "early: words and regions attend to each other, as in VisualBERT; late: regions pass the body's "
            "embeddings alone and the logits of both are averaged, for few photos. By default what the checkpoint "
            "says, or early.",
            "choices": ["early", "late"],
        },
    )
    pooled_layers: list[int] | None = field(
        default=None,
        metadata={
            "help": "With mean pooling: the head reads the means of these layers, each of unit length, side by side "
            "(0: the embeddings, -1: the last layer). By default what the checkpoint says, or the last layer's mean."
        },
    )
    reinit_visual_projection: bool = field(
        default=False,
        metadata={"help": "Learn a new visual projection, for features of another detector than the body's."},
    )
    region_extractor: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the extractor that made the data set's region features, 'scenes' or "
            "torchvision:NAME: the teacher then reads photos by itself. A folder is copied into the checkpoint."
        },
    )
    freeze_body: bool = field(default=False, metadata={"help": "Train the linear head alone."})
    freeze_layers: int | None = field(
        default=None,
        metadata={"help": "Leave the words' embeddings and the body's first N layers as they are, for few rows."},
    )


@dataclass
class StudentArguments:
    """The student to build."""

    architecture: str = field(
        default="gru_cnn",
        metadata={
            "help": "gru_cnn: word embeddings, GRU and a small CNN; visualbert: the teacher's own architecture.",
            "choices": ["gru_cnn", "visualbert"],
        },
    )
    word_embeddings: str | None = field(
        default=None,
        metadata={
            "help": "gru_cnn: folder or Hub id of the BERT checkpoint whose vocabulary and word embeddings it takes."
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id. visualbert: body to start from. gru_cnn: a student checkpoint to go on from, "
            "if any."
        },
    )
    reinit_visual_projection: bool = field(
        default=False, metadata={"help": "visualbert: learn a new visual projection."}
    )
    freeze_word_embeddings: bool = field(
        default=True, metadata={"help": "Leave the pretrained word embeddings as they are."}
    )
    word_projection_size: int | None = field(
        default=None,
        metadata={"help": "Width to which a learned layer brings the word embeddings (none: as they are)."},
    )
    gru_hidden_size: int = field(default=256, metadata={"help": "Hidden units of the GRU."})
    gru_num_layers: int = field(default=1, metadata={"help": "Layers of the GRU."})
    text_encoder: str | None = field(
        default=None,
        metadata={
            "help": "gru_cnn: folder or Hub id of a BERT checkpoint that reads the captions in place of word "
            "embeddings and GRU, as the study tried too. It brings the vocabulary: leave --word_embeddings out."
        },
    )
    image_backbone: str | None = field(
        default=None,
        metadata={
            "help": "gru_cnn: torchvision's name of a ResNet that reads the photos in place of the small CNN, such as "
            "resnet50."
        },
    )
    image_weights: str | None = field(
        default=None,
        metadata={
            "help": "Its weights: a .safetensors file of its state dict, or torchvision's name of trained ones, such "
            "as DEFAULT, downloaded once. By default random."
        },
    )
    augment_photos: bool = field(
        default=False,
        metadata={
            "help": "gru_cnn: training sees a random crop of each photo, at least half of it, every second one "
            "mirrored, drawn anew in each epoch by the seed."
        },
    )
    image_size: int = field(default=224, metadata={"help": "Side in pixels to which photos are resized."})
    cnn_channels: list[int] = field(
        default_factory=lambda: [32, 64, 128, 256], metadata={"help": "Channels of the strided convolutions."}
    )
    fc_hidden_size: int = field(default=256, metadata={"help": "Width of fc1."})


@dataclass
class FinetuneArguments:
    """What passes from the student to the target model."""

    student: str | None = field(
        default=None, metadata={"help": "A: folder or Hub id of the student trained on the source (anb, anb+)."}
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "B: folder or Hub id of a model trained on the target. Its architecture is fine-tuned; the copied "
            "layers of bnb and bnb+ come from it. By default B is the student's architecture, untrained."
        },
    )
    strategy: str = field(
        default="anb+",
        metadata={
            "help": "anb: copied layers are frozen; anb+: nothing is frozen; bnb, bnb+: the same with layers copied "
            "from B itself (control); random: frozen layers that nobody trained; scratch: nothing is copied. (A "
            "student's word embeddings that are as published, moved by no training on emotions, are the start of "
            "random and scratch too.)",
            "choices": ["anb", "anb+", "bnb", "bnb+", "random", "scratch"],
        },
    )
    num_layers: str = field(
        default="all",
        metadata={
            "help": "How many layers pass, counted from the input: embeddings, each encoder layer, pooler, head; of a "
            "gru_cnn student word embeddings, GRU, each convolution, fc1, fc2 (a BERT: embeddings, each layer; a "
            "ResNet: stem, each of its four groups). all: every one. The last always trains."
        },
    )
    head_init: str = field(
        default="collapse",
        metadata={
            "help": "How the head passes. collapse: the student's own between equal architectures; else fc2 times fc1 "
            "as one linear map, its columns laid over the target's width in proportion; ridge: the linear map on the "
            "target's pooled outputs that best reproduces the student's logits on source data; random: it does not.",
            "choices": ["collapse", "ridge", "random"],
        },
    )
    source_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Source data for ridge: folder or Hub id, its split 'train'. By default what the student was "
            "trained on."
        },
    )
    copy_word_embeddings: bool = field(
        default=False,
        metadata={
            "help": "Between different architectures: pass the student's word embeddings too; width and vocabulary "
            "must be equal."
        },
    )
    freeze_word_embeddings: bool | None = field(
        default=None,
        metadata={
            "help": "true: the word embeddings are frozen under every strategy, which on a CPU saves much of a step "
            "where the vocabulary is BERT's; false: they train under every strategy. By default as the strategy says."
        },
    )


@dataclass
class EmocapTrainingArguments(TrainingArguments):
    """`TrainingArguments` with defaults that train well here, and what a new head needs."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder for the checkpoint and its metrics."})
    loss: str = field(
        default="bce",
        metadata={
            "help": "bce: binary cross-entropy; asl: asymmetric loss, which counts easy negatives less; db: "
            "distribution-balanced loss with its focal term, which counts frequent emotions and easy entries less; it "
            "implies --sampling class_balanced. The probabilities of asl and db are not calibrated to how frequent "
            "an emotion is; temperature and thresholds, fitted on validation rows, mend their scale only.",
            "choices": ["bce", "asl", "db"],
        },
    )
    pos_weight: float | None = field(
        default=None,
        metadata={
            "help": "bce: positives of each emotion weigh as much as its negatives, but at most this. By default 1."
        },
    )
    label_smoothing: float = field(
        default=0.0,
        metadata={
            "help": "How far targets move toward each emotion's share of the training rows, from 0 to below 1. (Not "
            "label_smoothing_factor, which knows single-label classes alone.)"
        },
    )
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of new layers (head, new visual projection), if another."}
    )
    num_train_epochs: float = field(default=8, metadata={"help": "Passes over the training pairs at most."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Pairs a step and device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Pairs a step and device in evaluation."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of weights; biases and norms have none."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up steps; below 1 a share of all steps."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: no, steps or epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept beside the best."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    metric_for_best_model: str | None = field(default="map_macro", metadata={"help": "What best means."})
    early_stopping_patience: int = field(
        default=3, metadata={"help": "Stop after so many evaluations without a better one; 0: never."}
    )
    train_sampling_strategy: str = field(
        default="random",
        metadata={
            "help": "random, or group_by_length: captions of like length in a step, so that little is padding.",
            "choices": ["random", "group_by_length"],
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Kept off: batches come ready-made."})
    cache_frozen_outputs: bool = field(
        default=True,
        metadata={
            "help": "Where the head alone trains, compute what it reads once and keep it in the output folder until "
            "the end (float32: 3 kB a pair at width 768), instead of running the frozen body in every epoch."
        },
    )
    license: str | None = field(
        default=None, metadata={"help": "Licence that the card names. By default that of the training data, if known."}
    )
    bf16: bool = field(
        default_factory=lambda: torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        metadata={"help": "bfloat16 autocast; on by default on GPUs that have it."},
    )

    def __post_init__(self):
        from emocap.metrics import GREATER_IS_BETTER, check_metric
        from emocap.models.losses_emocap import check_loss

        check_numbers(vars(self))  # before transformers works with them
        if self.metric_for_best_model is not None:
            best = self.metric_for_best_model.removeprefix("eval_")
            if best != "loss":
                check_metric(best, "--metric_for_best_model")
            self.greater_is_better = GREATER_IS_BETTER.get(best, False)  # Trainer would take all but loss to be so
        super().__post_init__()
        check_loss(self.loss, self.pos_weight, self.label_smoothing)
        if self.label_smoothing_factor:
            raise ValueError("--label_smoothing_factor knows single-label classes alone; use --label_smoothing.")


def teacher_parser() -> HfArgumentParser:
    return make_parser("train-teacher", "Train a teacher on human labels.", TeacherArguments, head_learning_rate=1e-3)


def student_parser() -> HfArgumentParser:
    return make_parser("train-student", "Train a student.", StudentArguments, learning_rate=1e-3)


def finetune_parser() -> HfArgumentParser:
    return make_parser(
        "finetune", "Fine-tune onto the target: AnB, AnB+ and controls.", FinetuneArguments, learning_rate=1e-3
    )


def make_parser(name: str, description: str, job: type, **defaults: object) -> HfArgumentParser:
    parser = HfArgumentParser(
        (DataArguments, job, EmocapTrainingArguments),
        prog=f"emocap {name}",
        allow_abbrev=False,  # a misspelt key of a run file is an error, not another option
        description=f"{description} Flags, or one YAML or JSON file (a path or a preset's name) with flags after it.",
    )
    parser.set_defaults(**defaults)
    return parser


def parse_arguments(parser: HfArgumentParser, argv: list[str] | None = None) -> tuple:
    """Dataclasses from flags, or from one YAML or JSON file whose values later flags override.

    Raises:
        SystemExit: with a usage message, on an unknown flag or key.
    """
    return make_arguments(parser, parse_options(parser, list(sys.argv[1:] if argv is None else argv)))


def parse_options(parser: HfArgumentParser, argv: list[str]) -> dict[str, object]:
    """Every option of a command by its name, from flags as in `parse_arguments`."""
    if argv and not argv[0].startswith("-"):
        argv = [*file_flags(parser, argv[0]), *argv[1:]]
    options = vars(parser.parse_args(argv))
    if not options["output_dir"]:
        parser.error("the following arguments are required: --output_dir")
    return options


def make_arguments(parser: HfArgumentParser, options: Mapping[str, object]) -> tuple:
    """Dataclasses from options by the names of the command's flags; what is left out is the command's own default.

    Raises:
        TypeError: an option that the command does not have; names the nearest.
        ValueError: a value that the option may not have.
    """
    kinds = parser.dataclass_types
    known = {own.name: own for kind in kinds for own in dataclasses.fields(kind) if own.init}
    check_names(options, known, f"`{parser.prog}`")
    for name, value in options.items():
        choices = known[name].metadata.get("choices")
        for own in value if isinstance(value, (list, tuple)) else [value]:
            if choices and own is not None and own not in choices:
                raise ValueError(f"{name} is '{own}'; expected one of {', '.join(map(str, choices))}.")
    values = {name: value for name, value in parser._defaults.items() if name in known} | {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()
    }
    data_args, job_args, training_args = (
        kind(**{own.name: values[own.name] for own in dataclasses.fields(kind) if own.name in values})
        for kind in kinds
    )
    for own in (data_args, job_args):
        check_numbers(vars(own))
    settle_sampling(data_args, training_args.loss)
    return data_args, job_args, training_args


def settle_sampling(data_args: DataArguments, loss: str) -> None:
    """Sets `sampling` where it was left open: class_balanced with the distribution-balanced loss, else shuffle.

    Raises:
        ValueError: another sampling beside that loss, whose weights undo what class-balanced draws do.
    """
    needed = "class_balanced" if loss == "db" else None
    data_args.sampling = data_args.sampling or needed or "shuffle"
    if needed and data_args.sampling != needed:
        raise ValueError(
            f"--sampling is {data_args.sampling} with --loss db; the distribution-balanced loss goes with "
            "class_balanced alone, which its weights presuppose. Leave --sampling out, or choose another loss."
        )


def file_flags(parser: HfArgumentParser, name: str) -> list[str]:
    """The flags that a run file stands for."""
    path = Path(name)
    preset = resources.files("emocap.presets").joinpath(f"{name}.yaml")
    if path.suffix in (".yaml", ".yml", ".json") and path.is_file():
        text = read_text(path, "a run's names and values")
    elif preset.is_file():
        text = preset.read_text("utf-8")
    else:
        known = sorted(
            entry.name[:-5] for entry in resources.files("emocap.presets").iterdir() if ".yaml" in entry.name
        )
        parser.error(f"'{name}' is neither a YAML or JSON file nor a preset (presets: {', '.join(known)}).")
    content = parse_run_file(text, name)
    if not isinstance(content, dict):
        parser.error(f"'{name}' holds a {type(content).__name__}; expected names and values.")
    flags = []
    for key, value in content.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        flags += [f"--{key}", *map(str, values)]
    return flags


def parse_run_file(text: str, name: str) -> object:
    """What a JSON or YAML text holds: plain values, since a tag of YAML could stand for any object.

    Raises:
        ValueError: it cannot be read, has tags, or is nested too deeply.
    """
    try:
        return parse_json(text) if name.endswith(".json") else yaml.safe_load(text)
    except RecursionError:
        raise ValueError(f"'{name}' cannot be read: it is nested too deeply; expected names and values.") from None
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"'{name}' cannot be read: {reason}; expected names and plain values.") from None


def arguments_to_dict(*groups: object) -> dict[str, object]:
    """All arguments of a run as plain values, tokens masked as `TrainingArguments.to_dict` does."""
    merged = {}
    for group in groups:
        merged |= group.to_dict() if isinstance(group, TrainingArguments) else dataclasses.asdict(group)
    return merged
