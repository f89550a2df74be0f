"""Photos decoded ahead: which of them make a batch, in what state they come, and how many wait at a time."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from emocap.regions import photos as photos_module
from emocap.regions.photos import decode_ahead, decode_photo, photo_shape

SHAPES = [(8, 12), (12, 8), (9, 12)]


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> dict[str, object]:
    content = io.BytesIO()
    PILImage.fromarray(pixels).save(content, kind, **options)
    return {"bytes": content.getvalue(), "path": None}


def table_of(stored: list) -> Dataset:
    features = Features({"image_id": Value("string"), "image": Image()})
    return Dataset.from_dict({"image_id": [f"photo {row}" for row in range(len(stored))], "image": stored}, features)


@pytest.fixture
def pictures(rng) -> list[np.ndarray]:
    return [rng.integers(0, 256, (*SHAPES[rng.integers(3)], 3), dtype=np.uint8) for _ in range(40)]


def batches_of(
    shards: list[Dataset], step: int, num_workers: int = 2
) -> list[tuple[int, list[int], list[np.ndarray]]]:
    with ThreadPoolExecutor(num_workers) as pool:
        return [
            (number, rows.tolist(), [np.asarray(photo) for photo in photos])
            for number, rows, photos in decode_ahead(shards, step, 6, pool)
        ]


@pytest.mark.parametrize("step", [1, 4, 100])
def test_every_photo_once_in_batches_of_like_shape(pictures, step):
    whole = table_of([encoded(picture) for picture in pictures])
    shards = [whole.select(range(0, 15)), whole.select(range(15, 40))]
    found = batches_of(shards, step)
    for number, start, end in ((0, 0, 15), (1, 15, 40)):
        own = [(rows, photos) for shard, rows, photos in found if shard == number]
        rows = [row for rows, _ in own for row in rows]
        shapes = [pictures[start + row].shape[:2] for row in rows]
        expected = sorted(range(end - start), key=lambda row: (pictures[start + row].shape[:2], row))
        assert rows == (expected if step > 1 else list(range(end - start)))
        assert step == 1 or shapes == sorted(shapes)
        assert [len(rows) for rows, _ in own[:-1]] == [step] * (len(own) - 1)
        for own_rows, photos in own:
            for row, photo in zip(own_rows, photos, strict=True):
                assert np.array_equal(photo, pictures[start + row])
    again = batches_of(shards, step, num_workers=7)
    assert [batch[:2] for batch in again] == [batch[:2] for batch in found]


def test_a_bad_photo_moves_no_other_and_is_logged(pictures, caplog):
    stored = [encoded(picture) for picture in pictures[:20]]
    whole = batches_of([table_of(stored)], 6)
    bad = 11
    stored[bad] = {"bytes": stored[bad]["bytes"][:100], "path": None}
    found = batches_of([table_of(stored)], 6)
    assert [rows for _, rows, _ in found] == [[row for row in rows if row != bad] for _, rows, _ in whole]
    assert "Photo of 'photo 11' left out: unreadable photo" in caplog.text


def test_rows_without_a_photo_leave_their_shard_a_batch(pictures):
    empty, full = table_of([None, None]), table_of([None, encoded(pictures[0])])
    found = batches_of([empty, full, empty], 4)
    assert [(number, rows) for number, rows, _ in found] == [(0, []), (1, [1]), (2, [])]


@pytest.mark.parametrize("step", [1, 5])
def test_few_photos_are_decoded_ahead_but_over_the_border_of_shards(pictures, monkeypatch, step):
    decoded, lock, real = [], threading.Lock(), photos_module.decode_photo

    def count(content):
        with lock:
            decoded.append(1)
        return real(content)

    monkeypatch.setattr(photos_module, "decode_photo", count)
    whole = table_of([encoded(picture) for picture in pictures])
    shards = [whole.select(range(start, start + 10)) for start in range(0, 40, 10)]
    taken, ahead, most = 0, 8, 0
    with ThreadPoolExecutor(2) as pool:
        for number, rows, _ in decode_ahead(shards, step, ahead, pool):
            taken += len(rows)
            pool.submit(int).result()  # what was submitted so far has been taken up
            assert len(decoded) <= taken + ahead + step
            if number == 0 and taken == 10:
                most = len(decoded)
    assert len(decoded) == taken == 40
    assert most > 10, "the next shard's photos are on their way while the model has the last of this one"


def test_photos_come_upright_in_eight_bit_rgb(pictures):
    picture = pictures[0]
    exif = PILImage.Exif()
    exif[0x0112] = 6
    turned = encoded(picture, "JPEG", exif=exif)
    assert decode_photo(turned).size == picture.shape[:2]
    assert photo_shape(turned) == np.asarray(decode_photo(turned)).shape[:2]
    grey = encoded((np.arange(96).reshape(8, 12) * 600).astype(np.uint16))
    assert decode_photo(grey).mode == "RGB" and np.asarray(decode_photo(grey)).max() == 95 * 600 // 257
    cmyk = io.BytesIO()
    PILImage.fromarray(picture).convert("CMYK").save(cmyk, "JPEG")
    assert decode_photo({"bytes": cmyk.getvalue(), "path": None}).mode == "RGB"
    assert photo_shape({"bytes": b"none", "path": None}) == (0, 0)
