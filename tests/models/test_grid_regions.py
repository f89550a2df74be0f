"""Vision encoders as region extractors, on random weights, against transformers' own forward and a loop over cells."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tvf
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    BertConfig,
    BertModel,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ConvNextConfig,
    ConvNextImageProcessor,
    ConvNextModel,
    DeiTConfig,
    DeiTImageProcessor,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    MobileViTImageProcessor,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEModel,
    VivitConfig,
    VivitModel,
    YolosConfig,
    YolosModel,
)

from emocap.cards.components import extractor_card
from emocap.cards.public_names import PublicNames
from emocap.cli import main
from emocap.data.batches import weights_hash
from emocap.data.schema import pair_features
from emocap.data.storage import load_table
from emocap.hub.publishing import publish
from emocap.models import EmocapGridConfig, EmocapGridExtractor
from emocap.models.processing_emocap import load_region_extractor
from emocap.regions.bundling import find_extractor
from tests.conftest import fresh_rng

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
WORDS = {**SMALL, "vocab_size": 50}
SQUARE = {"height": 56, "width": 56}


def vit(**fields) -> ViTForImageClassification:
    return ViTForImageClassification(ViTConfig(**{**SMALL, "image_size": 56, "patch_size": 8, **fields}))


def clip() -> CLIPModel:
    return CLIPModel(CLIPConfig(vision_config={**SMALL, "image_size": 56, "patch_size": 8}, text_config=WORDS))


def siglip() -> SiglipModel:
    return SiglipModel(SiglipConfig(vision_config={**SMALL, "image_size": 58, "patch_size": 8}, text_config=WORDS))


def swin() -> SwinModel:
    return SwinModel(
        SwinConfig(image_size=64, patch_size=2, embed_dim=4, depths=[1, 1, 1], num_heads=[1, 1, 2], window_size=4)
    )


def resnet() -> ResNetModel:
    return ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))


KINDS: dict[str, tuple[Callable[[], PreTrainedModel], object]] = {
    "vit": (vit, ViTImageProcessor(size=SQUARE)),
    "vit wide": (
        lambda: vit(image_size=[40, 72]),
        ViTImageProcessor(size={"height": 40, "width": 72}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]),
    ),
    "deit": (
        lambda: DeiTModel(DeiTConfig(**SMALL, image_size=56, patch_size=8)),
        DeiTImageProcessor(size={"height": 64, "width": 64}, crop_size=SQUARE),
    ),
    "clip": (clip, CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=SQUARE)),
    "siglip": (siglip, SiglipImageProcessor(size={"height": 58, "width": 58})),
    "dinov2": (
        lambda: Dinov2Model(Dinov2Config(**SMALL, image_size=64, patch_size=8)),  # positions are interpolated
        BitImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE),
    ),
    "dinov2 registers": (
        lambda: Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**SMALL, image_size=64, patch_size=8, num_register_tokens=4)
        ),
        BitImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE),
    ),
    "resnet": (resnet, ConvNextImageProcessor(size={"shortest_edge": 56})),
    "convnext": (
        lambda: ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])),
        ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875),
    ),
    "swin": (swin, ViTImageProcessor(size={"height": 64, "width": 64})),
}


def save_encoder(folder: Path, model: PreTrainedModel, processor: object) -> str:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # class tokens and positions of zero would hide mistakes
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def make_photo(height: int, width: int) -> Image.Image:
    rng = fresh_rng()
    blobs = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noisy = np.asarray(blobs) + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@torch.no_grad()
def own_grid(kind: str, model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    """`(rows, columns, channels)` of one photo by transformers' own forward, told apart by what each network is."""
    model = getattr(model, "vision_model", getattr(model, "vit", model))
    output = model(pixels[None], output_hidden_states=True)
    if kind == "swin":  # the maps of its stages come laid out; the last norm is not among them
        return model.layernorm(output.reshaped_hidden_states[-1][0].permute(1, 2, 0))
    if kind in ("resnet", "convnext"):
        return output.last_hidden_state[0].permute(1, 2, 0)
    shape = {"vit wide": (5, 9)}.get(kind, (7, 7))
    dropped = {"siglip": 0, "deit": 2, "dinov2 registers": 5}.get(kind, 1)
    assert output.last_hidden_state.shape[1] == dropped + shape[0] * shape[1]
    return output.last_hidden_state[0, dropped:].reshape(*shape, -1)


def average_cells(grid: torch.Tensor, covered: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and boxes of 6 x 6 cells: each patch counts in every cell that it overlaps."""
    rows, columns, _ = grid.shape
    features, boxes = [], []
    for down in range(6):
        for right in range(6):
            inside = [
                (row, column)
                for row in range(rows)
                for column in range(columns)
                if row * 6 < (down + 1) * rows and (row + 1) * 6 > down * rows
                and column * 6 < (right + 1) * columns and (column + 1) * 6 > right * columns
            ]  # fmt: skip
            features.append(torch.stack([grid[place] for place in inside]).double().mean(0))
            (top, left), (bottom, end) = inside[0], inside[-1]
            box = [left / columns, top / rows, (end + 1) / columns, (bottom + 1) / rows]
            boxes.append([covered * side for side in box])
    return torch.stack(features), torch.tensor(boxes)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_means_of_transformers_own(kind, tmp_path):
    make, processor = KINDS[kind]
    model = make()
    extractor = load_region_extractor(f"vision:{save_encoder(tmp_path, model, processor)}")
    assert type(extractor) is EmocapGridExtractor and not any(part.training for part in extractor.modules())
    config, photos = extractor.config, [make_photo(70, 90), make_photo(61, 40)]
    assert (config.num_regions, config.feature_dim, config.encoder) == (36, 16, None)
    found = extractor.extract(photos)
    assert found.region_features.shape == (2, 36, 16) and found.region_boxes.shape == (2, 36, 4)
    assert found.region_features.dtype == found.region_boxes.dtype == torch.float32
    assert found.num_regions.tolist() == [36, 36] and found.num_regions.dtype == torch.int64
    assert found.scores is None and found.class_ids is None
    size = {"vit wide": [40, 72], "siglip": [58, 58], "convnext": [224, 224], "swin": [64, 64]}.get(kind, [56, 56])
    bicubic = kind not in ("vit", "vit wide", "swin")
    mode = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    for row, photo in enumerate(photos):
        pixels = tvf.resize(tvf.pil_to_tensor(photo), size, mode, antialias=True) / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        grid = own_grid(kind, model, (pixels - mean) / std)
        features, boxes = average_cells(grid, 56 / 58 if kind == "siglip" else 1.0)
        torch.testing.assert_close(found.region_features[row].double(), features, atol=2e-4, rtol=2e-4)
        torch.testing.assert_close(found.region_boxes[row], boxes)
    assert grid.std((0, 1)).max() > 0.05, "patches differ, so that their order counts"


def test_every_kind_is_saved_and_loaded(tmp_path):
    photo = make_photo(40, 50)
    for kind, (make, processor) in KINDS.items():
        extractor = EmocapGridExtractor.from_encoder(save_encoder(tmp_path / "encoder", make(), processor))
        extractor.save_pretrained(tmp_path / kind)
        again = AutoModel.from_pretrained(tmp_path / kind).eval()
        assert type(again) is EmocapGridExtractor
        assert torch.equal(again.extract([photo]).region_features, extractor.extract([photo]).region_features), kind


@pytest.mark.parametrize("kind", ["vit", "clip", "siglip", "dinov2"])
def test_pixels_are_those_of_the_own_processor_without_its_crop(kind, tmp_path):
    make, processor = KINDS[kind]
    extractor = EmocapGridExtractor.from_encoder(save_encoder(tmp_path, make(), processor))
    height, width = extractor.config.image_size
    photo, size = make_photo(90, 70), {"height": height, "width": width}
    own = processor(photo, size=size, do_center_crop=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(extractor.image_processor()(photo, return_tensors="pt")["pixel_values"], own)


@pytest.mark.parametrize("image_size", [56, 58])  # of the latter, two pixels a side are in no patch
def test_a_cell_sees_what_its_box_says(image_size, tmp_path, rng):
    """Without layers a patch's feature is of its own pixels: only those inside a cell's box may change it."""
    model = SiglipVisionModel(
        SiglipVisionConfig(**{**SMALL, "num_hidden_layers": 0}, image_size=image_size, patch_size=8)
    )
    side = {"height": image_size, "width": image_size}
    extractor = EmocapGridExtractor.from_encoder(save_encoder(tmp_path, model, SiglipImageProcessor(size=side)))
    pixels = rng.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
    before = extractor.extract([Image.fromarray(pixels)])
    boxes = (before.region_boxes[0] * image_size).round().int()
    for _ in range(10):
        y, x = rng.integers(0, image_size, 2)
        changed = pixels.copy()
        changed[y, x] ^= 255
        after = extractor.extract([Image.fromarray(changed)]).region_features[0]
        moved = (after != before.region_features[0]).any(1)
        inside = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
        assert torch.equal(moved, inside)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """Folder of a classifier, whose checkpoint has no pooler."""
    torch.manual_seed(5)
    make, processor = KINDS["vit"]
    return save_encoder(tmp_path_factory.mktemp("encoders") / "vit", make(), processor)


def test_neither_the_batch_nor_loading_again_changes_a_bit(encoder, tmp_path):
    extractor, photos = load_region_extractor(f"vision:{encoder}"), [make_photo(50 + 9 * n, 70) for n in range(3)]
    assert weights_hash(extractor) == weights_hash(load_region_extractor(f"vision:{encoder}"))
    assert not any("pooler" in name for name in extractor.state_dict())
    together = extractor.extract(photos).region_features
    assert torch.equal(together, torch.cat([extractor.extract([photo]).region_features for photo in photos]))
    extractor.save_pretrained(tmp_path)
    again = load_region_extractor(str(tmp_path))
    assert torch.equal(again.extract(photos).region_features, together)
    assert weights_hash(again) == weights_hash(extractor)
    assert json.loads((tmp_path / "config.json").read_text())["vision_config"]["_name_or_path"] == ""
    inputs = AutoImageProcessor.from_pretrained(tmp_path)(photos, return_tensors="pt")
    output = again(**inputs, output_hidden_states=True)
    torch.testing.assert_close(output.region_features, together, atol=1e-5, rtol=1e-4)
    assert output.hidden_states[0].shape == (3, 16, 7, 7)
    with pytest.raises(ValueError, match="no photo to extract regions from"):
        extractor.extract([])


def test_clip_and_its_tower_are_saved_and_loaded(tmp_path):
    make, processor = KINDS["clip"]
    model, photo = make(), make_photo(40, 50)
    save_encoder(tmp_path / "clip", model, processor)
    model.vision_model.save_pretrained(tmp_path / "tower")
    processor.save_pretrained(tmp_path / "tower")
    first, second = (load_region_extractor(f"vision:{tmp_path / name}") for name in ("clip", "tower"))
    first.save_pretrained(tmp_path / "saved")
    third = AutoModel.from_pretrained(tmp_path / "saved").eval()
    features = [own.extract([photo]).region_features for own in (first, second, third)]
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])


def test_half_precision_gives_float32_near_the_same(encoder, tmp_path):
    extractor, photo = load_region_extractor(f"vision:{encoder}"), make_photo(60, 60)
    expected = extractor.extract([photo])
    with torch.autocast("cpu", torch.bfloat16):
        narrow = [extractor.extract([photo])]
    extractor.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert loaded.dtype == torch.bfloat16
    for found in [*narrow, loaded.extract([photo])]:
        assert found.region_features.dtype == torch.float32
        assert torch.equal(found.region_boxes, expected.region_boxes)
        assert not torch.equal(found.region_features, expected.region_features)
        torch.testing.assert_close(found.region_features, expected.region_features, atol=0.06, rtol=0.06)


def test_encoders_without_cells_are_one_sentence(tmp_path):
    def refuse(message: str, model: PreTrainedModel, processor: object = KINDS["vit"][1]) -> None:
        shutil.rmtree(tmp_path / "encoder", ignore_errors=True)
        with pytest.raises(ValueError, match=message):
            load_region_extractor(f"vision:{save_encoder(tmp_path / 'encoder', model, processor)}")

    tokens = {**SMALL, "image_size": 56, "patch_size": 8}
    refuse("'.*' is a 'bert' checkpoint; expected a vision encoder such as ViT", BertModel(BertConfig(**WORDS)))
    refuse(r"makes no regions of a photo \(a 'vit_mae' gives no spatial", ViTMAEModel(ViTMAEConfig(**tokens)))
    refuse(r"\(a 'yolos' gives no spatial", YolosModel(YolosConfig(**tokens | {"image_size": [56, 56]})))
    refuse("makes no regions of a photo", VivitModel(VivitConfig(**SMALL, image_size=56, tubelet_size=[2, 8, 8])))
    refuse("MobileViTImageProcessor of '.*' does more to photos", vit(), MobileViTImageProcessor(crop_size=SQUARE))
    with pytest.raises(ValueError, match="num_regions is 35; it must be a square number of cells, such as 36"):
        EmocapGridConfig(num_regions=35)


def test_folders_that_are_not_whole_are_refused(encoder, tmp_path):
    for place in (str(tmp_path / "gone"), "./gone"):
        with pytest.raises(FileNotFoundError, match=f"no vision encoder at '{place}'"):
            load_region_extractor(f"vision:{place}")
    copy = Path(shutil.copytree(encoder, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    del weights["vit.layernorm.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights of its encoder, such as layernorm.weight"):
        load_region_extractor(f"vision:{copy}")
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match="preprocessor_config.json"):
        load_region_extractor(f"vision:{copy}")
    with pytest.raises(ValueError, match="extracts no region features; of a vision encoder, 'vision:.*' does"):
        load_region_extractor(encoder)


def test_an_encoders_own_code_does_not_run(encoder, tmp_path):
    copy = Path(shutil.copytree(encoder, tmp_path / "copy"))
    content = json.loads((copy / "config.json").read_text()) | {
        "model_type": "unheard_of", "auto_map": {"AutoConfig": "trap.Trap", "AutoModel": "trap.Trap"},
    }  # fmt: skip
    (copy / "config.json").write_text(json.dumps(content))
    (copy / "trap.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\nclass Trap: pass\n")
    with pytest.raises(ValueError, match="trust_remote_code|custom code"):
        load_region_extractor(f"vision:{copy}", trust_remote_code=True)
    assert not (tmp_path / "sprung").exists()


def test_names_of_encoders(encoder):
    for name in (f"vision:{encoder}", "vision:owner/name"):
        assert find_extractor(name) == name
    for name in ("vision:./gone", "vision:", "vision:a/b/c"):
        with pytest.raises(ValueError, match=f"no region extractor at '{name}'; .*, or vision: before"):
            find_extractor(name)


def test_regions_of_a_table(encoder, tmp_path):
    photos = [make_photo(40, 50), make_photo(60, 30)]
    rows = {"image_id": ["a", "b", "c"], "image": [*photos, None], "captions": [["x"]] * 3}
    DatasetDict({"train": Dataset.from_dict(rows, pair_features(None))}).save_to_disk(tmp_path / "table")
    main(["regions", str(tmp_path / "table"), "--extractor", f"vision:{encoder}", "--output_dir",
          str(tmp_path / "out")])  # fmt: skip
    table = load_table(tmp_path / "out")["train"].with_format("numpy")
    expected = load_region_extractor(f"vision:{encoder}").extract(photos)
    assert table["num_regions"][:].tolist() == [36, 36, 0]
    features = np.asarray(table["region_features"][:2]).reshape(2, 36, 16)
    assert np.array_equal(features, expected.region_features.half().numpy())
    assert np.array_equal(np.asarray(table["region_boxes"][:2]).reshape(2, 36, 4), expected.region_boxes.numpy())


READS_A_PHOTO = """
import json
from transformers import AutoProcessor

folder, photo = json.loads(sys.argv[1])
features = AutoProcessor.from_pretrained(folder, trust_remote_code=True)(images=photo)["visual_embeds"]
print("RESULT" + json.dumps(features.tolist()))
"""


def test_a_teacher_takes_its_encoder_along(
    encoder, tmp_path, monkeypatch, capsys, tiny_table_dir, tiny_body, run_without_emocap
):
    shutil.copytree(encoder, tmp_path / "vit")
    monkeypatch.chdir(tmp_path)
    main(["train-teacher", "--dataset", tiny_table_dir, "--model_name_or_path", tiny_body, "--max_steps", "1",
          "--disable_tqdm", "true", "--use_cpu", "true", "--eval_strategy", "no", "--save_strategy", "no",
          "--load_best_model_at_end", "false", "--region_extractor", f"vision:{tmp_path / 'vit'}", "--output_dir",
          "teacher"])  # fmt: skip
    shutil.rmtree(tmp_path / "vit")
    photo = make_photo(40, 50)
    photo.save("photo.png")
    expected = load_region_extractor(f"vision:{encoder}").extract([photo]).region_features
    assert AutoConfig.from_pretrained("teacher").region_extractor == "./extractor"
    assert torch.equal(AutoProcessor.from_pretrained("teacher")(images=photo)["visual_embeds"], expected)
    assert max(len(list(folder.glob("*.py"))) for folder in (Path("teacher"), Path("teacher/extractor"))) <= 6
    found = run_without_emocap(READS_A_PHOTO, [str(tmp_path / "teacher"), str(tmp_path / "photo.png")])
    torch.testing.assert_close(torch.tensor(found), expected)
    capsys.readouterr()
    main(["predict", "teacher", "--image", "photo.png", "--caption", "the dog", "--top_k", "1", "--explain"])
    assert 0 < json.loads(capsys.readouterr().out)["score"] < 1
    publication = publish(Path("teacher"), "me/teacher", dry_run=True)
    assert {"extractor/config.json", "extractor/modeling_emocap_grid.py"} <= set(publication.sizes)


def test_what_is_published_of_it(encoder, tmp_path):
    extractor = load_region_extractor(f"vision:{encoder}")
    extractor.save_pretrained(tmp_path / "extractor")
    publication = publish(tmp_path / "extractor", "me/extractor", dry_run=True)
    files = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "modeling_emocap_grid.py"}
    assert files <= set(publication.sizes) and publication.left_out == []
    assert str(Path(encoder).parent) not in (tmp_path / "extractor" / "config.json").read_text()
    card = extractor_card(tmp_path / "extractor", "me/extractor")
    assert "Lays a grid of 36 cells over a photo" in card.text and "`vit`" in card.text and "LABEL_" not in card.text
    assert "object-detection" not in card.data.tags and card.data.base_model is None
    extractor.config.encoder = "owner/vit"
    extractor.config.save_pretrained(tmp_path / "extractor")
    card = extractor_card(tmp_path / "extractor", "me/extractor")
    assert card.data.base_model == "owner/vit" and "The encoder is `owner/vit`, whose licence" in card.text


def test_folders_of_encoders_are_not_told_in_public():
    names = PublicNames()
    assert names.clean({"region_extractor": "vision:/home/me/vit"}) == {"region_extractor": "vision:vit"}
    assert names.clean(["vision:owner/vit", "vision:/home/me/vit"]) == ["vision:owner/vit", "vision:vit"]
    assert names.shown("vision:./runs/vit") == "vision:vit" and names.shown("vision:owner/vit") == "vision:owner/vit"
