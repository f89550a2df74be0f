"""Photos of every kind and captions of every length on their way into the models."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer, pipeline

from emocap.models import EmocapImageProcessor, EmocapProcessor, EmocapRegionConfig, EmocapRegionExtractor
from emocap.models.photo_emocap import resize_to_array, to_rgb
from tests.conftest import fresh_rng


@pytest.fixture(scope="session")
def tokenizer(tiny_body):
    return AutoTokenizer.from_pretrained(tiny_body)


@pytest.fixture(scope="session")
def extractor(tmp_path_factory) -> str:
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("extractor"))
    config = EmocapRegionConfig(
        backbone_channels=[8, 8], anchor_sizes=[8, 16], feature_dim=16, image_size=32, num_proposals=20, num_regions=9
    )
    EmocapRegionExtractor(config).save_pretrained(folder)
    return folder


def noise(height: int = 12, width: int = 20, channels: int = 3) -> np.ndarray:
    return fresh_rng().integers(0, 256, (height, width, channels), dtype=np.uint8)


def rgb(photo: Image.Image) -> np.ndarray:
    converted = to_rgb(photo)
    assert converted.mode == "RGB"
    return np.asarray(converted)


def test_rgb_and_greyscale_keep_their_values():
    pixels = noise()
    assert np.array_equal(rgb(Image.fromarray(pixels)), pixels)
    assert np.array_equal(rgb(Image.fromarray(pixels[..., 0])), np.repeat(pixels[..., :1], 3, axis=2))
    black_and_white = pixels[..., 0] > 127
    assert np.array_equal(rgb(Image.fromarray(black_and_white))[..., 1], np.where(black_and_white, 255, 0))


def test_cmyk_is_converted(tmp_path):
    ink = np.zeros((8, 8, 4), dtype=np.uint8)
    ink[:, :4, 0] = 255  # cyan beside white
    photo = Image.fromarray(ink, mode="CMYK")
    assert np.array_equal(rgb(photo)[0, 0], [0, 255, 255]) and np.array_equal(rgb(photo)[0, 7], [255, 255, 255])
    photo.save(tmp_path / "cmyk.jpg", quality=95)
    read = rgb(Image.open(tmp_path / "cmyk.jpg")).astype(int)
    assert np.abs(read[4, 1] - [0, 255, 255]).max() < 12 and np.abs(read[4, 6] - 255).max() < 12


def test_transparency_lies_over_white():
    pixels = noise(channels=4)
    pixels[0, 0], pixels[0, 1] = [10, 20, 30, 255], [10, 20, 30, 0]
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    result = rgb(Image.fromarray(pixels))
    assert np.abs(result - expected).max() <= 1
    assert np.array_equal(result[0, 0], [10, 20, 30]) and np.array_equal(result[0, 1], [255, 255, 255])
    grey = Image.fromarray(pixels).convert("LA")
    assert np.array_equal(rgb(grey)[0, 1], [255, 255, 255])


def test_palettes_with_and_without_transparency(tmp_path):
    photo = Image.new("P", (4, 2))
    photo.putpalette([200, 0, 0, 0, 100, 0])
    photo.putpixel((1, 0), 1)
    assert np.array_equal(rgb(photo)[0, :2], [[200, 0, 0], [0, 100, 0]])
    photo.save(tmp_path / "palette.png", transparency=1)
    read = rgb(Image.open(tmp_path / "palette.png"))
    assert np.array_equal(read[0, :2], [[200, 0, 0], [255, 255, 255]])


def test_16_bit_greys_are_scaled_not_clipped(tmp_path, rng):
    values = rng.integers(0, 65536, (6, 7)).astype(np.uint16)
    values[0, :3] = [0, 257 * 100, 65535]
    Image.fromarray(values).save(tmp_path / "deep.png")
    result = rgb(Image.open(tmp_path / "deep.png"))
    assert np.array_equal(result[..., 0], values // 257)
    assert result[0, :3, 2].tolist() == [0, 100, 255]
    dark = np.full((4, 4), 200, dtype=np.uint16)
    dark_result = rgb(Image.fromarray(dark))
    assert dark_result.max() == 0, "a dark 16-bit photo stays dark"


def test_32_bit_greys_and_floats():
    deep = Image.fromarray(np.array([[0, 257 * 30, 65535, 70000]], dtype=np.int32))
    assert rgb(deep)[0, :, 0].tolist() == [0, 30, 255, 255]
    shallow = Image.fromarray(np.array([[0, 30, 255]], dtype=np.int32))
    assert rgb(shallow)[0, :, 0].tolist() == [0, 30, 255]
    floats = Image.fromarray(np.array([[-1.0, 0.0, np.nan, 1.0]], dtype=np.float32))
    assert rgb(floats)[0, :, 0].tolist() == [0, 127, 127, 255]
    assert rgb(Image.fromarray(np.full((2, 2), 3.5, dtype=np.float32))).max() == 0


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(tmp_path, orientation, turns):
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert np.abs(rgb(Image.open(tmp_path / "turned.jpg")).astype(int) - np.rot90(pixels, turns)).max() < 40
    upright = resize_to_array(Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns))), 8)
    drafted = resize_to_array(Image.open(tmp_path / "turned.jpg"), 8)
    assert np.abs(drafted.astype(int) - upright).max() < 40


def test_resizing_is_bilinear_to_a_square():
    pixels = noise(40, 24)
    expected = np.asarray(Image.fromarray(pixels).resize((10, 10), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    result = resize_to_array(Image.fromarray(pixels), 10)
    assert result.shape == (3, 10, 10) and result.dtype == np.uint8
    assert np.abs(result.astype(int) - expected).max() <= 25, "reducing_gap stays near the exact filter"
    flat = np.full((40, 24, 3), [9, 99, 199], dtype=np.uint8)
    assert (resize_to_array(Image.fromarray(flat), 10) == np.array([9, 99, 199]).reshape(3, 1, 1)).all()


def test_captions_are_padded_to_the_longest_and_cut_at_max_length(tokenizer):
    captions = ["a dog", "the child at the house with a dog beside the street", None, "laughter"]
    processor = EmocapProcessor(tokenizer, max_length=8, image_size=4)
    inputs = processor(images=[None, None, Image.new("RGB", (4, 4)), None], text=captions)
    assert inputs["input_ids"].shape == (4, 8) and inputs["input_ids"].dtype == torch.int64
    for row, caption in enumerate(captions):
        own = tokenizer(caption or "")["input_ids"]
        if len(own) > 8:
            own = [*own[:7], tokenizer.sep_token_id]
        length = len(own)
        assert inputs["input_ids"][row].tolist() == own + [tokenizer.pad_token_id] * (8 - length)
        seen = 0 if caption is None else length
        assert inputs["attention_mask"][row].tolist() == [1] * seen + [0] * (8 - seen)
    assert EmocapProcessor(tokenizer)(text="a dog")["input_ids"].shape == (1, 4)
    assert list(EmocapProcessor(tokenizer)(text=["a dog"])) == ["input_ids", "attention_mask"]


def test_an_empty_caption_and_none_are_the_same(tokenizer):
    processor, photo = EmocapProcessor(tokenizer, image_size=6), Image.fromarray(noise())
    one, other, third = (processor(images=photo, text=text) for text in ("", None, [""]))
    for key in one:
        assert torch.equal(one[key], other[key]) and torch.equal(one[key], third[key])
    assert one["attention_mask"].sum() == 0


def test_student_photos_and_their_mask(tokenizer, tmp_path):
    photo = Image.fromarray(noise(30, 50))
    photo.save(tmp_path / "photo.png")
    inputs = EmocapProcessor(tokenizer, image_size=16)(
        images=[photo, None, str(tmp_path / "photo.png"), tmp_path / "photo.png"], text=["a", "the", None, "dog"]
    )
    assert inputs["pixel_values"].shape == (4, 3, 16, 16) and inputs["pixel_values"].dtype == torch.uint8
    assert inputs["pixel_mask"].tolist() == [1, 0, 1, 1] and inputs["pixel_mask"].dtype == torch.int64
    expected = torch.from_numpy(resize_to_array(photo, 16).copy())
    for row in (0, 2, 3):
        assert torch.equal(inputs["pixel_values"][row], expected)
    assert inputs["pixel_values"][1].max() == 0
    assert list(EmocapProcessor(tokenizer, image_size=16)(images=[None], text=["a"])) == [
        "input_ids",
        "attention_mask",
    ]


def test_teacher_photos_become_regions(tokenizer, extractor):
    processor = EmocapProcessor(tokenizer, region_extractor=extractor)
    photos = [Image.fromarray(noise(30, 50)), None, Image.fromarray(noise()).convert("L")]
    inputs = processor(images=photos, text=["a", "the", None])
    regions = EmocapRegionExtractor.from_pretrained(extractor).eval().extract([photos[0], photos[2]])
    assert inputs["visual_embeds"].shape == (3, 9, 16) and inputs["visual_embeds"].dtype == torch.float32
    torch.testing.assert_close(inputs["visual_embeds"][[0, 2]], regions.region_features)
    assert inputs["visual_embeds"][1].abs().max() == 0
    counts = [regions.num_regions[0], 0, regions.num_regions[1]]
    for mask, count in zip(inputs["visual_attention_mask"], counts, strict=True):
        assert mask.tolist() == [1] * int(count) + [0] * (9 - int(count))
    assert processor.load_extractor() is processor.load_extractor()


def test_errors_say_what_came(tokenizer):
    processor = EmocapProcessor(tokenizer, image_size=8)
    photo = Image.new("RGB", (4, 4))
    with pytest.raises(ValueError, match="2 photos came with 1 captions"):
        processor(images=[photo, photo], text="a dog")
    for images, text in [(None, None), (None, ""), ([photo, None], ["a", None]), ([], []), (None, [])]:
        with pytest.raises(ValueError, match="neither a photo nor a caption|no pair"):
            processor(images=images, text=text)
    with pytest.raises(ValueError, match="neither image_size .* nor region_extractor"):
        EmocapProcessor(tokenizer)(images=photo, text="a dog")


def test_saving_and_loading(tokenizer, extractor, tmp_path):
    photo = Image.fromarray(noise())
    for number, options in enumerate(
        [{"max_length": 7, "image_size": 12}, {"max_length": 9, "region_extractor": extractor}, {}]
    ):
        folder = tmp_path / str(number)
        processor = EmocapProcessor(tokenizer, **options)
        first = processor(images=photo if options else None, text="the dog with the child beside a house")
        processor.save_pretrained(folder)  # after use: a loaded extractor is no part of what is saved
        assert '"_extractor"' not in (folder / "processor_config.json").read_text()
        loaded = EmocapProcessor.from_pretrained(folder)
        again = loaded(images=photo if options else None, text="the dog with the child beside a house")
        assert set(first) == set(again) and all(torch.equal(first[key], again[key]) for key in first)
        assert loaded.max_length == options.get("max_length", 32)


def test_auto_processor_finds_it(tiny_student, tiny_teacher):
    assert type(AutoProcessor.from_pretrained(tiny_student)) is EmocapProcessor
    assert AutoProcessor.from_pretrained(tiny_student).image_size == 16
    assert type(AutoProcessor.from_pretrained(tiny_teacher)) is EmocapProcessor


def test_its_output_is_what_the_models_read(tiny_student, tokenizer):
    processor, student = AutoProcessor.from_pretrained(tiny_student), AutoModel.from_pretrained(tiny_student).eval()
    inputs = processor(images=[Image.fromarray(noise()), None], text=[None, "the dog"])
    assert student(**inputs).logits.shape == (2, 5)
    assert set(inputs) <= set(processor.model_input_names)


def test_options_of_the_tokenizer_flat_or_by_modality(tokenizer):
    processor, texts = EmocapProcessor(tokenizer, max_length=8), ["a dog", "a child at the house with a dog . . ."]
    assert processor(text=texts)["input_ids"].shape == (2, 8)
    for options in ({"padding": "max_length", "max_length": 16},):
        flat, nested = processor(text=texts, **options), processor(text=texts, text_kwargs=options)
        assert flat["input_ids"].shape == (2, 16) and torch.equal(flat["input_ids"], nested["input_ids"])
    assert processor(text=texts, truncation=False)["input_ids"].shape == (2, len(tokenizer(texts[1])["input_ids"]))
    ragged = processor(text=texts, padding=False, return_tensors=None)
    assert list(map(len, ragged["input_ids"])) == [4, 8]
    assert isinstance(processor(text=texts, return_tensors="np")["input_ids"], np.ndarray)
    assert "token_type_ids" in processor(text=texts, return_token_type_ids=True)
    with pytest.raises(ValueError, match="two times"):
        processor(text=texts, max_length=5, text_kwargs={"max_length": 6})
    taught = AutoTokenizer.from_pretrained(tokenizer.name_or_path, max_length=5, padding="max_length")
    assert EmocapProcessor(taught, max_length=8)(text=texts)["input_ids"].shape == (2, 8), "as the model was trained"


def test_options_of_the_image_processor(tokenizer):
    processor, photo = EmocapProcessor(tokenizer, image_size=6), Image.fromarray(noise())
    whole = processor(images=[photo, None], text=["a", "the"])["pixel_values"]
    for options in ({"do_rescale": True}, {"images_kwargs": {"do_rescale": True}}):
        floats = processor(images=[photo, None], text=["a", "the"], **options)["pixel_values"]
        torch.testing.assert_close(floats, whole / 255)
    assert processor(images=photo, images_kwargs={"size": 9})["pixel_values"].shape == (1, 3, 9, 9)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_image_processor_takes_arrays_tensors_and_pictures_of_any_layout(channels):
    pixels = noise(30, 50, channels)
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    expected = torch.from_numpy(resize_to_array(picture, 20).copy())
    forms = [
        picture,
        pixels,
        pixels.transpose(2, 0, 1),
        torch.from_numpy(pixels),
        torch.from_numpy(pixels).permute(2, 0, 1),
    ]
    processor = EmocapImageProcessor(size=20)
    batch = processor([*forms, torch.from_numpy(pixels) / 255])["pixel_values"]
    assert batch.dtype == torch.uint8 and torch.equal(batch, expected.expand(6, -1, -1, -1))
    for form in forms:
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values"][0], expected)
    kept = processor(pixels, do_convert_rgb=False, input_data_format="channels_last")["pixel_values"]
    assert kept.shape == (1, channels, 20, 20)
    own = EmocapImageProcessor()([picture, Image.fromarray(noise(8, 9))])["pixel_values"]
    assert [tuple(photo.shape) for photo in own] == [(3, 30, 50), (3, 8, 9)]


def test_the_layout_may_be_said_where_both_axes_could_be_channels():
    pixels = noise(3, 3, 3)
    for layout, turned in (("channels_last", pixels), ("channels_first", pixels.transpose(1, 2, 0))):
        found = EmocapImageProcessor()(pixels, input_data_format=layout)["pixel_values"][0]
        assert np.array_equal(found.permute(1, 2, 0), turned)


def test_the_image_processor_of_a_student_is_found(tiny_student, tmp_path):
    found, photo = AutoImageProcessor.from_pretrained(tiny_student), Image.fromarray(noise())
    assert type(found) is EmocapImageProcessor
    expected = AutoProcessor.from_pretrained(tiny_student)(images=photo)["pixel_values"]
    assert torch.equal(found(photo)["pixel_values"], expected)
    found.save_pretrained(tmp_path)
    assert EmocapImageProcessor.from_pretrained(tmp_path).to_dict() == found.to_dict()


def test_a_round_trip_keeps_every_field(tokenizer, tmp_path):
    for number, options in enumerate([{"max_length": 7, "image_size": 12}, {"region_extractor": "me/extractor"}]):
        first = EmocapProcessor(tokenizer, **options)
        first.save_pretrained(tmp_path / str(number))
        second = EmocapProcessor.from_pretrained(tmp_path / str(number))
        assert second.to_dict() == first.to_dict()


@pytest.mark.parametrize("name", ["tiny_student", "tiny_teacher"])
@torch.no_grad()
def test_the_pipeline_of_plain_texts(name, request):
    folder = request.getfixturevalue(name)
    model, texts = AutoModel.from_pretrained(folder).eval(), ["the dog at a party", "rain"]
    expected = model(**AutoProcessor.from_pretrained(folder)(text=texts)).logits.sigmoid()
    found = pipeline("text-classification", folder)(texts, top_k=None)
    for rows, scores in zip(found, expected, strict=True):
        scores = dict(zip(model.config.id2label.values(), scores.tolist(), strict=True))
        assert {row["label"]: row["score"] for row in rows} == pytest.approx(scores, abs=1e-6)


def test_photos_grouped_by_text(tokenizer):
    processor, photo, texts = EmocapProcessor(tokenizer, image_size=6), Image.fromarray(noise()), ["a", "the"]
    flat, grouped = processor(images=[None, photo], text=texts), processor(images=[[], [photo]], text=texts)
    assert all(torch.equal(flat[name], grouped[name]) for name in flat) and flat["pixel_mask"].tolist() == [0, 1]
