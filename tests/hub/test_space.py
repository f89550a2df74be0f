"""`emocap publish-space`: published, cloned, started from the clone, and asked; the family's cards link to it."""

import os
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, RepoCard, snapshot_download
from PIL import Image
from transformers import pipeline

from emocap.cli import main
from emocap.hub import family as family_module
from emocap.hub.family import find_family, publish_family
from emocap.hub.publishing import publish
from emocap.hub.space import publish_space

gradio_client = pytest.importorskip("gradio_client", reason='pip install -e ".[demo]"')


@pytest.fixture(scope="module")
def published(family) -> dict[str, str]:
    """Hub ids of the family's teacher and student, under names that `publish-family` gives them, too."""
    prefix = f"{HfApi().whoami()['name']}/s{os.urandom(4).hex()}"
    for name in ("teacher", "student"):
        publish(family / name, f"{prefix}-{name}")
    return {name: f"{prefix}-{name}" for name in ("teacher", "student", "demo")}


@pytest.fixture
def examples(tmp_path, rng) -> Path:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype="uint8")).save(tmp_path / "photos" / "more" / "a.png")
    (tmp_path / "photos" / "more" / "a.txt").write_text("a party")
    (tmp_path / "photos" / "notes.md").write_text("not published")
    return tmp_path / "photos"


def answers(url: str, process: subprocess.Popen, photo: Path, caption: str) -> str:
    """What the app says, once it is there."""
    for _ in range(240):
        assert process.poll() is None, process.stdout.read()
        try:
            client = gradio_client.Client(url, verbose=False, analytics_enabled=False)
        except Exception:  # of httpx or of the client, while it starts
            time.sleep(0.5)
        else:
            return client.predict(gradio_client.handle_file(str(photo)), caption, api_name="/answer")[0]
    raise AssertionError("the app did not start")


def test_a_space_runs_from_its_clone_alone(published, examples, tmp_path, capsys):
    main(["publish-space", published["teacher"], published["student"], "--repo_id", published["demo"], "--examples",
          str(examples)])  # fmt: skip
    assert f"/spaces/{published['demo']}" in capsys.readouterr().out
    clone = Path(snapshot_download(published["demo"], repo_type="space", local_dir=tmp_path / "clone"))
    front = RepoCard.load(clone / "README.md").data.to_dict()
    assert front["sdk"] == "gradio" and front["sdk_version"] == version("gradio") and front["app_file"] == "app.py"
    assert front["models"] == [published["teacher"], published["student"]]
    pins = dict(line.split("==") for line in (clone / "requirements.txt").read_text().split())
    assert {"torch", "transformers", "datasets", "gradio", "pillow"} <= set(pins) and "pytest" not in pins
    assert all(version(name).partition("+")[0] == own for name, own in pins.items())
    assert sorted(path.name for path in (clone / "examples").rglob("*") if path.is_file()) == ["a.png", "a.txt"]
    with (clone / "emocap" / "__init__.py").open("a") as file:
        file.write("\nprint('THIS COPY', __file__)\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "temporary").mkdir()
    own = {"GRADIO_SERVER_PORT": str(port), "HF_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary"),
           "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
    process = subprocess.Popen([sys.executable, "app.py"], cwd=clone, env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    try:
        photo = examples / "more" / "a.png"
        page = answers(f"http://127.0.0.1:{port}", process, photo, "rain")
    finally:
        process.terminate()
        printed = process.communicate(timeout=60)[0]
    assert f"THIS COPY {clone / 'emocap' / '__init__.py'}" in printed, printed
    for name in ("teacher", "student"):
        rows = pipeline("emotion-recognition", model=published[name])({"image": str(photo), "text": "rain"})
        told = [f"{100 * row['score']:.0f}\u00a0%" for row in rows]
        assert all(f'data-choice="{row["label"]}"' in page for row in rows) and all(own in page for own in told)
    assert not list((tmp_path / "temporary").rglob("*a.png")), "the photo is gone"


def test_a_second_time_there_is_nothing_to_do(published):
    publish_space(published["student"], published["demo"])
    assert publish_space(published["teacher"], published["demo"]).added == ["README.md", "app.py"]
    assert not [path for path in HfApi().list_repo_files(published["demo"], repo_type="space") if "examples/" in path]
    assert publish_space(published["teacher"], published["demo"]).commit is None
    dry = publish_space([published["student"]], published["demo"], dry_run=True)
    assert dry.added == ["README.md", "app.py"] and dry.commit is None


def test_the_familys_cards_and_collection_link_to_the_space(family, published, monkeypatch):
    collected = []
    monkeypatch.setattr(family_module, "make_collection", lambda *own: collected.extend(own[-1]))
    publish_space(published["teacher"], published["demo"])
    namespace, _, prefix = published["teacher"].removesuffix("-teacher").partition("/")
    publications = publish_family(family, namespace=namespace, prefix=prefix)
    assert len(publications) == 5
    for own in publications:
        card = RepoCard.load(own.repo_id, repo_type=own.repo_type)
        assert f"/spaces/{published['demo']})" in card.text, own.repo_id
    assert [(own.repo_id, own.repo_type) for own in collected] == [
        *((own.repo_id, own.repo_type) for own in publications),
        (published["demo"], "space"),
    ]


def test_a_captioner_is_part_of_a_family(tmp_path):
    (tmp_path / "captioner").mkdir()
    for name, content in (("config", {}), ("metrics", {}), ("run_arguments", {"kind": "captioner"})):
        (tmp_path / "captioner" / f"{name}.json").write_text(yaml.safe_dump(content, default_flow_style=True))
    (tmp_path / "captioner" / "run_arguments.json").write_text('{"kind": "captioner"}')
    assert find_family(tmp_path) == {tmp_path / "captioner": "captioner"}


def test_what_a_space_refuses(published, family, tmp_path):
    for models, options, message in (
        (str(family / "teacher"), {}, "is a folder, and a Space reads models from the Hub: publish it first"),
        (published["teacher"], {"captioner": published["student"]}, "expected an emocap captioner"),
        (published["teacher"], {"examples": tmp_path}, "There is no photo in"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            publish_space(models, published["demo"], **options)
