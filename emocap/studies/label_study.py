"""What pseudo-labels are worth: a student that meets them before the target, beside one that meets the target alone.

The axes of Yalniz et al. 2019 (section 4): how many images an emotion gives (P), the best images against as many drawn
at random, soft targets against hard ones. A seed fixes the target's rows, the student's first weights and the random
draw, so that gains over `scratch` are paired.
"""

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import set_seed

from emocap.data.pairs import label_matrix
from emocap.data.schema import held_out, label_names
from emocap.data.storage import load_table
from emocap.data.truth import truth_column
from emocap.metrics import break_ties, compute_metrics, prior_probabilities
from emocap.pseudo_labels.selection import select_pseudo_labels
from emocap.studies.options import LabelStudyArguments
from emocap.studies.runs import Part, fit, part_probabilities
from emocap.studies.skeleton import Study
from emocap.training.build import build_student
from emocap.training.heads import start_at_prior

__all__ = ["LabelRun", "LabelStudy"]

TARGETS = {"soft": "emotion_scores", "hard": "emotions"}


class LabelRun(NamedTuple):
    """One student. `selection` "all" has no `images_per_label`; "scratch" meets no pseudo-labels."""

    selection: str
    targets: str | None
    images_per_label: int | None
    seed: int


class LabelStudy(Study[LabelRun, LabelStudyArguments]):
    """Tables and students of one study.

    Raises:
        ValueError: tables or settings that do not fit, before anything is trained.
    """

    def __init__(self, arguments: LabelStudyArguments):
        super().__init__(arguments)
        self.target = load_table(arguments.target_dataset)
        source = load_table(arguments.source_dataset)
        check_tables(arguments, source, self.target)
        self.source = source[arguments.source_split]
        chosen = held_out(self.source)
        self.held_out = np.flatnonzero(chosen)[: arguments.max_eval_samples]
        self.taught = np.flatnonzero(~chosen)
        if not len(self.held_out) or not len(self.taught):
            raise ValueError(f"The source has {len(self.source)} rows, too few to keep a tenth for validation.")

    def stages(self) -> list[list[LabelRun]]:
        """Every student, one seed after the other, so that a study cut short has whole seeds."""
        arguments = self.arguments
        runs = [
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
        return [runs]

    def train(self, run: LabelRun) -> tuple[dict[str, Any], np.ndarray]:
        arguments = self.arguments
        set_seed(run.seed)
        model, processor, _ = build_student(self.student(), label_names(self.target))
        train, validation, test = (self.part(name, processor) for name in ("train", "validation", "test"))
        chosen = np.random.default_rng(run.seed).permutation(len(train.truth.labels))[: arguments.num_target]
        train = train.of_rows(chosen)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        content = {"run": run._asdict(), "settings": self.common_settings(), "images": 0}
        if run.targets is None:
            start_at_prior(model, prior_probabilities(train.targets))
        else:
            rows = self.source_rows(run)
            taught = self.part(run.targets, processor).of_rows(rows)
            start_at_prior(model, prior_probabilities(taught.targets))
            checked = self.part("held_out", processor)
            content |= {
                "images": len(rows),
                "pretraining": fit(model, taught, checked, self.recipe(arguments.pretrain_steps), run.seed),
                "metrics_before": compute_metrics(part_probabilities(model, test), test.truth.labels),
            }
        content["finetuning"] = fit(model, train, validation, self.recipe(arguments.max_steps), run.seed)
        probabilities = part_probabilities(model, test)
        return content | {"metrics": compute_metrics(probabilities, test.truth.labels)}, probabilities

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

    def settings(self, run: LabelRun) -> list[dict[str, Any]]:
        return [run._asdict(), self.common_settings()]

    def common_settings(self) -> dict[str, Any]:
        """What every run depends on beside its own axes."""
        free = ("output_dir", "images_per_label", "selections", "targets", "num_seeds", "jobs", "readme", "block")
        tables = [self.source, *(self.target[name] for name in ("train", "validation", "test"))]
        own = {name: value for name, value in asdict(self.arguments).items() if name not in free}
        return own | {"rows": [table._fingerprint for table in tables]}


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


def label_agreement(source: Dataset) -> dict[str, Any]:
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
