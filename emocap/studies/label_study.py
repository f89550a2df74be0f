"""What pseudo-labels are worth: a student that meets them before the target, beside one that meets the target alone.

The axes of Yalniz et al. 2019 (section 4): how many images an emotion gives (P), the best images against as many drawn
at random, soft targets against hard ones. A seed fixes the target's rows, the student's first weights and the random
draw, so that gains over `scratch` are paired.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from datasets import Dataset, DatasetDict
from datasets.utils.logging import tqdm
from transformers import set_seed
from transformers.utils import logging

from emocap.arguments import StudentArguments
from emocap.data.pairs import label_matrix
from emocap.data.schema import group_keys, label_names, split_of
from emocap.data.storage import load_table, write_array, write_json
from emocap.data.truth import truth_column
from emocap.metrics import break_ties, check_metric, compute_metrics, prior_probabilities
from emocap.pseudo_labels.selection import select_pseudo_labels
from emocap.studies.options import LabelStudyArguments
from emocap.studies.runs import Part, Recipe, fit, part_probabilities
from emocap.threads import one_thread
from emocap.training.build import build_student
from emocap.training.heads import head_of

__all__ = ["LabelRun", "LabelStudy"]

TARGETS = {"soft": "emotion_scores", "hard": "emotions"}


class LabelRun(NamedTuple):
    """One student. `selection` "all" has no `images_per_label`; "scratch" meets no pseudo-labels."""

    selection: str
    targets: str | None
    images_per_label: int | None
    seed: int


class LabelStudy:
    """Tables, runs and folder of one study.

    Raises:
        ValueError: tables or settings that do not fit, before anything is trained.
    """

    def __init__(self, arguments: LabelStudyArguments):
        check_metric(arguments.metric, "--metric", has_votes=False)  # the study measures against labels alone
        self.arguments = arguments
        self.output_dir = Path(arguments.output_dir)
        self.runs_dir = self.output_dir / "runs"
        self.target = load_table(arguments.target_dataset)
        source = load_table(arguments.source_dataset)
        check_tables(arguments, source, self.target)
        self.source = source[arguments.source_split]
        held_out = np.array([split_of(key, seed=1) == "validation" for key in group_keys(self.source)])
        self.held_out = np.flatnonzero(held_out)[: arguments.max_eval_samples]
        self.taught = np.flatnonzero(~held_out)
        if not len(self.held_out) or not len(self.taught):
            raise ValueError(f"The source has {len(self.source)} rows, too few to keep a tenth for validation.")
        self.parts: dict[str, Part] = {}

    def runs(self) -> list[LabelRun]:
        """Every student; one seed after the other, so that a study cut short has whole seeds."""
        arguments = self.arguments
        return [
            run
            for seed in range(arguments.num_seeds)
            for run in [
                LabelRun("scratch", None, None, seed),
                *(LabelRun("all", targets, None, seed) for targets in arguments.targets),
                *(
                    LabelRun(selection, targets, number, seed)
                    for number in arguments.images_per_label
                    for selection in arguments.selections
                    for targets in arguments.targets
                ),
            ]
        ]

    @one_thread()
    def perform_all(self) -> None:
        """Trains the students that are not there yet."""
        logging.disable_progress_bar()
        datasets.disable_progress_bars()
        self.runs_dir.mkdir(parents=True, exist_ok=True)
        for run in tqdm(self.runs(), desc="Label study", unit="run", disable=False):
            if not self.path(run).is_file():
                self.perform(run)

    def perform(self, run: LabelRun) -> None:
        """Trains and measures one student and writes its files, the JSON last."""
        arguments = self.arguments
        set_seed(run.seed)
        model, processor, _ = build_student(self.student(), self.target)
        train, validation, test = (self.part(name, processor) for name in ("train", "validation", "test"))
        chosen = np.random.default_rng(run.seed).permutation(len(train.truth.labels))[: arguments.num_target]
        train = train.of_rows(chosen)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        content = {"run": run._asdict(), "settings": self.settings(), "images": 0}
        if run.selection == "scratch":
            set_bias(model, prior_probabilities(train.targets))
        else:
            rows = self.source_rows(run)
            taught = self.part(run.targets, processor).of_rows(rows)
            set_bias(model, prior_probabilities(taught.targets))
            checked = self.part("held_out", processor)
            content |= {
                "images": len(rows),
                "pretraining": fit(model, taught, checked, self.recipe(arguments.pretrain_steps), run.seed),
                "metrics_before": compute_metrics(part_probabilities(model, test), test.truth.labels),
            }
        content["finetuning"] = fit(model, train, validation, self.recipe(arguments.max_steps), run.seed)
        probabilities = part_probabilities(model, test)
        content["metrics"] = compute_metrics(probabilities, test.truth.labels)
        write_array(self.path(run).with_suffix(".npy"), probabilities.astype(np.float32))
        write_json(self.path(run), content)

    def source_rows(self, run: LabelRun) -> np.ndarray:
        """Rows of the source that the run learns from, ascending."""
        if run.selection == "all":
            return self.taught
        scores = label_matrix(self.source, "emotion_scores")[self.taught]
        carried = label_matrix(self.source, "emotions")[self.taught] > 0
        best = select_pseudo_labels(
            np.where(carried, scores, -1.0),
            labels_per_image=None,
            images_per_label=run.images_per_label,
            threshold=-0.5,  # below every score: what the image does not carry is out
            image_ids=np.array(self.source["image_id"][:])[self.taught],
        ).label_images
        selected = np.unique(np.concatenate(best).astype(np.int64))
        if run.selection == "random":
            selected = np.random.default_rng(run.seed).choice(len(self.taught), len(selected), replace=False)
        return np.sort(self.taught[selected])

    def part(self, name: str, processor) -> Part:
        """Rows in batches, made once: a target split, the source with soft or hard targets, its held-out rows."""
        if name not in self.parts:
            if name in TARGETS:
                self.parts[name] = Part(self.source, processor, TARGETS[name], "emotions")
            elif name == "held_out":
                self.parts[name] = Part(self.source.select(self.held_out), processor, "emotions", "emotions")
            else:
                split = self.target[name]
                if name == "validation":
                    split = split.select(range(min(self.arguments.max_eval_samples, len(split))))
                self.parts[name] = Part(split, processor, "labels", "labels")
        return self.parts[name]

    def recipe(self, steps: int) -> Recipe:
        arguments = self.arguments
        return Recipe(
            max_steps=steps,
            eval_steps=max(1, -(-steps // arguments.num_evaluations)),
            patience=arguments.patience,
            learning_rate=arguments.learning_rate,
            batch_size=arguments.batch_size,
            weight_decay=arguments.weight_decay,
            metric=arguments.metric,
        )

    def student(self) -> StudentArguments:
        arguments = self.arguments
        return StudentArguments(
            word_embeddings=arguments.word_embeddings,
            freeze_word_embeddings=arguments.freeze_word_embeddings,
            image_size=arguments.image_size,
            cnn_channels=arguments.cnn_channels,
            gru_hidden_size=arguments.hidden_size,
            fc_hidden_size=arguments.hidden_size,
        )

    def settings(self) -> dict[str, object]:
        """What every run depends on beside its own axes: further P, seeds or arms add to the folder."""
        free = ("output_dir", "images_per_label", "selections", "targets", "num_seeds", "readme", "block")
        tables = [self.source, *(self.target[name] for name in ("train", "validation", "test"))]
        own = {name: value for name, value in asdict(self.arguments).items() if name not in free}
        return own | {"rows": [table._fingerprint for table in tables]}

    def path(self, run: LabelRun) -> Path:
        text = json.dumps([run._asdict(), self.settings()], sort_keys=True)
        return self.runs_dir / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def check_tables(arguments: LabelStudyArguments, source: DatasetDict, target: DatasetDict) -> None:
    """Refuses tables that do not fit each other or the settings."""
    if arguments.source_split not in source:
        raise ValueError(f"The source has no split '{arguments.source_split}' (splits: {', '.join(source)}).")
    features = source[arguments.source_split].features
    if missing := [name for name in ("emotion_scores", "emotions") if name not in features]:
        raise ValueError(f"The source lacks {', '.join(missing)}: give what `emocap label` wrote.")
    if absent := [name for name in ("train", "validation", "test") if name not in target]:
        raise ValueError(f"The target lacks the split(s) {', '.join(absent)} (splits: {', '.join(target)}).")
    if truth_column(target["train"]) != "labels":
        raise ValueError("The target has no human labels; pseudo-labels would be judged by themselves.")
    if label_names(source) != label_names(target):
        raise ValueError(
            f"Source and target must have one set of emotions in one order: the source has "
            f"{', '.join(label_names(source)[:4])} ..., the target {', '.join(label_names(target)[:4])} .... Label "
            "the source by a teacher of the target."
        )
    if len(target["train"]) < arguments.num_target:
        raise ValueError(f"--num_target is {arguments.num_target}; the target has {len(target['train'])} rows.")


def set_bias(model: torch.nn.Module, prior: np.ndarray) -> None:
    """Starts the head from the constant predictor's logits."""
    with torch.no_grad():
        head_of(model).bias.copy_(torch.logit(torch.from_numpy(prior).float(), eps=1e-3))


def label_agreement(source: Dataset) -> dict[str, object]:
    """What the labels say about the true process, where the source knows it (`bayes_probabilities`).

    Precision and recall are exact expectations under the process; average precision is over one draw of it, beside
    that of the process's own probabilities, which no labels can beat.
    """
    truth = label_matrix(source, "bayes_probabilities").astype(np.float64)
    scores, kept = label_matrix(source, "emotion_scores"), label_matrix(source, "emotions") > 0
    drawn = (np.random.default_rng(0).random(truth.shape) < truth).astype(np.float32)
    prior = np.broadcast_to(truth.mean(axis=0), truth.shape)
    best = {name: np.argsort(-own, axis=1, kind="stable") for name, own in (("labels", scores), ("ceiling", truth))}
    best["prior"] = np.argsort(-prior, axis=1, kind="stable")
    at_k = {
        name: {str(k): float(np.take_along_axis(truth, own[:, :k], axis=1).mean()) for k in (1, 2, 3, 4)}
        for name, own in best.items()
    }
    ranked = {"labels": scores, "ceiling": break_ties(truth), "prior": prior}
    return {
        "precision_at": at_k,
        "precision": float(truth[kept].mean()) if kept.any() else None,
        "recall": float(truth[kept].sum() / truth.sum()),
        **{
            key: {name: compute_metrics(own, drawn)[key] for name, own in ranked.items()}
            for key in ("map_macro", "map_micro", "lrap")
        },
    }
