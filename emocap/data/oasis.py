"""OASIS: photos with a caption and people's valence and arousal, as a table of pairs with four soft labels."""

import math
import os
from statistics import NormalDist

from datasets import DatasetDict, Value

from emocap.data.annotations import Annotated
from emocap.data.licenses import set_license
from emocap.data.schema import OASIS_LABELS, pair_features, to_dataset_dict
from emocap.data.storage import DataReport, attach_photos, csv_rows, local_folder, read_text

__all__ = ["build_oasis", "load_oasis"]

NORMS = ("valence_mean", "valence_sd", "arousal_mean", "arousal_sd")
COLUMNS = ("file_name", "theme", "category", "caption", *NORMS)
SCALE = (1.0, 7.0)
MIDPOINT, MARGIN = 4.0, 0.5


def load_oasis(root: str | os.PathLike, *, seed: int = 0) -> DatasetDict:
    """The table of `build_oasis`, without its report."""
    return build_oasis(root, seed=seed)[0]


def build_oasis(root: str | os.PathLike, *, seed: int = 0) -> tuple[DatasetDict, DataReport]:
    """Reads OASIS (Kurdi, Lozano & Banaji 2017) into splits train, validation and test, one row a photo.

    OASIS asks about a hundred people a photo for valence and arousal on a scale from 1 to 7 and publishes mean and
    standard deviation. The four labels are derived from these: with ratings taken as normally distributed, the share
    of raters beyond the scale's midpoint of 4 by more than half a point.

    Args:
        root: folder, or Hub id of a data set, with `metadata.csv` (file_name, theme, category, caption, valence_mean,
            valence_sd, arousal_mean, arousal_sd; further columns are ignored) and `images/`.
        seed: seed of the splits.

    Returns:
        The table with `labels` List(float32, 4) soft: pleasant = P(valence > 4.5), unpleasant = P(valence < 3.5),
        aroused = P(arousal > 4.5), calm = P(arousal < 3.5); `emotions` are those above 0.5, best first; and
        `valence_mean`, `valence_sd`, `arousal_mean`, `arousal_sd` float32 as published; `group` string: the theme
        without its number. Most themes come several times ("Dog 1" to "Dog 22") and look alike: a split, fold or
        resample takes all of them or none.

    Raises:
        FileNotFoundError: `metadata.csv` or `images/` does not exist.
        ValueError: a column is missing, or a split stays empty.
    """
    folder = local_folder(root, "dataset", ("metadata.csv", "images/*"))
    metadata, photos_dir = folder / "metadata.csv", folder / "images"
    text = read_text(metadata, f"OASIS' norms with the columns {', '.join(COLUMNS)}")
    if not photos_dir.is_dir():
        raise FileNotFoundError(f"There is no photo folder '{photos_dir}'; expected OASIS' photos in it.")
    report = DataReport()
    rows: dict[str, dict] = {}
    for line, record in csv_rows(text, metadata, COLUMNS):
        problem = _record_problem(record)
        if record["file_name"] in rows:
            problem = "a row of this file_name came before"
        if problem:
            report.problem(record["file_name"], f"line {line}: {problem}", "row skipped")
        else:
            rows[record["file_name"]] = _row(record)
    report.count("rows read", len(rows))
    table_rows = attach_photos(list(rows.values()), photos_dir, report)
    extra = dict.fromkeys(NORMS, Value("float32")) | {"group": Value("string")}
    features = pair_features(OASIS_LABELS, extra=extra)
    return set_license(to_dataset_dict(table_rows, features, seed), "oasis-free-reuse"), report


def _record_problem(record: dict[str, str]) -> str | None:
    if not record["file_name"].strip():
        return "the file_name is empty"
    for norm in NORMS:
        low, high = SCALE if norm.endswith("_mean") else (0.0, SCALE[1] - SCALE[0])
        try:
            value = float(record[norm])
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            return f"{norm} is '{record[norm]}'; expected a number from {low:g} to {high:g}"
    return None


def _row(record: dict[str, str]) -> dict:
    norms = {norm: float(record[norm]) for norm in NORMS}
    unpleasant, pleasant = _tail_shares(norms["valence_mean"], norms["valence_sd"])
    calm, aroused = _tail_shares(norms["arousal_mean"], norms["arousal_sd"])
    soft = {"pleasant": pleasant, "unpleasant": unpleasant, "aroused": aroused, "calm": calm}
    group = theme_of(record["theme"]) or theme_of(os.path.splitext(record["file_name"])[0])
    photo = Annotated(shares=soft, columns={"group": group, **norms})
    photo.add_caption(record["caption"])
    return photo.row(record["file_name"], OASIS_LABELS, votes=False)


def theme_of(name: str) -> str:
    """A theme without its number, in lower case: "Dog 12" and "dog_12" are both "dog"."""
    return name.replace("_", " ").rstrip("0123456789 ").strip().lower()


def _tail_shares(mean: float, sd: float) -> tuple[float, float]:
    """P(rating < midpoint - margin) and P(rating > midpoint + margin) under Normal(mean, sd)."""
    low, high = MIDPOINT - MARGIN, MIDPOINT + MARGIN
    if sd == 0:  # all raters agree
        return float(mean < low), float(mean > high)
    ratings = NormalDist(mean, sd)
    return ratings.cdf(low), 1 - ratings.cdf(high)
