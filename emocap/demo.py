"""The app: emotions of a photo with its caption, what of both spoke for them, and captions towards wished emotions."""

import base64
import csv
import html
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import gradio as gr
import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline

from emocap.evaluation.folder import predict_folder
from emocap.models import EmotionRecognitionPipeline
from emocap.models.photo_emocap import open_photo, photos_in_folder, to_rgb
from emocap.scenes.corpus import WORD_STATES, draw_scene, random_scene, write_caption

__all__ = ["Demo", "build_demo"]

TITLE = "Emotions that a photo with its caption raises"
NOT_FOR = (
    "A guess at how a crowd of people would react, learned from what other people said. It does not know what you or "
    "anybody in the photo feels, and it is not for judging, choosing or watching people. Photos and captions are used "
    "for the answer and deleted; nothing is stored or sent on."
)
LEGEND = (
    "Blue: how probable the model holds it that people name the emotion. Upright line: for what share of all pictures "
    "they do (the prior). Triangle: from there on the model names it. Choose an emotion to see what spoke for it."
)
REASONS = (
    "Blue with a solid edge speaks for the emotion, orange with a dashed edge against it. The numbers are log-odds "
    "(integrated gradients); they sum to what photo and words changed."
)
BATCH = (
    "A folder of photos, each with its caption in a `.txt` file of the same name; or photos with a CSV that has the "
    "columns `image` and `caption`; or such a CSV of captions alone."
)

CLEAN_EVERY, KEEP_FOR = 60, 900
"""Seconds between two cleanings, and after which an uploaded file is deleted."""

SHOWN_EMOTIONS, SHOWN_REGIONS, SHOWN_ROWS, SHOWN_EXAMPLES = 6, 8, 100, 4
SHOWN_SIDE, EXAMPLE_SIDE = 640, 200
"""Pixels of the longer side of a photo under its regions, and of an example."""

DIFFER, AGREE = 1.5, 2.0
"""Below and above how many times the prior's `agreement` people would differ, or agree. On 500 test images of the
built-in corpus .14, .23 and .30 of the pairs of votes for an image were of one emotion where a teacher said so."""

PIECES = "#Ġ▁"
"""What tokenizers mark the pieces of words with."""

Pipes: TypeAlias = Mapping[str, EmotionRecognitionPipeline]
Examples: TypeAlias = Sequence[Mapping[str, str | None]]

CSS = """
/* gradio 6.31: too faint; a button without a name, around another control */
.or { color: inherit !important; }
button[aria-label="common.upload"] { display: none; }
.emocap h2, .emocap h3 { margin: .6em 0 .2em; font-size: 1.1rem; }
.emocap p { margin: .3em 0; }
.emocap .models { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 1rem; }
.emocap ol, .emocap ul { list-style: none; margin: 0; padding: 0; }
.emocap button { color: var(--body-text-color); cursor: pointer; font: inherit; text-align: left; width: 100%; }
.emocap button:focus-visible, .emocap summary:focus-visible { outline: 3px solid #2563eb; outline-offset: 1px; }
.emocap ol button { display: grid; grid-template-columns: 7.5rem 1fr 3rem; gap: .1rem .5rem; align-items: center;
  padding: .35rem .4rem; min-height: 2.75rem; border: 2px solid transparent; border-radius: .4rem; background: none; }
.emocap ol button:hover { background: var(--background-fill-secondary); }
.emocap button[aria-pressed=true] { border-color: currentColor !important; }
.emocap .name { overflow-wrap: anywhere; }
.emocap .named .name { font-weight: 700; }
.emocap .value { text-align: right; font-variant-numeric: tabular-nums; }
.emocap .told { grid-column: 1 / -1; font-size: .85rem; }
.emocap .bar { position: relative; height: 1rem; border: 1px solid currentColor; border-radius: 2px; }
.emocap .bar span { position: absolute; top: 0; bottom: 0; }
.emocap .bar .fill { left: 0; background: #2563eb; }
.emocap .bar .prior { width: 0; top: -.25rem; bottom: -.25rem; border-left: 3px solid var(--body-text-color); }
.emocap .bar .from { width: 0; height: 0; bottom: auto; top: -.45rem; margin-left: -.3rem;
  border: .3rem solid transparent; border-top: .45rem solid var(--body-text-color); }
.emocap svg { width: 100%; max-width: 22rem; height: auto; border-radius: .4rem; }
.emocap .words li { display: inline-block; margin: .15rem; padding: .1rem .35rem; border-radius: .3rem;
  text-align: center; color: #111; border: 2px solid #9ca3af; }
.emocap .words li.for { border: 2px solid #1d4ed8; }
.emocap .words li.against { border: 2px dashed #b45309; }
.emocap .words small { display: block; color: #111; font-variant-numeric: tabular-nums; }
.emocap .examples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 8rem), 1fr)); gap: .5rem; }
.emocap .examples button { height: 100%; padding: .3rem; font-size: .85rem; border-radius: .4rem;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
.emocap .examples img { width: 100%; height: 6rem; object-fit: cover; border-radius: .3rem; }
.emocap .scroll { overflow-x: auto; }
.emocap table { border-collapse: collapse; font-size: .9rem; }
.emocap th, .emocap td { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #9ca3af; }
.emocap .alert { border-left: 4px solid #b91c1c; padding: .3rem .7rem; }
"""

CHOOSE = """
element.addEventListener("click", event => {
  const chosen = event.target.closest("button[data-choice]");
  if (!chosen) return;
  for (const own of element.querySelectorAll("button[data-choice]"))
    own.setAttribute("aria-pressed", own.dataset.choice === chosen.dataset.choice);
  trigger("choose", {choice: chosen.dataset.choice});
});
"""

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
ONE_BY_ONE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "models"}
"""The models are shared, and explaining hooks into them."""


class Demo(gr.Blocks):
    """Blocks that keep nothing and ask nobody: uploads lie in a folder of their own, which is emptied all the time
    and goes with the app; no statistics are sent, no font or script comes from elsewhere."""

    def __init__(self, **options: Any):
        self.folder = tempfile.TemporaryDirectory(prefix="emocap-demo-", ignore_cleanup_errors=True)
        self.use_own_folder()
        super().__init__(analytics_enabled=False, delete_cache=(CLEAN_EVERY, KEEP_FOR), **options)

    def use_own_folder(self) -> None:
        """For uploads; gradio reads the name as components are made, and as it is launched."""
        os.environ["GRADIO_TEMP_DIR"] = os.path.join(self.folder.name, "uploads")

    def launch(self, *arguments: Any, **options: Any):
        """As `gradio.Blocks.launch`, with other defaults. A process that waits in it empties the folder at SIGTERM."""
        self.use_own_folder()
        if not options.get("prevent_thread_lock") and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
        dark_enough = {f"button_primary_background_fill{end}": "*primary_700" for end in ("", "_dark")}
        own = {
            "theme": gr.themes.Default(primary_hue="blue", **fonts).set(**dark_enough),
            "css": CSS,
            "footer_links": [],
            "run_history": False,
            "ssr_mode": False,
            "pwa": False,
            "max_file_size": "50mb",
        }
        return super().launch(*arguments, **own | options)

    def close(self, *arguments: Any, **options: Any) -> None:
        super().close(*arguments, **options)
        self.folder.cleanup()


def build_demo(
    models: str | Sequence[str], captioner: str | None = None, examples: str | os.PathLike | None = None
) -> Demo:
    """The app over models that answer side by side; its `launch` starts it.

    Args:
        models: folder or Hub id of a teacher or student, or several.
        captioner: that of a captioner, which then writes captions towards wished emotions.
        examples: folder of photos to choose from, with captions beside them, see `photos_in_folder`; by default scenes
            of the built-in corpus are drawn.

    Raises:
        FileNotFoundError: there are no examples in the folder.
        ValueError: a checkpoint of another family, a model that is named twice, or a captioner that reads no photos.
    """
    names = [models] if isinstance(models, str) else list(models)
    shown = shown_names(names)
    pairs: Examples = [] if examples is None else photos_in_folder(examples)
    for name in names:
        check_kind(name, "emocap_teacher", "emocap_student")
    if captioner:
        check_kind(captioner, "emocap_captioner")
    pipes = dict(zip(shown, (pipeline("emotion-recognition", model=name) for name in names), strict=True))
    with Demo(title=TITLE) as demo:
        gr.Markdown(f"# {TITLE}\n\n{NOT_FOR}")
        with gr.Tab("One photo"):
            add_pair_tab(pipes, captioner, pairs or draw_examples(Path(demo.folder.name)))
        with gr.Tab("Many photos"):
            add_batch_tab(pipes)
    return demo


def shown_names(names: Sequence[str]) -> list[str]:
    """The last part of each, where these differ."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"An app takes one or more different models, not {list(names)}.")
    last = [Path(name).name for name in names]
    return last if len(set(last)) == len(last) else list(names)


def check_kind(name: str, *kinds: str) -> None:
    if (kind := AutoConfig.from_pretrained(name).model_type) not in kinds:
        raise ValueError(f"'{name}' is a '{kind}' checkpoint; expected {' or '.join(kinds)}.")


def draw_examples(folder: Path) -> Examples:
    """Scenes of the built-in corpus, drawn into a folder, with their captions."""
    rng, found = np.random.default_rng(0), []
    for number in range(SHOWN_EXAMPLES):
        path = folder / f"scene_{number + 1}.png"
        draw_scene(random_scene(rng), rng)[0].save(path)
        found.append({"image": str(path), "text": write_caption(WORD_STATES[rng.integers(len(WORD_STATES))], rng)})
    return found


def add_pair_tab(pipes: Pipes, captioner: str | None, examples: Examples) -> None:
    def answer(photo: str | None, caption: str | None) -> tuple[str, str]:
        return answer_html(pipes, photo, caption), ""

    def explain(photo: str | None, caption: str | None, event: gr.EventData) -> str:
        return reasons_html(pipes, photo, caption, str(event.choice))

    def pick(event: gr.EventData) -> tuple[str | None, ...]:
        photo, caption = (examples[int(event.choice)][name] for name in ("image", "text"))
        return photo, caption, *answer(photo, caption)

    with gr.Row():
        with gr.Column(min_width=280):
            photo = gr.Image(label="Photo", sources=["upload", "clipboard"], height=280)
            photo.preprocess = lambda payload: payload and payload.path  # readable or not
            caption = gr.Textbox(label="Caption (may be left out)", lines=2, max_length=2000)
            ask = gr.Button("Show emotions", variant="primary")
            wishes = gr.Column(visible=captioner is not None)
        with gr.Column(scale=2, min_width=280):
            bars = gr.HTML(js_on_load=CHOOSE, elem_classes="emocap", label="Emotions")
            reasons = gr.HTML(elem_classes="emocap", label="Reasons")
    picked = gr.HTML(examples_html(examples), js_on_load=CHOOSE, elem_classes="emocap", label="Examples")
    given, shown = [photo, caption], [bars, reasons]
    gr.on([ask.click, caption.submit], answer, given, shown, api_name="answer", **ONE_BY_ONE)
    bars.choose(explain, given, reasons, scroll_to_output=True, **PRIVATE, **ONE_BY_ONE)
    picked.choose(pick, None, [*given, *shown], **PRIVATE, **ONE_BY_ONE)
    if captioner:
        with wishes:
            add_wishes(captioner, answer, photo, [caption, *shown])


def add_wishes(captioner: str, answer: Callable, photo: gr.Image, outputs: list[Any]) -> None:
    """Sliders of wished emotions, and a button that writes the caption, which is answered at once."""
    processor = AutoProcessor.from_pretrained(captioner)
    if processor.region_extractor is None:
        raise ValueError(f"'{captioner}' names no region extractor, so it reads no photos.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForImageTextToText.from_pretrained(captioner).eval().to(device)
    emotions = processor.emotions

    def write(photo: str | None, scale: float, chosen: list[str], *weights: float) -> tuple[Any, ...]:
        if photo is None or not is_photo(photo):
            return gr.skip(), alert("Give a photo that can be read: captions are written of photos."), ""
        wish = {name: weight for name, weight in zip(emotions, weights, strict=True) if name in chosen}
        inputs = processor(images=[photo], emotions=wish or None, device=device).to(device)
        written = model.generate(**inputs, guidance_scale=scale)[0, inputs["input_ids"].shape[1] :]
        caption = processor.decode(written, skip_special_tokens=True).strip()
        return caption, *answer(photo, caption)

    def show(chosen: list[str]) -> list[Any]:
        return [gr.update(visible=name in chosen) for name in emotions]

    with gr.Accordion("Write a caption that raises wished emotions", open=False):
        gr.Markdown("Each chosen emotion has a slider; 1 is as much as 2 % of the captions that were learned exceed.")
        chosen = gr.CheckboxGroup(emotions, label="Wished emotions")
        sliders = [gr.Slider(0, 2, 1, step=0.1, label=name, visible=False) for name in emotions]
        scale = gr.Slider(1, 4, 2, step=0.5, label="How far words go by the wish (1: as they were learned)")
        button = gr.Button("Write a caption")
    chosen.change(show, chosen, sliders, **PRIVATE)
    button.click(write, [photo, scale, chosen, *sliders], outputs, api_name="write", **ONE_BY_ONE)


def add_batch_tab(pipes: Pipes) -> None:
    def answer(folder: list[tuple[str, str]], files: list[tuple[str, str]], name: str) -> str:
        return batch_html(pipes[name], folder + files)

    gr.Markdown(BATCH)
    with gr.Row():
        given = [
            gr.File(label="A folder", file_count="directory"),
            gr.File(label="Photos, a CSV", file_count="multiple"),
        ]
    for own in given:
        own.preprocess = lambda payload: [(Path(one.orig_name or one.path).name, one.path) for one in payload or []]
    name = gr.Radio(list(pipes), value=next(iter(pipes)), label="Model", visible=len(pipes) > 1)
    ask = gr.Button("Answer all", variant="primary")
    table = gr.HTML(elem_classes="emocap", label="Answers")
    ask.click(answer, [*given, name], table, api_name="batch", **ONE_BY_ONE)


def examples_html(examples: Examples) -> str:
    shown = [
        f'<li><button type="button" data-choice="{number}" aria-pressed="false">'
        f'<img src="{jpeg(to_rgb(open_photo(own["image"] or "")), EXAMPLE_SIDE)[0]}" alt="">'
        f"{text(own['text'] or 'a photo alone')}</button></li>"
        for number, own in enumerate(examples[:SHOWN_EXAMPLES])
    ]
    return f'<h2>Examples</h2><ul class="examples">{"".join(shown)}</ul>'


def answer_html(pipes: Pipes, photo: str | None, caption: str | None) -> str:
    """The models' emotions side by side."""
    if not (photo or caption):
        return alert("Give a photo, a caption or both.")
    if photo and not is_photo(photo):
        return alert("The photo cannot be read: the file is damaged, or no picture.")
    columns, found = [], {}
    for name, pipe in pipes.items():
        try:
            rows = found[name] = pipe({"image": photo, "text": caption})
        except (OSError, ValueError) as error:
            columns.append((name, alert(str(error))))
        else:
            columns.append((name, model_html(pipe, rows)))
    return f"<p>{LEGEND}</p>{apart_html(found)}{side_by_side('h2', columns)}"


def model_html(pipe: EmotionRecognitionPipeline, rows: list[dict[str, Any]]) -> str:
    """What a model names, whether people would differ, and a button with a bar for each emotion."""
    names, shares = pipe.committee.id2label.values(), pipe.committee.label_prevalence
    prior = dict(zip(names, shares, strict=True)) if shares else {}
    starts = dict(zip(names, pipe.thresholds("config").tolist(), strict=True))
    named = [row["label"] for row in rows if row["score"] >= starts[row["label"]]]
    told = f"It names {', '.join(named)}." if named else "It names no emotion: none reaches its threshold."
    bars = [bar_html(row["label"], row["score"], prior.get(row["label"]), starts[row["label"]]) for row in rows]
    first, rest = bars[:SHOWN_EMOTIONS], bars[SHOWN_EMOTIONS:]
    more = f"<details><summary>{len(rest)} less probable ones</summary><ol>{''.join(rest)}</ol></details>"
    spoken = differ([row["score"] for row in rows], list(prior.values()))
    return f"<p>{text(told)} {spoken}</p><ol>{''.join(first)}</ol>{more if rest else ''}"


def bar_html(emotion: str, score: float, prior: float | None, start: float) -> str:
    is_named, tick = score >= start, ""
    told = f"{'named' if is_named else 'not named'} (from {percent(start)})"
    if prior is not None:
        told += f"; over all pictures {percent(prior)}"
        tick = f'<span class="prior" style="left:{100 * prior:.1f}%"></span>'
    return (
        f'<li><button type="button" aria-pressed="false" data-choice="{text(emotion)}" class="{"named" * is_named}">'
        f'<span class="name">{text(emotion)}</span><span class="bar" aria-hidden="true">'
        f'<span class="fill" style="width:{100 * score:.1f}%"></span>{tick}'
        f'<span class="from" style="left:{100 * start:.1f}%"></span></span>'
        f'<span class="value">{percent(score)}</span><span class="told">{told}</span></button></li>'
    )


def differ(scores: Sequence[float], prior: Sequence[float]) -> str:
    """Whether people would differ, in words: the answer's `agreement` beside the prior's or, where that is not known,
    beside that of chance."""
    own, usual = agreement(scores), agreement(prior or [1.0] * len(scores))
    told = "differ" if own < DIFFER * usual else "differ somewhat" if own < AGREE * usual else "largely agree"
    beside = "over all pictures" if prior else "by chance"
    often = f"by these shares two of them name the same emotion {percent(own)} of the time"
    return f"People would {told}: {often} ({beside} {percent(usual)})."


def agreement(scores: Sequence[float]) -> float:
    """How probable it is that two mentions are of one emotion, when each is drawn with its share of all scores
    (Simpson 1949)."""
    shares = np.asarray(scores, dtype=np.float64) / np.sum(scores)
    return float((shares**2).sum())


def apart_html(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """Where several models are furthest apart."""
    scores = {name: {row["label"]: row["score"] for row in rows} for name, rows in found.items()}
    shared = set.intersection(*map(set, scores.values())) if len(scores) > 1 else set()
    if not shared:
        return ""
    apart = {label: np.ptp([own[label] for own in scores.values()]) for label in sorted(shared)}
    most = max(apart, key=lambda label: apart[label])
    told = ", ".join(f"{name} {percent(own[most])}" for name, own in scores.items())
    return f"<p>{text(f'The models are furthest apart on {most}: {told}.')}</p>"


def reasons_html(pipes: Pipes, photo: str | None, caption: str | None, emotion: str) -> str:
    """What of the photo and of the words spoke for an emotion, for each model that knows it."""
    columns = []
    for name, pipe in pipes.items():
        if emotion not in pipe.committee.label2id:
            columns.append((name, f"<p>It has no emotion {text(emotion)}.</p>"))
            continue
        try:
            rows = pipe({"image": photo, "text": caption}, explain=emotion)
        except FileNotFoundError:
            return alert("The photo was deleted meanwhile; upload it again.")
        except (OSError, ValueError) as error:
            columns.append((name, alert(str(error))))
            continue
        (explanation,) = (row["explanation"] for row in rows if "explanation" in row)
        columns.append((name, explanation_html(explanation, photo)))
    return f'<h2>What spoke for {text(emotion)}</h2><p role="status">{REASONS}</p>{side_by_side("h3", columns)}'


def explanation_html(explanation: dict[str, Any], photo: str | None) -> str:
    tokens, weights = explanation["tokens"], explanation["token_weights"]
    parts = {"the photo": explanation["box_weights"], "the words": weights}
    told = " and ".join(f"{part} {signed(sum(own))}" for part, own in parts.items() if own)
    lines = [f"<p>Together: {told}; without them the log-odds are {signed(explanation['baseline_logit'])}.</p>"]
    if photo and explanation["boxes"]:
        lines.append(regions_html(to_rgb(open_photo(photo)), explanation["boxes"], explanation["box_weights"]))
    if tokens:
        strongest = max(map(abs, weights)) or 1.0
        words = [word_html(token, weight, strongest) for token, weight in zip(tokens, weights, strict=True)]
        lines.append(f'<ul class="words" aria-label="Words">{"".join(words)}</ul>')
    return "".join(lines)


def word_html(token: str, weight: float, strongest: float) -> str:
    strength = round(55 * abs(weight) / strongest)  # at most so much colour that black stays readable
    colour = f"color-mix(in srgb, {'#60a5fa' if weight > 0 else '#f59e0b'} {strength}%, white)"
    side = "for" if weight > 0 else "against" if weight < 0 else ""
    shown = text(token.lstrip(PIECES) or token)
    return f'<li class="{side}" style="background:{colour}">{shown}<small>{signed(weight)}</small></li>'


def regions_html(photo: Image.Image, boxes: Sequence[Sequence[float]], weights: Sequence[float]) -> str:
    """The photo under the regions that count most, and the two ends of them in words."""
    (source, (wide, high)), strongest, drawn = jpeg(photo, SHOWN_SIDE), max(map(abs, weights)) or 1.0, []
    order = sorted(range(len(boxes)), key=lambda index: abs(weights[index]))
    for index in order[-SHOWN_REGIONS:]:
        (left, top, right, bottom), weight = boxes[index], weights[index]
        colour, dashes = ("#1d4ed8", "") if weight > 0 else ("#d97706", ' stroke-dasharray="6 4"')
        strength = abs(weight) / strongest
        drawn.append(
            f'<rect x="{left * wide:.1f}" y="{top * high:.1f}" width="{(right - left) * wide:.1f}" '
            f'height="{(bottom - top) * high:.1f}" fill="{colour}" fill-opacity="{0.4 * strength:.2f}" '
            f'stroke="{colour}" stroke-opacity="{strength:.2f}" stroke-width="2"{dashes}>'
            f"<title>{signed(weight)}</title></rect>"
        )
    best, worst = int(np.argmax(weights)), int(np.argmin(weights))
    told = f"{len(boxes)} regions, drawn the {len(drawn)} that count most"
    told += f"; most for it: {place(boxes[best])} ({signed(weights[best])})" if weights[best] > 0 else ""
    told += f"; most against it: {place(boxes[worst])} ({signed(weights[worst])})" if weights[worst] < 0 else ""
    return (
        f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="The photo with its regions">'
        f'<image href="{source}" width="{wide}" height="{high}"/>{"".join(drawn)}</svg><p>{told}.</p>'
    )


def batch_html(pipe: EmotionRecognitionPipeline, files: list[tuple[str, str]]) -> str:
    """The file to save, what was left out, and a table of the first answers.

    Args:
        pipe: of the model that answers.
        files: the name that each was uploaded with, which says nothing of folders, and where it lies.
    """
    names = [name for name, _ in files]
    tables = [name for name in names if name.lower().endswith((".csv", ".tsv"))]
    if not files or len(tables) > 1:
        return alert("Give one CSV at most." if tables else "Give a folder, photos or a CSV.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        return alert(f"More than one file is called {', '.join(twice)}; rename all but one.")
    with tempfile.TemporaryDirectory(prefix="emocap-demo-") as work:
        given, output = Path(work, "given"), Path(work, "answers.csv")
        given.mkdir()
        for name, path in files:
            shutil.copyfile(path, given / name)
        try:
            report = predict_folder(pipe, given / tables[0] if tables else given, output)
        except (OSError, ValueError) as error:
            return alert(str(error).replace(f"{given}/", "").replace(str(given), "the upload"))
        content = output.read_text("utf-8")
    problems = [f"{own['image_id']}: {own['reason'].replace(f'{given}/', '')}" for own in report["problems"]]
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    source = f"data:text/csv;base64,{base64.b64encode(content.encode()).decode()}"
    link = f'<p><a download="answers.csv" href="{source}">Save answers.csv</a>: {len(rows)} rows.</p>'
    return link + "".join(map(alert, problems)) + table_html(rows[:SHOWN_ROWS])


def table_html(rows: list[dict[str, str]]) -> str:
    """Photo, caption and the most probable emotions of each row."""
    lines = []
    for row in rows:
        scores = {name: float(own) for name, own in row.items() if name not in ("image", "caption")}
        best = sorted(scores, key=lambda name: -scores[name])[:3]
        told = ", ".join(f"{name} {percent(scores[name])}" for name in best)
        cells = "".join(f"<td>{text(own)}</td>" for own in (row["caption"], told))
        lines.append(f'<tr><th scope="row">{text(row["image"])}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Photo", "Caption", "Most probable"))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Answers"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def side_by_side(heading: str, columns: list[tuple[str, str]]) -> str:
    own = [f"<section><{heading}>{text(name)}</{heading}>{content}</section>" for name, content in columns]
    return f'<div class="models">{"".join(own)}</div>'


def jpeg(photo: Image.Image, side: int) -> tuple[str, tuple[int, int]]:
    """A smaller copy as an address that holds it, and its width and height."""
    photo.thumbnail((side, side))
    content = io.BytesIO()
    photo.save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}", photo.size


def is_photo(path: str) -> bool:
    try:
        open_photo(path)
    except (OSError, ValueError):
        return False
    return True


def text(value: str) -> str:
    """As HTML that shows it literally, in gradio's templates too."""
    return re.sub(r"[`${}]", lambda found: f"&#{ord(found[0])};", html.escape(value))


def alert(message: str) -> str:
    return f'<p class="alert" role="alert">{text(message)}</p>'


def percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def signed(weight: float) -> str:
    return f"{weight:+.2f}".replace("-", "−")


def place(box: Sequence[float]) -> str:
    """Where the middle of a box is."""
    row, column = (min(int(3 * (box[axis] + box[axis + 2]) / 2), 2) for axis in (1, 0))
    return f"{('top', 'middle', 'bottom')[row]} {('left', 'centre', 'right')[column]}"
