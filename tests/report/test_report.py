"""The report and its tables, read back from the files as a reader would."""

import base64
import hashlib
import io
import json
import random
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from emocap.cli import main
from emocap.metrics import METRIC_KEYS
from emocap.report.page import COLUMNS, format_table, markdown_table, results_rows, write_report

HOSTILE = "<img src=x onerror=alert(1)> \"'&amp;</svg><script>alert(2)</script> http://evil.example/x"
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """Elements as (tag, attributes, path of open tags), text by path, tables as rows of (text, is bold)."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.open, self.tables, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes, tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append((attributes.get("class"), []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append(["", False])

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))

    def handle_endtag(self, tag):
        assert tag not in VOID and self.open.pop() == tag

    def handle_data(self, data):
        self.text.append((tuple(self.open), data))
        if "td" in self.open or "th" in self.open:
            cell = self.tables[-1][1][-1][-1]
            cell[0] += data
            cell[1] |= "strong" in self.open

    def result_tables(self):
        return [rows for kind, rows in self.tables if kind == "results"]

    def all(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]


def make_run(folder, seed, *, split="test", truth="labels", ceilings=True, epochs=3, **changes):
    """A finished run's folder of made-up figures; references (prior, ceilings) are the same for every seed."""
    rng, fixed = random.Random(seed), random.Random(f"{split} {truth}")
    metrics = {key: rng.random() for key in METRIC_KEYS} | {"num_examples": 4321}
    prefixes = ["prior/", *(["ceiling/", "ceiling_text/", "ceiling_image/"] if ceilings else [])]
    metrics |= {prefix + key: fixed.random() for prefix in prefixes for key in METRIC_KEYS}
    metrics |= {"split": split, "truth": truth} | changes
    history = []
    for epoch in range(1, epochs + 1):
        history.append({"epoch": epoch - 0.5, "loss": rng.random(), "step": 2 * epoch - 1})
        history.append({"epoch": float(epoch), "loss": rng.random(), "step": 2 * epoch})
        history.append({"epoch": float(epoch), "eval_loss": rng.random(), "eval_map_macro": rng.random()})
    history.append({"epoch": float(epochs), "train_loss": 0.3, "train_runtime": 1.0})
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return folder, metrics


def give_details(folders, per_label, prevalence, **more):
    """metrics_details.json for the runs in `per_label`: average precision and prevalence of each emotion."""
    for name, scores in per_label.items():
        emotions = list(scores)
        details = {
            "emotions": emotions,
            "average_precision": [scores[emotion] for emotion in emotions],
            "prevalence": [prevalence[emotion] for emotion in emotions],
        }
        (folders[name] / "metrics_details.json").write_text(json.dumps(details | more))


def write(tmp_path, runs, **options):
    write_report(tmp_path / "report.html", title="A report", runs=runs, **options)
    return (tmp_path / "report.html").read_text("utf-8")


@pytest.fixture
def runs(tmp_path):
    """Three runs of one setting and what their metrics.json files hold."""
    made = {name: make_run(tmp_path / name, seed) for seed, name in enumerate(("teacher", "anb", "anb+"))}
    return {name: folder for name, (folder, _) in made.items()}, {name: metrics for name, (_, metrics) in made.items()}


def expected_rows(metrics):
    """The table's rows as texts, straight from the files, and the best cells by an explicit search."""
    first = next(iter(metrics.values()))
    sources = [("prior", "prior/", first), *((name, "", own) for name, own in metrics.items())]
    sources += [(f"ceiling {kind}", f"ceiling_{kind}/", first) for kind in ("text", "image")]
    sources.append(("ceiling both", "ceiling/", first))
    table = [[name, *(f"{own[prefix + key]:.3f}" for key in COLUMNS)] for name, prefix, own in sources]
    best = set()
    for column, key in enumerate(COLUMNS, start=1):
        values = sorted((float(row[column]), row[0]) for row in table if row[0] in metrics)
        wanted = values[0 if key in ("ece", "jsd", "bce") else -1][0]
        best |= {(name, column) for value, name in values if value == wanted}
    return table, best


def test_html_table_shows_the_files_figures_and_bolds_the_best_model(tmp_path, runs):
    folders, metrics = runs
    page = Page(write(tmp_path, folders))
    (table,) = page.result_tables()
    wanted, best = expected_rows(metrics)
    assert [cell[0].split("\xa0")[0] for cell in table[0]] == ["model", *COLUMNS]
    assert [[text for text, _ in row] for row in table[1:]] == wanted
    bold = {(row[0][0], column) for row in table[1:] for column, cell in enumerate(row) if cell[1]}
    assert bold == best
    caption = "".join(text for path, text in page.text if path[-1:] == ("caption",))
    assert "test split" in caption and "4,321 examples" in caption and "crowd labels" in caption


def test_terminal_and_markdown_tables_hold_the_same_figures(runs):
    folders, metrics = runs
    rows = results_rows(folders)
    wanted, best = expected_rows(metrics)
    assert [[row["name"], *(f"{row[key]:.3f}" for key in COLUMNS)] for row in rows] == wanted
    assert [row["kind"] for row in rows] == ["prior"] + ["model"] * 3 + ["ceiling"] * 3

    lines = format_table(rows).splitlines()
    assert lines[0] == "test split, 4,321 examples, crowd labels" and lines[1].split() == list(COLUMNS)
    starred = set()
    for line, row in zip(lines[2:9], wanted, strict=True):
        assert line.startswith(row[0]) and line[len(row[0]) :].replace("*", " ").split() == row[1:]
        for column, value in enumerate(line[len(row[0]) :].split(), start=1):
            starred |= {(row[0], column)} if value.endswith("*") else set()
    assert starred == best
    points = [[match.start() for match in re.finditer(r"\.\d{3}", line)] for line in lines[2:9]]
    assert all(places == points[0] and len(places) == len(COLUMNS) for places in points)
    assert lines[-1].startswith("* best model") and format_table(rows).isascii()

    lines = markdown_table(rows).splitlines()
    assert lines[2] == "| model | " + " | ".join(COLUMNS) + " |" and lines[3].count("|") == len(COLUMNS) + 2
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert [[cell.strip("*") for cell in row] for row in cells] == wanted
    assert {(row[0], i) for row in cells for i, cell in enumerate(row) if cell.startswith("**")} == best


def test_pseudo_labels_are_set_apart_noted_and_have_no_ceiling(tmp_path, runs):
    folders, _ = runs
    student, metrics = make_run(tmp_path / "student", 9, split="validation", truth="emotions", jsd=None)
    folders = {"teacher": folders["teacher"], "student": student, "anb": folders["anb"]}
    rows = results_rows(folders)
    assert [row["name"] for row in rows if not row["notes"]] == [
        "prior",
        "teacher",
        "anb",
        "ceiling text",
        "ceiling image",
        "ceiling both",
    ]
    assert [row["name"] for row in rows if row["notes"]] == ["prior", "student"]
    assert all("agreement with the labelling model" in row["notes"][0] for row in rows if row["notes"])
    assert all(row["best"] == [] for row in rows if row["kind"] != "model" or row["name"] == "student")
    html = write(tmp_path, folders)
    human, pseudo = Page(html).result_tables()
    assert [row[0][0] for row in pseudo[1:]] == ["prior †", "student †"] and not any("†" in row[0][0] for row in human)
    assert pseudo[2][list(COLUMNS).index("jsd") + 1][0] == "–"
    assert pseudo[2][1][0] == f"{metrics['map_macro']:.3f}"
    for text in (html, format_table(rows), markdown_table(rows)):
        assert text.count("agreement with the labelling model, not with people") == 1


def test_references_that_differ_are_listed_with_their_runs(tmp_path, runs):
    folders, _ = runs
    few, _ = make_run(tmp_path / "few", 7, **{"prior/bce": 0.9})
    rows = results_rows({"teacher": folders["teacher"], "few": few, "anb": folders["anb"]})
    assert [row["name"] for row in rows if row["kind"] == "prior"] == ["prior (teacher, anb)", "prior (few)"]
    assert [row["name"] for row in rows if row["kind"] == "ceiling"] == [
        "ceiling text",
        "ceiling image",
        "ceiling both",
    ]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_figures_and_histories_show_as_gaps(tmp_path, missing):
    empty = {f"{prefix}{key}": missing for prefix in ("", "prior/") for key in METRIC_KEYS}
    folder, _ = make_run(tmp_path / "empty", 0, ceilings=False, **(empty | {"map_macro": 0.25}))
    (folder / "trainer_state.json").unlink()
    other, _ = make_run(tmp_path / "other", 1, ceilings=False, lrap=missing, **{"prior/lrap": missing})
    html = write(tmp_path, {"empty": folder, "other": other})
    (table,) = Page(html).result_tables()
    assert [row[0][0] for row in table[1:]] == ["prior", "empty", "other"]
    assert [text for text, _ in table[2]] == ["empty", "0.250", *["–"] * (len(COLUMNS) - 1)]
    assert table[2][2] == ["–", False] and table[3][2] == ["–", False]
    assert html.count("No losses were logged") == 1 and not re.search(r"\bnan\b", html, re.IGNORECASE)
    assert " -" in format_table(results_rows({"empty": folder}))


def test_tied_models_are_both_best_and_a_lone_model_is_not_marked(tmp_path):
    same = {"map_macro": 0.50004, "bce": 0.2}
    one, _ = make_run(tmp_path / "one", 1, **same)
    two, _ = make_run(tmp_path / "two", 2, **(same | {"map_macro": 0.49996}))
    models = [row for row in results_rows({"one": one, "two": two}) if row["kind"] == "model"]
    assert all({"map_macro", "bce"} <= set(row["best"]) for row in models)
    assert all(row["best"] == [] for row in results_rows({"one": one}))
    assert "best model" not in format_table(results_rows({"one": one}))


def test_the_table_of_average_precisions_follows_prevalence(tmp_path, runs):
    folders, _ = runs
    emotions = [f"emotion {index}" for index in range(20)]
    rng = random.Random(3)
    prevalence = {name: rng.random() for name in emotions}
    per_label = {run: {name: rng.random() for name in emotions} for run in ("anb", "teacher")}
    per_label["teacher"]["emotion 4"] = None
    give_details(folders, per_label, prevalence)
    page = Page(write(tmp_path, folders))
    ordered = sorted(emotions, key=lambda name: -prevalence[name])
    figures = dict(page.tables)["precisions"]
    assert [cell[0] for cell in figures[0]] == ["emotion", "prior", "teacher", "anb"]
    assert [row[0][0] for row in figures[1:]] == ordered
    for name, prior, teacher, anb in ([cell[0] for cell in row] for row in figures[1:]):
        score = per_label["teacher"][name]
        assert (prior, anb) == (f"{prevalence[name]:.3f}", f"{per_label['anb'][name]:.3f}")
        assert teacher == ("–" if score is None else f"{score:.3f}")
    titles = [own["aria-label"] for own in page.all("svg") if own["aria-label"].startswith("Average")]
    cuts = (0, 9), (10, 19)
    assert titles == [f"Average precision from {ordered[first]} to {ordered[last]}" for first, last in cuts]


def test_pictures_are_small_jpegs_with_alt_text_and_emotions(tmp_path, runs):
    folders, _ = runs
    sizes = {"wide": (500, 250), "tall": (90, 300), "tiny": (20, 10)}
    examples = [
        {"image": Image.new(mode, size, "red"), "caption": name, "emotions": ["joy", "awe"], "truth": truth}
        for (name, size), mode, truth in zip(
            sizes.items(), ("RGB", "RGBA", "P"), (None, ["awe", "sad"], []), strict=True
        )
    ]
    examples.append({"image": None, "caption": "lost", "emotions": [], "truth": None})
    page = Page(write(tmp_path, folders, examples=examples))
    shown = {image["alt"]: image["src"] for image in page.all("img")}
    assert list(shown) == list(sizes)
    for name, source in shown.items():
        start, _, data = source.partition(",")
        assert start == "data:image/jpeg;base64"
        photo = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        width, height = sizes[name]
        scale = min(1, 128 / max(width, height))
        assert np.allclose(photo.size, (width * scale, height * scale), atol=1)
    chips = [text for path, text in page.text if path[-2:] == ("ul", "li") and "figcaption" in path]
    assert chips == ["joy", "awe", "joy", "✓ awe", "joy", "awe"]
    people = [text for path, text in page.text if text.startswith("People: ")]
    assert people == ["People: awe, sad", "People: no emotion"]
    assert "no photo" in "".join(text for _, text in page.text)
    assert examples[0]["image"].size == (500, 250)


def test_hostile_text_stays_text_everywhere(tmp_path, runs):
    folders, _ = runs
    folders = {HOSTILE: folders["teacher"], "a|b": make_run(tmp_path / "other", 6, truth=HOSTILE, split=HOSTILE)[0]}
    photo = Image.new("RGB", (8, 8))
    example = {"image": photo, "caption": HOSTILE + "\ud83d", "emotions": [HOSTILE, "joy"], "truth": [HOSTILE]}
    mistakes = {"confusion": [[3]], "missed": [4], "reliability": [[0.1, 0.2, 50]]}
    give_details(folders, {HOSTILE: {HOSTILE: 0.5}, "a|b": {HOSTILE: 0.1}}, {HOSTILE: 0.3}, **mistakes)
    write_report(tmp_path / "report.html", title=HOSTILE, runs=folders, examples=[example])
    html = (tmp_path / "report.html").read_text("utf-8")
    page = Page(html)
    assert html.count("<script") == 1 and "onerror" not in {name for _, own, _ in page.elements for name in own}
    assert len(page.all("img")) == 1 and page.all("img")[0]["alt"].startswith(HOSTILE)
    for own in (attributes for _, attributes, _ in page.elements):
        assert all("http" not in (own.get(name) or "") for name in ("src", "href", "style", "xlink:href", "action"))
    texts = {text for _, text in page.text}
    assert HOSTILE in texts and f"✓ {HOSTILE}" in texts and f"People: {HOSTILE}" in texts
    table = markdown_table(results_rows(folders))
    assert "<" not in table and "a\\|b" in table


def test_page_is_self_contained_responsive_and_accessible(tmp_path, runs):
    folders, _ = runs
    example = {"image": Image.new("RGB", (9, 9)), "caption": "c", "emotions": ["joy"], "truth": None}
    give_details(
        folders, {"anb": {"joy": 0.5}}, {"joy": 0.2}, confusion=[[3]], missed=[4], reliability=[[0.1, 0.2, 50]]
    )
    html = write(tmp_path, folders, examples=[example])
    page = Page(html)
    assert not re.search(r"https?://", html.replace("http://www.w3.org/2000/svg", ""))
    assert not re.search(r"url\((?!#)", html) and "@import" not in html and "prefers-color-scheme: dark" in html
    assert html.count("<style") == 1 and "currentColor" in html
    assert any(own.get("name") == "viewport" and "width=device-width" in own["content"] for own in page.all("meta"))
    assert [own["href"] for own in page.all("link")] == ["data:,"]
    ids = [own["id"] for _, own, _ in page.elements if "id" in own]
    assert len(ids) == len(set(ids))
    figures = page.all("svg")
    losses = [f"Loss of {name}" for name in folders]
    assert [own["aria-label"] for own in figures] == [
        *losses, "map_macro on the validation split", "Average precision from joy to joy",
        "Share that came true by probability", "Mistaken emotions of anb",
    ]  # fmt: skip
    assert all(own["role"] == "img" for own in figures)
    used = {own["href"][1:] for own in page.all("use")} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert used <= set(ids)
    for path in (path for tag, _, path in page.elements if tag == "table"):
        assert path[-1] == "div"
    assert sum(own.get("class") == "scroll card" for own in page.all("div")) == len(page.tables)


def test_no_script_but_the_pages_own_may_run_and_nothing_waits_for_it(tmp_path, runs):
    folders, _ = runs
    example = {"image": None, "caption": "c", "emotions": ["joy", HOSTILE], "truth": ["sad", "joy"]}
    html = write(tmp_path, folders, examples=[example])
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = Page(html)
    policy = next(own["content"] for own in page.all("meta") if "http-equiv" in own)
    assert policy.split("; ") == [
        "default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'"
    ]  # fmt: skip
    assert not [own for _, own, _ in page.elements if "hidden" in own]
    assert not page.all("button") and not page.all("select")  # what needs the script, the script makes
    assert [json.loads(own["data-emotions"]) for own in page.all("li") if "data-emotions" in own] == [
        ["joy", HOSTILE, "sad"]
    ]


def test_report_replaces_the_old_one_whole_or_not_at_all(tmp_path, runs):
    folders, _ = runs
    first = write(tmp_path, folders)
    bad = {"image": "not a picture", "caption": "c", "emotions": [], "truth": None}
    with pytest.raises(AttributeError):
        write(tmp_path, folders, examples=[bad])
    assert (tmp_path / "report.html").read_text("utf-8") == first
    write_report(tmp_path / "new" / "folder" / "report.html", title="A report", runs=folders)
    assert (tmp_path / "new" / "folder" / "report.html").read_text("utf-8") == first
    assert not list(tmp_path.rglob("*.partial"))


def test_errors_name_the_file_and_the_remedy(tmp_path, runs):
    folders, _ = runs
    with pytest.raises(FileNotFoundError, match=r"absent.*metrics\.json.*finished run"):
        results_rows({"absent": tmp_path / "absent"})
    with pytest.raises(ValueError, match="no runs to report"):
        write(tmp_path, {})
    (folders["anb"] / "metrics.json").write_text("[1")
    with pytest.raises(ValueError, match=r"metrics\.json' is not JSON"):
        results_rows(folders)
    (folders["anb"] / "metrics.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list; expected an object"):
        write(tmp_path, folders)
    assert not (tmp_path / "report.html").exists()


def test_intervals_stand_under_their_figures_and_people_beside_models(tmp_path):
    bounds = {"map_macro_low": 0.41, "map_macro_high": 0.52, "prior/map_macro_low": 0.1, "prior/map_macro_high": 0.2}
    people = {"human/f1_micro": 0.375, "as_human/f1_micro": 0.4321, "human/jsd": 0.25, "as_human/jsd": 0.125}
    folder, metrics = make_run(tmp_path / "run", 1, **bounds, **people)
    html = write(tmp_path, {"run": folder})
    (table,) = Page(html).result_tables()
    assert table[2][1][0] == f"{metrics['map_macro']:.3f}0.410 to 0.520" and table[1][1][0].endswith("0.100 to 0.200")
    human = next(row for row in table if row[0][0] == "one annotator / run §")
    cells = dict(zip(COLUMNS, (text for text, _ in human[1:]), strict=True))
    assert cells.pop("f1_micro") == "0.375 / 0.432" and cells.pop("jsd") == "0.250 / 0.125"
    assert set(cells.values()) == {"–"}
    assert "left out of the crowd" in html and "§ One annotator scored against the others" in html


def test_chance_has_a_row_and_few_images_or_groups_are_noted(tmp_path):
    for name, changes in (("few images", {"num_examples": 13}), ("few groups", {"num_groups": 12}),
                          ("enough", {"num_groups": 50})):  # fmt: skip
        folder, _ = make_run(tmp_path / name, 1, **changes, **{"chance/map_macro": 0.1875})
        rows = results_rows({"run": folder})
        chance = rows[1]
        assert chance["name"] == "chance" and chance["map_macro"] == 0.1875 and chance["lrap"] is None
        html = write(tmp_path, {"run": folder})
        assert "chance is what random scores are expected to have" in html
        for text in (html, format_table(rows), markdown_table(rows)):
            assert text.count("their intervals are too narrow") == (name != "enough"), name
        assert all(("chance" if name == "enough" else "chance ‡") in text for text in (html, markdown_table(rows)))
    folder, _ = make_run(tmp_path / "pseudo", 1, truth="emotions", num_examples=13)
    assert len(results_rows({"run": folder})[0]["notes"]) == 2  # one remark does not hide another


def test_a_name_given_again_is_another_seed(tmp_path, capsys):
    made = [make_run(tmp_path / f"seed{seed}", seed) for seed in range(3)]
    main(["report", *(f"teacher={folder}" for folder, _ in made), "--output", str(tmp_path / "report.html")])
    assert "teacher (3 seeds)" in capsys.readouterr().out
    (table,) = Page((tmp_path / "report.html").read_text("utf-8")).result_tables()
    row = next(row for row in table if row[0][0] == "teacher (3 seeds)")
    for column, key in enumerate(COLUMNS, start=1):
        values = [metrics[key] for _, metrics in made]
        assert row[column][0] == f"{np.mean(values):.3f}± {np.std(values, ddof=1):.3f}"
    other, _ = make_run(tmp_path / "other", 4, split="validation")
    with pytest.raises(ValueError, match=r"'teacher' differ in split"):
        results_rows({"teacher": [made[0][0], other]})


def test_controls_are_a_table_with_the_models_lead(tmp_path):
    keys = {"map_macro": 0.3, "map_macro_low": 0.25, "map_macro_high": 0.35, "map_macro_gain": 0.1,
            "map_macro_gain_low": 0.06, "map_macro_gain_high": 0.14, "bce_gain": -0.02, "bce_gain_low": -0.03,
            "bce_gain_high": -0.01}  # fmt: skip
    folder, _ = make_run(tmp_path / "run", 1, **{f"shuffled_images/{key}": value for key, value in keys.items()})
    tables = dict(Page(write(tmp_path, {"run": folder})).tables)
    header, row = ([cell[0] for cell in line] for line in tables["controls"])
    assert header[2:5] == ["ahead in map_macro", "ahead in lrap", "ahead in bce"]
    name, score, lead, unknown, bce, meaning = row
    assert (name, score, lead) == ("shuffled images", "0.3000.250 to 0.350", "0.1000.060 to 0.140")
    assert (unknown, bce) == ("–", "-0.020-0.030 to -0.010")
    assert "another row's picture" in meaning


def test_mistakes_reliability_and_examples_are_drawn_from_the_details(tmp_path, tiny_table):
    folder, _ = make_run(tmp_path / "run", 1)
    pseudo, _ = make_run(tmp_path / "pseudo", 2, truth="emotions")
    ids = tiny_table["test"]["image_id"][:]
    details = {
        "confusion": [[0, 7, 1], [2, 0, 0], [0, 0, 0]],
        "missed": [10, 4, 0],
        "reliability": [[0.1, 0.2, 50], [0.5, 0.4, 30], [0.9, 0.1, 9]],
        "examples": [
            {"image_id": ids[0], "kind": "best", "predicted": ["joy", "awe"], "truth": ["joy"]},
            {"image_id": "not there", "kind": "best", "predicted": [], "truth": []},
            {"image_id": ids[1], "kind": "worst", "predicted": ["awe"], "truth": ["sad"]},
        ],
    }
    scores = {"joy": 0.5, "awe": 0.4, "sad": None}
    give_details(
        {"run": folder, "pseudo": pseudo}, {"run": scores, "pseudo": scores}, dict.fromkeys(scores, 0.1), **details
    )
    page = Page(write(tmp_path, {"pseudo": pseudo, "run": folder}, tables=tiny_table))
    tables = dict(page.tables)
    assert [[cell[0] for cell in row] for row in tables["mistakes"][1:]] == [
        ["joy", "awe", "7", "10"], ["awe", "joy", "2", "4"], ["joy", "sad", "1", "10"]
    ]  # fmt: skip
    tips = [text for path, text in page.text if path[-2:] == ("g", "title")]
    assert {"joy missed, awe said: 7 of 10", "awe missed, joy said: 2 of 4", "joy missed, sad said: 1 of 10"} < set(
        tips
    )
    captions = [text for path, text in page.text if path[-1:] == ("blockquote",)]
    assert captions == [(tiny_table["test"][row]["captions"] or [""])[0] for row in (0, 1)]
    assert [text for path, text in page.text if path[-1:] == ("h3",)][-2:] == ["best", "worst"]


def test_a_studys_curves_are_drawn_again(tmp_path, runs):
    folders, _ = runs
    with pytest.raises(FileNotFoundError, match=r"study\.json'.*transfer-study"):
        write(tmp_path, folders, study=tmp_path)
    rows = [{"direction": "source_to_target", "size": 20, "strategy": "scratch", "num_layers": 0, "prior": 0.1,
             "values": [0.2, 0.4], "mean": 0.3, "low": None, "high": None}]  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps({"metric": HOSTILE, "rows": rows}))
    html = write(tmp_path, folders, study=tmp_path)
    assert Page(html).all("svg")[0]["aria-label"] == f"{HOSTILE} by layers passed" and html.count("<script") == 1


def test_figures_come_as_files_too(tmp_path, runs):
    folders, _ = runs
    scores = {f"emotion {index}": index / 20 for index in range(20)}
    give_details(folders, {"anb": scores}, dict.fromkeys(scores, 0.2), reliability=[[0.1, 0.2, 50], [0.5, 0.6, 50]])
    write(tmp_path, folders, figures=tmp_path / "figures")
    names = ["loss_teacher", "loss_anb", "loss_anb+", "ranking", "reliability", "average_precision_1",
             "average_precision_2"]  # fmt: skip
    files = {path.name: path for path in (tmp_path / "figures").iterdir()}
    assert set(files) == {f"{name}.{ending}" for name in names for ending in ("png", "pdf")}
    for name in names:
        assert np.asarray(Image.open(files[f"{name}.png"]).convert("L")).std() > 5
        assert files[f"{name}.pdf"].read_bytes().startswith(b"%PDF")
