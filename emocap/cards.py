"""Model and data set cards, filled from a run's own files."""

import json
from importlib import resources
from pathlib import Path

from datasets import DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from emocap.data.storage import load_table

__all__ = ["dataset_card", "model_card", "write_model_card"]

SHOWN = (
    "map_macro",
    "map_micro",
    "lrap",
    "top1_accuracy",
    "top3_accuracy",
    "f1_micro",
    "jaccard",
    "ece",
    "jsd",
    "bce",
)
TRAINING_KEYS = (
    "learning_rate",
    "head_learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "weight_decay",
    "seed",
    "label_column",
    "modalities",
    "model_name_or_path",
    "word_embeddings",
    "student",
    "teacher",
    "num_layers",
    "head_init",
)


def write_model_card(folder: Path, repo_id: str | None = None) -> None:
    """Writes README.md beside a finished run's checkpoint."""
    model_card(folder, repo_id).save(folder / "README.md")


def model_card(folder: Path, repo_id: str | None = None) -> ModelCard:
    """The card of a finished run, from its config.json, metrics.json and run_arguments.json."""
    config, metrics, arguments = (
        json.loads((folder / name).read_text("utf-8"))
        for name in ("config.json", "metrics.json", "run_arguments.json")
    )
    repo_id = repo_id or folder.name
    dataset = Path(arguments["dataset"]).name
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=metrics["split"],
            metric_type=key,
            metric_value=round(metrics[key], 4),
        )
        for key in SHOWN
        if metrics.get(key) is not None
    ]
    data = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        tags=["emotion", "multi-label-classification", "image-text", config["model_type"]],
        model_name=repo_id.rpartition("/")[2],
        eval_results=results,
    )
    return ModelCard.from_template(
        data,
        template_str=template(arguments["kind"]),
        title=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        dataset=dataset,
        num_labels=len(config["id2label"]),
        labels=", ".join(config["id2label"].values()),
        split=metrics["split"],
        truth=metrics["truth"],
        num_examples=metrics["num_examples"],
        strategy=arguments.get("strategy"),
        results=results_table(metrics),
        training=training_table(arguments),
    )


def dataset_card(folder: Path, repo_id: str) -> DatasetCard:
    """The card of a saved table, from the table itself and its data_report.json."""
    tables = load_table(folder)
    report_path = folder / "data_report.json"  # the built-in corpus has none: nothing went wrong in drawing it
    report = json.loads(report_path.read_text("utf-8")) if report_path.is_file() else {}
    features = next(iter(tables.values())).features
    data = DatasetCardData(
        language="en",
        pretty_name=repo_id.rpartition("/")[2],
        tags=["emotion", "image-text", "emocap"],
        task_categories=["image-classification", "text-classification"],
    )
    return DatasetCard.from_template(
        data,
        template_str=template("dataset"),
        title=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        splits={name: len(split) for name, split in tables.items()},
        selection=report.get("selection"),
        emotions=emotion_counts(tables) if "selection" in report else {},
        columns={name: " ".join(str(feature).split())[:120] for name, feature in features.items()},
    )


def template(kind: str) -> str:
    return resources.files("emocap.hub_cards").joinpath(f"{kind}.md").read_text("utf-8")


def results_table(metrics: dict[str, float]) -> str:
    """A markdown table of the shown metrics beside the prior and, where known, the ceiling."""
    columns = {"model": "", "prior": "prior/"} | ({"ceiling": "ceiling/"} if "ceiling/map_macro" in metrics else {})
    lines = ["| metric | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for key in SHOWN:
        if metrics.get(key) is not None:
            lines.append(
                f"| {key} | " + " | ".join(f"{metrics[prefix + key]:.3f}" for prefix in columns.values()) + " |"
            )
    return "\n".join(lines)


def training_table(arguments: dict[str, object]) -> str:
    lines = ["| setting | value |", "|---|---|"]
    lines += [f"| {key} | {arguments[key]} |" for key in TRAINING_KEYS if arguments.get(key) is not None]
    return "\n".join(lines)


def emotion_counts(tables: DatasetDict) -> dict[str, int]:
    """Images that carry each emotion, over all splits, most frequent first."""
    names = next(iter(tables.values())).features["emotions"].feature.names
    counts = dict.fromkeys(names, 0)
    for split in tables.values():
        for value in split.with_format("arrow")["emotions"][:].combine_chunks().flatten().value_counts().to_pylist():
            counts[names[value["values"]]] += value["counts"]
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
