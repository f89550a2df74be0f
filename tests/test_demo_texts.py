"""What the app says, and what it refuses, without a browser."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emocap.cli import main

pytest.importorskip("gradio", reason='pip install -e ".[demo]"')

import emocap
from emocap import demo


def test_what_it_refuses(tiny_teacher, tiny_student, tmp_path, capsys):
    for models, options, message in (
        ([], {}, "An app takes one or more different models, not []"),
        ([tiny_student, tiny_student], {}, "different models"),
        (tiny_student, {"captioner": tiny_teacher}, "is a 'emocap_teacher' checkpoint; expected emocap_captioner"),
        (tiny_student, {"examples": tmp_path}, "There is no photo in"),
        (str(tmp_path / "none"), {}, "none"),
    ):
        with pytest.raises((ValueError, OSError)) as caught:
            emocap.build_demo(models, **options)
        assert message in str(caught.value)
    with pytest.raises(SystemExit) as stop:
        main(["demo", tiny_student, "--captioner", tiny_teacher])
    assert stop.value.code == 2 and "expected emocap_captioner" in capsys.readouterr().err


def test_what_is_uploaded_is_deleted_while_the_app_runs(tiny_student, tmp_path, rng, monkeypatch):
    from gradio_client import Client, handle_file

    monkeypatch.setattr(demo, "CLEAN_EVERY", 1)
    monkeypatch.setattr(demo, "KEEP_FOR", 5)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "own.png")
    app = emocap.build_demo(tiny_student)
    try:
        url = app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")[1]
        client = Client(url, verbose=False, analytics_enabled=False)
        page = client.predict(handle_file(str(tmp_path / "own.png")), "a party", api_name="/answer")[0]
        assert page.count("data-choice") == 5 and "by chance" in page
        deadline = time.monotonic() + 30
        while [path for path in Path(app.folder.name).rglob("*own.png") if path.is_file()]:
            assert time.monotonic() < deadline, "the photo is still there"
            time.sleep(0.2)
    finally:
        app.close()
    assert not Path(app.folder.name).exists()


def test_without_gradio_it_names_the_extra(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "emocap.demo")
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit):
        main(["demo", "any"])
    assert "pip install 'emocap[demo]'" in capsys.readouterr().err


def test_people_agree_as_far_as_two_mentions_are_of_one_emotion(rng):
    scores = rng.random(7)
    drawn = rng.choice(7, (200_000, 2), p=scores / scores.sum())
    assert demo.agreement(scores) == pytest.approx((drawn[:, 0] == drawn[:, 1]).mean(), abs=0.005)
    prior = [0.25] * 4
    for own, told in (([0.3, 0.2, 0.3, 0.2], "differ:"), ([0.7, 0.1, 0.2, 0.1], "differ somewhat:"),
                      ([0.9, 0.01, 0.01, 0.01], "largely agree:")):  # fmt: skip
        assert f"People would {told}" in demo.differ(own, prior) and "over all pictures 25\u00a0%" in demo.differ(
            own, prior
        )
    assert "by chance 25\u00a0%" in demo.differ([0.3, 0.2, 0.3, 0.2], [])


def test_texts_are_shown_literally():
    assert demo.text("<b>${1}</b> {{a}} `x` & 'y'") == (
        "&lt;b&gt;&#36;&#123;1&#125;&lt;/b&gt; &#123;&#123;a&#125;&#125; &#96;x&#96; &amp; &#x27;y&#x27;"
    )


def test_a_region_is_where_its_middle_is():
    assert demo.place([0, 0, 0.2, 0.4]) == "top left" and demo.place([0, 0, 1, 1]) == "middle centre"
    assert demo.place(np.array([0.9, 0.9, 1, 1])) == "bottom right"
