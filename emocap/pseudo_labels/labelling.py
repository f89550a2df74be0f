"""The labelling job: a teacher scores every image of a table, and pseudo-labels are selected from the scores."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, concatenate_datasets
from transformers import AutoModel, PreTrainedModel

from emocap.data.batches import BatchFunction, config_fields, digest_of, pick_rank_device, weights_hash
from emocap.data.pairs import label_matrix
from emocap.data.ranks import launched_ranks
from emocap.data.shards import job_fingerprint, map_in_shards
from emocap.data.storage import DataReport, check_output_dir, load_table, save_table
from emocap.evaluation.scoring import Committee
from emocap.models import EmocapProcessor
from emocap.models.common_emocap import CommitteeConfig
from emocap.options import check_names
from emocap.pseudo_labels.selection import Selected, Selection
from emocap.pseudo_labels.statistics import label_statistics
from emocap.records import STATISTICS_FILE
from emocap.regions.extraction import is_result_of
from emocap.terminal import progress

__all__ = ["PseudoLabels", "label_tables", "score_columns"]

HUMAN_COLUMNS = ("labels", "soft_labels", "votes", "num_annotators")
OWN_COLUMNS = ("emotion_scores", "caption_disagreement", "caption_scores", "emotions", "selected_for")


Member: TypeAlias = tuple[PreTrainedModel, EmocapProcessor]


class PseudoLabels(BatchFunction):
    """One teacher, or several, as a function of rows: what they read of a batch gives `emotion_scores`,
    `caption_disagreement` and `caption_scores`, and of several `model_disagreement`, as `emocap label` writes them:
    see `label_tables`.

        labels = PseudoLabels("me/teacher")
        features = Features(table.features | labels.features)
        table.map(labels, batched=True, with_rank=True, features=features)

    Rows that hold nothing a teacher reads get nulls; photos that cannot be read are logged. The same rows in one call
    give the same bytes on a CPU, in the same number of threads; another cut of the table may change last bits. Which
    scores become labels is a step of its own, `select_pseudo_labels`: an emotion's best images show in the whole table
    alone, and an image's best emotions are in its scores.

    Args:
        teacher: folder or Hub id of an emocap model, or several, whose logits are averaged.
        batch_size: pairs a step.
        bf16: bfloat16 autocast; None: on GPUs that have it.

    Attributes:
        features, fingerprint: see `BatchFunction`.

    Raises:
        ValueError: no teacher, a model of another family or of other emotions than the first, or weights that are not
            finite.
    """

    def __init__(
        self,
        teacher: str | os.PathLike | Sequence[str | os.PathLike],
        batch_size: int = 64,
        *,
        bf16: bool | None = None,
    ) -> None:
        teachers = [teacher] if isinstance(teacher, (str, os.PathLike)) else teacher
        self.source, self.batch_size, self.bf16 = [os.fspath(own) for own in teachers], batch_size, bf16
        if not self.source:
            raise ValueError("There is no teacher; give the folder or Hub id of one, or a list of several.")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more pairs a step.")
        self.committee = Committee(self.source)
        self.reads, self.features = tuple(columns_read(self.committee)), score_columns(self.committee)
        super().__init__(bf16=bf16)

    def load(self) -> list[Member]:
        members = [
            (AutoModel.from_pretrained(own).eval(), EmocapProcessor.from_pretrained(own)) for own in self.source
        ]
        for own, (model, _) in zip(self.source, members, strict=True):
            check_weights(model, own)
        return members

    def describe(self, loaded: list[Member]) -> dict[str, Any]:
        return {
            "weights": [weights_hash(model) for model, _ in loaded],
            "config": [config_fields(model) for model, _ in loaded],
            "max_length": [processor.max_length for _, processor in loaded],
            "vocabulary": [digest_of(processor.tokenizer.get_vocab()) for _, processor in loaded],
        }

    def compute(self, rows: Dataset, rank: int | None) -> pa.Table:
        if len(rows):
            self.committee.check(rows)
            for own, config in zip(self.source, self.committee.configs, strict=True):
                if "captions" not in rows.features and config.modalities != "image":
                    raise ValueError(f"The batch has no column 'captions', which '{own}' reads.")
        return self.score(rows, rank)

    def score(self, shard: Dataset, rank: int | None = None) -> pa.Table:
        """The `score_columns` of rows of a table."""
        device, config = pick_rank_device(rank), self.committee.config
        committee = self.committee.of([(model.to(device), processor) for model, processor in self.open()])
        tables = committee.prepare(shard)
        captions = caption_counts(shard) if config.modalities != "image" else np.zeros(len(shard), dtype=np.int64)
        readable = np.ones(len(shard), dtype=bool)
        for table, (model, processor) in zip(tables, committee.members, strict=True):
            reads_captions = (captions > 0) & (model.config.modalities != "image")
            readable &= reads_captions | photos_to_read(table, processor, model.config.modalities or "both")
        rows, captions = np.flatnonzero(readable), np.where(readable, captions, 0)
        means = np.zeros((len(shard), config.num_labels))
        spreads, among_models = np.zeros(len(shard)), np.zeros(len(shard))
        probabilities = np.empty((0, config.num_labels), dtype=np.float32)
        if len(rows):
            tables = [table if len(rows) == len(table) else table.select(rows) for table in tables]
            bf16 = has_bf16(device) if self.bf16 is None else self.bf16
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                scores = committee.score(tables, self.batch_size)
            means[rows] = scores.of_rows
            check_finite(means[rows], tables[0], ", ".join(self.source))
            row_of_pair = scores.pairs.row_of_pair
            deviations = scores.probabilities - means[rows][row_of_pair]
            spreads[rows] = np.sqrt(scores.pairs.mean_over_captions(deviations**2)).mean(axis=1)
            if scores.disagreement is not None:
                among_models[rows] = scores.disagreement.mean(axis=1)
            # a row without a caption gave a pair too, which no caption stands for
            probabilities = scores.probabilities[captions[rows][row_of_pair] > 0].astype(np.float32)
        own = [
            fixed_lists(means.astype(np.float32), mask=pa.array(~readable)),
            pa.array(spreads.astype(np.float32), mask=captions < 2),
            pa.ListArray.from_arrays(
                pa.array(np.append(0, captions.cumsum()), pa.int32()), fixed_lists(probabilities)
            ),
            pa.array(among_models.astype(np.float32), mask=~readable),
        ]
        own = own[: len(self.features)]
        return pa.table(own, names=list(self.features)).cast(self.features.arrow_schema)


def columns_read(committee: Committee) -> Iterator[str]:
    """Columns that a committee's members look at."""
    yield "image_id"
    seeing = [config for config in committee.configs if config.modalities != "text"]
    if any(config.model_type != "emocap_teacher" for config in seeing):
        yield "image"
    if any(config.model_type == "emocap_teacher" for config in seeing):
        yield from ("region_features", "num_regions")
    if committee.config.modalities != "image":
        yield "captions"


def has_bf16(device: torch.device) -> bool:
    """Whether it is a GPU that computes in bfloat16."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def label_tables(
    tables: DatasetDict,
    teacher: str | Sequence[str],
    output_dir: str,
    *,
    batch_size: int = 64,
    bf16: bool | None = None,
    **selection: Any,
) -> DatasetDict:
    """Scores every split, selects pseudo-labels and saves the table with them.

    New columns: `emotion_scores`, the mean probability over an image's captions (the teacher's temperature applied);
    `caption_disagreement`, the standard deviation over its captions of an emotion's probability, mean over the
    emotions, null for fewer than two captions; `caption_scores`, each caption's own probabilities; of several teachers
    `model_disagreement`, the standard deviation of their own scores, mean over the emotions; `emotions` and
    `selected_for`, the selection within each split. Human labels stay where there are any; `emotions` becomes the
    pseudo-labels. Rows that the teacher cannot read are left out and listed in data_report.json. A killed job goes on
    where it was, and where `output_dir` holds the scores already, only the selection is made anew. Under `accelerate
    launch` or torchrun the processes share the rows.

    Args:
        tables: a table of pairs.
        teacher: folder or Hub id of an emocap model, or several that label together, see `Committee`: rows are left
            out that one of them cannot read.
        output_dir: where the augmented table goes.
        batch_size: pairs a step.
        bf16: bfloat16 autocast; None: on GPUs that have it.
        selection: what becomes a label, see `Selection`.

    Raises:
        TypeError: `Selection` has no such option.
        ValueError: features of another width than the teacher's, human labels in another order than the teacher's, a
            model of another family, teachers with unlike emotions, a number out of range, or a teacher without
            prevalence where it is asked for: before anything is loaded. Weights or scores that are not finite.
    """
    check_names(selection, Selection.__dataclass_fields__, "Labelling")
    output, wanted = check_output_dir(output_dir), Selection(**selection)
    committee = Committee([teacher] if isinstance(teacher, str) else teacher)
    check_job(tables, committee, wanted)
    ranks = launched_ranks()
    labels = PseudoLabels(committee.names, batch_size, bf16=bf16)
    bf16 = has_bf16(pick_rank_device(ranks.local_rank)) if bf16 is None else bf16
    members = [
        {
            "config": model.config.to_json_string(),
            "max_length": processor.max_length,
            "weights": digest[:16],
            "bf16": bf16,
        }
        for (model, processor), digest in zip(labels.open(), labels.weights, strict=True)
    ]
    settings = members[0] if len(members) == 1 else {"members": members}
    work_dir = output.with_name(f".{output.name}.scores")
    fingerprint = job_fingerprint(settings, tables.values(), sorted(tables))
    if ranks.first_decides([holds_scores(output, fingerprint)])[0]:
        stored = load_table(output)
        scored = {name: stored[name].select_columns(list(labels.features)) for name in stored}
    else:
        stored = tables
        score = partial(labels.score, rank=ranks.local_rank)
        scored = {
            name: map_in_shards(
                split,
                partial(in_turn, score, name, ranks.is_first),
                labels.features,
                work_dir / name,
                settings,
                ranks=ranks,
            )
            for name, split in tables.items()
        }
    if ranks.is_first:
        revisions = [  # a folder has no commit
            getattr(config, "_commit_hash", None) or f"sha256:{own['weights']}"
            for config, own in zip(committee.configs, members, strict=True)
        ]
        origin = {
            "teacher": one_or_all(committee.names),
            "revision": one_or_all(revisions),
            "modalities": committee.config.modalities,
            "temperature": one_or_all([config.temperature for config in committee.configs]),
        }
        save_labelled(tables, stored, scored, committee.config, origin, wanted, output_dir, fingerprint)
        shutil.rmtree(work_dir, ignore_errors=True)
    ranks.wait_for_all()
    return load_table(output_dir)


def save_labelled(
    tables: DatasetDict,
    stored: DatasetDict,
    scored: dict[str, Dataset],
    config: CommitteeConfig,
    origin: dict[str, Any],
    selection: Selection,
    output_dir: str,
    fingerprint: str,
) -> None:
    """Selects within each split and writes the finished table and its statistics; photos and region features
    stay where `stored` has them."""
    labelled, report, recorded = DatasetDict(), DataReport(), asdict(selection)
    for name, whole in tables.items():
        if not len(whole):
            continue
        split, new = without_unread_rows(without_old_labels(whole), scored[name], report)
        if not len(split):
            continue
        chosen = selection.select(
            label_matrix(new, "emotion_scores"),
            new.with_format("arrow")["caption_disagreement"][:].to_numpy(),
            config.label_prevalence,
            split["image_id"][:],
        )
        labelled[name] = concatenate_datasets([split, new, selection_columns(chosen, config)], axis=1)
        labelled[name]._fingerprint = job_fingerprint({"scores": fingerprint, **recorded}, [whole])  # not the time
    if not labelled:
        raise ValueError(
            f"'{' and '.join(config.names)}' reads {config.modalities or 'both'}, of which the data set's rows have "
            "nothing."
        )
    report.extra |= {"selection": origin | recorded, "fingerprint": fingerprint}
    statistics = label_statistics(labelled, origin | recorded, config.label_prevalence)
    files = {STATISTICS_FILE: json.dumps(statistics, indent=2, ensure_ascii=False) + "\n"}
    save_table(labelled, output_dir, report, files, stored)


def one_or_all(values: list) -> Any:
    """What is recorded of one teacher, or of several."""
    return values[0] if len(values) == 1 else values


def holds_scores(output: Path, fingerprint: str) -> bool:
    """Whether the folder holds a table of these very rows scored by this very teacher: then only the selection is
    new. Not where rows were left out, whose scores it lacks."""
    if not is_result_of(output, fingerprint):
        return False
    return not json.loads((output / "data_report.json").read_text("utf-8"))["problems"]


def in_turn(
    score: Callable[[Dataset], pa.Table], name: str, show_progress: bool, shards: list[Dataset]
) -> Iterator[pa.Table]:
    """The shards' columns, one after the other, under a progress bar."""
    return map(score, progress(shards, desc=f"Labelling {name}", unit="shards", disable=not show_progress))


def score_columns(committee: Committee) -> Features:
    """The columns that scoring adds."""
    scores = List(Value("float32"), length=committee.config.num_labels)
    among_models = {"model_disagreement": Value("float32")} if len(committee.names) > 1 else {}
    return Features(
        {"emotion_scores": scores, "caption_disagreement": Value("float32"), "caption_scores": List(scores)}
        | among_models
    )


def check_job(tables: DatasetDict, committee: Committee, selection: Selection) -> None:
    """Refuses what cannot be done, before any model is loaded."""
    if not any(len(split) for split in tables.values()):
        raise ValueError("The data set has no rows to label.")
    for split in tables.values():
        has_own = "labels" in split.features and "emotions" in split.features  # they stay beside the teacher's
        committee.check(split, split.features["emotions"].feature.names if has_own else None)
    config = committee.config
    if selection.label_shares == "prevalence" and config.label_prevalence is None:
        lacking = next(
            name for name, own in zip(committee.names, committee.configs, strict=True) if own.label_prevalence is None
        )
        raise ValueError(
            f"The configuration of '{lacking}' has no label_prevalence, which label_shares 'prevalence' matches. "
            "Train the teacher again, or choose 'balanced'."
        )
    selection.select(np.zeros((0, config.num_labels)), np.zeros(0), config.label_prevalence, [])


def fixed_lists(values: np.ndarray, mask: pa.Array | None = None) -> pa.FixedSizeListArray:
    """The rows of a matrix; null where `mask` is true."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1], mask=mask)


def photos_to_read(table: Dataset, processor: EmocapProcessor, modalities: str) -> np.ndarray:
    """Bool `(rows,)`: whether the row has the pixels, or the region features, that the model reads."""
    column = "num_regions" if processor.image_size is None else "has_pixels"
    if modalities == "text" or column not in table.features:
        return np.zeros(len(table), dtype=bool)
    return np.asarray(table.with_format("numpy")[column][:]) > 0


def caption_counts(table: Dataset) -> np.ndarray:
    """Captions of each row, int64 `(rows,)`."""
    lengths = pc.list_value_length(table.with_format("arrow")["captions"][:].combine_chunks())
    return lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def check_finite(scores: np.ndarray, rows: Dataset, teacher: str) -> None:
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if bad.size:
        raise ValueError(
            f"'{teacher}' gives {bad.size} of {len(rows)} images scores that are not numbers, first to "
            f"'{rows[int(bad[0])]['image_id']}'. Look for NaN or infinite values in that image's features, or score "
            "without bf16. What was scored before stays: the job goes on from there."
        )


def check_weights(model: PreTrainedModel, teacher: str) -> None:
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"'{teacher}' cannot score: its '{name}' holds NaN or infinite values. Train it again.")


def without_unread_rows(split: Dataset, new: Dataset, report: DataReport) -> tuple[Dataset, Dataset]:
    """Both tables without the rows that could not be scored, which the report lists."""
    unread = new.with_format("arrow")["emotion_scores"][:].is_null().to_numpy()
    if not unread.any():
        return split, new
    for image_id in itertools.compress(split["image_id"][:], unread):
        report.problem(image_id, "neither a caption nor a photo that the teacher reads", "row left out")
    kept = np.flatnonzero(~unread)
    return split.select(kept), new.select(kept)


def selection_columns(selection: Selected, config: CommitteeConfig) -> Dataset:
    """The columns `emotions` (best first) and `selected_for` (in label order)."""
    kinds = List(ClassLabel(names=[config.id2label[index] for index in range(config.num_labels)]))
    features = Features({"emotions": kinds, "selected_for": kinds})
    number = len(selection.image_labels)
    images = np.fromiter(itertools.chain.from_iterable(selection.label_images), dtype=np.int64)
    labels = np.repeat(np.arange(config.num_labels), list(map(len, selection.label_images)))
    by_image = np.argsort(images, kind="stable")  # labels come in ascending order, and stay so within an image
    lists: list[tuple[Any, np.ndarray]] = [
        (
            list(map(len, selection.image_labels)),
            np.fromiter(itertools.chain.from_iterable(selection.image_labels), dtype=np.int64),
        ),
        (np.bincount(images, minlength=number), labels[by_image]),
    ]
    columns = [
        pa.ListArray.from_arrays(
            pa.array(np.append(0, np.cumsum(counts)).astype(np.int32)), pa.array(values, pa.int64())
        )
        for counts, values in lists
    ]
    return Dataset(pa.table(columns, names=list(features)).cast(features.arrow_schema))


def without_old_labels(split: Dataset) -> Dataset:
    """The split without earlier pseudo-labels and without columns of human labels that hold none."""
    empty = [
        column
        for column in HUMAN_COLUMNS
        if column in split.features and split.data.column(column).null_count == len(split.data)
    ]
    old = [column for column in (*OWN_COLUMNS, "model_disagreement") if column in split.features]
    return split.remove_columns(empty + old)
