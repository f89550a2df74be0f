"""Figures read back: what the axes hold is what was given, and files are the same each time."""

import random
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from emocap.report.drawing import INK, PALETTE, save_figure, svg_text
from emocap.report.figures import (
    STRATEGIES,
    co_occurrence_figure,
    confusion_figure,
    gain_figure,
    histogram_figure,
    loss_figure,
    precision_figures,
    ranking_figure,
    reliability_figure,
    share_figure,
    transfer_figure,
)

SVG = "{http://www.w3.org/2000/svg}"
STRANGE = '_a$b$ <i>&"\n\x00\ud83d http://evil.example ' + "long " * 20


def lines_of(figure) -> list[list[list[float]]]:
    return [line.get_xydata().tolist() for line in figure.axes[0].get_lines()]


def legend_of(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def logged(number: int, key: str = "eval_map_macro") -> list[dict]:
    rng = random.Random(number)
    return [{"epoch": float(epoch + 1), key: rng.random()} for epoch in range(number)]


def precision_rows(emotions: int, runs: int) -> list[dict]:
    rng = random.Random(0)
    return [
        {"emotion": f"emotion {index}", "prevalence": rng.random(), "scores": [rng.random() for _ in range(runs)]}
        for index in range(emotions)
    ]


def emotion_statistics(names: list[str], prevalence: float | None = 0.3) -> dict[str, dict]:
    rng = np.random.default_rng(0)
    numbers = {"score_mean": 0.25, "score_sd": 0.125, "score_max": 0.5, "prevalence": prevalence}
    return {
        name: {"images": index, "share": index / 10, "histogram": rng.integers(0, 3, 20).tolist(), **numbers}
        for index, name in enumerate(names)
    }


def study_rows() -> list[dict]:
    rng = random.Random(0)
    rows = []
    for size in (20, 30):
        for strategy in STRATEGIES:
            for layers in [0] if strategy.startswith("scratch") else [1, 5]:
                values = [rng.random() for _ in range(3)]
                row = {"direction": "source_to_target", "size": size, "strategy": strategy, "num_layers": layers}
                interval = {"mean": np.mean(values), "low": 0.0, "high": 1.0, "prior": 0.1}
                rows.append({**row, "values": values, **interval})
    return rows


def arm(selection: str, images: float, gain: float, low: float | None = None, high: float | None = None) -> dict:
    own = {"selection": selection, "targets": "soft", "images": images}
    return own | {"gain": gain, "gain_low": low, "gain_high": high}


def all_figures(name: str = "joy") -> dict[str, object]:
    names = [name, "awe", "sad"]
    mistakes = [{"said": name, "instead": "awe", "count": 7, "missed": 10}]
    rows = [{"emotion": own, "prevalence": 0.2, "scores": [0.5]} for own in names]
    return {
        "loss": loss_figure(name, logged(3, "loss")),
        "ranking": ranking_figure({name: logged(3)}),
        "reliability": reliability_figure({name: [(0.1, 0.2, 50)]}),
        "precision": precision_figures(rows, {name: 0})[0],
        "confusion": confusion_figure(name, names, mistakes),
        "transfer": transfer_figure(study_rows(), name),
        "gain": gain_figure([arm("selected", 10, 0.1, 0.0, 0.2), arm(name, 100, 0.2, 0.1, 0.3)]),
        "shares": share_figure(emotion_statistics(names)),
        "scores": histogram_figure(emotion_statistics(names)),
        "together": co_occurrence_figure(names, np.array([[4, 2, 0], [2, 2, 0], [0, 0, 0]])),
    }


def test_curves_hold_every_logged_value_and_gaps_are_left_out():
    history = logged(5, "loss") + logged(3, "eval_loss") + [{"epoch": 2.0, "eval_loss": None}, {"train_loss": 0.3}]
    figure = loss_figure("run", history)
    training, validation = lines_of(figure)
    assert training == [[own["epoch"], own["loss"]] for own in history[:5]]
    assert validation == [[own["epoch"], own["eval_loss"]] for own in history[5:8]]
    assert legend_of(figure) == ["training", "validation"]
    assert loss_figure("run", [{"epoch": 1.0, "loss": float("nan")}]) is None and ranking_figure({"a": []}) is None
    assert len(lines_of(loss_figure("run", [{"epoch": 1.0, "loss": 0.5}]))) == 1


def test_runs_keep_their_colour_and_long_curves_lose_their_dots():
    figure = ranking_figure({"without": [], "short": logged(3), "long": logged(60)})
    short, long = figure.axes[0].get_lines()
    assert legend_of(figure) == ["short", "long"] and len(long.get_xydata()) == 60
    assert (short.get_color(), long.get_color()) == PALETTE[1:3] and long.get_marker() == ""
    assert short.get_marker() not in ("", "None")
    assert figure.axes[0].get_xlim()[0] == 0


def test_reliability_leaves_out_bins_of_few_answers():
    figure = reliability_figure({"run": [(0.1, 0.2, 50), (0.5, 0.4, 10), (0.9, 0.1, 9)]})
    assert lines_of(figure) == [[[0.1, 0.2], [0.5, 0.4]], [[0, 0], [1, 1]]]
    assert reliability_figure({"run": [(0.9, 0.1, 9)]}) is None


@pytest.mark.parametrize(("emotions", "parts"), [(3, [3]), (15, [15]), (29, [15, 14]), (31, [11, 11, 9]), (0, [])])
def test_bars_are_the_average_precisions_and_ticks_the_prior(emotions, parts):
    rows = precision_rows(emotions, 2)
    if rows:
        rows[0]["scores"][1] = rows[1]["prevalence"] = None
    figures = precision_figures(rows, {"teacher": 0, "anb": 2})
    assert [len(figure.axes[0].get_yticklabels()) for figure in figures] == parts
    widths = [[bar.get_width() for figure in figures for bar in figure.axes[0].containers[run]] for run in (0, 1)]
    assert widths == [[row["scores"][run] or 0.0 for row in rows] for run in (0, 1)]
    labels = [text.get_text() for figure in figures for text in figure.axes[0].get_yticklabels()]
    assert labels == [row["emotion"] for row in rows]
    ticks = [segment for figure in figures for segment in figure.axes[0].collections[0].get_segments()]
    known = [(place, row["prevalence"]) for place, row in enumerate(rows) if row["prevalence"] is not None]
    assert [segment[0, 0] for segment in ticks] == [value for _, value in known]
    assert len({figure.axes[0].get_xlim() for figure in figures}) <= 1, "one scale"
    for figure in figures:
        assert legend_of(figure) == ["teacher", "anb", "prior"]
        colours = [own[0].get_facecolor()[:3] for own in figure.axes[0].containers]
        assert colours == [to_rgb(PALETTE[0]), to_rgb(PALETTE[2])]


def test_shares_are_sorted_and_the_training_sets_are_ticks():
    figure = share_figure(emotion_statistics(["a", "b", "c"]))
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.containers[0]] == [0.2, 0.1, 0.0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["c", "b", "a"]
    assert [segment[0, 0] for segment in axes.collections[0].get_segments()] == [0.3] * 3
    assert not share_figure(emotion_statistics(["a"], None)).axes[0].collections


def test_histograms_heights_are_square_roots():
    emotions = emotion_statistics([f"emotion {index}" for index in range(7)])
    figure = histogram_figure(emotions)
    assert len(figure.axes) == 7
    for axes, (name, own) in zip(figure.axes, emotions.items(), strict=True):
        numbers = np.zeros(20)
        for bar in axes.containers[0]:
            numbers[round(bar.get_x() * 20)] = bar.get_height() ** 2
        assert numbers == pytest.approx(own["histogram"])
        assert axes.get_title("left") == f"{name}\nmean 0.250, sd 0.125, highest 0.500"


def test_cells_are_the_shares():
    together = np.array([[4, 2, 0], [2, 2, 0], [0, 0, 0]])
    bars = co_occurrence_figure(["joy", "awe", "sad"], together).axes[0].containers[0]
    cells = {(round(bar.get_y() + 0.46), round(bar.get_x() + 0.46)): bar.get_facecolor()[3] for bar in bars}
    assert cells == {(0, 0): 1, (0, 1): 0.5, (1, 0): 1, (1, 1): 1}
    mistakes = [{"said": "sad", "instead": "awe", "count": 7, "missed": 10}]
    figure = confusion_figure("run", ["joy", "awe", "sad"], mistakes)
    (bar,) = figure.axes[0].containers[0]
    assert (bar.get_y() + 0.46, bar.get_x() + 0.46, bar.get_facecolor()[3]) == pytest.approx((2, 1, 0.7))
    assert bar.get_gid().endswith("sad missed, awe said: 7 of 10")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["joy", "awe", "sad"]


def test_gains_have_bands_and_end_in_the_arm_of_all_images():
    arms = [arm("scratch", 0, 0.0), arm("all", 900, 0.3, 0.2, 0.4), arm("selected", 90, 0.2, 0.1, 0.3),
            arm("selected", 30, 0.1, -0.1, 0.3), arm("random", 90, 0.0)]  # fmt: skip
    figure = gain_figure(arms)
    zero, selected, chance = lines_of(figure)
    assert {y for _, y in zero} == {0}
    assert selected == [[30, 0.1], [90, 0.2], [900, 0.3]] and chance == [[90, 0.0], [900, 0.3]]
    band = figure.axes[0].collections[0].get_paths()[0].vertices.tolist()
    for point in ([30, -0.1], [30, 0.3], [90, 0.1], [90, 0.3], [900, 0.2], [900, 0.4]):
        assert point in band
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["30", "90", "900"]
    assert gain_figure(arms[:2]) is None


def test_a_study_has_a_dot_for_every_seed_and_lines_through_means():
    rows = study_rows()
    figure = transfer_figure(rows, "map_macro")
    assert [axes.get_title("left") for axes in figure.axes] == [
        "source to target, 20 rows",
        "source to target, 30 rows",
    ]
    for axes, size in zip(figure.axes, (20, 30), strict=True):
        own = [row for row in rows if row["size"] == size]
        dots = [line for line in axes.get_lines() if line.get_linestyle() == "None"]
        assert sorted(tuple(line.get_ydata()) for line in dots) == sorted(tuple(row["values"]) for row in own)
        means = {(row["strategy"], row["num_layers"]): row["mean"] for row in own}
        lines = [line.get_xydata().tolist() for line in axes.get_lines()]
        for strategy in ("anb", "bnb+ matched"):
            start = "scratch matched" if "matched" in strategy else "scratch"
            points = [[0, means[start, 0]], [1, means[strategy, 1]], [5, means[strategy, 5]]]
            assert points in lines
        assert [[0, 0.1], [1, 0.1]] in lines, "the prior"
    assert legend_of(figure) == [*STRATEGIES.values(), "prior"]


def test_svg_is_xml_that_takes_the_pages_colour_and_is_the_same_each_time():
    for (name, figure), again in zip(all_figures().items(), all_figures().values(), strict=True):
        text = svg_text(figure, "figure-1")
        root = ElementTree.fromstring(text)
        assert (root.tag, root.get("role")) == (f"{SVG}svg", "img")
        assert root.get("aria-label") == root.find(f"{SVG}title").text == figure.get_label()
        tips = [title.text for title in root.iter(f"{SVG}title")][1:]
        assert tips and root.find(f"{SVG}desc").text == "; ".join(tips)
        assert INK not in text and "currentColor" in text and "<style" not in text and "xlink" not in text
        assert all(own.get("id").startswith("figure-1-") for own in root.iter() if own.get("id"))
        assert text == svg_text(figure, "figure-1") == svg_text(again, "figure-1"), name
        assert {own.text for own in root.iter(f"{SVG}text")}, "texts stay texts"


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_files_are_the_same_each_time_and_not_empty(tmp_path, ending):
    for name, figure in all_figures().items():
        paths = [tmp_path / f"{name}.{ending}", tmp_path / "again" / f"{name}.{ending}"]
        paths[1].parent.mkdir(exist_ok=True)
        for path in paths:
            save_figure(figure, path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        if ending == "png":
            assert np.asarray(Image.open(paths[0]).convert("L")).std() > 5
        if ending == "svg":
            assert INK in paths[0].read_text() and "currentColor" not in paths[0].read_text()
    assert not list(tmp_path.rglob(".*"))


def test_strange_names_are_texts():
    for name, figure in all_figures(STRANGE).items():
        root = ElementTree.fromstring(svg_text(figure, "figure-1"))
        texts = [own.text for own in root.iter(f"{SVG}text")]
        if name in ("ranking", "reliability", "precision"):
            assert any(text.startswith('_a$b$ <i>&" �� http') and text.endswith("…") for text in texts), name
        assert not any(own.tag.endswith("}i") for own in root.iter())
