"""The pages in Chromium: light, dark and on a phone; what their script adds, and that they do without it."""

import itertools
import random
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict
from PIL import Image

from emocap.pseudo_labels.statistics import label_statistics
from emocap.report.labels_page import label_report, surest_pictures
from emocap.report.page import COLUMNS, write_report
from emocap.studies.label_report import study_page
from emocap.studies.transfer_report import study_page as transfer_page
from tests.browser.conftest import console_errors, too_wide, violations
from tests.conftest import EMOTIONS, SEED, make_tiny_table
from tests.pseudo_labels.test_label_statistics import SELECTION, random_table
from tests.report.test_caption_report import make_captioner_run
from tests.report.test_figures import study_rows
from tests.report.test_report import give_details, make_run

PAGES = ("report", "captions", "labels", "label_study", "transfer_study", "cross_validation")
WINDOWS = {"light": ("desktop", False), "dark": ("desktop", True), "phone": ("phone", False)}
EXAMPLES = [(["happy", "curious"], ["happy"]), (["sad"], []), (["curious", "sad"], ["angry"]), (["excited"], None)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """The address of each page, made of small inputs."""
    folder, rng = tmp_path_factory.mktemp("pages"), np.random.default_rng(SEED)
    tables, words = make_tiny_table(), ["a picnic in the sun", "rain", "a box with a map", "a goal in the last minute"]
    ids = tables["test"]["image_id"][:]
    interval = {f"map_macro_{end}": value for end, value in (("low", 0.2), ("high", 0.4), ("gain", 0.1))}
    interval |= {"map_macro": 0.3, "map_macro_gain_low": 0.05, "map_macro_gain_high": 0.15}
    controls = {f"{name}/{key}": value for name in ("tfidf", "encoder") for key, value in interval.items()}
    people = {"human/f1_micro": 0.375, "as_human/f1_micro": 0.4321, "chance/map_macro": 0.1875}
    made = {
        "teacher": make_run(folder / "teacher", SEED, **controls, **people),
        "anb": make_run(folder / "anb", SEED + 1, top1_accuracy=None, **controls),
        "a model with a name of many words that goes on": make_run(folder / "long", SEED + 2, epochs=60),
    }
    runs = {name: own for name, (own, _) in made.items()}
    found = [("best", ids[0], ["happy", "sad"], ["happy"]), ("worst", ids[1], ["angry"], ["curious"])]
    examples = [dict(zip(("kind", "image_id", "predicted", "truth"), own, strict=True)) for own in found]
    more = {"confusion": rng.integers(0, 4, (5, 5)).tolist(), "missed": [20] * 5, "examples": examples}
    more["reliability"] = [[0.1, 0.2, 50], [0.5, 0.4, 30], [0.9, 0.8, 20]]
    scores = {name: dict(zip(EMOTIONS, rng.random(5).tolist(), strict=True)) for name in ("teacher", "anb")}
    scores["teacher"]["sad"] = None
    give_details(runs, scores, dict(zip(EMOTIONS, rng.random(5).tolist(), strict=True)), **more)
    labelled = [
        {"image": Image.new("RGB", (90, 60), colour), "caption": caption, "emotions": emotions, "truth": truth}
        for colour, caption, (emotions, truth) in zip(("red", "navy", "gold", "teal"), words, EXAMPLES, strict=True)
    ]

    def report(name, **options):
        write_report(folder / f"{name}.html", **{"title": f"A {name} page", "runs": runs} | options)

    report("report", examples=labelled, tables=tables)
    captioner = make_captioner_run(folder / "captioner", ids[:7], EMOTIONS, rng)[0]
    report("captions", runs={"captioner": captioner, "teacher": runs["teacher"]}, tables=tables)
    table = random_table(rng, 40)
    statistics = label_statistics(DatasetDict({"train": table}), SELECTION, [0.5, 0.25, 0.1, 0.0])
    frequent = ["happy", "curious", "angry"]
    (folder / "labels.html").write_text(label_report(statistics, surest_pictures(table, frequent, number=3)))
    (folder / "label_study.html").write_text(study_page(label_study_summary()))
    (folder / "transfer_study.html").write_text(transfer_page(transfer_rows(), "map_macro"))
    folds = {"split": "5 folds", "decisions": "fitted", "committee/map_macro": 0.31, "map_macro_sd": 0.01}
    crossed, _ = make_run(folder / "crossed", SEED + 3, ceilings=False, **controls, **folds)
    (crossed / "trainer_state.json").unlink()
    report("cross_validation", runs={"teacher": crossed})
    return {name: (folder / f"{name}.html").as_uri() for name in PAGES}


def transfer_rows() -> list[dict]:
    """Rows of a study with what its table tells beside the figure's values."""
    more = {"truth": "labels", "given_word_embeddings": False, "steps": [20, 30], "base_steps": None}
    gain = {"mean": 0.1, "low": 0.05, "high": 0.15, "low_images": 0.02, "high_images": 0.2}
    return [row | more | ({"over_scratch": gain} if row["num_layers"] == 5 else {}) for row in study_rows()]


def label_study_summary() -> dict:
    rng = random.Random(SEED)
    names = ("mean", "sd", "before", "gain", "gain_low", "gain_high", "images_low", "images_high")
    arms = [{"selection": "scratch", "targets": "soft", "images_per_label": None, "images": 0.0, "seeds": 3}]
    for selection, number in (("selected", 20), ("selected", 100), ("random", 20), ("random", 100), ("all", None)):
        own = {"selection": selection, "targets": "soft", "images_per_label": number, "seeds": 3}
        arms.append(own | {"images": 1000.0 if number is None else 25.0 * number})
    summary = {"metric": "map_macro", "num_target": 300, "test_images": 1021, "prior": 0.135}
    precisions = {name: {k: rng.random() for k in (1, 2, 4)} for name in ("labels", "prior", "ceiling")}
    agreement = {key: {name: rng.random() for name in precisions} for key in ("map_macro", "map_micro", "lrap")}
    agreement |= {"precision_at": precisions, "precision": 0.5, "recall": 0.4}
    filled = [arm | {name: rng.random() for name in names} for arm in arms]
    filled[0] |= dict.fromkeys(names[2:])
    return summary | {"agreement": agreement, "arms": filled}


@pytest.fixture(scope="module")
def windows(open_browser) -> dict:
    return {name: open_browser(*own) for name, own in WINDOWS.items()}


@pytest.fixture
def show(windows, pages):
    """Opens a page with every part unfolded."""

    def open_page(page: str, window: str = "light"):
        own = windows[window]
        own.get(pages[page])
        own.execute_script("document.querySelectorAll('details').forEach(part => part.open = true)")
        return own

    return open_page


@pytest.mark.parametrize(("page", "kind"), list(itertools.product(PAGES, WINDOWS)))
def test_every_page_is_sound_in_light_in_dark_and_on_a_phone(show, page, kind, screenshot):
    window = show(page, kind)
    screenshot(window, f"{page}-{kind}")
    assert console_errors(window) == []
    assert violations(window) == []
    assert not too_wide(window)
    ground = window.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 150) == (kind == "dark")
    loaded = window.execute_script("return performance.getEntriesByType('resource').map(own => own.name)")
    assert all(address.startswith("data:") for address in loaded)


CELLS = """
return [...arguments[0].tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent))
"""
HEAD = """
return [...arguments[0].tHead.rows[0].cells].find(own => own.innerText.trim().split(/\\s/)[0] === arguments[1])
"""
SHOWN = """
const own = [...arguments[0].querySelectorAll(arguments[1])].filter(element => element.checkVisibility());
return own.map(element => element.innerText.trim());
"""


def shown_in(element, selector: str) -> list[str]:
    """Texts of what is to be seen of it."""
    return element.parent.execute_script(SHOWN, element, selector)


def find_table(window, kind: str):
    return window.find_element("css selector", f"table.{kind}")


def head(table, name: str):
    """The head of a column, and its button."""
    own = table.parent.execute_script(HEAD, table, name)
    return own, own.find_element("tag name", "button")


def test_a_click_or_a_key_on_a_head_sorts_by_number(show):
    window = show("report")
    table = find_table(window, "results")
    before = window.execute_script(CELLS, table)
    for name in ("top1_accuracy", "map_macro"):
        column, (own, button) = 1 + list(COLUMNS).index(name), head(table, name)
        values = {row[0]: None if row[column][0] == "–" else float(row[column][:5]) for row in before}
        assert None in values.values()
        known = sorted(value for value in values.values() if value is not None)
        for order, expected in (("ascending", known), ("descending", known[::-1])):
            button.click()
            assert own.get_attribute("aria-sort") == order
            rows = window.execute_script(CELLS, table)
            assert sorted(rows) == sorted(before), "no row is lost"
            found = [values[row[0]] for row in rows]
            assert found == expected + [None] * (len(rows) - len(known)), "what is unknown comes last"
        button.send_keys("\ue007")  # Enter
        assert own.get_attribute("aria-sort") is None and window.execute_script(CELLS, table) == before
    own, button = head(table, "model")
    button.send_keys(" ")
    names = [row[0] for row in window.execute_script(CELLS, table)]
    assert own.get_attribute("aria-sort") == "ascending" and names == sorted(names, key=str.lower) != before
    head(table, "lrap")[1].click()
    assert [text.split()[0] for text in shown_in(table, "[aria-sort]")] == ["lrap"]
    assert violations(window) == []


def test_thousands_signs_and_words_sort_as_they_are_meant(show):
    window = show("label_study")
    table = find_table(window, "arms")
    head(table, "images")[1].click()
    assert [row[2] for row in window.execute_script(CELLS, table)] == ["0", "500", "500", "1,000", "2,500", "2,500"]
    head(table, "P")[1].click()
    assert [row[1] for row in window.execute_script(CELLS, table)] == ["20", "20", "100", "100", "–", "–"]
    head(table, "gain")[1].click()
    gains = [row[6] for row in window.execute_script(CELLS, table)]
    assert gains[-1] == "–" and gains[:-1] == sorted(gains[:-1], key=float)


def choose(window, select, name: str) -> None:
    window.execute_script("arguments[0].scrollIntoView()", select)
    select.find_element("xpath", f"option[.='{name}']").click()


@pytest.mark.parametrize("kind", ["light", "phone"])
def test_an_emotion_leaves_its_pictures(show, kind):
    window = show("report", kind)
    section = window.find_element("css selector", "section[aria-labelledby=pictures]")
    select, count = (section.find_element("tag name", name) for name in ("select", "output"))
    emotions = window.execute_script("return [...arguments[0].options].map(own => own.text)", select)
    assert emotions == ["all", *sorted({name for own, truth in EXAMPLES for name in own + (truth or [])})]
    assert count.text == "4 of 4 pictures"
    captions = shown_in(section, "blockquote")
    for name in [*emotions[1:], "all"]:
        choose(window, select, name)
        expected = [
            caption
            for caption, (own, truth) in zip(captions, EXAMPLES, strict=True)
            if name in ("all", *own, *(truth or []))
        ]
        assert shown_in(section, "blockquote") == expected and count.text == f"{len(expected)} of 4 pictures"
    assert violations(window) == [] and not too_wide(window)


def test_a_wish_leaves_its_columns_and_an_emotion_its_surest_pictures(show):
    window = show("captions")
    part = window.find_element("css selector", "details[data-filter]")
    select, count, table = (part.find_element("tag name", name) for name in ("select", "output", "table"))
    choose(window, select, "curious")
    heads = [text.split("\n")[0] for text in shown_in(table, "thead th")]
    assert heads == ["picture", "its own caption", "no wish", "curious"] and count.text == "1 of 5 wishes"
    assert len(shown_in(table, "tbody td")) == 7 * 3
    head(table, "curious")[1].click()
    values = [row[3 + EMOTIONS.index("curious")].split(" / ")[0][-5:] for row in window.execute_script(CELLS, table)]
    assert values == sorted(values)  # of the judge's probability of the wish
    window = show("labels")
    section = window.find_element("css selector", "section[aria-labelledby=surest]")
    assert section.find_element("tag name", "output").text == "9 of 9 pictures"
    choose(window, section.find_element("tag name", "select"), "angry")
    shown = shown_in(section, "h3, figure span")
    assert shown[0] == "angry" and len(shown) == 4 and all(own.startswith("angry: ") for own in shown[1:])


def downloaded(folder: Path, ending: str) -> Path:
    for _ in range(600):
        if found := list(folder.glob(f"*.{ending}")):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no .{ending} among {list(folder.iterdir())}")


SHAPES = """
const own = arguments[0];
return [own.getAttribute("viewBox"), own.querySelector("title").textContent,
        [...own.querySelectorAll("text")].map(text => text.textContent),
        [...own.querySelectorAll("path")].map(path => path.getAttribute("d"))];
"""


@pytest.mark.parametrize("kind", ["light", "dark"])
def test_a_saved_figure_is_the_one_shown(show, kind, tmp_path):
    window = show("report", kind)
    window.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    figures = window.find_elements("css selector", "svg.figure")
    saved = [own.get_attribute("aria-label") for own in window.find_elements("css selector", ".tools button")]
    labels = [own.get_attribute("aria-label") for own in figures]
    assert saved == [f"Save {form}: {label}" for label in labels for form in ("SVG", "PNG")]
    for figure in figures[2], figures[-1]:
        for old in tmp_path.iterdir():
            old.unlink()
        label = figure.get_attribute("aria-label")
        for form in ("SVG", "PNG"):
            window.find_element("css selector", f"button[aria-label='Save {form}: {label}']").send_keys(" ")
        view, title, texts, paths = window.execute_script(SHAPES, figure)
        path = downloaded(tmp_path, "svg")
        assert path.stem == label.replace(" ", "-")
        root, name = ElementTree.parse(path).getroot(), "{http://www.w3.org/2000/svg}"
        assert root.get("viewBox") == view and root.find(f"{name}title").text == title == label
        assert ["".join(own.itertext()) for own in root.iter(f"{name}text")] == texts
        assert [own.get("d") for own in root.iter(f"{name}path")] == paths
        assert root.find(f"{name}rect").get("fill") == "#ffffff" and "color: rgb(29, 32, 37)" in root.get("style")
        width, height = map(float, view.split()[2:])
        with Image.open(downloaded(tmp_path, "png")) as image:
            assert image.size == (int(3 * width), int(3 * height))
            grey = np.asarray(image.convert("L"))
        assert grey[0, 0] == 255 and grey.min() < 80 and grey.std() > 5
    assert console_errors(window) == []


def test_without_scripts_nothing_is_missing(open_browser, pages):
    window = open_browser()
    window.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    window.get(pages["report"])
    assert window.find_elements("css selector", "button, select") == []
    shown = window.find_elements("css selector", "section[aria-labelledby=pictures] figure")
    assert len(shown) == 4 and all(own.is_displayed() for own in shown)
    assert find_table(window, "results").is_displayed()


def test_no_other_script_runs(show):
    window = show("report")
    window.execute_script(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.other = 1'}))"
    )
    assert window.execute_script("return window.other === undefined")
    assert any("Content Security Policy" in message for message in console_errors(window))
