"""Nested cross-validation of a teacher: every image is scored once, by a model that was neither trained nor chosen on
it, nor on an image of its group."""

import hashlib
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from datasets import Dataset, DatasetDict, concatenate_datasets

from emocap.arguments import make_arguments, teacher_parser
from emocap.data.pairs import label_matrix
from emocap.data.schema import group_keys
from emocap.data.storage import load_table, write_json
from emocap.data.truth import known_votes, read_truth, truth_column
from emocap.evaluation.baselines import check_scikit_learn, regression_baselines
from emocap.evaluation.controls import gains
from emocap.evaluation.scoring import load_model, score_table
from emocap.metrics import (
    GREATER_IS_BETTER,
    Bootstrap,
    chance_map_macro,
    check_metric,
    compute_metrics,
    intervals,
    prior_probabilities,
    prior_threshold,
    resampled_metrics,
)
from emocap.records import Result
from emocap.report.page import write_report
from emocap.steps import train_teacher
from emocap.studies.options import CrossValidationArguments
from emocap.studies.skeleton import remember_plan
from emocap.terminal import progress, say

__all__ = ["cross_validate", "fold_of"]

VALIDATION_SHARE = 0.1


class Fold(NamedTuple):
    """A finished fold: the setting chosen and every setting's validation score, the rows that it scored, and of model
    and controls probabilities float `(rows, L)` and thresholds `(L,)`."""

    chosen: dict[str, Any]
    test: Dataset
    scores: dict[str, tuple[np.ndarray, np.ndarray]]


def cross_validate(own: CrossValidationArguments, flags: list[str]) -> Result:
    """Runs `emocap cross-validate`.

    The images fall into folds by a hash of their id, or of their group. For each fold every setting trains on the
    others, a tenth of which is kept for early stopping, temperature, thresholds and the choice of the setting; the
    chosen one alone scores the fold, once. The controls train on the same rows and are chosen by the same tenth:
    prior, TF-IDF, lexica and the starting body, frozen, its best layers with logistic regression. A killed command
    goes on where it was.

    Args:
        own: the command's own options.
        flags: those of `train-teacher`.

    Returns:
        What `OUTPUT_DIR/metrics.json` holds: means over the folds, 95 % bootstrap intervals (images, or groups, drawn
        anew within each fold), the controls' under `prior/`, `tfidf/`, `lexicon/`, `encoder/`, each with by how much
        the teacher is ahead (`map_macro_gain`, `lrap_gain`, `bce_gain`) and the paired intervals, and
        `chance/map_macro`; under `committee/` those of all seeds' models, and of `--together`'s, by the mean of their
        logits. `settings.json` has every setting's validation scores, `preset.yaml` the setting chosen
        most often, `report.html` the figures as a page.
    """
    check_scikit_learn()
    settings = [dict(chosen) for chosen in itertools.product(*map(parse_vary, own.vary))]
    options = [teacher_parser().given([*flags, *setting_flags(setting)]) for setting in settings]
    for each in options:
        make_arguments(teacher_parser(), each)  # an unknown flag or value ends here
    output, table = Path(options[0]["output_dir"]), labelled_rows(load_table(options[0]["dataset"]))
    check_metric(own.choose_by, "--choose_by", has_votes=known_votes(table) is not None)
    folds = make_folds(table, own.num_folds)
    others = [check_finished(Path(folder), own.num_folds) for folder in own.together]
    remember_plan(output, own.but("together") | {"flags": flags})
    finished = []
    known: dict[str, np.ndarray] = {}
    trainings = len(settings) * own.num_seeds  # a fold
    with progress(desc="Cross-validation", total=own.num_folds * trainings, unit="trainings") as bar:
        for fold in range(own.num_folds):
            tables = fold_tables(table, folds, fold)
            finished.append(run_fold(output / f"fold{fold}", tables, settings, options, own, known, bar))
            say(f"Fold {fold}: {json.dumps(finished[-1].chosen)}")
            bar.update((fold + 1) * trainings - bar.n)  # of a fold that was finished before
    finished = [with_committee(fold, number, others) for number, fold in enumerate(finished)]
    metrics = summarise(finished, truth_column(table))
    write_json(output / "metrics.json", metrics)
    write_choice(output, finished, settings, flags)
    write_report(output / "report.html", title="Nested cross-validation", runs={"teacher": output})
    return Result(metrics)


def parse_vary(text: str) -> list[tuple[str, str]]:
    name, _, values = text.partition("=")
    if not name or not values:
        raise ValueError(f"--vary '{text}': expected FLAG=VALUE,VALUE such as learning_rate=5e-5,1e-4.")
    return [(name, value) for value in values.split(",")]


def setting_flags(setting: dict[str, str]) -> list[str]:
    return [part for name, value in setting.items() for part in (f"--{name}", value)]


def fold_of(image_id: str, num_folds: int) -> int:
    """The fold of an image, from a hash of its id: no other row matters."""
    return int.from_bytes(hashlib.blake2b(f"fold:{image_id}".encode(), digest_size=8).digest(), "big") % num_folds


def make_folds(table: Dataset, num_folds: int) -> np.ndarray:
    """The fold of each row, int `(rows,)`.

    Raises:
        ValueError: a fold of fewer than ten rows, of one group, or without validation rows among the others.
    """
    keys = np.array(group_keys(table))
    folds = np.array([fold_of(key, num_folds) for key in keys])
    kept_back = np.array([is_validation(key) for key in keys])
    for fold in range(num_folds):
        inside = folds == fold
        if inside.sum() < 10 or len(np.unique(keys[inside])) < 2 or not kept_back[~inside].any():
            raise ValueError(
                f"{len(table)} rows of {len(np.unique(keys))} images or groups in {num_folds} folds leave "
                f"{inside.sum()} rows of {len(np.unique(keys[inside]))} in one, and {kept_back[~inside].sum()} to "
                "choose by; give fewer folds."
            )
    return folds


def is_validation(image_id: str) -> bool:
    digest = hashlib.blake2b(f"validation:{image_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < VALIDATION_SHARE


def labelled_rows(tables: DatasetDict) -> Dataset:
    """The rows of all splits that have human labels.

    Raises:
        ValueError: there are none.
    """
    parts = [split for split in tables.values() if "labels" in split.features and truth_column(split) == "labels"]
    if not parts:
        raise ValueError("No split of the data set has human labels; cross-validation needs the column 'labels'.")
    return concatenate_datasets(parts)


def fold_tables(table: Dataset, folds: np.ndarray, fold: int) -> DatasetDict:
    """The rows of a fold as `test`; of the others a tenth as `validation`, the rest as `train`."""
    others = np.flatnonzero(folds != fold)
    kept_back = np.array([is_validation(key) for key in group_keys(table.select(others))])
    rows = {"train": others[~kept_back], "validation": others[kept_back], "test": np.flatnonzero(folds == fold)}
    return DatasetDict({name: table.select(own) for name, own in rows.items()})


def run_fold(
    folder: Path,
    tables: DatasetDict,
    settings: list[dict],
    options: list[dict],
    own: CrossValidationArguments,
    known: dict[str, np.ndarray],
    bar: Any,
) -> Fold:
    """Trains every setting on the other folds, chooses on their validation rows and scores this fold once; `known` as
    in `caption_embeddings`."""
    test = tables.pop("test")  # no training sees it
    if not (folder / "chosen.json").is_file():
        runs: list[list[Result]] = [[] for _ in options]
        for (index, each), seed in itertools.product(enumerate(options), range(own.num_seeds)):
            runs[index].append(train_once(folder / f"setting{index}_seed{seed}", tables, each | {"seed": seed}))
            bar.update()
        validated = [float(np.mean([run[own.choose_by] for run in each])) for each in runs]
        best = best_of(validated, own.choose_by)
        prior = prior_probabilities(label_matrix(tables["train"], "labels"))
        scores = {"prior": (np.tile(prior, (len(test), 1)), np.full(len(prior), prior_threshold(prior)))}
        encoder = options[0]["model_name_or_path"]
        scores |= regression_baselines(tables["train"], tables["validation"], test, encoder, known=known)
        for seed, run in enumerate(runs[best]):
            model, processor = load_model(str(run.folder))
            scores[f"seed{seed}"] = score_table(model, processor, test), np.array(model.config.thresholds)
        write_scores(folder / "scores.npz", scores)
        write_json(folder / "chosen.json", {"setting": settings[best], "validation": validated})
        for run in itertools.chain.from_iterable(runs[:best] + runs[best + 1 :]):
            Path(run, "model.safetensors").unlink(missing_ok=True)
    return Fold(json.loads((folder / "chosen.json").read_text("utf-8")), test, read_scores(folder / "scores.npz"))


def check_finished(folder: Path, num_folds: int) -> Path:
    """A folder of another cross-validation, of as many folds.

    Raises:
        ValueError: it is none, or is not finished.
    """
    plan = folder / "plan.json"
    if not plan.is_file() or not (folder / "metrics.json").is_file():
        raise ValueError(f"--together '{folder}' holds no finished cross-validation.")
    if (found := json.loads(plan.read_text("utf-8"))["num_folds"]) != num_folds:
        raise ValueError(f"--together '{folder}' has {found} folds, this run {num_folds}: its models saw other rows.")
    return folder


def with_committee(fold: Fold, number: int, others: list[Path]) -> Fold:
    """The fold with `committee` among its scores, where it has more than one model: the mean of the logits of all
    seeds' models, and of those of the other cross-validations."""
    members = [own for name, own in fold.scores.items() if name.startswith("seed")]
    for folder in others:
        scores = read_scores(folder / f"fold{number}" / "scores.npz")
        if not np.array_equal(scores["prior"][0], fold.scores["prior"][0]):
            raise ValueError(f"--together '{folder}' was trained on other rows or labels than this run.")
        members += [own for name, own in scores.items() if name.startswith("seed")]
    if len(members) < 2:
        return fold
    logits = np.mean([torch.logit(torch.from_numpy(own).double(), eps=1e-12).numpy() for own, _ in members], axis=0)
    together = np.exp(-np.logaddexp(0.0, -logits)), np.mean([thresholds for _, thresholds in members], axis=0)
    return fold._replace(scores=fold.scores | {"committee": together})


def best_of(values: list[float], metric: str) -> int:
    """The place of the best value, whichever way the metric runs."""
    return int((np.argmax if GREATER_IS_BETTER[metric] else np.argmin)(values))


def train_once(folder: Path, tables: DatasetDict, options: dict[str, Any]) -> Result:
    """One training, unless it is done; a killed one goes on from its last checkpoint."""
    if (folder / "metrics.json").is_file():
        return Result.read(folder)
    if list(folder.glob("checkpoint-*")):
        options["resume_from_checkpoint"] = "true"
    del options["dataset"]
    result = train_teacher(tables, **options | {"output_dir": folder, "push_to_hub": False})
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return result


def write_scores(path: Path, scores: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Under a temporary name, then renamed."""
    arrays: dict[str, Any] = {f"{name}/{part}": value for name, own in scores.items()
              for part, value in zip(("probabilities", "thresholds"), own, strict=True)}  # fmt: skip
    with open(path.with_name(f".{path.name}"), "wb") as file:
        np.savez(file, **arrays)
    path.with_name(f".{path.name}").replace(path)


def read_scores(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    with np.load(path, allow_pickle=False) as arrays:
        names = dict.fromkeys(key.partition("/")[0] for key in arrays)
        return {name: (arrays[f"{name}/probabilities"], arrays[f"{name}/thresholds"]) for name in names}


def summarise(finished: list[Fold], truth: str) -> dict[str, Any]:
    """Means over folds, and over seeds, with intervals; see `cross_validate`."""
    names = list(finished[0].scores)
    seeds = [name for name in names if name.startswith("seed")]
    measured, resampled = {}, {}
    for name in names:
        folds = [measure(fold.test, *fold.scores[name]) for fold in finished]
        measured[name] = {key: float(np.mean([own[key] for own, _ in folds])) for key in folds[0][0]}
        resampled[name] = {key: np.mean([own[key] for _, own in folds], axis=0) for key in folds[0][1]}
    teacher = {key: float(np.mean([measured[seed][key] for seed in seeds])) for key in measured[seeds[0]]}
    drawn = {key: np.mean([resampled[seed][key] for seed in seeds], axis=0) for key in resampled[seeds[0]]}
    metrics = teacher | intervals(drawn, teacher)
    if len(seeds) > 1:
        metrics |= {f"{key}_sd": float(np.std([measured[seed][key] for seed in seeds], ddof=1)) for key in teacher}
    for name in [own for own in names if own not in seeds]:
        control = measured[name] | intervals(resampled[name], measured[name])
        control |= gains(teacher, drawn, measured[name], resampled[name])
        metrics |= {f"{name}/{key}": value for key, value in control.items()}
    truths = [read_truth(fold.test) for fold in finished]
    metrics["chance/map_macro"] = float(np.mean([chance_map_macro(own.labels) for own in truths]))
    if truths[0].groups is not None:
        metrics["num_groups"] = sum(own.num_units for own in truths)
    known = {key: None if value != value else value for key, value in metrics.items()}
    rows = sum(len(fold.test) for fold in finished)
    return known | {"num_examples": rows, "split": f"{len(finished)} folds", "truth": truth, "decisions": "fitted"}


def measure(table: Dataset, probabilities: np.ndarray, thresholds: np.ndarray) -> tuple[dict, dict]:
    """Metrics of one fold, and of its resamples; beside those at fitted thresholds those at 0.5, `KEY_at_half`."""
    labels, votes, asked, groups = read_truth(table)
    metrics = compute_metrics(probabilities, labels, votes, thresholds, asked)
    half = compute_metrics(probabilities, labels)
    metrics |= {f"{key}_at_half": half[key] for key in ("f1_micro", "f1_macro", "jaccard")}
    metrics.pop("num_examples")
    drawn = resampled_metrics(probabilities, labels, votes, thresholds, asked, bootstrap=Bootstrap(groups=groups))
    return metrics, drawn


def write_choice(output: Path, finished: list[Fold], settings: list[dict[str, str]], flags: list[str]) -> None:
    """Every setting's validation scores, and the flags of the one chosen most often."""
    chosen = Counter(settings.index(fold.chosen["setting"]) for fold in finished)
    rows = [
        {**setting, "validation": [own.chosen["validation"][index] for own in finished], "times_chosen": chosen[index]}
        for index, setting in enumerate(settings)
    ]
    write_json(output / "settings.json", rows)
    best = settings[chosen.most_common(1)[0][0]]
    paths = ("dataset", "output_dir", "model_name_or_path")
    given = teacher_parser().given([*flags, *setting_flags(best)])
    preset = {name: value for name, value in given.items() if name not in paths}
    (output / "preset.yaml").write_text(yaml.safe_dump(preset, sort_keys=False), encoding="utf-8")
