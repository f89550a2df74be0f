"""Cards of data sets, from the table itself and the statistics of its pseudo-labels."""

import json
import math
from pathlib import Path
from typing import Any

from datasets import ClassLabel, DatasetDict, List, Value
from huggingface_hub import DatasetCard, DatasetCardData

from emocap.cards.models import READS, family_table, hub_link
from emocap.cards.public_names import PublicNames
from emocap.cards.text import Markdown, escape, in_code, one_line, render, table
from emocap.data.licenses import license_fields, license_note, license_of
from emocap.data.storage import load_table
from emocap.options import as_list
from emocap.records import STATISTICS_FILE
from emocap.report.tables import value_text

__all__ = ["dataset_card", "sparkline"]

SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}

CONFIGS = {
    "default": "one row an image: all but the region features",
    "labels": "one row an image: captions, scores, emotions",
    "captions": "one row a caption, with its own scores",
    "regions": "one row an image: region features, in the same order",
    "photos": "one row an image: the picture, in the same order",
}

MEANINGS = {
    "image_id": "the image's name, the same in every configuration",
    "image": "null where the photo is not at hand",
    "captions": "sentences about the image",
    "labels": "for each emotion 1 where somebody named it, or a share",
    "votes": "for each emotion how many annotators named it",
    "num_annotators": "how many people were asked what they feel",
    "soft_labels": "the share of the annotators who named it",
    "group": "rows of one group never stand in two splits, folds or resamples",
    "bayes_probabilities": "what the simulated crowd answers to picture and words, exactly",
    "bayes_probabilities_text": "the same knowing the words alone",
    "bayes_probabilities_image": "the same knowing the picture alone",
    "bayes_shares": "what one reaction of it names, exactly",
    "bayes_shares_text": "the same knowing the words alone",
    "bayes_shares_image": "the same knowing the picture alone",
    "emotion_scores": "the teacher's probability of each emotion, mean over the captions",
    "caption_disagreement": "how far the scores vary over the captions",
    "model_disagreement": "how far the scores vary over the teachers",
    "emotions": "the image's emotions, best first",
    "selected_for": "emotions whose best images include this one",
    "region_features": "36 vectors, one after the other, zeros past `num_regions`",
    "region_boxes": "36 times x1 y1 x2 y2, relative to the image",
    "num_regions": "how many of the 36 there are",
    "license": "the photo's own",
}
"""Columns in a few words; of others the type alone is shown."""


def dataset_card(
    folder: Path,
    repo_id: str,
    names: PublicNames | None = None,
    metadata: dict[str, Any] | None = None,
    configs: dict[str, DatasetDict] | None = None,
    license: str | None = None,
) -> DatasetCard:
    """The card of a saved table.

    Args:
        repo_id, names: as in `model_card`.
        metadata: `dataset_info` and `configs` of the YAML part, where the files are known.
        configs: tables by configuration; by default the folder's own as the only one.
        license: what the card names; by default what the table has on record.
    """
    names, tables = names or PublicNames(), load_table(folder)
    path = Path(folder) / STATISTICS_FILE  # beside every labelled table
    statistics = json.loads(path.read_text("utf-8")) if path.is_file() else None
    licenses = statistics["licenses"] if statistics else None
    is_simulated = "bayes_probabilities" in next(iter(tables.values())).features  # of no real crowd known
    configs = configs or {"default": tables}
    title, rows = repo_id.rpartition("/")[2], sum(map(len, tables.values()))
    known = [license] if license else license_of(tables.values())
    if known is None and (licenses or is_simulated):  # tables of a time before licences were on record
        known = ["cc-by-4.0" if licenses else "apache-2.0"]
    data = DatasetCardData(
        language="en",
        **(license_fields(known) or {"license": "unknown"}),
        pretty_name=one_line(title),
        tags=["emotion", "image-text", "emocap", *(["pseudo-labels"] if statistics else [])],
        annotations_creators=["machine-generated"] if statistics else None,
        task_categories=["image-classification", "text-classification"],
        size_categories=[next((name for bound, name in SIZES.items() if rows < bound), "1M<n<10M")],
        **(metadata or {}),
    )
    text = render(
        "dataset",
        title=title,
        is_simulated=is_simulated,
        splits=table(("split", "images"), [(name, f"{len(split):,}") for name, split in tables.items()]),
        arguments=Markdown(
            ", ".join(json.dumps(name) for name in (repo_id, next(iter(configs))) if name != "default")
        ),
        first_split=next(iter(tables)),
        configs=list(configs),
        holds=CONFIGS,
        family=family_table(names, repo_id),
        columns=column_list(configs),
        license_note=license_note(known),
        licenses=licenses,
        **label_values(statistics, names),
    )
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n{text}")


def label_values(statistics: dict | None, names: PublicNames) -> dict[str, Any]:
    """What the template says of pseudo-labels."""
    if statistics is None:
        return {"statistics": None}
    selection = statistics["selection"]
    teachers = as_list(selection["teacher"])
    linked = [
        hub_link(repo_id, "model") if (repo_id := names.hub_id(teacher)) else in_code(names.shown(teacher))
        for teacher in teachers
    ]
    told = [
        f"{link} (revision {in_code(revision)})"
        for link, revision in zip(linked, as_list(selection["revision"]), strict=True)
    ]
    return {
        "statistics": statistics,
        "teachers": Markdown(" and ".join(told)),
        "num_teachers": len(teachers),
        "reads": READS[selection["modalities"]],
        "frequent": sorted(statistics["emotions"].items(), key=lambda item: -item[1]["images"]),
        "value_text": value_text,
        "sparkline": sparkline,
        "pairs": pairs_table(statistics),
    }


def column_list(configs: dict[str, DatasetDict]) -> Markdown:
    lines = []
    for config, tables in configs.items():
        if len(configs) > 1:
            lines.append(f"\nOf `{config}`:\n")
        features = next(iter(tables.values())).features
        for name, feature in features.items():
            meaning = f"; {MEANINGS[name]}" if name in MEANINGS else ""
            lines.append(f"- {in_code(name)}: {escape(kind_of_column(feature))}{meaning}")
    return Markdown("\n".join(lines))


def kind_of_column(feature: object) -> str:
    """A feature in words as short as they can be; the names of classes are in the YAML part."""
    if isinstance(feature, List):
        length = "" if feature.length == -1 else f"{feature.length} "
        return f"list of {length}{kind_of_column(feature.feature)}"
    if isinstance(feature, ClassLabel):
        return f"ClassLabel ({feature.num_classes} names)"
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def sparkline(counts: list[int]) -> Markdown:
    """Counts as a row of blocks, their heights as square roots; an empty bin is a low line."""
    highest = max(counts)
    levels = (math.ceil(8 * math.sqrt(count / highest)) if highest else 0 for count in counts)
    return Markdown("".join("_▁▂▃▄▅▆▇█"[level] for level in levels))


def pairs_table(statistics: dict[str, Any]) -> Markdown | None:
    """The ten pairs of emotions that the most images carry, and how much more often than by chance."""
    names, together = list(statistics["emotions"]), statistics["co_occurrence"]
    pairs = [
        (
            f"{names[first]}, {names[second]}",
            both,
            both * statistics["images"] / (together[first][first] * together[second][second]),
        )
        for first, row in enumerate(together)
        for second, both in enumerate(row[:first])
        if both
    ]
    best = sorted(pairs, key=lambda pair: -pair[1])[:10]
    rows = [(pair, str(images), f"{lift:.2f}") for pair, images, lift in best]
    return table(("emotions", "images", "lift"), rows) if rows else None
