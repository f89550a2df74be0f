"""Anybody's pairs: every form of file and of labels gives the table that a slow reading of it gives."""

import csv
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from datasets.exceptions import DatasetNotFoundError
from PIL import Image as Picture

from emocap import load_pairs
from emocap.cli import main
from emocap.data import sources
from emocap.data.own_pairs import build_pairs
from emocap.data.schema import SPLIT_SHARES, draw_splits, label_names, pair_features, position_of, split_of
from emocap.data.storage import load_table
from tests.conftest import fresh_rng

OWN = ["calm", "curious", "proud", "homesick", "amused", "uneasy", "tender"]


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(fresh_rng().integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def pairs(tmp_path, rng) -> list[dict]:
    """Fifty photos in a folder, each with a caption and one to three of seven emotions."""
    rows = []
    for number in range(50):
        photo(tmp_path / "own" / "photos" / f"{number:02d}.jpg")
        named = rng.choice(OWN, rng.integers(1, 4), replace=False).tolist()
        if number < len(OWN):
            named = [OWN[number], *(name for name in named if name != OWN[number])]
        rows.append({"image": f"photos/{number:02d}.jpg", "caption": f"a dog, number {number}", "emotions": named})
    return rows


def write_csv(path, rows: list[dict], delimiter: str = ","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def texts(rows: list[dict], separator: str = "|") -> list[dict]:
    return [row | {"emotions": separator.join(row["emotions"])} for row in rows]


def all_rows(table: DatasetDict) -> dict[str, dict]:
    return {row["image_id"]: row for part in table.values() for row in part}


def said(table: DatasetDict) -> dict[str, tuple]:
    """Captions, named emotions and size of photo of each image."""
    names = label_names(table)
    return {
        own: (row["captions"], {names[label] for label in row["emotions"]}, row["image"] and row["image"].size)
        for own, row in all_rows(table).items()
    }


def expected(rows: list[dict]) -> dict[str, tuple]:
    return {row["image"]: ([row["caption"]], set(row["emotions"]), (16, 12)) for row in rows}


def test_a_csv_of_own_emotions_against_a_slow_reading(pairs, tmp_path):
    table, report = build_pairs(write_csv(tmp_path / "own" / "pairs.csv", texts(pairs, ", ")))
    counts = Counter(name for row in pairs for name in row["emotions"])
    assert label_names(table) == sorted(counts, key=lambda name: (-counts[name], name))
    assert table["train"].features == pair_features(label_names(table))
    assert said(table) == expected(pairs)
    for row in all_rows(table).values():
        assert row["labels"] == [float(label in row["emotions"]) for label in range(7)]
    assert {name: len(part) for name, part in table.items()} == {"train": 35, "validation": 5, "test": 10}
    assert report.extra["columns"] == {"image": "image", "caption": "caption", "labels": "emotions"}
    assert report.problems == [] and report.extra["label_counts"] == {name: counts[name] for name in counts}


def write_form(form: str, rows: list[dict], folder):
    """The rows in one of the forms that are read, as a path or an object."""
    absolute = [row | {"image": str(folder / row["image"])} for row in rows]
    if form == "tsv":
        return write_csv(folder / "pairs.tsv", texts(rows), "\t")
    if form == "semicolons":
        return write_csv(folder / "pairs.csv", texts(rows), ";")
    if form in ("jsonl", "json"):
        content = json.dumps(rows) if form == "json" else "\n".join(json.dumps(row) for row in rows) + "\n\n"
        (folder / f"pairs.{form}").write_text(content)
        return folder / f"pairs.{form}"
    if form == "metadata":
        named = [{"file_name": row["image"], "text": row["caption"], "label": row["emotions"]} for row in rows]
        (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in named))
        return folder
    if form == "pandas":
        return pd.DataFrame(absolute)
    table = Dataset.from_list(rows if form == "parquet" else absolute)
    if form == "parquet":
        table.to_parquet(folder / "pairs.parquet")
        return folder / "pairs.parquet"
    if form == "paths on disk":
        Dataset.from_list(rows).save_to_disk(folder / "pairs")
        return folder / "pairs"
    table = table.cast_column("image", Image())
    if form == "photos on disk":
        table.save_to_disk(folder / "pairs")
        return folder / "pairs"
    return {"data set": table, "data sets": DatasetDict({"train": table})}[form]


FORMS = ["tsv", "semicolons", "jsonl", "json", "metadata", "pandas", "parquet", "photos on disk", "paths on disk",
         "data set", "data sets"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_table(form, pairs, tmp_path):
    folder = tmp_path / "own"
    options = {"images_dir": folder} if form in ("pandas", "paths on disk", "data set", "data sets") else {}
    table = load_pairs(write_form(form, pairs, folder), **options)
    found = said(table)
    if form == "photos on disk":  # they carry their names alone
        found = {f"photos/{own}": row for own, row in found.items()}
        assert all(row["image"].size == (16, 12) for row in table["train"])
    else:
        by_file = load_pairs(write_csv(tmp_path / "own" / "same.csv", texts(pairs)))
        assert {name: part["image_id"][:] for name, part in table.items()} == {
            name: part["image_id"][:] for name, part in by_file.items()
        }
    assert found == expected(pairs)


def as_polars(rows: list[dict]):
    """What `from_polars` takes of a frame, where polars is not installed."""

    class DataFrame:
        __module__ = "polars.dataframe.frame"

        def to_arrow(self):
            return Dataset.from_list(rows).data.table

    return DataFrame()


def test_a_frame_of_polars(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(Dataset, "from_polars", lambda frame: Dataset(frame.to_arrow()))
    assert said(load_pairs(as_polars(pairs), images_dir=tmp_path / "own")) == expected(pairs)
    with pytest.raises(ValueError, match="The source is the builtins list; expected a path"):
        load_pairs([1, 2])


def test_a_data_set_of_the_hub(pairs, tmp_path, monkeypatch):
    table = Dataset.from_list([row | {"image": str(tmp_path / "own" / row["image"])} for row in pairs])
    table = DatasetDict({"train": Dataset.from_list(list(table.cast_column("image", Image())))})
    table.save_to_disk(tmp_path / "saved")
    asked = []

    def load(name, *config):
        asked.append((name, *config))
        if name == "me/absent":
            raise DatasetNotFoundError("no such data set")
        if name == "me/script":
            raise RuntimeError("Dataset scripts are no longer supported")
        return load_table(tmp_path / "saved")

    monkeypatch.setattr(sources, "load_dataset", load)
    monkeypatch.setattr(sources, "card_license", lambda name: "cc0-1.0")
    monkeypatch.chdir(tmp_path)
    found = load_pairs("me/pairs", config="small")
    assert asked == [("me/pairs", "small")] and found["train"].info.license == "cc0-1.0"
    assert sorted(own[1] is not None for own in said(found).values()) == [True] * 50
    assert all(row["image"].size == (16, 12) for row in found["test"])
    with pytest.raises(FileNotFoundError, match="neither a file or folder nor a Hub data set that can be reached"):
        load_pairs("me/absent")
    with pytest.raises(ValueError, match="The Hub data set 'me/script' cannot be read: Dataset scripts are"):
        load_pairs("me/script")


def class_ids(rows: list[dict]) -> Dataset:
    features = Features(
        {"image": Value("string"), "caption": Value("string"), "emotions": List(ClassLabel(names=OWN))}
    )
    return Dataset.from_list([row | {"emotions": list(map(OWN.index, row["emotions"]))} for row in rows], features)


LABELS = {
    "bars": lambda rows: texts(rows, "|"),
    "commas": lambda rows: texts(rows, " , "),
    "JSON lists": lambda rows: [row | {"emotions": json.dumps(row["emotions"])} for row in rows],
    "Python lists": lambda rows: [row | {"emotions": str(row["emotions"])} for row in rows],
    "cases": lambda rows: [row | {"emotions": ";".join(row["emotions"]).upper() if i == 9 else
                                  ";".join(row["emotions"])} for i, row in enumerate(rows)],
    "marks": lambda rows: [{"image": row["image"], "caption": row["caption"]} |
                           {name: int(name in row["emotions"]) for name in OWN} for row in rows],
    "numbers": lambda rows: [row | {"emotions": "|".join(str(OWN.index(name)) for name in row["emotions"])}
                             for row in rows],
    "a row an emotion": lambda rows: [row | {"emotions": name} for row in rows for name in row["emotions"]],
}  # fmt: skip


@pytest.mark.parametrize("form", [*LABELS, "class ids"])
def test_every_form_of_labels_gives_the_same_emotions(form, pairs, tmp_path):
    options = {"labels": OWN} if form == "numbers" else {"annotators": False} if form == "a row an emotion" else {}
    if form == "class ids":
        table = load_pairs(class_ids(pairs), images_dir=tmp_path / "own")
    else:
        table = load_pairs(write_csv(tmp_path / "own" / "pairs.csv", LABELS[form](pairs)), **options)
    assert said(table) == expected(pairs)
    if form in ("marks", "numbers", "class ids"):
        assert label_names(table) == OWN


def test_one_row_an_annotator_against_a_slow_reading(pairs, tmp_path, rng):
    rows, answers = [], {row["image"]: {} for row in pairs}
    for row in pairs:
        for person in range(rng.integers(1, 6)):
            own = answers[row["image"]].setdefault(f"p{person}", set())
            for _ in range(rng.integers(1, 3)):  # some say twice what they felt
                named = rng.choice([*OWN, ""], rng.integers(1, 3), replace=False).tolist()
                own.update(name for name in named if name)
                rows.append(row | {"emotions": "|".join(named), "worker_id": f"p{person}"})
    rng.shuffle(rows)
    source = write_csv(tmp_path / "own" / "answers.csv", rows)
    table = load_pairs(source)
    names = label_names(table)
    assert table["train"].features == pair_features(names, votes=True)
    found = all_rows(table)
    assert set(found) == {own for own, given in answers.items() if any(given.values())}
    for own, row in found.items():
        votes = [sum(name in given for given in answers[own].values()) for name in names]
        assert row["votes"] == votes and row["num_annotators"] == len(answers[own])
        np.testing.assert_allclose(row["soft_labels"], np.array(votes) / len(answers[own]), rtol=1e-6)
        assert row["labels"] == [float(vote > 0) for vote in votes]
        assert [votes[label] for label in row["emotions"]] == sorted(filter(None, votes), reverse=True)
    nameless = [{name: value for name, value in row.items() if name != "worker_id"} for row in rows]
    source = write_csv(tmp_path / "own" / "nameless.csv", nameless)
    with pytest.raises(ValueError, match=r"line \d+: the rows of 'photos/\d\d.jpg' disagree .*Say --annotators where"):
        load_pairs(source)
    of_rows = all_rows(load_pairs(source, annotators=True))
    assert {own: row["num_annotators"] for own, row in of_rows.items()} == {
        own: sum(row["image"] == own for row in rows) for own in of_rows
    }
    joined = said(load_pairs(source, annotators=False))
    assert all(joined[own][1] == set().union(*answers[own].values()) for own in joined)


def test_shares_and_votes(pairs, tmp_path, rng):
    people = rng.integers(3, 9, len(pairs))
    votes = rng.binomial(people[:, None], 0.4, (len(pairs), 7))
    kept = [{"image": row["image"], "caption": row["caption"]} for row in pairs]
    rows = [row | dict(zip(OWN, own.tolist(), strict=True)) for row, own in zip(kept, votes, strict=True)]
    counted = [row | {"num_raters": int(number)} for row, number in zip(rows, people, strict=True)]
    table = load_pairs(write_csv(tmp_path / "own" / "votes.csv", counted), labels_column=OWN)
    found = all_rows(table)
    for row, own, number in zip(kept, votes, people, strict=True):
        assert found[row["image"]]["votes"] == own.tolist()
        assert found[row["image"]]["num_annotators"] == number
        assert found[row["image"]]["labels"] == [float(vote > 0) for vote in own]
    shares = (votes / people[:, None]).round(4)
    rows = [row | dict(zip(OWN, own.tolist(), strict=True)) for row, own in zip(kept, shares, strict=True)]
    table = load_pairs(write_csv(tmp_path / "own" / "shares.csv", [rows[0], *rows]))
    assert label_names(table) == OWN and table["train"].features == pair_features(OWN)
    for row, own in zip(kept, shares, strict=True):
        np.testing.assert_allclose(all_rows(table)[row["image"]]["labels"], own, rtol=1e-6)
        strong = [label for label in np.argsort(-own, kind="stable").tolist() if own[label] > 0.5]
        assert all_rows(table)[row["image"]]["emotions"] == strong
    with pytest.raises(ValueError, match="other numbers than the rows of 'photos/00.jpg' before it"):
        load_pairs(write_csv(tmp_path / "own" / "shares.csv", [*rows, rows[0] | {"calm": 0.123}]))


def test_a_table_of_pairs_is_a_source_too(tiny_table, tmp_path):
    table = load_pairs(tiny_table)
    assert label_names(table) == label_names(tiny_table)
    for name, part in tiny_table.items():
        assert table[name].select_columns(["image_id", "captions", "labels"])[:] == part.select_columns(
            ["image_id", "captions", "labels"])[:]  # fmt: skip
    votes = load_pairs(tiny_table, labels_column="votes")
    for name in ("votes", "num_annotators", "soft_labels", "labels"):
        assert votes["test"][name][:] == tiny_table["test"][name][:]


def test_captions_of_several_columns_rows_and_lists(pairs, tmp_path):
    rows = [row | {"caption": [row["caption"], " "], "title": None if i % 2 else f"title {i}"}
            for i, row in enumerate(pairs)]  # fmt: skip
    rows += [pairs[3] | {"caption": ["said later", pairs[3]["caption"]], "title": None}]
    (tmp_path / "own" / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    table, report = build_pairs(tmp_path / "own" / "pairs.jsonl", caption_column=["title", "caption"])
    found = all_rows(table)
    assert found["photos/02.jpg"]["captions"] == ["title 2", "a dog, number 2"]
    assert found["photos/03.jpg"]["captions"] == ["a dog, number 3", "said later"]
    assert len(found) == 50 and report.counts["rows of an image that came before, merged"] == 1


def test_one_row_may_say_what_the_others_leave_out(pairs, tmp_path):
    rows = [row | {"image_id": f"id {i}", "group": f"g{i // 5}"} for i, row in enumerate(texts(pairs))]
    rows += [row | {"image": "", "group": "", "caption": "once more"} for row in rows[:8]]
    table = load_pairs(write_csv(tmp_path / "own" / "pairs.csv", rows[::-1]))
    found = all_rows(table)
    assert len(found) == 50 and all(row["image"] is not None for row in found.values())
    assert found["id 7"]["group"] == "g1" and found["id 7"]["captions"] == ["once more", "a dog, number 7"]


def test_text_alone_and_pairs_without_labels(tmp_path):
    rows = [{"text": f"sentence {i % 40}", "label": "joy" if i % 2 else "fear"} for i in range(80)]
    table = load_pairs(write_csv(tmp_path / "texts.csv", rows))
    assert sum(map(len, table.values())) == 40 and table["train"]["image"][:] == [None] * len(table["train"])
    rows = [{"image": f"{i}.jpg", "caption": f"c {i}"} for i in range(9)]
    table, report = build_pairs(write_csv(tmp_path / "pairs.csv", rows))
    assert list(table) == ["train"] and table["train"].features == pair_features(None) and len(table["train"]) == 9
    assert "None of the 9 photos lies in" in report.extra["warnings"][0] and not report.problems


def test_photos_that_cannot_be_used_are_listed_and_none_outside_is_read(pairs, tmp_path):
    folder = tmp_path / "own"
    photo(tmp_path / "secret.jpg")
    pairs[0]["image"], pairs[1]["image"] = "../secret.jpg", str(tmp_path / "secret.jpg")
    pairs[2]["image"] = str(folder / "photos" / "02.jpg")
    (folder / "photos" / "03.jpg").write_text("no photo")
    (folder / "photos" / "04.jpg").unlink()
    pairs[5]["image"], pairs[6]["caption"] = "", ""
    table, report = build_pairs(write_csv(folder / "pairs.csv", texts(pairs)))
    found = all_rows(table)
    assert found["photos/02.jpg"]["image"].size == (16, 12) and found["photos/06.jpg"]["captions"] == []
    assert [own["reason"] for own in report.problems] == [
        "path leads outside the photo folder", "path leads outside the photo folder", "not an image", "missing file",
    ]  # fmt: skip
    assert sum(row["image"] is None for row in found.values()) == 5 and report.counts["kept without photo"] == 4
    features = Features(
        {"image": Image(), "text": Value("string"), "label": Value("string"), "split": Value("string")}
    )
    sly = [
        {"image": {"bytes": None, "path": str(tmp_path / "secret.jpg")}, "text": "x", "label": "a", "split": "test"}
    ]
    Dataset.from_list(sly, features).to_parquet(folder / "sly.parquet")
    assert load_pairs(folder / "sly.parquet")["test"]["image"][:] == [None]


def test_given_splits_are_kept_under_the_usual_names(pairs, tmp_path):
    wanted = ["Train", "dev", "test", "rest"]
    rows = [row | {"split": wanted[i % 4]} for i, row in enumerate(texts(pairs))]
    table = load_pairs(write_csv(tmp_path / "own" / "pairs.csv", rows))
    assert list(table) == ["train", "validation", "test", "rest"]
    for place, part in enumerate(table.values()):
        assert part["image_id"][:] == [row["image"] for row in pairs[place::4]]
    drawn = load_pairs(tmp_path / "own" / "pairs.csv", split_column="none")
    assert {name: len(part) for name, part in drawn.items()} == {"train": 35, "validation": 5, "test": 10}
    parts = DatasetDict({"training": Dataset.from_list(pairs[:30]), "val": Dataset.from_list(pairs[30:])})
    table = load_pairs(parts, images_dir=tmp_path / "own")
    assert {name: len(part) for name, part in table.items()} == {"train": 30, "validation": 20}
    for split, number in (("train", 2), ("test", 3)):
        write_csv(tmp_path / "own" / split / "metadata.csv",
                  [{"file_name": f"{i}.jpg", "text": "c", "label": "joy"} for i in range(number)])  # fmt: skip
        for i in range(number):
            photo(tmp_path / "own" / split / f"{i}.jpg")
    table = load_pairs(tmp_path / "own")
    assert table["test"]["image_id"][:] == ["test/0.jpg", "test/1.jpg", "test/2.jpg"] and len(table["train"]) == 2


def drawn_rows(rng, number: int, groups: int = 0) -> list[dict]:
    shares = rng.dirichlet(np.ones(7))
    return [
        {"image_id": f"{i}.jpg", "emotions": rng.choice(7, rng.integers(1, 4), replace=False, p=shares).tolist()}
        | ({"group": f"g{rng.integers(groups)}"} if groups else {})
        for i in range(number)
    ]


def test_small_tables_have_exact_splits_that_hold_every_frequent_emotion(rng):
    for number in (5, 17, 40, 100, 487):
        rows = drawn_rows(rng, number)
        places = draw_splits(rows, seed=int(rng.integers(99)))
        sizes = Counter(places)
        for name, share in SPLIT_SHARES.items():
            assert abs(sizes[name] - share * number) <= 1, (number, sizes)
    for label in range(7):  # of 487 images
        carry = [place for place, row in zip(places, rows, strict=True) if label in row["emotions"]]
        counts = Counter(min(row["emotions"], key=lambda own: sum(own in other["emotions"] for other in rows)) == label
                         for row in rows)  # fmt: skip
        assert counts[True] < 30 or {"train", "validation", "test"} <= set(carry)
    assert draw_splits(rows[::-1], 3) == draw_splits(rows, 3)[::-1] != draw_splits(rows, 4)[::-1]


def test_few_rows_move_when_a_small_table_grows(rng):
    rows = drawn_rows(rng, 301)
    before, after = draw_splits(rows[:300]), draw_splits(rows)
    # of each emotion's images one may pass each of two bounds; the newcomer may make another emotion the rarest
    assert sum(old != new for old, new in zip(before, after[:300], strict=True)) <= 2 * 7
    large = drawn_rows(rng, 1000)
    assert draw_splits(large) == [split_of(row["image_id"]) for row in large]
    small = draw_splits(large[:999])
    assert np.mean([a == b for a, b in zip(small, draw_splits(large)[:999], strict=True)]) > 0.85


def test_the_hash_says_the_order_within_an_emotion(rng):
    rows = [{"image_id": str(i), "emotions": [0]} for i in range(60)]
    order = sorted(rows, key=lambda row: position_of(row["image_id"], 5))
    places = {row["image_id"]: place for row, place in zip(rows, draw_splits(rows, 5), strict=True)}
    assert [places[row["image_id"]] for row in order] == ["train"] * 42 + ["validation"] * 6 + ["test"] * 12


def test_a_group_stands_in_one_split(pairs, tmp_path, rng):
    rows = [row | {"group": f"g{rng.integers(20)}"} for row in texts(pairs)]
    table = load_pairs(write_csv(tmp_path / "own" / "pairs.csv", rows))
    where = {}
    for name, part in table.items():
        for own in part["group"][:]:
            assert where.setdefault(own, name) == name
    groups = {row["image"]: row["group"] for row in rows}
    assert {own: row["group"] for own, row in all_rows(table).items()} == groups
    torn = [row | {"split": "train" if i else "test"} for i, row in enumerate([rows[0], *rows])]
    torn[0] |= {"image": "other.jpg"}
    with pytest.raises(ValueError, match=f"group '{rows[0]['group']}' in the splits 'test' and 'train'"):
        load_pairs(write_csv(tmp_path / "own" / "torn.csv", torn))


def test_few_images_are_warned_of(pairs, tmp_path):
    _, report = build_pairs(write_csv(tmp_path / "own" / "pairs.csv", texts(pairs)))
    warnings = report.extra["warnings"]
    assert warnings[0].startswith("The validation split has 5 images: what is measured on it says little.")
    with pytest.raises(ValueError, match=r"There are 4 images \(or groups\), too few to draw train"):
        load_pairs(write_csv(tmp_path / "own" / "few.csv", texts(pairs)[:4]))


def test_labels_fix_names_and_order(pairs, tmp_path):
    source = write_csv(tmp_path / "own" / "pairs.csv", texts(pairs))
    names = [*reversed(OWN), "never named"]
    (tmp_path / "labels.json").write_text(json.dumps(names))
    assert label_names(load_pairs(source, labels=tmp_path / "labels.json")) == names
    with pytest.raises(ValueError, match=r"names 1 emotion\(s\) that the given labels lack: tender"):
        load_pairs(source, labels=OWN[:-1])
    counts = Counter(name for row in pairs for name in row["emotions"])
    frequent = sorted(counts.values())[3]
    table, report = build_pairs(source, min_count=frequent)
    assert set(label_names(table)) == {name for name in OWN if counts[name] >= frequent}
    assert report.extra["dropped_labels"]["below_min_count"] == {
        name: counts[name] for name in OWN if counts[name] < frequent}  # fmt: skip


FOLD = {"calm": "good", "proud": ["good", "self"], "curious": "good", "amused": "good", "tender": "good",
        "homesick": "bad", "uneasy": None}  # fmt: skip


def test_a_label_map_folds_one_set_into_another(pairs, tmp_path, rng):
    (tmp_path / "fold.yaml").write_text(json.dumps(FOLD))
    source = write_csv(tmp_path / "own" / "pairs.csv", texts(pairs))
    found = said(load_pairs(source, label_map=tmp_path / "fold.yaml"))
    folded = {}
    for row in pairs:
        new = [FOLD[name] for name in row["emotions"]]
        folded[row["image"]] = {name for own in new if own for name in ([own] if isinstance(own, str) else own)}
    assert {own: row[1] for own, row in found.items()} == {own: new for own, new in folded.items() if new}
    for change, message in (
        ({"happy": "good"}, r"has 1 emotion\(s\) that '.*pairs.csv' lacks: happy. Those of the source: "),
        ({"calm": {"a": 1}}, "gives 'calm' the name {'a': 1}; expected a name, a list, or null"),
    ):
        (tmp_path / "wrong.yaml").write_text(json.dumps(FOLD | change))
        with pytest.raises(ValueError, match=message):
            load_pairs(source, label_map=tmp_path / "wrong.yaml")
    (tmp_path / "wrong.yaml").write_text("calm: good\nproud: good\n")
    with pytest.raises(ValueError, match=r"lacks 5 emotion\(s\) of '.*pairs.csv': "):
        load_pairs(source, label_map=tmp_path / "wrong.yaml")
    shares = rng.dirichlet(np.ones(7), len(pairs)).round(6)
    shares[:, -1] = (1 - shares[:, :-1].sum(axis=1)).round(6)
    rows = [{"image": row["image"], "caption": "c"} | dict(zip(OWN, own.tolist(), strict=True))
            for row, own in zip(pairs, shares, strict=True)]  # fmt: skip
    table = load_pairs(write_csv(tmp_path / "own" / "shares.csv", rows), label_map=tmp_path / "fold.yaml")
    good = [OWN.index(name) for name in ("calm", "proud", "curious", "amused", "tender")]
    for row, own in zip(pairs, shares, strict=True):
        labels = dict(zip(label_names(table), all_rows(table)[row["image"]]["labels"], strict=True))
        assert labels["good"] == pytest.approx(own[good].sum(), abs=1e-5) and labels["self"] == pytest.approx(own[2])
    rows[0] |= {"calm": 0.9, "proud": 0.8}
    with pytest.raises(ValueError, match="line 2: several of the emotions that become 'good' were named"):
        load_pairs(write_csv(tmp_path / "own" / "shares.csv", rows), label_map=tmp_path / "fold.yaml")


def simple(**changes) -> list[dict]:
    return [{"image": f"{i}.jpg", "caption": "c", "label": "joy"} | changes for i in range(10)]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (simple(), {"image_column": "foto"}, r"has no column 'foto'. Its columns: image, caption, label. Say which"),
        (simple(), {"image_column": "{a}/{image}"}, "has no column 'a'"),
        (simple(text="t"), {}, r"has 2 columns that may be the caption \(caption, text\)"),
        (simple(emotion="t"), {}, r"has 2 columns that may be the labels \(label, emotion\)"),
        ([{"foto": "a", "words": "b"}] * 9, {}, "has no column that is plainly the labels"),
        ([{"foto": "a", "label": "b"}] * 9, {}, "has no column that is plainly the photos or the captions"),
        ([{"image": "a", "caption": "b", "mood": "c"}] * 9, {}, "plainly the labels.*image, caption, mood. Say which"),
        (simple(label=3), {}, "the column 'label' holds numbers under no name. Give .* with --labels FILE"),
        (simple(label=3), {"labels": ["joy", "fear"]}, "line 2: 'label' is 3; expected the number of one of 2"),
        (simple(label=-1), {"labels": ["joy", "fear"]}, "'label' is -1; expected the number of one of 2"),
        (simple(label="0.5"), {"labels": ["joy", "fear"]}, "'label' is 0.5; expected the number of one of 2"),
        (simple(label=""), {}, "No emotion matches min_count = 1 images; most frequent: none at all"),
        (simple(joy=2, fear=0), {"labels_column": ["joy", "fear"]}, "joy is 2; expected 0 or 1.*Votes need the"),
        (simple(joy=1.5, fear=0), {"labels_column": ["joy", "fear"]}, "joy is 1.5; expected 0 or 1, or a share"),
        (simple(joy="x", fear=0), {"labels_column": ["joy", "fear"]}, "line 2: joy is 'x'; expected a number"),
        (simple(joy=-1, fear=0), {"labels_column": ["joy", "fear"]}, "line 2: joy is '-1'; expected a number"),
        (simple(joy="nan", fear=0), {"labels_column": ["joy", "fear"]}, "line 2: joy is 'nan'; expected a number"),
        (simple(joy=3, fear=0, raters=2), {"labels_column": ["joy", "fear"]}, "'raters' is '2'; expected the"),
        (simple(image="", caption=""), {}, "line 2: there is no photo, caption or id in it"),
        (simple(split=""), {}, "line 2: 'split' is empty"),
        (simple(split="../out"), {}, "has a split '../out'; expected letters"),
        (simple(image="a") + simple(image="a", split="x"), {}, "more cells"),
        (simple(caption=""), {}, "None of the 10 photos lies in"),
        ([row | {"split": i} for i, row in enumerate(simple(image="a"))], {}, "'a' has the split '0' and '1'"),
        ([row | {"group": i} for i, row in enumerate(simple(image="a"))], {}, "'a' has the group '0' and '1'"),
        ([row | {"id": "a"} for row in simple()], {"id_column": "id"}, "the photo '0.jpg' and '1.jpg'.*--id_column"),
        (simple(**{"": 1}), {"labels_column": ["label", ""]}, "has emotions under no name: their column's is empty"),
        (simple(), {"preset": "emotions"}, "There is no preset 'emotions'"),
        (simple(), {"min_count": 0}, "min_count is 0"),
        (simple(), {"labels": ["joy", "joy"]}, "expected a list of distinct emotions"),
        ([{"caption": "c", "image": "a"}] * 9, {"label_map": "MAP"}, "has no column of labels; a label map needs one"),
    ],
)  # fmt: skip
def test_what_is_refused(rows, options, message, tmp_path):
    (tmp_path / "map.yaml").write_text("joy: fear")
    if options.get("label_map"):
        options = {"label_map": tmp_path / "map.yaml"}
    header = list(rows[0])
    lines = [header, *(list(row.values()) for row in rows)]
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows(lines)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_pairs(tmp_path / "pairs.csv", **options)


def test_the_command_says_it_in_one_sentence(tmp_path, capsys):
    source = write_csv(tmp_path / "pairs.csv", simple(text="t"))
    with pytest.raises(SystemExit) as stop:
        main(["data", "pairs", str(source), "--output_dir", str(tmp_path / "out")])
    assert stop.value.code == 2 and not (tmp_path / "out").exists()
    assert "has 2 columns that may be the caption (caption, text). Its columns: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["foto", "image_id"])
def test_photos_are_known_by_the_endings_of_their_names(name, pairs, tmp_path):
    rows = [{name: row["image"].upper() if i < 9 else row["image"], "caption": row["caption"], "label": "joy"}
            for i, row in enumerate(pairs)]  # fmt: skip
    for row in rows[:9]:
        photo(tmp_path / "own" / row[name])
    table, report = build_pairs(write_csv(tmp_path / "own" / "pairs.csv", rows))
    assert report.extra["columns"] == {"image": name, "caption": "caption", "labels": "label"}
    assert all(row["image"] is not None for row in all_rows(table).values())
    with pytest.raises(ValueError, match=f"has 2 columns that may be the image \\({name}, thumb\\)"):
        load_pairs(write_csv(tmp_path / "own" / "pairs.csv", [row | {"thumb": "a.png"} for row in rows]))


def test_files_that_cannot_be_read(tmp_path):
    for name, content, message in (
        ("a.csv", "", "holds no row"),
        ("a.csv", "image,caption,label\n", "holds no row"),
        ("a.csv", "image,image,label\na,b,c\n", "more than one column 'image'"),
        ("a.jsonl", '{"image": "a"}\n{"image": ', "a.jsonl', line 2: not JSON"),
        ("a.jsonl", '{"image": "a"}\n[1]', "line 2: a list; expected an object"),
        ("a.json", "[1", "a.json' cannot be read"),
        ("a.json", "[1]", "a int; expected an object"),
        ("a.parquet", "PAR1", "cannot be read as Parquet"),
        ("a.xlsx", "x", "ends in '.xlsx'; expected a CSV, TSV"),
        ("a.csv", b"\xff\xfe\x00", "is not UTF-8 text"),
    ):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=message):
            load_pairs(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="holds neither a data set of `save_to_disk` nor metadata.csv"):
        load_pairs(tmp_path / "folder")
    for name in ("metadata.csv", "metadata.jsonl"):
        (tmp_path / "folder" / name).write_text("x")
    with pytest.raises(ValueError, match=r"holds metadata.csv and metadata.jsonl; keep one"):
        load_pairs(tmp_path / "folder")
    for absent, options in ((tmp_path / "absent.csv", {}), (tmp_path / "a.csv", {"images_dir": tmp_path / "no"}),
                            (tmp_path / "a.csv", {"label_map": tmp_path / "no"})):  # fmt: skip
        with pytest.raises(FileNotFoundError):
            load_pairs(absent, **options)


def test_two_photos_of_one_name_in_a_data_set(tmp_path):
    photo(tmp_path / "a" / "1.jpg")
    photo(tmp_path / "b" / "1.jpg")
    rows = [{"image": str(tmp_path / where / "1.jpg"), "text": where, "label": "joy", "id": where} for where in "ab"]
    Dataset.from_list(rows).cast_column("image", Image()).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match="row 2: image '1.jpg' has the photo another and another. Tell the"):
        load_pairs(tmp_path / "set")


def test_the_command_writes_the_table_and_says_what_it_took(pairs, tmp_path, capsys):
    source = write_csv(tmp_path / "own" / "pairs.csv", texts(pairs))
    out = tmp_path / "table"
    main(["data", "pairs", str(source), "--output_dir", str(out), "--license", "cc0-1.0"])
    printed = capsys.readouterr().out
    assert "column of labels: emotions\n" in printed and "rows in train: 35" in printed
    table = load_table(out)
    assert said(table) == expected(pairs) and table["train"].info.license == "cc0-1.0"
    assert json.loads((out / "data_report.json").read_text())["columns"]["image"] == "image"
