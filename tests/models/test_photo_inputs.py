"""Every form in which a photo may come to the processor."""

import copy
import hashlib
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from PIL import Image
from transformers import AutoProcessor

from emocap.models import EmocapProcessor, EmocapRegionConfig, EmocapRegionExtractor, photo_emocap
from emocap.models.photo_emocap import open_photo, resize_to_array


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (33, 50, 3), dtype=np.uint8)


@pytest.fixture
def processor(tiny_student) -> EmocapProcessor:
    return AutoProcessor.from_pretrained(tiny_student)


class Photos(BaseHTTPRequestHandler):
    """Serves `server.files` and the odd answers of a bad server."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/away":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/photo.png")
            self.end_headers()
        elif path in ("/endless", "/slow"):
            self.send_response(200)
            self.end_headers()
            try:
                while not self.server.stopping.wait(0.05 if path == "/slow" else 0):
                    self.wfile.write(bytes(1 if path == "/slow" else 2**16))
            except OSError:
                pass
        elif path in self.server.files:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.files[path])
        else:
            self.send_error(404)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Photos)
    server.files = {"/photo.png": (tmp_path / "photo.png").read_bytes(), "/text": b"no photo at all"}
    server.stopping = threading.Event()
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.stopping.set()
    server.shutdown()
    server.server_close()


def test_every_form_of_a_photo_gives_the_same_inputs(pixels, processor, tmp_path, server):
    path, photo = tmp_path / "photo.png", Image.fromarray(pixels)
    exact = [photo, path, str(path), Image.open(path), f"{server.address}/photo.png", f"{server.address}/moved?x=1"]
    exact += [pixels, pixels.astype(np.int64), torch.from_numpy(pixels).permute(2, 0, 1), pixels.transpose(2, 0, 1)]
    exact += [pixels / 255, (pixels / 255).astype(np.float32), torch.from_numpy(pixels).permute(2, 0, 1) / 255]
    exact += [torch.from_numpy(pixels), np.dstack([pixels, np.full((33, 50), 255, dtype=np.uint8)])]
    inputs = processor(images=exact, text=["rain"] * len(exact))
    expected = torch.from_numpy(resize_to_array(photo, 16).copy())
    for row, pixel_values in enumerate(inputs["pixel_values"]):
        assert torch.equal(pixel_values, expected), f"form {row}"
    alone = [processor(images=form)["pixel_values"] for form in exact]
    assert all(torch.equal(own[0], expected) for own in alone)
    stacked = processor(images=np.stack([pixels, pixels]), text=["rain", None])
    assert torch.equal(stacked["pixel_values"], expected.expand(2, -1, -1, -1))


def test_a_jpeg_gives_the_same_inputs_opened_by_whom_ever_and_stays_as_it_was(processor, tmp_path):
    ramp = np.linspace(0, 255, 200)[:, None, None] * np.linspace(0, 1, 160)[None, :, None] * np.ones(3)
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "photo.jpg")
    photo = Image.open(tmp_path / "photo.jpg")
    inputs = processor(images=[photo, tmp_path / "photo.jpg", np.asarray(Image.open(tmp_path / "photo.jpg"))])
    assert photo.size == (160, 200), "the caller's image is not shrunk"
    assert torch.equal(inputs["pixel_values"][0], inputs["pixel_values"][1])
    assert torch.equal(inputs["pixel_values"][0], inputs["pixel_values"][2])


def test_greys_and_bools(pixels):
    grey = pixels[..., 0]
    for form in (grey, grey[..., None], grey[None], torch.from_numpy(grey), grey / 255):
        assert np.array_equal(np.asarray(open_photo(form)), grey)
    assert np.array_equal(np.asarray(open_photo(grey > 99)), np.where(grey > 99, 255, 0))
    bfloat = torch.from_numpy(grey / 255).bfloat16()
    assert np.abs(np.asarray(open_photo(bfloat)).astype(int) - grey).max() <= 1
    narrow = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert np.array_equal(np.asarray(open_photo(narrow)), narrow), "an array's last axis"
    assert np.array_equal(np.asarray(open_photo(torch.from_numpy(narrow))), narrow.transpose(1, 2, 0)), (
        "a tensor's first"
    )


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (np.zeros((2, 4, 4, 3)), r"shape \(2, 4, 4, 3\)"),
        (np.zeros((5, 5, 2)), r"shape \(5, 5, 2\)"),
        (np.zeros((0, 4, 3)), r"shape \(0, 4, 3\)"),
        (np.full((4, 4, 3), 200.0), "from 200.0 to 200.0; expected uint8 0..255 or floats 0..1"),
        (np.full((4, 4, 3), np.nan), "expected uint8 0..255 or floats 0..1"),
        (np.full((4, 4, 3), -1), "from -1 to -1"),
        (np.full((4, 4, 3), 256, dtype=np.uint16), "from 256 to 256"),
        (np.full((4, 4, 3), "a"), "expected uint8 0..255 or floats 0..1"),
        (7, "came as int; expected a PIL image, a path"),
        (b"bytes", "came as bytes"),
        ("ftp://example.org/photo.png", "only http and https"),
        ("file:///etc/hostname", "only http and https"),
    ],
)
def test_what_is_no_photo_is_refused(photo, message):
    with pytest.raises(ValueError, match=message):
        open_photo(photo)


def test_unreadable_files_are_named(tmp_path, pixels):
    with pytest.raises(FileNotFoundError, match="no photo at '.*none.jpg'"):
        open_photo(tmp_path / "none.jpg")
    with pytest.raises(FileNotFoundError):
        open_photo(str(tmp_path))
    (tmp_path / "text.jpg").write_text("words")
    with pytest.raises(ValueError, match=r"text\.jpg' cannot be read: cannot identify"):
        open_photo(tmp_path / "text.jpg")
    Image.fromarray(pixels.repeat(9, 0)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    for form in (tmp_path / "cut.jpg", Image.open(tmp_path / "cut.jpg")):
        with pytest.raises(ValueError, match=r"cut\.jpg' cannot be read: .*truncated"):
            open_photo(form)


def test_bad_servers_are_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(photo_emocap, "FETCH_SECONDS", 0.5)
    monkeypatch.setattr(photo_emocap, "MAX_FETCHED_BYTES", 2**20)
    for path, message in (
        ("none", "cannot be fetched: .*404"),
        ("text", "cannot be read: cannot identify"),
        ("away", "cannot be fetched: .*file:///etc/hostname"),
        ("endless", "more than 1048576 bytes"),
        ("slow", "more than 0.5 s"),
    ):
        with pytest.raises(ValueError, match=message):
            open_photo(f"{server.address}/{path}")
    with pytest.raises(ValueError, match="cannot be fetched"):
        open_photo("http://127.0.0.1:9/photo.png")
    with pytest.raises(ValueError) as caught:
        open_photo(f"{server.address.replace('//', '//me:secret@')}/none?token=hidden")
    assert "secret" not in str(caught.value) and "hidden" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pt", "np", None])
def test_tensors_of_the_wanted_kind(processor, pixels, kind):
    inputs = processor(images=pixels, text="rain", return_tensors=kind)
    assert all(isinstance(values, torch.Tensor if kind == "pt" else np.ndarray) for values in inputs.values())


def test_captions_are_cut_where_the_caller_says(processor, tiny_student):
    words = "the dog with the child at a party beside the house"
    assert processor(text=words)["input_ids"].shape == (1, 13)
    assert processor(text=words, max_length=6)["input_ids"].shape == (1, 6)
    assert AutoProcessor.from_pretrained(tiny_student, max_length=5)(text=words)["input_ids"].shape == (1, 5)
    long = " ".join(["dog"] * 50)
    assert processor(text=long)["input_ids"].shape == (1, 32)
    with pytest.raises(ValueError, match="A caption came as int"):
        processor(text=["rain", 3])


@pytest.fixture
def extractor(tmp_path) -> EmocapRegionExtractor:
    torch.manual_seed(0)
    config = EmocapRegionConfig(
        backbone_channels=[8], anchor_sizes=[8], feature_dim=16, image_size=32, num_proposals=20, num_regions=9
    )
    return EmocapRegionExtractor(config).eval()


def test_the_extractor_is_looked_for_in_order(tmp_path, extractor, tiny_teacher, pixels, monkeypatch):
    monkeypatch.chdir(tmp_path)
    processor = EmocapProcessor.from_pretrained(tiny_teacher)
    processor.region_extractor = "parts/of/extractor"
    processor.save_pretrained(tmp_path / "teacher")
    with pytest.raises(OSError, match="'parts/of/extractor' is neither inside the checkpoint .* nor a folder here"):
        EmocapProcessor.from_pretrained(tmp_path / "teacher")(images=pixels)
    extractor.save_pretrained(tmp_path / "teacher" / "parts" / "of" / "extractor")
    loaded = EmocapProcessor.from_pretrained(tmp_path / "teacher")
    assert loaded.locate_extractor() == (str(tmp_path / "teacher" / "parts/of/extractor"), "")
    expected = extractor.extract([Image.fromarray(pixels)]).region_features
    torch.testing.assert_close(loaded(images=pixels)["visual_embeds"], expected)
    extractor.save_pretrained(tmp_path / "parts" / "of" / "extractor")
    assert EmocapProcessor.from_pretrained(tmp_path / "teacher").locate_extractor() == loaded.locate_extractor()
    assert EmocapProcessor.from_pretrained(tiny_teacher, region_extractor="parts/of/extractor").locate_extractor() == (
        "parts/of/extractor",
        "",
    )
    loaded.name_or_path, loaded.region_extractor = "me/teacher", "./inside"
    assert loaded.locate_extractor() == ("me/teacher", "inside"), "inside a checkpoint on the Hub"
    loaded.region_extractor = "me/extractor"
    assert loaded.locate_extractor() == ("me/extractor", "")


def test_the_first_photo_does_not_change_what_the_processor_is(tmp_path, extractor, tiny_teacher, pixels):
    extractor.save_pretrained(tmp_path / "extractor")
    processor = EmocapProcessor.from_pretrained(tiny_teacher)
    processor.region_extractor = str(tmp_path / "extractor")
    before = Hasher.hash(processor), hashlib.sha256(pickle.dumps(processor.to_dict())).digest()
    first = processor(images=pixels, text="rain")
    assert processor.load_extractor() is processor.load_extractor()
    after = Hasher.hash(processor), hashlib.sha256(pickle.dumps(processor.to_dict())).digest()
    assert before == after
    again = copy.deepcopy(processor)(images=pixels, text="rain")
    assert all(torch.equal(first[name], again[name]) for name in first)
