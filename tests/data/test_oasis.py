"""OASIS norms become four soft labels."""

import csv
from string import ascii_lowercase

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from emocap.data.oasis import build_oasis, load_oasis, theme_of
from emocap.data.schema import OASIS_LABELS, label_names

COLUMNS = ["file_name", "theme", "category", "caption", "valence_mean", "valence_sd", "arousal_mean", "arousal_sd"]


THEMES = [f"{first}{second} 1" for first in ascii_lowercase for second in ascii_lowercase]


def write_oasis(root, records: list[dict], columns: list[str] = COLUMNS, photos: bool = True):
    (root / "images").mkdir(parents=True)
    with open(root / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(records)
    for record in records if photos else []:
        Image.new("RGB", (20, 16), "red").save(root / "images" / record["file_name"])
    return root


def records(number: int, rng: np.random.Generator, themes: list[str] | None = None) -> list[dict]:
    """As many photos; by default each of a theme of its own."""
    themes = THEMES[:number] if themes is None else themes
    return [
        {
            "file_name": f"photo_{i}.jpg", "theme": themes[i], "category": "Object", "caption": f"caption {i}",
            "valence_mean": round(rng.uniform(1, 7), 4), "valence_sd": round(rng.uniform(0, 2), 4),
            "arousal_mean": round(rng.uniform(1, 7), 4), "arousal_sd": round(rng.uniform(0, 2), 4),
        }
        for i in range(number)
    ]  # fmt: skip


def all_rows(table) -> dict[str, dict]:
    return {row["image_id"]: row for part in table.values() for row in part}


def test_soft_labels_are_the_shares_beyond_the_midpoint(tmp_path, rng):
    given = records(60, rng)
    table, report = build_oasis(write_oasis(tmp_path, given))
    assert label_names(table) == OASIS_LABELS
    rows = all_rows(table)
    assert len(rows) == 60 and report.problems == []
    for record in given:
        row = rows[record["file_name"]]
        valence, arousal = (
            norm(record[f"{name}_mean"], record[f"{name}_sd"] + 1e-12) for name in ("valence", "arousal")
        )
        expected = [valence.sf(4.5), valence.cdf(3.5), arousal.sf(4.5), arousal.cdf(3.5)]
        np.testing.assert_allclose(row["labels"], expected, atol=1e-6)
        assert row["emotions"] == [i for i in np.argsort(-np.array(expected), kind="stable") if expected[i] > 0.5]
        assert row["captions"] == [record["caption"]]
        assert row["arousal_mean"] == pytest.approx(record["arousal_mean"], rel=1e-6)
        assert row["image"].size == (20, 16)


def test_raters_who_all_agree(tmp_path):
    given = records(40, np.random.default_rng(0))
    given[0] |= {"valence_mean": 5, "valence_sd": 0, "arousal_mean": 3, "arousal_sd": 0}
    given[1] |= {"valence_mean": 3.5, "valence_sd": 0, "arousal_mean": 4.5, "arousal_sd": 0}
    rows = all_rows(load_oasis(write_oasis(tmp_path, given)))
    assert rows["photo_0.jpg"]["labels"] == [1, 0, 0, 1] and rows["photo_0.jpg"]["emotions"] == [0, 3]
    assert rows["photo_1.jpg"]["labels"] == [0, 0, 0, 0] and rows["photo_1.jpg"]["emotions"] == []


def test_bad_rows_are_skipped_and_listed(tmp_path):
    given = records(40, np.random.default_rng(0))
    root = write_oasis(tmp_path, [*given, given[5]])
    for number, change in enumerate(
        [{"valence_mean": "n/a"}, {"arousal_sd": -1}, {"valence_mean": 9}, {"arousal_mean": "nan"}]
    ):
        given[number] |= change
    given[4]["caption"] = " "
    with open(root / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "further"], restval="ignored")
        writer.writeheader()
        writer.writerows([*given, given[5]])
    (root / "images" / "photo_4.jpg").unlink()
    (root / "images" / "photo_6.jpg").write_text("no photo")
    table, report = build_oasis(root)
    rows = all_rows(table)
    assert set(rows) == {f"photo_{i}.jpg" for i in range(5, 40)}
    assert rows["photo_6.jpg"]["image"] is None
    reasons = [(problem["image_id"], problem["consequence"], problem["reason"]) for problem in report.problems]
    assert [reason[:2] for reason in reasons] == [
        ("photo_0.jpg", "row skipped"), ("photo_1.jpg", "row skipped"), ("photo_2.jpg", "row skipped"),
        ("photo_3.jpg", "row skipped"), ("photo_5.jpg", "row skipped"), ("photo_4.jpg", "row skipped"),
        ("photo_6.jpg", "kept without photo"),
    ]  # fmt: skip
    assert reasons[0][2] == "line 2: valence_mean is 'n/a'; expected a number from 1 to 7"


def test_errors_name_what_is_absent(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metadata.csv'; expected OASIS' norms"):
        load_oasis(tmp_path)
    write_oasis(tmp_path / "a", records(3, np.random.default_rng(0)), COLUMNS[:5])
    with pytest.raises(ValueError, match=r"lacks the column\(s\) valence_sd, arousal_mean, arousal_sd"):
        load_oasis(tmp_path / "a")
    root = write_oasis(tmp_path / "b", records(3, np.random.default_rng(0)), photos=False)
    (root / "images").rmdir()
    with pytest.raises(FileNotFoundError, match="no photo folder"):
        load_oasis(root)


def test_the_seed_moves_the_splits(tmp_path):
    root = write_oasis(tmp_path, records(80, np.random.default_rng(0)))
    first, again, other = load_oasis(root), load_oasis(root), load_oasis(root, seed=1)
    assert first["test"]["image_id"][:] == again["test"]["image_id"][:] != other["test"]["image_id"][:]


def test_photos_of_one_theme_are_one_group_in_one_split(tmp_path, rng):
    themes = [f"Theme{THEMES[i][:2]} {number}" for number, i in enumerate(rng.integers(0, 120, 240), start=1)]
    table = load_oasis(write_oasis(tmp_path, records(240, rng, themes)))
    where = {}
    for name, split in table.items():
        for image_id, group in zip(split["image_id"][:], split["group"][:], strict=True):
            assert group == themes[int(image_id[6:-4])].split()[0].lower()
            where.setdefault(group, set()).add(name)
    assert all(len(splits) == 1 for splits in where.values()) and len(where) > 80


@pytest.mark.parametrize(
    ("theme", "group"),
    [("Dog 12", "dog"), ("dog_12", "dog"), ("Alcohol 2", "alcohol"), ("Bar brawl 1", "bar brawl"), ("Snow", "snow")],
)
def test_a_theme_goes_without_its_number(theme, group):
    assert theme_of(theme) == group
