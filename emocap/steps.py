"""The front door: what each command does, as a function of tables. Commands, studies and folds call these.

Tables are a `DatasetDict`, or the folder or Hub id of one; a model is a folder, a Hub id or an earlier `Result`.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from datasets import DatasetDict

from emocap.arguments import captioner_parser, finetune_parser, make_arguments, student_parser, teacher_parser
from emocap.cards.models import write_model_card
from emocap.data.ranks import launched_ranks
from emocap.data.storage import load_table
from emocap.evaluation.captioner import evaluate_captioner
from emocap.evaluation.evaluate import evaluate, model_names
from emocap.hub.publishing import check_login, publish
from emocap.options import OptionsParser
from emocap.pseudo_labels.labelling import label_tables
from emocap.records import Result
from emocap.report.labels_page import write_label_page
from emocap.training.captioner import train_captioner as train_captioner_of
from emocap.training.jobs import train

__all__ = [
    "evaluate",
    "evaluate_captioner",
    "finetune",
    "label",
    "train_captioner",
    "train_student",
    "train_teacher",
]

Tables: TypeAlias = DatasetDict | str | os.PathLike


def train_teacher(
    tables: Tables, model_name_or_path: str | os.PathLike, output_dir: str | os.PathLike, **options: Any
) -> Result:
    """Trains a teacher on human labels, as `emocap train-teacher` does.

    Args:
        tables: with a split `train`, and by default `validation` and `test`.
        model_name_or_path: the body to start from: a VisualBERT, a BERT or a teacher.
        output_dir: folder of the run: the best checkpoint, its processor, metrics.json, arguments and card.
        options: by the names of the command's flags, which its `--help` explains.

    Raises:
        TypeError: there is no such option; the error names the nearest.
        ValueError: rows or options that do not fit, before anything is loaded.
    """
    return run_step(
        partial(train, "teacher"), teacher_parser, tables, output_dir, model_name_or_path=model_name_or_path, **options
    )


def train_student(tables: Tables, output_dir: str | os.PathLike, **options: Any) -> Result:
    """Trains a student, by default on the pseudo-labels of a table that has no human ones, as `emocap train-student`
    does; see `train_teacher`. A new one needs `word_embeddings`, the BERT whose vocabulary it reads."""
    return run_step(partial(train, "student"), student_parser, tables, output_dir, **options)


def finetune(tables: Tables, output_dir: str | os.PathLike, **options: Any) -> Result:
    """Fine-tunes a `student`, or a `teacher`, onto human labels by a `strategy`, as `emocap finetune` does; see
    `train_teacher`."""
    return run_step(partial(train, "finetuned"), finetune_parser, tables, output_dir, **options)


def train_captioner(
    tables: Tables, model_name_or_path: str | os.PathLike, output_dir: str | os.PathLike, **options: Any
) -> Result:
    """Trains a captioner on a table with region features and a teacher's scores of each caption, as `emocap
    train-captioner` does; see `train_teacher`.

    Args:
        tables: what `emocap label` leaves of a table with region features.
        model_name_or_path: what to start from: a causal language model or a captioner.
        output_dir: folder of the run.
        options: by the names of the command's flags, which its `--help` explains.
    """
    options |= {"model_name_or_path": model_name_or_path}
    return run_step(train_captioner_of, captioner_parser, tables, output_dir, **options)


def label(
    tables: Tables,
    teacher: str | os.PathLike | Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    split: Sequence[str] | None = None,
    batch_size: int = 64,
    bf16: bool | None = None,
    **selection: Any,
) -> DatasetDict:
    """Pseudo-labels from a teacher or several, and a page that shows them, as `emocap label` writes them; see
    `label_tables`.

    Args:
        tables: the table to label.
        teacher: the model that labels, or several that do so together.
        output_dir: folder for the augmented table.
        split: splits to label; None: all.
        batch_size: pairs a step.
        bf16: bfloat16 autocast; None: on GPUs that have it.
        selection: what becomes a label, see `emocap.pseudo_labels.selection.Selection`.

    Raises:
        TypeError: the selection has no such option; the error names the nearest.
        ValueError: an unknown split, or as `label_tables`.
    """
    tables, output_dir = load_tables(tables), os.fspath(output_dir)
    for name in split or []:
        if name not in tables:
            raise ValueError(f"The data set has no split '{name}' (splits: {', '.join(tables)}).")
    chosen = DatasetDict({name: tables[name] for name in split or tables})
    labelled = label_tables(chosen, model_names(teacher), output_dir, batch_size=batch_size, bf16=bf16, **selection)
    if launched_ranks().is_first:
        write_label_page(output_dir)
    return labelled


def load_tables(tables: Tables) -> DatasetDict:
    return tables if isinstance(tables, DatasetDict) else load_table(tables)


def run_step(
    job: Callable[..., Result],
    parser: Callable[[], OptionsParser],
    tables: Tables,
    output_dir: str | os.PathLike,
    **options: Any,
) -> Result:
    """A training with its card and, with `push_to_hub`, its publication as `emocap publish` would do it; `Trainer`
    itself pushes nothing. Whether the Hub takes the token is asked before the training, not after hours."""
    options |= {"output_dir": output_dir, "dataset": None if isinstance(tables, DatasetDict) else os.fspath(tables)}
    data_args, model_args, training_args = make_arguments(parser(), options)
    is_asked, training_args.push_to_hub = training_args.push_to_hub and training_args.should_save, False
    folder = Path(training_args.output_dir)
    repo_id = training_args.hub_model_id or folder.name
    if is_asked:
        check_login(repo_id, training_args.hub_token)
    result = job(load_tables(tables), data_args, model_args, training_args)
    if training_args.should_save:
        write_model_card(folder)
    if is_asked:
        publish(
            folder,
            repo_id,
            private=bool(training_args.hub_private_repo),
            revision=training_args.hub_revision,
            token=training_args.hub_token,
        )
    return result
