"""What commands print of a measurement."""

from emocap.metrics import FEW_UNITS, METRIC_KEYS
from emocap.records import CONTROLS, GAIN_KEYS

__all__ = ["print_metrics", "print_valence"]


def print_metrics(metrics: dict[str, object]) -> None:
    """One line a metric, beside it the prior, ceiling and people, where known, and its interval."""
    known = ("prior", "chance", "tfidf", "lexicon", "encoder", "ceiling", "human", "as_human")
    shown = [name for name in known if any(f"{name}/{key}" in metrics for key in METRIC_KEYS)]
    print(f"{'':20}{'model':>9}" + "".join(f"{name:>9}" for name in shown))
    for name in METRIC_KEYS:
        if isinstance(value := metrics.get(name), float):
            row = [value, *(metrics.get(f"{prefix}/{name}") for prefix in shown)]
            bounds = [metrics.get(f"{name}_low"), metrics.get(f"{name}_high")]
            interval = "" if None in bounds else "   {:.4f} to {:.4f}".format(*bounds)
            print(f"{name:20}" + "".join("        -" if cell is None else f"{cell:9.4f}" for cell in row) + interval)
    print(f"{metrics['num_examples']} images, split '{metrics['split']}', truth '{metrics['truth']}'", end="; ")
    print(f"decisions at {metrics['decisions']} thresholds; to the right 95 % intervals")
    print_units(metrics)
    if "as_human" in shown:
        print(
            "human: one annotator against the others; as_human: the model on the same answers, naming as many emotions"
        )
    print_controls(metrics)


def print_valence(metrics: dict[str, object]) -> None:
    """One line a way of reading the valence: its correlation with people's, and the interval."""
    for key, value in metrics.items():
        if key.startswith("spearman/") and not key.endswith(("_low", "_high")):
            bounds = [metrics[f"{key}_low"], metrics[f"{key}_high"]]
            interval = "" if None in bounds else " ({:.3f} to {:.3f})".format(*bounds)
            print(f"{key.removeprefix('spearman/'):16}" + ("     -" if value is None else f"{value:6.3f}") + interval)
    print(f"Spearman with people's mean valence, {metrics['num_examples']} photos, split '{metrics['split']}'")
    print_units(metrics)


def print_units(metrics: dict[str, object]) -> None:
    """What intervals were drawn over, where that is not the images, and whether it is little."""
    groups = metrics.get("num_groups")
    what, units = ("images", metrics["num_examples"]) if groups is None else ("groups of images", groups)
    if groups is not None:
        print(f"Intervals are over {units} {what}, each drawn whole.")
    if units < FEW_UNITS:
        print(f"{units} {what} are few: intervals from fewer than {FEW_UNITS} are too narrow.")


def print_controls(metrics: dict[str, object]) -> None:
    """One line a control: its map_macro with its interval, and by how much the model is ahead of it."""

    def figure(key: str, form: str) -> str:
        value, low, high = (metrics.get(f"{key}{end}") for end in ("", "_low", "_high"))
        text = "" if None in (value, low, high) else f"{value:{form}} ({low:{form}} to {high:{form}})"
        return text.ljust(30)

    names = [name for name in ("prior", *CONTROLS) if f"{name}/map_macro_gain" in metrics or name in CONTROLS]
    names = [name for name in names if f"{name}/map_macro_low" in metrics]
    if names:
        ahead = "".join(f"ahead in {key}".ljust(30) for key in GAIN_KEYS)
        print(f"{'control':20}{'map_macro':30}{ahead}".rstrip())
    for name in names:
        cells = [figure(f"{name}/map_macro", ".4f"), *(figure(f"{name}/{key}_gain", "+.4f") for key in GAIN_KEYS)]
        print(f"{name:20}{''.join(cells)}{CONTROLS.get(name, 'the constant answer')}")
