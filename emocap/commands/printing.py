"""What commands print of a measurement."""

from typing import Any

from emocap.metrics import FEW_UNITS, METRIC_KEYS
from emocap.records import (
    CAPTION_FIGURES,
    CAPTION_LOSSES,
    CONTROLS,
    GAIN_KEYS,
    Gain,
    Result,
    caption_ways,
    wished_ways,
)

__all__ = ["print_captioner", "print_labels", "print_losses", "print_on_scenes", "print_result", "print_valence"]

REFERENCES = ("prior", "chance", "tfidf", "lexicon", "encoder", "ceiling", "human", "as_human")


def print_result(result: Result) -> None:
    """One line a metric, beside it the prior, ceiling and people, where known, and its interval; then the controls."""
    shown = [name for name in REFERENCES if any(f"{name}/{key}" in result for key in METRIC_KEYS)]
    print(f"{'':20}{'model':>9}" + "".join(f"{name:>9}" for name in shown))
    for key in METRIC_KEYS:
        if (value := result.figure(key)) is not None:
            row = [value, *(result.figure(f"{name}/{key}") for name in shown)]
            bounds = result.interval(key)
            interval = "" if bounds is None else "   {:.4f} to {:.4f}".format(*bounds)
            print(f"{key:20}" + "".join("        -" if cell is None else f"{cell:9.4f}" for cell in row) + interval)
    print(f"{result['num_examples']} images, split '{result['split']}', truth '{result['truth']}'", end="; ")
    print(f"decisions at {result['decisions']} thresholds; to the right 95 % intervals")
    if "model_disagreement" in result:
        print(
            f"{result['models']} together; standard deviation of their probabilities: "
            f"{result['model_disagreement']:.4f}"
        )
    print_units(result)
    if "as_human" in shown:
        print(
            "human: one annotator against the others; as_human: the model on the same answers, naming as many emotions"
        )
    print_controls(result)


def print_captioner(result: Result) -> None:
    """One line a way of getting captions, the wished ones first; then by how much they raise each emotion."""
    ways = wished_ways(result)
    print(f"{'':38}" + "".join(f"{head:>9}" for head in CAPTION_FIGURES.values()))
    for way in caption_ways(result):
        cells = [result.figure(f"{way}/{key}") for key in CAPTION_FIGURES]
        print(f"{way:38}" + "".join("        -" if cell is None else f"{cell:9.3f}" for cell in cells))
    print(f"\n{'lift':38}" + "".join(f"{way:30}" for way in ways).rstrip())
    for emotion in ("", *result["wishes"].split(", ")):
        key = f"lift/{emotion}" if emotion else "lift"
        line = f"{emotion or 'mean':38}"
        for way in ways:
            bounds = result.interval(f"{way}/{key}")
            interval = "" if bounds is None else " ({:+.3f} to {:+.3f})".format(*bounds)
            line += f"{result[f'{way}/{key}']:+.3f}{interval}".ljust(30)
        print(line.rstrip())
    print("\nReference captions, nats a token:", end=" ")
    shown = {"nats": "no wish", "nats_with_all_emotions": "all emotions", "nats_with_shuffled_emotions":
             "another caption's emotions", "nats_with_shuffled_images": "another picture"}  # fmt: skip
    told = [f"{result[f'references/{key}']:.3f} {what}" for key, what in shown.items()]
    print(", ".join(told) + f"; perplexity {result['references/perplexity']:.1f}")
    print(f"{result['num_examples']} images, split '{result['split']}', judge '{result['judge']}'", end="; ")
    if "ranker" in result:
        print(f"candidates chosen by '{result['ranker']}'", end="; ")
    print(f"found: among {result['num_retrieved']} pictures")
    print_units(result)


SCENES_FIGURES = {
    "probability": "prob.",
    "share_of_best": "of best",
    "lift": "lift",
    "alignment@1": "top 1",
    "alignment@3": "top 3",
    "parsed": "parsed",
    "thing": "thing",
    "face": "face",
    "weather": "weather",
    "thing_named": "named",
    "novel": "novel",
    "unique": "unique",
    "length": "words",
}
"""Figures of captions of the built-in corpus, and the heads of their columns."""


def print_on_scenes(result: Result) -> None:
    """One line a way of getting captions, and its controls."""
    scales = wished_ways(result)
    weights = sorted({name for key in result if (name := key.partition("/")[0]).startswith("weight_")})
    others = ["no_wish", "references", "best", *weights, "away_from", "pairs", "pairs/first_alone", "pairs/best"]
    ways = [way for own in scales for way in (own, f"{own}/shuffled_wishes", f"{own}/shuffled_images")] + others
    print(f"{'':38}" + "".join(f"{head:>9}" for head in SCENES_FIGURES.values()))
    for way in ways:
        cells = [result.figure(f"{way}/{key}") for key in SCENES_FIGURES]
        if any(cell is not None for cell in cells):
            print(f"{way:38}" + "".join("        -" if cell is None else f"{cell:9.3f}" for cell in cells))
    for own in scales:
        if bounds := result.interval(f"{own}/probability"):
            print(f"{own}: prob. {{:.3f}} to {{:.3f}}".format(*bounds))
    print(
        "prob.: exact, of the wish (away_from: of what is to be kept away; pairs: of the less probable of two); of "
        "best: share of the best sentence's"
    )
    print(f"monotone in the weight: {100 * result['monotone']:.0f} % of the wishes")
    print(f"{result['num_examples']} images, split '{result['split']}', judge '{result['judge']}'")
    print_units(result)


def print_losses(result: Result) -> None:
    """One line for each way to be given a wish: what a captioner's words cost."""
    for key, what in CAPTION_LOSSES.items():
        print(f"{what:40}{result[key]:9.4f}")
    images = f"{result['num_examples']} images, split '{result['split']}'"
    print(f"nats a token; {result['num_captions']} captions of {images}")


def print_labels(statistics: dict[str, Any]) -> None:
    """One line an emotion: the share of the images that carry it, beside it that of the teacher's training set."""
    emotions = statistics["emotions"]
    has_prior = any(own["prevalence"] is not None for own in emotions.values())
    heads = ["images", "share", *["prior"] * has_prior, "score"]
    print(f"{'':20}" + "".join(f"{head:>9}" for head in heads))
    for name, own in emotions.items():
        shares = [own["share"], *[own["prevalence"]] * has_prior, own["score_mean"]]
        cells = "".join("        -" if share is None else f"{share:9.4f}" for share in shares)
        print(f"{name:20}{own['images']:9,}{cells}")
    kept = sum(own["images"] for own in emotions.values()) / statistics["images"]
    told = f"{statistics['images']:,} images, {statistics['captions']:,} captions, {kept:.2f} emotions an image"
    print(f"{told}, {statistics['distinct_sets']:,} sets of emotions")
    if has_prior:
        print("prior: share of the teacher's training images; score: its mean probability")


def print_valence(result: Result) -> None:
    """One line a correlation with people's valence."""
    for key, value in result.items():
        if key.startswith("spearman/") and not key.endswith(("_low", "_high")):
            bounds = result.interval(key)
            interval = "" if bounds is None else " ({:.3f} to {:.3f})".format(*bounds)
            print(f"{key.removeprefix('spearman/'):16}" + ("     -" if value is None else f"{value:6.3f}") + interval)
    print(f"Spearman with people's mean valence, {result['num_examples']} photos, split '{result['split']}'")
    print_units(result)


def print_units(result: Result) -> None:
    """What intervals were drawn over, where that is not the images, and whether it is little."""
    what = "groups of images" if "num_groups" in result else "images"
    if "num_groups" in result:
        print(f"Intervals are over {result.num_units} {what}, each drawn whole.")
    if result.is_few:
        print(f"{result.num_units} {what} are few: intervals from fewer than {FEW_UNITS} are too narrow.")


def print_controls(result: Result) -> None:
    """One line a control: its map_macro with its interval, and by how much the model is ahead of it."""

    def cell(gain: Gain | None, form: str) -> str:
        if gain is None or gain.low is None:
            return " " * 30
        return f"{gain.value:{form}} ({gain.low:{form}} to {gain.high:{form}})".ljust(30)

    names = ["prior"] * ("prior/map_macro_gain" in result) + result.controls
    names = [name for name in names if result.interval(f"{name}/map_macro")]
    if names:
        ahead = "".join(f"ahead in {key}".ljust(30) for key in GAIN_KEYS)
        print(f"{'control':20}{'map_macro':30}{ahead}".rstrip())
    for name in names:
        own = f"{name}/map_macro"
        value = result.figure(own)
        cells = [cell(None if value is None else Gain(value, *(result.interval(own) or ())), ".4f")]
        cells += [cell(result.gain(name, key), "+.4f") for key in GAIN_KEYS]
        print(f"{name:20}{''.join(cells)}{CONTROLS.get(name, 'the constant answer')}")
