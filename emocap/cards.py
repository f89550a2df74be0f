"""Model and data set cards, filled from a run's own files."""

import json
import math
from importlib import resources
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from emocap.data.storage import load_table
from emocap.label_statistics import STATISTICS_FILE

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


READS = {
    "both": "picture and caption",
    "text": "captions alone",
    "image": "pictures alone",
    None: "picture and caption, but was never trained",
}


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
    """The card of a saved table, from the table itself and the statistics of its pseudo-labels."""
    tables = load_table(folder)
    path = folder / STATISTICS_FILE  # beside every labelled table
    statistics = json.loads(path.read_text("utf-8")) if path.is_file() else None
    features = next(iter(tables.values())).features
    data = DatasetCardData(
        language="en",
        license="cc-by-4.0" if statistics and statistics["licenses"] else None,
        pretty_name=repo_id.rpartition("/")[2],
        tags=["emotion", "image-text", "emocap", *(["pseudo-labels"] if statistics else [])],
        task_categories=["image-classification", "text-classification"],
    )
    return DatasetCard.from_template(
        data,
        template_str=template("dataset"),
        title=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        splits={name: len(split) for name, split in tables.items()},
        statistics=statistics,
        reads=statistics and READS[statistics["selection"]["modalities"]],
        emotions=emotion_rows(statistics) if statistics else [],
        pairs=frequent_pairs(statistics) if statistics else [],
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


def emotion_rows(statistics: dict[str, object]) -> list[tuple[str, dict]]:
    """Each emotion's statistics with its histogram drawn, the most frequent first."""
    rows = [(name, own | {"drawing": sparkline(own["histogram"])}) for name, own in statistics["emotions"].items()]
    return sorted(rows, key=lambda row: -row[1]["images"])


def sparkline(counts: list[int]) -> str:
    """Counts as a row of blocks, their heights as square roots; an empty bin is a low line."""
    highest = max(counts)
    return "".join("_▁▂▃▄▅▆▇█"[math.ceil(8 * math.sqrt(count / highest)) if highest else 0] for count in counts)


def frequent_pairs(statistics: dict[str, object], number: int = 10) -> list[dict[str, object]]:
    """The pairs of emotions that the most images carry, and how much more often than by chance."""
    names, together = list(statistics["emotions"]), statistics["co_occurrence"]
    pairs = [
        {
            "names": f"{names[first]}, {names[second]}",
            "images": both,
            "lift": both * statistics["images"] / (together[first][first] * together[second][second]),
        }
        for first, row in enumerate(together)
        for second, both in enumerate(row[:first])
        if both
    ]
    return sorted(pairs, key=lambda pair: -pair["images"])[:number]
