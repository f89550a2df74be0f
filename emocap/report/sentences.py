"""What a captioner wrote for each wish, and what a judge says of it, as tables of a page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from emocap.records import Result, details_path, read_json
from emocap.report.tables import value_text

__all__ = ["caption_tables"]

FIGURES = {
    "alignment@1": "Share of the sentences whose wish is the judge's most probable emotion.",
    "alignment@3": "Share whose wish is among the judge's three most probable emotions.",
    "probability": "The judge's probability of the wish.",
    "lift": "This less its probability for the sentence of the same picture without a wish.",
    "share_of_best": "The probability as a share of what the best sentence would have; of the built-in corpus.",
    "parsed": "Share of sentences that the built-in corpus's grammar can produce.",
    "cider_d": "CIDEr-D against the picture's own captions.",
    "bleu_4": "BLEU-4 against them.",
    "retrieval@1": "Share of sentences that the captioner holds likelier of their own picture than of any other.",
    "novel": "Share that is no caption of the train split.",
    "unique": "Share of different sentences.",
}
"""Figures of the table of ways, where they were measured, and what they mean."""

NUM_PICTURES = 12


def caption_tables(folder: Path, result: Result, photo: Callable[[str], str | None]) -> dict[str, Any]:
    """Two kinds of tables of one captioner, from its metrics.json and metrics_details.json.

    Args:
        folder: where both lie.
        result: its figures.
        photo: the data URI of an image id's photo, None where there is none.

    Returns:
        `figures`, those of `FIGURES` that were measured; `ways`, each way of getting captions with a text for each of
        them; and `grids`, for each way of following wishes, such as a guidance scale, `wishes` as (name, mean lift)
        and a row for each of the first pictures: `image_id`, `image`, `own` and `plain` (its own caption, and the one
        without a wish) and `cells`, for each wish the sentence, the judge's probability of the wish, and its
        probability of the same for `plain`.

    Raises:
        FileNotFoundError: figures without the sentences beside them.
        ValueError: figures of the captioner's training.
    """
    if "judge" not in result:
        raise ValueError(
            f"'{folder}' holds the losses of a captioner's training; give the folder in which `emocap evaluate "
            "CAPTIONER --judge MODEL --output FOLDER/metrics.json` left its sentences."
        )
    details = read_json(details_path(folder / "metrics.json"), "the sentences that `emocap evaluate --output` leaves")
    told, wishes, ids = (details[key] for key in ("sentences", "wishes", "image_id"))
    wished = [way for way in told if way not in ("no_wish", "references")]
    images = [photo(image_id) for image_id in ids[:NUM_PICTURES]]
    grids = {}
    for way in wished:
        rows = [
            {
                "image_id": ids[row],
                "image": image,
                "own": told["references"]["captions"][row][0],
                "plain": told["no_wish"]["captions"][row][0],
                "cells": list(
                    zip(
                        told[way]["captions"][row],
                        told[way]["probabilities"][row],
                        told["no_wish"]["probabilities"][row],
                        strict=True,
                    )
                ),
            }
            for row, image in enumerate(images)
        ]
        lifts = [result.figure(f"{way}/lift/{wish}") for wish in wishes]
        grids[name_of(way)] = {"wishes": list(zip(wishes, lifts, strict=True)), "rows": rows}
    ways = ways_of(result, wished)
    figures = [key for key in FIGURES if any(own[key] is not None for own in ways.values())]
    texts = [[name, *(value_text(own[key]) for key in figures)] for name, own in ways.items()]
    return {"figures": {key: FIGURES[key] for key in figures}, "ways": texts, "grids": grids}


def name_of(way: str) -> str:
    return way.replace("/", ", ").replace("_", " ")


def ways_of(result: Result, wished: list[str]) -> dict[str, dict[str, float | None]]:
    """`FIGURES` of every way that was measured, by its name."""
    names = {"no_wish": "no wish", "best_caption": "own caption with most of the wish", "references": "own captions"}
    names = {way: name_of(way) for way in wished} | names
    controls = {"": "", "/shuffled_wishes": ", for another wish", "/shuffled_images": ", beside another picture"}
    found = {
        name + what: {key: result.figure(f"{way}{control}/{key}") for key in FIGURES}
        for way, name in names.items()
        for control, what in controls.items()
    }
    return {name: own for name, own in found.items() if any(value is not None for value in own.values())}
