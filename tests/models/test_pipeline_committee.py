"""The pipeline with several models, and over a folder of photos."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, pipeline

from emocap.models import EmocapProcessor, EmocapRegionExtractor
from emocap.models.photo_emocap import photos_in_folder
from tests.committees import by_hand, make_members
from tests.conftest import EMOTIONS, SEED

CAPTIONS = ["the dog at a party", "rain", None]


@pytest.fixture(scope="module")
def members(tmp_path_factory, tiny_body) -> list[str]:
    return make_members(tmp_path_factory.mktemp("members"), tiny_body, np.random.default_rng([SEED, 8]))


@pytest.fixture(scope="module")
def pipe(members):
    return pipeline("emotion-recognition", model=members[0], committee=members[1:], device="cpu")


@pytest.fixture
def photos(rng) -> list[Image.Image]:
    return [Image.fromarray(rng.integers(0, 256, (20 + n, 30, 3), dtype=np.uint8)) for n in range(3)]


def expected_rows(members: list[str], photo, caption: str | None) -> dict[str, tuple[float, float]]:
    """Score and disagreement of each emotion by the members' own processors, one pair at a time."""

    def inputs(processor: EmocapProcessor, config) -> dict[str, torch.Tensor]:
        return processor(images=photo, text=None if config.modalities == "image" else caption)

    scores, spreads = by_hand(members, inputs)
    return dict(zip(EMOTIONS, zip(scores, spreads, strict=True), strict=True))


def assert_rows(rows: list[dict], expected: dict[str, tuple[float, float]]) -> None:
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert {row["label"] for row in rows} == set(expected)
    for row in rows:
        assert (row["score"], row["disagreement"]) == pytest.approx(expected[row["label"]], abs=2e-6)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_committee_says_the_mean_of_its_members(pipe, members, photos, batch_size):
    pairs = [{"image": photo, "text": caption} for photo, caption in zip(photos, CAPTIONS, strict=True)]
    for pair, rows in zip(pairs, pipe(pairs, batch_size=batch_size), strict=True):
        assert_rows(rows, expected_rows(members, pair["image"], pair["text"]))
    assert all("disagreement" not in row for row in pipeline(model=members[0], device="cpu")(pairs[0]))


def test_one_member_is_the_model_itself(members, photos):
    pair = {"image": photos[0], "text": CAPTIONS[0]}
    alone = pipeline("emotion-recognition", model=members[1], device="cpu")
    with torch.inference_mode():
        logits = alone.model(**alone.processor(images=photos[0], text=CAPTIONS[0])).logits[0]
    scores = (logits / alone.model.config.temperature).sigmoid().tolist()
    assert {row["label"]: row["score"] for row in alone(pair)} == {
        alone.model.config.id2label[label]: score for label, score in enumerate(scores)
    }
    assert pipeline("emotion-recognition", model=members[1], committee=[], device="cpu")(pair) == alone(pair)
    two = [pipeline(model=members[1], committee=own, device="cpu")(pair) for own in (members[0], [members[0]])]
    assert two[0] == two[1] != alone(pair)


def test_thresholds_are_the_members_mean(pipe, photos):
    rows = pipe({"image": photos[0], "text": "rain"})
    kept = pipe({"image": photos[0], "text": "rain"}, threshold="config")
    own = [dict(zip(m.model.config.id2label.values(), m.model.config.thresholds, strict=True)) for m in pipe.members]
    assert kept == [row for row in rows if row["score"] >= np.float32(np.mean([each[row["label"]] for each in own]))]


def test_a_shared_extractor_looks_once(pipe, photos, monkeypatch):
    seen, real = [], EmocapRegionExtractor.extract

    def extract(self, images):
        seen.append(len(images))
        return real(self, images)

    monkeypatch.setattr(EmocapRegionExtractor, "extract", extract)
    pipe([{"image": photo} for photo in photos], batch_size=3)
    assert seen == [3]
    with torch.no_grad():  # not the same any more
        other = EmocapProcessor.from_pretrained(pipe.others[0].processor.name_or_path)
        next(other.load_extractor().parameters()).add_(1)
    monkeypatch.setattr(pipe.others[0], "processor", other)
    pipe([{"image": photo} for photo in photos], batch_size=3)
    assert seen == [3, 3, 3]


def test_what_a_committee_refuses(pipe, members, photos, tmp_path):
    with pytest.raises(ValueError, match=r"nothing that '.*/third' reads, which is image alone"):
        pipe("rain")
    with pytest.raises(ValueError, match="explain goes with a single model"):
        pipe({"image": photos[0]}, explain=True)
    with pytest.raises(ValueError, match="save each of its members"):
        pipe.save_pretrained(tmp_path / "saved")
    model = AutoModel.from_pretrained(members[1])
    model.config.id2label = {**model.config.id2label, 0: "envy"}
    model.save_pretrained(tmp_path / "other")
    EmocapProcessor.from_pretrained(members[1]).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"cannot answer together.*only in '.*other' \['envy'\]"):
        pipeline("emotion-recognition", model=members[0], committee=[tmp_path / "other"], device="cpu")


WITHOUT = """
import json
from PIL import Image
from transformers import pipeline

import torch
torch.set_num_threads(1)
folders, photo = json.loads(sys.argv[1])
pipe = pipeline(model=folders[0], committee=folders[1:], trust_remote_code=True, device="cpu")
rows = pipe({"image": Image.open(photo), "text": "rain"})
assert len(pipe.others) == len(folders) - 1 and "emocap" not in sys.modules
print("RESULT" + json.dumps(rows))
"""


def test_a_committee_where_emocap_is_not_installed(members, photos, tmp_path, run_without_emocap):
    photos[0].save(tmp_path / "photo.png")
    rows = run_without_emocap(WITHOUT, [members, str(tmp_path / "photo.png")])
    assert_rows(rows, expected_rows(members, photos[0], "rain"))


@pytest.fixture
def folder(tmp_path, photos) -> Path:
    """Three photos in two folders, one with a caption; a broken one, a hidden one and other files."""
    root = tmp_path / "photos"
    (root / "b" / ".cache").mkdir(parents=True)
    for name, photo in zip(("b/two.PNG", "one.webp", "b/.cache/hidden.png"), photos, strict=True):
        photo.save(root / name, lossless=True)
    photos[2].save(root / "three.tiff")
    (root / "broken.jpg").write_bytes(b"no photo")
    (root / "one.txt").write_text("\ufeffthe dog\n at a  party\n", "utf-8")
    (root / "notes.md").write_text("nothing")
    return root


def test_a_folder_gives_its_photos_in_order(pipe, members, folder, photos, caplog):
    log = logging.getLogger("transformers")
    log.addHandler(caplog.handler)
    try:
        found = list(pipe(folder, batch_size=2, top_k=2))
    finally:
        log.removeHandler(caplog.handler)
    assert [Path(row["image"]).name for row in found] == ["two.PNG", "one.webp", "three.tiff"]
    assert [row["text"] for row in found] == [None, "the dog at a party", None]
    assert "broken.jpg' is left out: The photo" in caplog.text and "cannot be read" in caplog.text
    for row, photo in zip(found, photos, strict=True):
        alone = pipe({"image": photo, "text": row["text"]}, top_k=2)
        assert [own["label"] for own in row["emotions"]] == [own["label"] for own in alone]
        for own, other in zip(row["emotions"], alone, strict=True):
            assert own["score"] == pytest.approx(other["score"], abs=2e-6)


def test_folders_without_photos_are_refused(pipe, tmp_path):
    with pytest.raises(FileNotFoundError, match="no photo in"):
        pipe(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        photos_in_folder(tmp_path / "gone")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"a.txt' is not UTF-8"):
        pipe(tmp_path)
