"""The grid of sentences that a captioner wrote for each wish, read back from the page."""

import json
import re

import pytest

from emocap.cli import main
from emocap.report.page import write_report
from emocap.report.tables import results_rows
from tests.report.test_report import HOSTILE, Page, make_run


def make_captioner_run(folder, image_ids, wishes, rng, scales=("1", "2.5")):
    """What `emocap evaluate CAPTIONER --output FOLDER/metrics.json` leaves, of made-up figures and sentences."""
    number, ways = len(image_ids), [f"guidance_{scale}" for scale in scales]

    def told(way, width):
        captions = [[f"{way} {row} {column}" for column in range(width)] for row in range(number)]
        return {"captions": captions, "probabilities": rng.random((number, len(wishes))).round(4).tolist()}

    metrics = {"num_examples": number, "num_retrieved": number, "split": "test", "judge": "me/judge"}
    metrics |= {"wishes": ", ".join(wishes), "guidance_scales": ", ".join(scales)}
    for way in [*ways, "no_wish", "best_caption", "references", f"{ways[0]}/shuffled_wishes"]:
        metrics |= {f"{way}/{key}": float(rng.random()) for key in ("alignment@1", "probability", "cider_d")}
    for way in ways:
        metrics |= {f"{way}/lift/{wish}": float(rng.normal()) for wish in wishes}
    sentences = {way: told(way, len(wishes)) for way in ways}
    sentences |= {way: told(way, 1) for way in ("no_wish", "references")}
    details = {"wishes": wishes, "image_id": image_ids, "sentences": sentences}
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "metrics_details.json").write_text(json.dumps(details))
    return folder, metrics, details


def cell_texts(table):
    return [[text for text, _ in row] for row in table]


def test_every_sentence_stands_with_the_judges_probabilities(tmp_path, tiny_table, rng):
    ids = [*tiny_table["test"]["image_id"][:5], "not there"]
    wishes = ["sad", "happy", "angry"]
    folder, metrics, details = make_captioner_run(tmp_path / "captioner", ids, wishes, rng)
    write_report(tmp_path / "report.html", title="Captions", runs={"mine": folder}, tables=tiny_table)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    grids = [rows for kind, rows in page.tables if kind == "sentences"]
    told, plain = details["sentences"], details["sentences"]["no_wish"]["probabilities"]
    assert len(grids) == 2
    for way, grid in zip(("guidance_1", "guidance_2.5"), grids, strict=True):
        lifts = [f"{wish}{metrics[f'{way}/lift/{wish}']:+.3f}" for wish in wishes]
        assert cell_texts(grid)[0] == ["picture", "its own caption", "no wish", *lifts]
        for row, cells in enumerate(grid[1:]):
            expected = [ids[row], told["references"]["captions"][row][0], told["no_wish"]["captions"][row][0]]
            assert [text for text, _ in cells[:3]] == expected
            for wish, (text, is_bold) in enumerate(cells[3:]):
                own, other = told[way]["probabilities"][row][wish], plain[row][wish]
                assert text == f"{told[way]['captions'][row][wish]}{own:.3f} / {other:.3f}"
                assert is_bold == (own > other)
    with_photo = [row["image"] is not None for row in tiny_table["test"].select(range(5))]
    assert 0 < sum(with_photo) < 5 and len(page.all("img")) == 2 * sum(with_photo)
    ways = cell_texts(dict(page.tables)["ways"])
    assert [row[0] for row in ways[1:]] == [
        "guidance 1", "guidance 1, for another wish", "guidance 2.5", "no wish", "own caption with most of the wish",
        "own captions",
    ]  # fmt: skip
    for key, source, row in (("cider_d", "guidance_1/shuffled_wishes", 2), ("alignment@1", "references", 6)):
        assert ways[row][ways[0].index(key)] == f"{metrics[f'{source}/{key}']:.3f}"
    assert ways[0] == ["way", "alignment@1", "probability", "cider_d"], "what was not measured has no column"
    told = "".join(text for _, text in page.text)
    assert "6 pictures of the test split" in told and "judged by me/judge" in told
    assert not page.result_tables() and "No losses" not in told  # nothing is measured on labels here


def test_a_captioner_beside_models_has_a_section_of_its_own(tmp_path, rng, capsys):
    teacher, _ = make_run(tmp_path / "teacher", 1)
    folder, _, _ = make_captioner_run(tmp_path / "captioner", ["a", "b"], ["sad"], rng)
    assert {row["name"] for row in results_rows({"captioner": folder, "teacher": teacher})} >= {"teacher", "prior"}
    assert results_rows({"captioner": folder}) == []
    page = tmp_path / "report.html"
    main(["report", f"captioner={folder}", f"teacher={teacher}", "--output", str(page)])
    found = Page(page.read_text("utf-8"))
    (results,) = found.result_tables()
    assert not any("captioner" in row[0][0] for row in results)
    assert [kind for kind, _ in found.tables].count("sentences") == 2
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("captioner")]
    with pytest.raises(SystemExit):
        main(["report", f"captioner={folder}", "--readme", str(tmp_path / "README.md")])
    assert "all runs are captioners" in capsys.readouterr().err


def test_only_the_first_pictures_are_shown(tmp_path, rng):
    folder, _, _ = make_captioner_run(tmp_path / "captioner", [str(row) for row in range(30)], ["sad"], rng, ("1",))
    write_report(tmp_path / "report.html", title="Captions", runs={"mine": folder})
    grid = dict(Page((tmp_path / "report.html").read_text("utf-8")).tables)["sentences"]
    assert [row[0][0] for row in grid[1:]] == [str(row) for row in range(12)]


def test_hostile_sentences_stay_text_and_missing_ones_are_named(tmp_path, rng):
    folder, _, details = make_captioner_run(tmp_path / "captioner", [HOSTILE, "b"], [HOSTILE], rng)
    details["sentences"]["guidance_1"]["captions"][0][0] = HOSTILE + "\ud83d"
    (folder / "metrics_details.json").write_text(json.dumps(details))
    write_report(tmp_path / "report.html", title=HOSTILE, runs={HOSTILE: folder})
    html = (tmp_path / "report.html").read_text("utf-8")
    page = Page(html)
    assert "<script>alert" not in html and "onerror" not in {name for _, own, _ in page.elements for name in own}
    assert not re.search(r"<img[^>]*src=x", html)
    assert any(text.startswith(HOSTILE) and len(text) == len(HOSTILE) + 1 for _, text in page.text)
    (folder / "metrics_details.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics_details\.json.*emocap evaluate"):
        write_report(tmp_path / "report.html", title="Captions", runs={"mine": folder})


def test_the_losses_of_a_training_are_no_sentences(tmp_path):
    folder = tmp_path / "captioner"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"loss": 2.0, "loss_without_wish": 2.1, "split": "test"}))
    (folder / "metrics_details.json").write_text("{}")
    assert results_rows({"captioner": folder}) == []
    with pytest.raises(ValueError, match=r"losses of a captioner's training; give the folder.*--judge"):
        write_report(tmp_path / "report.html", title="Captions", runs={"mine": folder})
    assert not (tmp_path / "report.html").exists()
