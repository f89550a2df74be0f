"""Any folder of photos as a table without labels."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image, IptcImagePlugin

from emocap import load_photos
from emocap.cli import main
from emocap.data.photo_folder import build_photos
from emocap.data.schema import pair_features
from emocap.data.storage import load_table
from tests.conftest import fresh_rng


def photo(path, description: str | None = None, iptc: bytes | None = None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(fresh_rng().integers(0, 255, (12, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    if description is not None:
        exif[ExifTags.Base.ImageDescription] = description
    picture.save(path, exif=exif)
    if iptc is not None:
        content = path.read_bytes()
        note = b"\x1c\x02\x78" + len(iptc).to_bytes(2, "big") + iptc
        note += b"\x00" * (len(note) % 2)
        block = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00" + len(note).to_bytes(4, "big") + note
        path.write_bytes(content[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block + content[2:])
        with Image.open(path) as again:
            assert IptcImagePlugin.getiptcinfo(again)[(2, 120)] == iptc


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    photo(root / "b.jpg", description="a bridge  in rain")
    photo(root / "a.jpeg")
    photo(root / "deep" / "c.PNG")
    photo(root / "deep" / "d.jpg", description="OLYMPUS DIGITAL CAMERA         ")
    photo(root / "deep" / "e.jpg", description="exif", iptc="a café".encode())
    photo(root / ".hidden" / "f.jpg")
    (root / "deep" / "c.txt").write_text("a first caption\n\n  a second one \n", "utf-8-sig")
    (root / "b.txt").write_text("beside the photo")
    (root / "lost.txt").write_text("nobody's")
    (root / "notes.pdf").write_text("x")
    (root / "g.jpg").write_text("no photo")
    return root


CAPTIONS = {
    "auto": {"a.jpeg": [], "b.jpg": ["beside the photo"], "deep/c.PNG": ["a first caption", "a second one"],
             "deep/d.jpg": [], "deep/e.jpg": ["a café"]},
    "text": {"a.jpeg": [], "b.jpg": ["beside the photo"], "deep/c.PNG": ["a first caption", "a second one"],
             "deep/d.jpg": [], "deep/e.jpg": []},
    "description": {"a.jpeg": [], "b.jpg": ["a bridge in rain"], "deep/c.PNG": [], "deep/d.jpg": [],
                    "deep/e.jpg": ["a café"]},
    "none": {"a.jpeg": [], "b.jpg": [], "deep/c.PNG": [], "deep/d.jpg": [], "deep/e.jpg": []},
}  # fmt: skip


@pytest.mark.parametrize("captions", CAPTIONS)
def test_photos_with_the_captions_that_are_asked_for(captions, folder):
    table, report = build_photos(folder, captions=captions)
    assert list(table) == ["train"] and table["train"].features == pair_features(None)
    assert dict(zip(table["train"]["image_id"][:], table["train"]["captions"][:], strict=True)) == CAPTIONS[captions]
    assert all(row["image"].size == (16, 12) for row in table["train"])
    assert [(own["image_id"], own["consequence"]) for own in report.problems] == [("g.jpg", "row skipped")]
    assert report.counts["other files"] == (1 if captions in ("auto", "text") else 4)
    assert report.counts["texts without a photo of their name"] == (captions in ("auto", "text"))
    assert report.counts["captions"] == sum(map(len, CAPTIONS[captions].values()))


def test_the_command_writes_the_table(folder, tmp_path, capsys):
    main(["data", "photos", str(folder), "--output_dir", str(tmp_path / "table"), "--captions", "none"])
    assert load_table(tmp_path / "table")["train"]["image_id"][:] == list(CAPTIONS["none"])
    assert "photos without a caption: 5" in capsys.readouterr().out


def test_what_is_refused(folder, tmp_path):
    photo(folder / "deep" / "e.png")
    with pytest.raises(ValueError, match=r"differ by their ending alone: deep/e.jpg, deep/e.png. Remove all but one"):
        load_photos(folder)
    assert len(load_photos(folder, captions="none")["train"]) == 6
    with pytest.raises(FileNotFoundError, match="There is no photo folder"):
        load_photos(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match="There is no photo in"):
        load_photos(tmp_path / "empty")
    (tmp_path / "empty" / "b.jpg").write_text("x")
    with pytest.raises(ValueError, match=r"No photo of .* can be read \(first: .*not an image"):
        load_photos(tmp_path / "empty")
    with pytest.raises(ValueError, match="captions is 'all'"):
        load_photos(folder, captions="all")


def test_damaged_notes_are_no_caption(folder, rng):
    whole = (folder / "deep" / "e.jpg").read_bytes()
    for _ in range(30):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(20, 120, 8)] = rng.integers(0, 256, 8)
        (folder / "deep" / "e.jpg").write_bytes(damaged.tobytes())
        try:
            Image.open(io.BytesIO(damaged.tobytes())).load()
        except Exception:
            continue
        table = load_photos(folder, captions="description")["train"]
        assert all(isinstance(text, str) for own in table["captions"] for text in own)
