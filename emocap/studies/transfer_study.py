"""The transfer study (Yosinski et al. 2014): every strategy x every number of layers x seeds x target sizes.

A and B are two tables of one set of emotions, the source and the target, and each direction has its own runs. A base
network is trained on all rows of one side; the target network and its controls on `size` rows of the other. What one
seed shares: the rows drawn (nested, so 100 rows are among the 300), the base networks, the draw of fresh layers.

AnB and AnB+ start from a base network that took many more steps than BnB+'s, which is the scratch run of its rows.
`bnb+ matched` is the control of equal length: its base network takes exactly as many steps on those rows as A's base
of the same seed took on all of A's, on the same schedule. Patience does not end it, since on few rows it would end it
early; like every network it is left at its best evaluated state.
"""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import DatasetDict
from transformers import AutoConfig, set_seed

from emocap.data.schema import group_keys, label_names, split_of
from emocap.data.storage import load_table
from emocap.data.truth import truth_column
from emocap.metrics import compute_metrics, prior_probabilities
from emocap.models import EmocapProcessor
from emocap.studies.options import TransferArguments
from emocap.studies.runs import Part, Recipe, fit, part_probabilities
from emocap.studies.skeleton import Study, digest
from emocap.training.build import build_student
from emocap.training.surgery import MODELS, STRATEGIES, check_frozen, check_num_layers, check_transfer, transfer_model

__all__ = ["Run", "TransferStudy"]

MATCHED = " matched"
"""Ends the name of the control whose base network took as many steps as A's, and of that base, a scratch run."""

STUDY_STRATEGIES = (*STRATEGIES, f"bnb+{MATCHED}")
SIDES = ("source", "target")
OTHER = {"source": "target", "target": "source"}
FRESH_SEED = 1000
"""Added to a seed where layers are drawn beside copied ones: a control whose fresh layers began where those of its own
base network did would find their old partners again."""


class Run(NamedTuple):
    """One network: trained and measured on `side`; see `Study.start_of` for where its layers come from."""

    side: str
    size: int | None  # rows of the side; None: all, a base network
    seed: int
    strategy: str  # of `STUDY_STRATEGIES`, or "scratch matched"
    num_layers: str  # that pass; "0" for scratch

    @property
    def is_base(self) -> bool:
        """Whether others may start from it: it is drawn afresh as a whole and kept."""
        return self.num_layers == "0"


class Side(NamedTuple):
    """One of the two tables: its splits, and which columns teach and judge."""

    splits: DatasetDict
    label_column: str
    truth_column: str


class TransferStudy(Study[Run, TransferArguments]):
    """Tables and networks of one study; tokens and pixels are made once a process.

    Raises:
        ValueError: settings or tables that do not fit, before anything is trained.
    """

    def __init__(self, arguments: TransferArguments):
        super().__init__(arguments)
        assert arguments.source_dataset and arguments.target_dataset  # the command has looked
        self.sides = {
            "source": load_side(arguments.source_dataset, arguments.source_label_column, arguments.max_eval_samples),
            "target": load_side(arguments.target_dataset, arguments.target_label_column, arguments.max_eval_samples),
        }
        self.total = len(arguments.cnn_channels) + 4  # word embeddings, GRU, convolutions, fc1, fc2
        self.check()
        untrained = [self.student_settings(), label_names(self.sides["target"].splits)]
        self.architecture = self.output_dir / "bases" / f"architecture-{digest(untrained)}"

    def check(self) -> None:
        """Refuses what cannot run, before any model is built."""
        names = {side: label_names(self.sides[side].splits) for side in SIDES}
        if names["source"] != names["target"]:
            raise ValueError(
                f"Source and target must have one set of emotions in one order: the source has {len(names['source'])} "
                f"({', '.join(names['source'][:3])} ...), the target {len(names['target'])} "
                f"({', '.join(names['target'][:3])} ...). Label the source by a teacher of the target."
            )
        for side in self.trained_sides():
            rows = len(self.sides[side].splits["train"])
            if max(self.arguments.sizes) > rows:
                raise ValueError(
                    f"--sizes has {max(self.arguments.sizes)}, but the {side} has {rows} training rows to draw from."
                )
        if unknown := sorted(set(self.arguments.strategies) - set(STUDY_STRATEGIES)):
            known = ", ".join(STUDY_STRATEGIES)
            raise ValueError(f"--strategies has {', '.join(unknown)}; expected some of {known}.")
        for number in self.arguments.num_layers:
            if number != "every":
                check_num_layers(self.total, number, "anb")
        words = self.arguments.word_embeddings
        if self.arguments.freeze_word_embeddings and AutoConfig.from_pretrained(words).model_type in MODELS:
            raise ValueError(
                f"--word_embeddings '{words}' is a model trained on emotions: scratch, given its word embeddings, "
                "would start from what that training taught. Name a published checkpoint, or let every network learn "
                "its own (--no_freeze_word_embeddings)."
            )

    def trained_sides(self) -> list[str]:
        """The sides that networks are fine-tuned onto."""
        return [OTHER[direction.partition("_to_")[0]] for direction in self.arguments.directions]

    def prepare(self) -> None:
        """Saves the untrained architecture and its processor; resizes the photos once, for every process."""
        super().prepare()
        if not (self.architecture / "config.json").is_file():
            model, processor, _ = build_student(self.student(), label_names(self.sides["target"].splits))
            processor.max_length = self.arguments.max_length or processor.max_length
            given = self.arguments.freeze_word_embeddings
            model.config.given_word_embeddings = given  # else each network draws its own
            processor.save_pretrained(self.architecture)
            model.save_pretrained(self.architecture)
        for side in SIDES:
            for split in ("train", "validation", "test"):
                self.part(side, split)

    def stages(self) -> list[list[Run]]:
        """The networks that others start from, those of matched length after A's, then the others."""
        sides, sizes, arguments = self.trained_sides(), self.arguments.sizes, self.arguments
        seeds, copying = range(arguments.num_seeds), [name for name in arguments.strategies if name != "scratch"]
        bases = [Run(OTHER[side], None, seed, "scratch", "0") for seed in seeds for side in sides]
        scratch = [Run(side, size, seed, "scratch", "0") for size in sizes for seed in seeds for side in sides]
        is_matched = any(name.endswith(MATCHED) for name in copying)
        matched = [run._replace(strategy=f"scratch{MATCHED}") for run in scratch] if is_matched else []
        rest = [
            Run(side, size, seed, strategy, number)
            for size in sizes
            for seed in seeds
            for side in sides
            for strategy in copying
            for number in self.layers(size, strategy)
        ]
        return [[*bases, *scratch], matched, rest]

    def layers(self, size: int, strategy: str) -> list[str]:
        """Numbers of layers at a size. A random network has no head to pass: its last number is one less."""
        last = self.total - (strategy == "random")
        if self.arguments.layer_sizes and size not in self.arguments.layer_sizes:
            return [str(last)]
        numbers = set()
        for number in self.arguments.num_layers:
            numbers |= set(range(1, last + 1)) if number == "every" else {last if number == "all" else int(number)}
        return [str(number) for number in sorted(numbers) if 1 <= number <= last]

    def recipe_of(self, run: Run) -> Recipe:
        is_long = run.size is None or run.strategy == f"scratch{MATCHED}"
        return self.recipe(self.arguments.base_steps if is_long else self.arguments.max_steps)

    def settings(self, run: Run) -> dict[str, Any]:
        """Everything that the run's result depends on."""
        side = self.sides[run.side]
        settings = {
            **run._asdict(),
            "recipe": self.recipe_of(run)._asdict(),
            "student": self.student_settings(),
            "data": [side.splits[name]._fingerprint for name in ("train", "validation", "test")],
            "label_column": side.label_column,
            "truth": side.truth_column,
        }
        if run.strategy.startswith("anb") or run.strategy.endswith(MATCHED):
            settings["source"] = self.settings(self.base_of(run))
        return settings

    def student_settings(self) -> dict[str, Any]:
        size = ("image_size", "cnn_channels", "hidden_size", "max_length")
        known = ("word_embeddings", "freeze_word_embeddings", *size)
        return {name: getattr(self.arguments, name) for name in known}

    def base_of(self, run: Run) -> Run:
        """A's network of the run's seed: trained on all rows of the other side."""
        return Run(OTHER[run.side], None, run.seed, "scratch", "0")

    def start_of(self, run: Run) -> Run | None:
        """The network whose layers pass to this one: A's, or B's own of the same rows; None where no layer passes."""
        if run.strategy.startswith("anb"):
            return self.base_of(run)
        if run.strategy.startswith("bnb"):
            name = f"scratch{MATCHED}" if run.strategy.endswith(MATCHED) else "scratch"
            return run._replace(strategy=name, num_layers="0")
        return None

    def steps_of(self, run: Run) -> int:
        """Training steps that a finished run took."""
        return self.content(run)["history"]["steps"]

    def checkpoint(self, run: Run) -> str:
        return str(self.output_dir / "bases" / self.key(run))

    def train(self, run: Run) -> tuple[dict[str, Any], np.ndarray]:
        start = time.process_time()
        part = self.part(run.side, "train")
        rows = np.arange(len(part.truth.labels))
        if run.size is not None:
            rows = np.random.default_rng(run.seed).permutation(len(rows))[: run.size]
        train = part.of_rows(rows)
        seed, start_run = run.seed + FRESH_SEED * (not run.is_base), self.start_of(run)
        set_seed(seed)
        is_anb, is_bnb = run.strategy.startswith("anb"), run.strategy.startswith("bnb")
        plan = check_transfer(
            student=self.checkpoint(start_run) if start_run and is_anb else str(self.architecture),
            teacher=self.checkpoint(start_run) if start_run and is_bnb else None,
            strategy=run.strategy.removesuffix(MATCHED),
            num_layers=run.num_layers,
            freeze_word_embeddings=self.arguments.freeze_word_embeddings or None,
        )
        model, processor, surgery = transfer_model(plan, prior_probabilities(train.targets))
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        steps = self.steps_of(self.base_of(run)) if run.strategy == f"scratch{MATCHED}" else None
        history = fit(model, train, self.part(run.side, "validation"), self.recipe_of(run), seed, steps)
        after = check_frozen(model, surgery)
        if after["moved"]:
            raise RuntimeError(f"Training moved frozen tensors: {', '.join(after['moved'][:5])}.")
        if run.is_base:
            folder = self.checkpoint(run)
            model.config.modalities = "both" if part.pairs.reads_photos else "text"
            processor.save_pretrained(folder)
            model.save_pretrained(folder)
        test = self.part(run.side, "test")
        probabilities = part_probabilities(model, test)
        content = {
            "settings": self.settings(run),
            "metrics": compute_metrics(probabilities, test.truth.labels),
            "history": history | {"cpu_seconds": round(time.process_time() - start, 2)},
            "surgery": surgery | {"after_training": after},
        }
        return content, probabilities

    def part(self, side: str, split: str) -> Part:
        if (side, split) not in self.parts:
            own = self.sides[side]
            processor = EmocapProcessor.from_pretrained(str(self.architecture))
            column = own.label_column if split == "train" else own.truth_column
            self.parts[side, split] = Part(own.splits[split], processor, column, own.truth_column)
        return self.parts[side, split]


def load_side(dataset: str, label_column: str | None, max_eval_samples: int | None) -> Side:
    """A table's train, validation and test rows; a table of one split is divided by a hash of its image ids or groups.

    Raises:
        ValueError: no training split, a split without rows, or rows without labels.
    """
    tables = load_table(dataset)
    if "train" not in tables:
        raise ValueError(f"'{dataset}' has no split 'train' (splits: {', '.join(tables)}).")
    names = ("train", "validation", "test")
    if "validation" in tables and "test" in tables:
        splits = {name: tables[name] for name in names}
    else:
        where = np.array([split_of(key) for key in group_keys(tables["train"])])
        splits = {name: tables["train"].select(np.flatnonzero(where == name)) for name in names}
    if max_eval_samples:
        splits["validation"] = splits["validation"].select(range(min(max_eval_samples, len(splits["validation"]))))
    for name, split in splits.items():
        if not len(split):
            raise ValueError(
                f"The {name} split of '{dataset}' is empty; a study needs train, validation and test rows."
            )
    truth = truth_column(splits["train"])
    scores = "emotion_scores" in splits["train"].features and truth == "emotions"
    return Side(DatasetDict(splits), label_column or ("emotion_scores" if scores else truth), truth)
