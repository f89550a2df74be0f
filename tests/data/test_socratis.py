"""Socratis from the raw annotations and from a cleaned CSV."""

import csv
import io
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from datasets import DatasetDict
from PIL import Image

from emocap.data.schema import label_names, pair_features, socratis_labels, split_of
from emocap.data.socratis import build_socratis, clean_label, load_socratis

CLEANED = {
    "happy": "happy",
    "HAPPY ": "happy",
    "Sad": "sad",
    '"angry"': "angry",
    "joy(ful)": "joy",
    "zany": "zany",
    "aloof": "aloof",
}
WORDS = [*CLEANED, "a bit sad", "x", "none", "Not Entered", ""]


def random_raw(rng: np.random.Generator, images: int = 80) -> dict[str, list]:
    """Reactions to image-caption pairs: several captions an image, several annotators a pair."""
    raw = {}
    for number in range(images):
        for caption in range(rng.integers(1, 4)):
            annotators = [rng.choice(WORDS, 3).tolist() for _ in range(rng.integers(1, 6))]
            raw[f"{number}_{caption}"] = [
                [f"sub/{number}.jpg", f"caption {caption} of {number}", words, ["why"] * 3, {"age": 30}]
                for words in annotators
            ]
    keys = rng.permutation(list(raw)).tolist()
    return {key: raw[key] for key in keys}


def write_json(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_csv(path, rows: list[tuple[str, str, object]], header=("image_name", "caption", "emotions")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def plain_rows(number: int = 40, emotions: str = "['happy', 'sad']") -> list[tuple[str, str, str]]:
    return [(f"{i}.jpg", f"caption {i}", emotions) for i in range(number)]


def all_rows(table: DatasetDict) -> dict[str, dict]:
    return {row["image_id"]: row for part in table.values() for row in part}


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Happy", "happy"), ('"bad"', "bad"), ('""bad"', "bad"), ("sad(maybe)", "sad"), ("a", None), ("B", None),
        ("a bit sad", None), ("sad (if they lose)", None), ("no", "no"), ('"a"', "a"), ("(odd)", None), ("", None),
        ('don"t', 'don"t'), ('"glad"(so)', 'glad"'),
    ],
)  # fmt: skip
def test_clean_label_follows_the_study_s_order(raw, cleaned):
    assert clean_label(raw) == cleaned


def test_raw_annotations_against_a_slow_reference(tmp_path, rng):
    raw, min_count = random_raw(rng), 5
    table, report = build_socratis(write_json(tmp_path / "raw.json", raw), min_count=min_count)
    reactions = defaultdict(list)
    for pair in raw.values():
        for path, caption, emotions, *_ in pair:
            reactions[path].append((caption, {CLEANED[word] for word in emotions if word in CLEANED}))
    images = Counter(word for given in reactions.values() for word in set().union(*(named for _, named in given)))
    names = [name for name in [*socratis_labels(), "aloof", "zany"] if images[name] >= min_count]
    assert label_names(table) == names
    rows = all_rows(table)
    expected_ids = [path for path, given in reactions.items() if any(named & set(names) for _, named in given)]
    assert sorted(rows) == sorted(expected_ids)
    for name, part in table.items():
        assert part["image_id"][:] == [path for path in expected_ids if split_of(path) == name]
        assert part.features == pair_features(names, votes=True)
    for path in expected_ids:
        row, given = rows[path], reactions[path]
        votes = [sum(name in named for _, named in given) for name in names]
        assert row["votes"] == votes and row["num_annotators"] == len(given)
        np.testing.assert_allclose(row["soft_labels"], np.array(votes) / len(given), rtol=1e-6)
        assert row["labels"] == [float(vote > 0) for vote in votes]
        assert row["emotions"] == [i for _, i in sorted((-vote, i) for i, vote in enumerate(votes) if vote)]
        assert row["captions"] == list(dict.fromkeys(caption for caption, _ in given))
    assert report.counts["images"] == len(reactions)
    assert report.counts["images without a kept emotion, dropped"] == len(reactions) - len(rows)
    assert report.counts["reactions"] == sum(map(len, reactions.values()))
    assert report.counts["distinct emotions after cleaning"] == len(set(CLEANED.values()))
    assert report.counts["distinct emotion strings"] == len(set(CLEANED.values())) + len(["a bit sad", "x"])
    typed = Counter(word for pair in raw.values() for reaction in pair for word in reaction[2])
    assert report.extra["dropped_labels"]["multi_word"] == {"a bit sad": typed["a bit sad"]}
    assert report.extra["dropped_labels"]["single_letter"] == {"x": typed["x"]}
    assert report.extra["label_counts"] == {name: images[name] for name in names}


def test_an_annotator_who_repeats_an_emotion_counts_once(tmp_path):
    raw = {str(i): [[f"{i}.jpg", "c", ["happy", '"Happy"', "happy(very)"], [], {}]] * 2 for i in range(40)}
    row = load_socratis(write_json(tmp_path / "raw.json", raw), min_count=1)["train"][0]
    assert row["votes"] == [2] and row["soft_labels"] == [1.0]


def test_raw_annotations_want_100_images_a_label_by_default(tmp_path):
    raw = {str(i): [[f"{i}.jpg", "c", ["sad", "agry" if i < 99 else "none", ""], [], {}]] for i in range(100)}
    table, report = build_socratis(write_json(tmp_path / "raw.json", raw))
    assert label_names(table) == ["sad"]
    assert report.extra["dropped_labels"]["below_min_count"] == {"agry": 99}
    raw.popitem()
    with pytest.raises(ValueError, match=r"min_count = 100 images; most frequent: \w+ \(99\)"):
        load_socratis(write_json(tmp_path / "raw.json", raw))


def test_given_labels_fix_set_and_order(tmp_path):
    raw = random_raw(np.random.default_rng(0))
    source = write_json(tmp_path / "raw.json", raw)
    names = ["zany", "happy", "never said"]
    table, report = build_socratis(source, labels=names)
    assert label_names(table) == names
    assert {row["labels"][2] for row in all_rows(table).values()} == {0.0}
    left_out = report.extra["dropped_labels"]["not_in_labels"]
    assert set(left_out) == {"sad", "angry", "joy", "aloof"} and min(left_out.values()) > 0
    from_file = load_socratis(source, labels=write_json(tmp_path / "labels.json", names))
    assert all_rows(from_file) == all_rows(table)


def test_cleaned_csv_keeps_all_its_labels_and_merges_rows_of_one_image(tmp_path):
    rows = plain_rows(40)
    rows[3] = ("3.jpg", 'with, comma and "quotes"', """["don't care", 'bored',]""")
    rows += [("3.jpg", "a second caption", '["sad", "bored"]'), ("0.jpg", "caption 0", "[]")]
    table, report = build_socratis(write_csv(tmp_path / "cleaned.csv", rows))
    names = ["happy", "sad", "bored", "don't care"]
    assert label_names(table) == names
    assert table["train"].features == pair_features(names)
    by_id = all_rows(table)
    assert len(by_id) == 40
    assert by_id["3.jpg"]["captions"] == ['with, comma and "quotes"', "a second caption"]
    assert by_id["3.jpg"]["labels"] == [0, 1, 1, 1] and by_id["3.jpg"]["emotions"] == [1, 2, 3]
    assert by_id["0.jpg"]["captions"] == ["caption 0"] and by_id["0.jpg"]["emotions"] == [0, 1]
    assert report.counts["duplicate rows merged"] == 2


def test_cleaned_csv_with_min_count_drops_images_without_label(tmp_path):
    rows = [*plain_rows(40), ("rare.jpg", "c", "['awed']"), ("none.jpg", "c", "[]")]
    table, report = build_socratis(write_csv(tmp_path / "cleaned.csv", rows), min_count=2)
    assert label_names(table) == ["happy", "sad"] and len(all_rows(table)) == 40
    assert report.counts["images without a kept emotion, dropped"] == 2
    assert report.extra["dropped_labels"]["below_min_count"] == {"awed": 1}


def test_cleaned_csv_and_given_labels_must_agree(tmp_path):
    rows = [*plain_rows(30), ("x.jpg", "c", str([f"new{i}" for i in range(7)]))]
    with pytest.raises(
        ValueError, match=r"7 emotion\(s\) that the given labels lack: new0, new1, new2, new3, new4, \.\.\."
    ):
        load_socratis(write_csv(tmp_path / "cleaned.csv", rows), labels=["happy", "sad"])
    table = load_socratis(write_csv(tmp_path / "cleaned.csv", plain_rows()), labels=["sad", "calm", "happy"])
    assert table["train"]["labels"][0] == [1, 0, 1]


WRONG_CELLS = ["", "happy", "['happy'", "['happy' 'sad']", "[happy]", "[1]", "('a',)", "['a'] + ['b']", "[open('f')]"]


@pytest.mark.parametrize("cell", WRONG_CELLS)
def test_a_wrong_emotions_cell_names_its_line(tmp_path, cell):
    rows = plain_rows()
    rows[4] = ("4.jpg", "a caption\nof two lines", cell)
    with pytest.raises(ValueError, match="line 7: the emotions cell is"):
        load_socratis(write_csv(tmp_path / "cleaned.csv", rows))


def test_lists_are_read_as_python_would(tmp_path, rng):
    alphabet = list("ab,'\"[]\\ é")
    lists = [["".join(rng.choice(alphabet, 6)) + str(i) for i in range(rng.integers(1, 4))] for _ in range(60)]
    source = write_csv(tmp_path / "cleaned.csv", [(f"{i}.jpg", "c", repr(given)) for i, given in enumerate(lists)])
    table = load_socratis(source)
    names = label_names(table)
    for image_id, row in all_rows(table).items():
        assert {names[i] for i in row["emotions"]} == {word.strip() for word in lists[int(image_id[:-4])]}


def test_photos_are_found_and_bad_ones_listed(tmp_path):
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    rows = plain_rows(40)
    rows[0] = ("deep/0.jpg", *rows[0][1:])
    rows[1] = ("elsewhere/1.jpg", *rows[1][1:])
    rows[2] = ("../outside.jpg", *rows[2][1:])
    rows[6], rows[7] = ("6.jpg", "", rows[6][2]), ("7.jpg", " ", rows[7][2])
    for name in ["deep/0.jpg", "1.jpg", *(f"{i}.jpg" for i in range(8, 40)), "6.jpg", "../outside.jpg"]:
        Image.new("RGB", (12, 10), "green").save(photos / name)
    whole = io.BytesIO()
    Image.effect_noise((300, 200), 80).save(whole, "JPEG")
    (photos / "4.jpg").write_bytes(whole.getvalue()[:-1000])
    (photos / "5.jpg").write_text("no photo")
    source = write_csv(tmp_path / "cleaned.csv", rows)
    table, report = build_socratis(source, images_dir=photos)
    by_id = all_rows(table)
    without = {image_id for image_id, row in by_id.items() if row["image"] is None}
    assert without == {"../outside.jpg", "3.jpg", "4.jpg", "5.jpg"}
    assert "7.jpg" not in by_id and by_id["6.jpg"]["captions"] == []
    assert by_id["deep/0.jpg"]["image"].size == (12, 10)
    reasons = {problem["image_id"]: (problem["consequence"], problem["reason"]) for problem in report.problems}
    assert set(reasons) == without | {"7.jpg"}
    assert reasons["3.jpg"] == ("kept without photo", "missing file")
    assert reasons["5.jpg"] == ("kept without photo", "not an image")
    assert reasons["../outside.jpg"] == ("kept without photo", "path leads outside the photo folder")
    assert "truncated" in reasons["4.jpg"][1] and reasons["7.jpg"][0] == "row skipped"
    assert all(row["image"] is None for row in all_rows(load_socratis(source)).values())
    with pytest.raises(FileNotFoundError, match="no photo folder"):
        load_socratis(source, images_dir=tmp_path / "absent")


def test_malformed_reactions_are_skipped_and_listed(tmp_path):
    raw = {str(i): [[f"{i}.jpg", "c", ["sad", None, 3], [], {}]] for i in range(40)}
    raw |= {"short": [["a.jpg"]], "path": [[None, "c", ["sad"]]], "emotions": [["b.jpg", "c", "sad"]], "no list": 5}
    raw["no caption"] = [["no_caption.jpg", None, ["sad"], [], {}]]
    table, report = build_socratis(write_json(tmp_path / "raw.json", raw), min_count=1)
    assert sorted(all_rows(table)) == sorted(f"{i}.jpg" for i in range(40))
    assert report.counts["reaction skipped"] == 4 and report.counts["row skipped"] == 1
    listed = [problem["image_id"] for problem in report.problems]
    assert listed == ["short", "path", "emotions", "no list", "no_caption.jpg"]


def test_files_of_another_form_are_named(tmp_path):
    for text, message in {
        '["happy", "sad"]': "holds a JSON list",
        '{"a": ': "cannot be read",
        "{}": "no reaction",
        '{"a": [["x.jpg"]]}': "no reaction .not a list of image path",
        "image_name,caption\na,b\n": r"lacks the column\(s\) emotions. Found: image_name, caption",
        "PK\x03\x04 something": r"lacks the column\(s\) image_name, caption, emotions",
        "": "Found: nothing",
        "image_name,caption,emotions\n": "no row",
        "image_name,caption,emotions\n,c,['sad']\n": "line 2: the image_name is empty",
    }.items():
        (tmp_path / "source").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_socratis(tmp_path / "source")
    with pytest.raises(FileNotFoundError, match="absent.json'; expected Socratis' raw JSON"):
        load_socratis(tmp_path / "absent.json")


def test_arguments_are_checked_before_the_file_is_read(tmp_path):
    absent = tmp_path / "absent.csv"
    for labels in ([], ["sad", "sad"], ["sad", ""], ["sad", 3]):
        with pytest.raises(ValueError, match="expected a list of distinct emotions"):
            load_socratis(absent, labels=labels)
    with pytest.raises(FileNotFoundError, match="labels.json'; expected a JSON list"):
        load_socratis(absent, labels=tmp_path / "labels.json")
    (tmp_path / "labels.json").write_text("sad")
    with pytest.raises(ValueError, match="is not JSON"):
        load_socratis(absent, labels=str(tmp_path / "labels.json"))
    with pytest.raises(ValueError, match="min_count is 0"):
        load_socratis(absent, min_count=0)


def test_too_few_rows_for_three_splits(tmp_path):
    with pytest.raises(ValueError, match=r"The 2 row\(s\) leave the split\(s\) .* empty"):
        load_socratis(write_csv(tmp_path / "cleaned.csv", plain_rows(2)))
