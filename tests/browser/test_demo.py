"""`emocap demo` in Chromium: what is shown is what the models say, by mouse and keyboard, wide and narrow, and nothing
stays."""

import base64
import csv
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason='pip install -e ".[demo]"')
pytest.importorskip("selenium", reason='pip install -e ".[browser]"')

from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

import emocap
from tests.browser.conftest import console_errors, too_wide, violations
from tests.committees import make_members
from tests.conftest import EMOTIONS, SEED
from tests.models.captioner import make_captioner, save_language_model

CAPTION = "the dog at a party"


@pytest.fixture(scope="module")
def app(tmp_path_factory, tiny_body) -> Iterator[SimpleNamespace]:
    """The running app: a teacher that reads both and a student that reads photos alone, and a captioner."""
    folder = tmp_path_factory.mktemp("demo")
    names = make_members(folder, tiny_body, np.random.default_rng([SEED, 11]))[::2]
    model, processor = make_captioner(save_language_model(folder / "lm", "llama"), region_extractor="./extractor")
    model.save_pretrained(folder / "captioner")
    processor.save_pretrained(folder / "captioner")
    (folder / "captioner" / "extractor").symlink_to(folder / "first" / "extractor")
    demo = emocap.build_demo(names, str(folder / "captioner"))
    url = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")[1]
    yield SimpleNamespace(url=url, names=names, captioner=str(folder / "captioner"), demo=demo)
    demo.close()
    assert not Path(demo.folder.name).exists(), "what was uploaded is gone"


@pytest.fixture(scope="module")
def pipes(app) -> list:
    return [pipeline("emotion-recognition", model=name, device="cpu") for name in app.names]


@pytest.fixture(scope="module")
def desktop(open_browser):
    return open_browser()


@pytest.fixture
def photo(tmp_path, rng) -> str:
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def wait(condition, seconds: float = 60):
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the page did not change"
        time.sleep(0.05)
    return found


def find(window, css: str) -> list:
    return window.find_elements(By.CSS_SELECTOR, css)


def button(window, name: str):
    return wait(lambda: [own for own in find(window, "button") if own.text.startswith(name) and own.is_displayed()])[0]


def opened(window, app):
    window.get(app.url)
    button(window, "Show emotions")
    return window


def ask(window, photo: str | None, caption: str = "") -> None:
    if photo:
        find(window, "input[type=file]")[0].send_keys(photo)
        wait(lambda: find(window, "[data-testid=image] img, .image-frame img") or find(window, "img[alt='']"))
        wait(lambda: not find(window, ".progress-bar"))
    find(window, "textarea")[0].send_keys(caption)
    button(window, "Show emotions").click()


def bars(window) -> list[list[tuple[str, str, str]]]:
    """Name, share and the line below of each bar, model by model."""
    columns = window.execute_script(
        "return [...document.querySelectorAll('.models section')].filter(own => own.querySelector('ol')).map(own => "
        "[...own.querySelectorAll('button')].map(bar => ['.name', '.value', '.told'].map(part => "
        "bar.querySelector(part).textContent)))"
    )
    return [[tuple(own) for own in column] for column in columns]


def words(window) -> list[str]:
    return window.execute_script("return [...document.querySelectorAll('.words li')].map(own => own.innerText)")


def percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def test_bars_are_what_the_models_say(app, pipes, desktop, photo, screenshot):
    window = opened(desktop, app)
    assert not violations(window) and "not for judging" in window.page_source
    ask(window, photo, CAPTION)
    shown = wait(lambda: bars(window))
    for pipe, column in zip(pipes, shown, strict=True):
        config, rows = pipe.model.config, pipe({"image": photo, "text": CAPTION})
        for row, (name, share, told) in zip(rows, column, strict=True):
            label = config.label2id[row["label"]]
            assert (name, share) == (row["label"], percent(row["score"]))
            named = "named" if row["score"] >= config.thresholds[label] else "not named"
            assert told == (
                f"{named} (from {percent(config.thresholds[label])}); over all pictures "
                f"{percent(config.label_prevalence[label])}"
            )
    page = find(window, ".models")[0].text
    assert page.count("People would ") == 2 and "The models are furthest apart on " in window.page_source
    ticks = [own.get_attribute("style") for own in find(window, ".bar .prior")]
    priors = [pipe.model.config.label_prevalence[pipe.model.config.label2id[name]]
              for pipe, column in zip(pipes, shown, strict=True) for name, *_ in column]  # fmt: skip
    assert ticks == [f"left: {100 * prior:.1f}%;".replace(".0%", "%") for prior in priors]
    assert not violations(window) and not console_errors(window) and not too_wide(window)
    screenshot(window, "demo_desktop")


def test_an_emotion_shows_what_spoke_for_it(app, pipes, desktop, photo):
    window = opened(desktop, app)
    ask(window, photo, CAPTION)
    wait(lambda: bars(window))
    seen = []
    for emotion, key in ((EMOTIONS[1], None), (EMOTIONS[3], Keys.ENTER), (EMOTIONS[0], Keys.SPACE)):
        chosen = find(window, f"button[data-choice={emotion}]")
        chosen[0].send_keys(key) if key else chosen[0].click()
        wait(lambda own=emotion: f"What spoke for {own}" in [found.text for found in find(window, "h2")])
        assert {own.get_attribute("aria-pressed") for own in chosen} == {"true"}
        assert len(find(window, "ol button[aria-pressed=true]")) == 2
        explained = [
            next(
                row["explanation"]
                for row in pipe({"image": photo, "text": CAPTION}, explain=emotion)
                if "explanation" in row
            )  # fmt: skip
            for pipe in pipes
        ]
        told = [f"{weight:+.2f}".replace("-", "−") for weight in explained[0]["token_weights"]]
        shown = words(window)
        assert shown == [f"{token}\n{own}" for token, own in zip(explained[0]["tokens"], told, strict=True)]
        drawn = [own.get_attribute("textContent") for own in find(window, ".models rect title")]
        strongest = [
            sorted(own["box_weights"], key=abs)[-8:] for own in explained
        ]  # the student's cells, the teacher's regions
        assert drawn == [f"{weight:+.2f}".replace("-", "−") for own in strongest for weight in own]
        seen.append((shown, drawn))
    assert seen[0] != seen[1] != seen[2]
    assert not violations(window) and not console_errors(window)


def test_wishes_write_a_caption(app, desktop, photo, screenshot):
    window = opened(desktop, app)
    button(window, "Write a caption that raises wished emotions").click()
    wait(lambda: find(window, "input[type=checkbox]"))
    find_button = lambda: [own for own in find(window, "button") if own.text == "Write a caption"]  # noqa: E731
    wait(find_button)[0].click()
    assert "captions are written of photos" in wait(lambda: find(window, "[role=alert].alert"))[0].text
    find(window, "input[type=file]")[0].send_keys(photo)
    assert not [own for own in find(window, "input[type=range]") if own.get_attribute("max") == "2"]
    for emotion in EMOTIONS[1:3]:
        next(own for own in find(window, "label") if own.text == emotion).click()
    sliders = wait(
        lambda: found if len(found := [own for own in find(window, "input[type=range]")
                                       if own.get_attribute("max") == "2"]) == 2 else None
    )  # fmt: skip
    for _ in range(5):
        sliders[1].send_keys(Keys.ARROW_RIGHT)
    assert not violations(window)
    find_button()[0].click()
    written = wait(lambda: find(window, "textarea")[0].get_attribute("value"))
    processor, model = (own.from_pretrained(app.captioner) for own in (AutoProcessor, AutoModelForImageTextToText))
    inputs = processor(images=[photo], emotions={EMOTIONS[1]: 1.0, EMOTIONS[2]: 1.5})
    made = model.eval().generate(**inputs, guidance_scale=2)[0, inputs["input_ids"].shape[1] :]
    assert written == processor.decode(made, skip_special_tokens=True).strip()
    assert wait(lambda: bars(window)), "and what the models say of it"
    assert not console_errors(window)
    screenshot(window, "demo_wishes")


def test_many_photos(app, pipes, desktop, photo, tmp_path, rng, screenshot):
    window = opened(desktop, app)
    button(window, "Many photos").click()
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "été (1).png")
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    (tmp_path / "pairs.csv").write_text(
        f"image,caption\nphoto.png,{CAPTION}\nété (1).png,<b>{{{{7}}}} ${{1+1}}</b>\nbroken.jpg,rain\n../photo.gif,\n",
        encoding="utf-8",
    )
    names = ("pairs.csv", "photo.png", "été (1).png", "broken.jpg")
    files = wait(lambda: [own for own in find(window, "input[type=file]") if own.get_attribute("multiple")])
    files[-1].send_keys("\n".join(str(tmp_path / name) for name in names))
    wait(lambda: len(find(window, ".file-preview tr")) == 4)
    button(window, "Answer all").click()
    rows = wait(lambda: find(window, ".emocap tbody tr"))
    answers = [{row["label"]: row["score"] for row in pipes[0]({"image": str(tmp_path / name), "text": caption})}
               for name, caption in (("photo.png", CAPTION), ("été (1).png", "<b>{{7}} ${1+1}</b>"))]  # fmt: skip
    best = [", ".join(f"{name} {percent(own[name])}" for name in list(own)[:3]) for own in answers]
    best = [own.replace("\u00a0", " ") for own in best]  # as selenium reads them
    assert [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")] for row in rows] == [
        ["photo.png", CAPTION, best[0]],
        ["été (1).png", "<b>{{7}} ${1+1}</b>", best[1]],
    ]
    link = find(window, ".emocap a[download]")[0].get_attribute("href")
    saved = list(csv.DictReader(io.StringIO(base64.b64decode(link.partition(",")[2]).decode("utf-8"))))
    for row, own in zip(saved, answers, strict=True):
        assert {name: float(row[name]) for name in EMOTIONS} == pytest.approx(own, abs=1e-5)
    alerts = [own.text for own in find(window, "[role=alert].alert")]
    assert [own.partition(":")[0] for own in alerts] == ["broken.jpg", "../photo.gif"]
    assert not any("/tmp" in own or str(tmp_path) in own for own in alerts)
    assert not violations(window) and not console_errors(window) and not too_wide(window)
    screenshot(window, "demo_many_photos")


def test_what_cannot_be_read_is_said(app, desktop, tmp_path):
    window = opened(desktop, app)
    ask(window, None)
    assert wait(lambda: find(window, "[role=alert].alert"))[0].text == "Give a photo, a caption or both."
    (tmp_path / "broken.png").write_bytes(b"\x89PNG but no photo")
    ask(window, str(tmp_path / "broken.png"))
    wait(lambda: "The photo cannot be read" in find(window, "[role=alert].alert")[0].text)
    window = opened(desktop, app)
    ask(window, None, CAPTION)
    wait(lambda: len(bars(window)) == 1)
    assert "image alone" in find(window, "[role=alert].alert")[0].text, "the student reads no captions"
    assert not violations(window) and not console_errors(window)


def test_on_a_phone_in_the_dark_by_keyboard(app, open_browser, screenshot):
    window = opened(open_browser("phone", dark=True), app)
    assert not too_wide(window) and not violations(window)
    wait(lambda: find(window, ".examples button"))
    for _ in range(40):
        ActionChains(window).send_keys(Keys.TAB).perform()
        if window.execute_script("return document.activeElement.matches('.examples button')"):
            break
    ActionChains(window).send_keys(Keys.ENTER).perform()
    wait(lambda: len(bars(window)) == 2)
    caption = find(window, "textarea")[0].get_attribute("value")
    assert caption and caption in find(window, ".examples button")[0].text
    first = find(window, "ol button")[0]
    first.send_keys(Keys.ENTER)
    wait(lambda: find(window, ".models svg image"))
    assert find(window, ".models svg")[0].get_attribute("aria-label") and words(window)
    assert not too_wide(window) and not violations(window) and not console_errors(window)
    screenshot(window, "demo_phone")


def test_nothing_comes_from_elsewhere_and_nothing_is_kept(app, desktop, photo):
    window = opened(desktop, app)
    ask(window, photo)
    wait(lambda: bars(window))
    addresses = window.execute_script("return performance.getEntries().map(own => own.name)")
    fetched = [own for own in addresses if "://" in own]
    assert len(fetched) > 5 and all(own.startswith((app.url, f"blob:{app.url}")) for own in fetched)
    config = window.execute_script("return window.gradio_config")
    assert not config["analytics_enabled"] and not config["run_history"]
    assert app.demo.delete_cache == (60, 900) and list(Path(app.demo.folder.name, "uploads").rglob("photo.png"))


def test_a_file_of_the_server_is_no_upload(app, photo):
    """Asked through the interface of programs, as no page asks."""
    asked = {"data": [{"path": photo, "meta": {"_type": "gradio.FileData"}}, CAPTION]}
    headers = {"Content-Type": "application/json"}
    address = f"{app.url}gradio_api/call/answer"
    with urlopen(Request(address, json.dumps(asked).encode(), headers), timeout=60) as answer:
        event = json.load(answer)["event_id"]
    with urlopen(f"{address}/{event}", timeout=60) as answer:
        assert answer.read().startswith(b"event: error")


def test_a_folder(app, desktop, photo, tmp_path):
    window = opened(desktop, app)
    button(window, "Many photos").click()
    (tmp_path / "album" / "more").mkdir(parents=True)
    for name in ("a.png", "more/b.png"):
        (tmp_path / "album" / name).write_bytes(Path(photo).read_bytes())
    (tmp_path / "album" / "more" / "b.txt").write_text(CAPTION)
    wait(lambda: find(window, "input[type=file][webkitdirectory]"))[0].send_keys(str(tmp_path / "album"))
    wait(lambda: len(find(window, ".file-preview tr")) == 3)
    button(window, "Answer all").click()
    rows = wait(lambda: find(window, ".emocap tbody tr"))
    cells = [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")][:2] for row in rows]
    assert cells == [["a.png", ""], ["b.png", CAPTION]]
    (tmp_path / "album" / "b.png").write_bytes(Path(photo).read_bytes())
    button(opened(window, app), "Many photos").click()
    wait(lambda: find(window, "input[type=file][webkitdirectory]"))[0].send_keys(str(tmp_path / "album"))
    wait(lambda: len(find(window, ".file-preview tr")) == 4)
    button(window, "Answer all").click()
    told = wait(lambda: find(window, "[role=alert].alert"))[0].text
    assert told == "More than one file is called b.png; rename all but one." and not console_errors(window)
