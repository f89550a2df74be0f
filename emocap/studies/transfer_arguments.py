"""What the transfer study takes."""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from emocap.arguments import file_flags
from emocap.limits import check_numbers
from emocap.studies.skeleton import StudyArguments

__all__ = ["TransferArguments", "parse_study", "study_parser"]


@dataclass(kw_only=True)
class TransferArguments(StudyArguments):
    """The transfer study: two tables, a student's architecture, and which networks to train."""

    source_dataset: str | None = field(
        default=None,
        metadata={"help": "A: folder or Hub id of a table with labels or pseudo-labels. Preset scenes makes its own."},
    )
    target_dataset: str | None = field(
        default=None, metadata={"help": "B: folder or Hub id of a table with human labels."}
    )
    freeze_word_embeddings: bool = field(
        default=True,
        metadata={
            "help": "Give every network, scratch too, these word embeddings and freeze them; else each draws its own, "
            "which are learned and pass like any other layer."
        },
    )
    max_length: int | None = field(default=None, metadata={"help": "Tokens kept of a caption: 32 as in the study."})
    source_label_column: str | None = field(
        default=None, metadata={"help": "What the source teaches: emotion_scores where it has pseudo-labels."}
    )
    target_label_column: str | None = field(default=None, metadata={"help": "What the target teaches: labels."})
    directions: list[str] = field(
        default_factory=lambda: ["source_to_target", "target_to_source"],
        metadata={"help": "Which side is A.", "choices": ["source_to_target", "target_to_source"]},
    )
    strategies: list[str] = field(
        default_factory=lambda: ["scratch", "anb", "anb+", "bnb", "bnb+", "bnb+ matched", "random"],
        metadata={
            "help": "Ways to start; scratch, the base network of the others, always runs. 'bnb+ matched': the control "
            "of equal length, whose base network takes as many steps on its own rows as A's took."
        },
    )
    num_layers: list[str] = field(
        default_factory=lambda: ["every"],
        metadata={"help": "Numbers of layers that pass: every, all (the head too), or some numbers."},
    )
    sizes: list[int] = field(
        default_factory=lambda: [100, 300, 1000], metadata={"help": "Training rows of the side that is B."}
    )
    layer_sizes: list[int] = field(
        default_factory=list, metadata={"help": "Sizes at which num_layers counts; at the others all pass. None: all."}
    )
    num_seeds: int = field(default=4, metadata={"help": "Draws of rows, base networks and fresh layers."})
    base_steps: int = field(default=1500, metadata={"help": "Steps at most of networks trained on all rows of A."})
    block: str = field(default="transfer", metadata={"help": "... between its '<!-- BLOCK -->' comments."})

    def __post_init__(self):
        check_numbers(vars(self), max_steps=1)


def study_parser() -> HfArgumentParser:
    parser = HfArgumentParser(
        TransferArguments,
        prog="emocap transfer-study",
        allow_abbrev=False,
        description="Every strategy, number of layers, size and seed in one table and one figure. What is finished is "
        "not repeated.",
    )
    parser.add_argument(
        "--preset",
        choices=["scenes", "real"],
        help="settings to start from; flags override them. scenes makes the built-in corpus and labels it too",
    )
    return parser


def parse_study(parser: HfArgumentParser, argv: list[str]) -> tuple[TransferArguments, str | None]:
    """The study's settings, a preset's overridden by flags, and the preset's name."""
    preset = parser.parse_known_args(argv)[0].preset
    flags = file_flags(parser, f"transfer_{preset}") if preset else []
    arguments, _ = parser.parse_args_into_dataclasses([*flags, *argv])
    if preset != "scenes":
        for name in ("source_dataset", "target_dataset", "word_embeddings"):
            if getattr(arguments, name) is None:
                parser.error(f"the following arguments are required: --{name}")
    return arguments, preset
