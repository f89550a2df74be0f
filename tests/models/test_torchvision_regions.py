"""torchvision's detectors as region extractors, on random weights, against torchvision's own modules run by hand."""

import copy
import math
import os
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from datasets import Dataset, DatasetDict
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.ops import box_iou
from transformers import AutoImageProcessor, AutoModel

from emocap.cli import main
from emocap.data.schema import pair_features
from emocap.data.storage import load_table
from emocap.models import EmocapRegionConfig, EmocapRegionExtractor
from emocap.models.processing_emocap import load_region_extractor

SMALL, OLD, NEW = "fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"
SIZES = {"shortest_edge": 160, "longest_edge": 250, "num_candidates": 100, "num_proposals": 40}


def make_photo(height: int, width: int, seed: int) -> Image.Image:
    """Soft blobs under a little noise: neighbouring regions look alike, distant ones do not."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return Image.fromarray((np.asarray(blobs) + rng.normal(0, 8, (height, width, 3))).clip(0, 255).astype(np.uint8))


PHOTOS = [make_photo(90, 120, 1), make_photo(130, 97, 2), make_photo(40, 100, 3), make_photo(92, 121, 4)]


def to_pixels(photo: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)


@torch.no_grad()
def make_torchvision(architecture: str, num_classes: int = 12, **sizes) -> FasterRCNN:
    """torchvision's model with random weights that have seen a photo and tell its regions apart."""
    torch.manual_seed(7)
    sizes = {
        "min_size": SIZES["shortest_edge"],
        "max_size": SIZES["longest_edge"],
        "rpn_pre_nms_top_n_test": SIZES["num_candidates"],
        "rpn_post_nms_top_n_test": SIZES["num_proposals"],
    } | sizes
    model = torchvision.models.get_model(
        architecture, weights=None, weights_backbone=None, num_classes=num_classes, **sizes
    )
    model.eval()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0  # the next photo's statistics are the running ones
            if name.endswith("bn3"):
                module.weight *= 0.3  # as after training: no block drowns its shortcut
    images, _ = model.transform([to_pixels(make_photo(160, 213, 99)) / 255])
    maps = model.backbone(images.tensors)
    logits, deltas = model.rpn.head(list(maps.values()))
    for conv, values, spread in ((model.rpn.head.cls_logits, logits, 2.0), (model.rpn.head.bbox_pred, deltas, 0.15)):
        conv.weight *= spread / torch.cat([value.flatten() for value in values]).std()
    proposals, _ = model.rpn(images, maps)
    heads = model.roi_heads
    hidden = heads.box_head(heads.box_roi_pool(maps, proposals, images.image_sizes))
    logits, deltas = heads.box_predictor(hidden)
    for linear, values, spread in (
        (heads.box_predictor.cls_score, logits, 2.0),
        (heads.box_predictor.bbox_pred, deltas, 0.5),
    ):
        linear.weight *= spread / values.std(0).mean()
        linear.bias -= spread / values.std(0).mean() * values.mean(0)
    heads.box_roi_pool.scales = heads.box_roi_pool.map_levels = None
    return model.eval()


@torch.no_grad()
def reference(model: FasterRCNN, photo: Image.Image, limit: int = 36, threshold: float = 0.7) -> dict:
    """Regions of one photo: torchvision's modules by hand, boxes and NMS one at a time."""
    images, _ = model.transform([to_pixels(photo) / 255])
    height, width = images.image_sizes[0]
    maps = model.backbone(images.tensors)
    proposals, _ = model.rpn(images, maps)
    proposals = torch.cat((torch.tensor([[0.0, 0.0, width, height]]), proposals[0]))
    heads = model.roi_heads
    hidden = heads.box_head(heads.box_roi_pool(maps, [proposals], images.image_sizes))
    logits, deltas = heads.box_predictor(hidden)
    probabilities = logits.softmax(1)
    candidates = []
    for row, (x1, y1, x2, y2) in enumerate(proposals.tolist()):
        label = 1 + int(probabilities[row, 1:].argmax())
        dx, dy, dw, dh = (deltas[row, 4 * label : 4 * label + 4] / torch.tensor([10.0, 10, 5, 5])).tolist()
        x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
        w = (x2 - x1) * math.exp(min(dw, math.log(1000 / 16)))
        h = (y2 - y1) * math.exp(min(dh, math.log(1000 / 16)))
        corners = [(x - w / 2) / width, (y - h / 2) / height, (x + w / 2) / width, (y + h / 2) / height]
        box = [0.0, 0.0, 1.0, 1.0] if row == 0 else [min(max(corner, 0), 1) for corner in corners]
        if box[2] > box[0] and box[3] > box[1]:
            candidates.append((row != 0, -probabilities[row, label].item(), row, label - 1, box))
    kept = []
    for candidate in sorted(candidates):
        box = torch.tensor([candidate[-1]])
        if all(box_iou(box, torch.tensor([other[-1]])) <= threshold for other in kept):
            kept.append(candidate)
    kept = kept[:limit]
    return {
        "region_features": hidden[[candidate[2] for candidate in kept]],
        "region_boxes": torch.tensor([candidate[-1] for candidate in kept]),
        "scores": torch.tensor([-candidate[1] for candidate in kept]),
        "class_ids": torch.tensor([candidate[3] for candidate in kept]),
    }


def matches(boxes: torch.Tensor, others: torch.Tensor, at_least: float = 0.99) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of `boxes` with a counterpart in `others`, and the counterparts: ranks may swap, boxes may not."""
    overlap, row = box_iou(boxes, others).max(1)
    found = overlap >= at_least
    return found.nonzero()[:, 0], row[found]


@pytest.fixture(scope="module", params=[SMALL, OLD, NEW])
def pair(request, tmp_path_factory) -> tuple[FasterRCNN, EmocapRegionExtractor]:
    """torchvision's model, and the extractor made from its state dict."""
    model = make_torchvision(request.param)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save(model.state_dict(), path)
    return model, EmocapRegionExtractor.from_torchvision(request.param, path, **SIZES)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[FasterRCNN, EmocapRegionExtractor]:
    model = make_torchvision(SMALL)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(model.state_dict(), path)
    return model, EmocapRegionExtractor.from_torchvision(SMALL, path, **SIZES)


def test_regions_are_those_of_torchvisions_modules(pair):
    model, extractor = pair
    regions = extractor.extract(PHOTOS)
    assert regions.region_features.shape == (4, 36, 1024) and regions.region_features.dtype == torch.float32
    assert regions.region_boxes.shape == (4, 36, 4) and regions.attribute_ids is None
    classes = set()
    for index, photo in enumerate(PHOTOS):
        expected = reference(model, photo)
        count = int(regions.num_regions[index])
        assert count == len(expected["scores"]) > 10
        rows, others = matches(regions.region_boxes[index, :count], expected["region_boxes"])
        assert len(rows) == count and len(set(others.tolist())) == count
        assert others[0] == 0 and regions.region_boxes[index, 0].tolist() == [0, 0, 1, 1]
        features, wanted = regions.region_features[index, rows], expected["region_features"][others]
        assert ((features - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 1e-4
        torch.testing.assert_close(
            regions.region_boxes[index, rows], expected["region_boxes"][others], atol=1e-4, rtol=0
        )
        torch.testing.assert_close(regions.scores[index, rows], expected["scores"][others], atol=1e-4, rtol=1e-4)
        assert torch.equal(regions.class_ids[index, rows], expected["class_ids"][others])
        assert (regions.scores[index, 1 : count - 1] >= regions.scores[index, 2:count]).all()
        for name in ("region_features", "region_boxes", "scores"):
            assert (regions[name][index, count:] == 0).all(), name
        assert (regions.class_ids[index, count:] == -1).all()
        classes |= set(expected["class_ids"].tolist())
        # the reference has to tell regions apart, or agreeing with it says nothing
        assert (wanted.std(0) / (wanted.mean(0) + 1e-3)).mean() > 0.1
    assert len(classes) > 5


def test_scores_and_labels_are_those_of_torchvisions_forward(pair):
    model, extractor = copy.deepcopy(pair[0]), pair[1]
    heads = model.roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.0, 1.0, 10**6  # every box of every class
    regions = extractor.extract(PHOTOS)
    with torch.no_grad():
        detections = model([to_pixels(photo) / 255 for photo in PHOTOS[:1]])  # alone: padding changes a batch
    photo, count = detections[0], int(regions.num_regions[0])
    boxes = photo["boxes"] / torch.tensor([120.0, 90, 120, 90])
    for row in range(1, count):
        same = (photo["labels"] == regions.class_ids[0, row] + 1) & (
            (photo["scores"] - regions.scores[0, row]).abs() < 1e-4
        )
        assert box_iou(regions.region_boxes[0, row : row + 1], boxes[same]).max() > 0.999


def test_a_batch_equals_its_photos_one_by_one(pair):
    extractor = pair[1]
    strip = make_photo(3, 300, 8)  # RoIAlign's own guess at the scales would go wrong for every later photo
    photos = [strip, PHOTOS[0], PHOTOS[2], make_photo(88, 119, 6)]
    together = extractor([to_pixels(photo) for photo in photos])
    for index, photo in enumerate(photos):
        alone = extractor([to_pixels(photo)])
        count = int(alone.num_regions)
        assert together.num_regions[index] == count
        rows, others = matches(together.region_boxes[index, :count], alone.region_boxes[0, :count])
        assert len(rows) == count
        features, wanted = together.region_features[index, rows], alone.region_features[0, others]
        assert ((features - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 1e-4
        assert torch.equal(together.class_ids[index, rows], alone.class_ids[0, others])


def test_extracting_gives_the_same_bits_in_any_batch_and_order(small):
    regions, backwards = small[1].extract(PHOTOS), small[1].extract(PHOTOS[::-1])
    for name in regions:
        assert torch.equal(backwards[name].flip(0), regions[name]), name


def test_saving_and_loading_gives_the_same_bits(small, tmp_path):
    extractor = small[1]
    extractor.save_pretrained(tmp_path)
    pixel_values = AutoImageProcessor.from_pretrained(tmp_path)(PHOTOS[:2])["pixel_values"]
    assert [tuple(pixels.shape) for pixels in pixel_values] == [(3, 90, 120), (3, 130, 97)]
    assert torch.equal(extractor(pixel_values).region_features, extractor.extract(PHOTOS[:2]).region_features)
    before = extractor.extract(PHOTOS[:2])
    for loaded in (AutoModel.from_pretrained(tmp_path), load_region_extractor(str(tmp_path))):
        assert type(loaded) is EmocapRegionExtractor and not loaded.training
        assert loaded.config.architecture == extractor.config.architecture
        after = loaded.extract(PHOTOS[:2])
        for name in before:
            assert torch.equal(before[name], after[name]), name


def test_fewer_regions_than_36_are_followed_by_zeros(small):
    config = copy.deepcopy(small[1].config)
    config.num_proposals = 5
    few = EmocapRegionExtractor(config).eval()
    few.load_state_dict(small[1].state_dict())
    regions = few.extract(PHOTOS)
    assert regions.region_features.shape == (4, 36, 1024) and (regions.num_regions <= 6).all()
    model = copy.deepcopy(small[0])
    model.rpn._post_nms_top_n = {"training": 5, "testing": 5}
    for index, photo in enumerate(PHOTOS):
        assert regions.num_regions[index] == len(reference(model, photo)["scores"]) >= 1
        assert (regions.region_features[index, regions.num_regions[index] :] == 0).all()


def test_autocast_and_bfloat16_weights_stay_close(pair):
    exact, extractor = pair[1].extract(PHOTOS), pair[1]
    halved = copy.deepcopy(extractor).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        cast = extractor.extract(PHOTOS)
    for output in (cast, halved.extract(PHOTOS)):
        assert output.region_features.dtype == output.region_boxes.dtype == output.scores.dtype == torch.float32
        assert not torch.equal(output.region_features, exact.region_features)
        whole = F.cosine_similarity(output.region_features[:, 0], exact.region_features[:, 0])
        assert whole.min() > 0.95
        if extractor.config.architecture != OLD:
            continue  # random weights: small changes make others of their boxes
        for index in range(4):
            rows, others = matches(output.region_boxes[index], exact.region_boxes[index], at_least=0.9)
            cosines = F.cosine_similarity(output.region_features[index, rows], exact.region_features[index, others])
            assert len(rows) > 18 and cosines.median() > 0.995


def test_photos_of_every_mode_and_strips_are_read(small):
    photo = make_photo(60, 80, 7)
    modes = [photo.convert(mode) for mode in ("L", "P", "RGBA", "CMYK")]
    output = small[1].extract([photo, *modes, photo.resize((2000, 1))])
    assert (output.num_regions > 0).all() and output.region_features.isfinite().all()
    assert torch.equal(output.region_features[3], output.region_features[0])


def test_published_settings():
    for architecture, settings in {
        SMALL: (320, 640, 150, 150, 0.05),
        "fasterrcnn_mobilenet_v3_large_fpn": (800, 1333, 1000, 1000, 0.05),
        OLD: (800, 1333, 1000, 1000, 0.0),
        NEW: (800, 1333, 1000, 1000, 0.0),
    }.items():
        config = EmocapRegionConfig(architecture=architecture)
        with torch.device("meta"):
            own = torchvision.models.get_model(architecture, weights=None, weights_backbone=None)
        rpn, transform = own.rpn, own.transform
        assert settings == (
            transform.min_size[0], transform.max_size, rpn._pre_nms_top_n["testing"],
            rpn._post_nms_top_n["testing"], rpn.score_thresh,
        )  # fmt: skip
        assert settings == (
            config.shortest_edge, config.longest_edge, config.num_candidates, config.num_proposals,
            config.rpn_score_threshold,
        )  # fmt: skip
        assert config.feature_dim == own.roi_heads.box_predictor.cls_score.in_features


def frozen(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the checkpoints that torchvision publishes: frozen norms have no counter, the pyramid its earlier names."""
    names = {"backbone.fpn.inner_blocks.0.0.weight": "backbone.fpn.inner_blocks.0.weight"}
    return {names.get(name, name): value for name, value in state_dict.items() if "num_batches" not in name}


def test_checkpoints_of_every_form_give_the_same_weights(small, tmp_path):
    model, extractor = small
    weights = model.state_dict()
    mask = {"roi_heads.mask_predictor.mask_fcn_logits.bias": torch.zeros(12)}
    torch.save({"model": weights | mask, "epoch": 3}, tmp_path / "training.pth")
    torch.save(frozen(weights), tmp_path / "frozen.pt")
    save_file(weights | mask, tmp_path / "mask.safetensors")
    for file in ("training.pth", "frozen.pt", "mask.safetensors"):
        other = EmocapRegionExtractor.from_torchvision(SMALL, str(tmp_path / file), **SIZES, num_regions=4)
        assert other.config.num_regions == 4 and len(other.config.id2label) == 11 and not other.training
        for name, value in extractor.detector.state_dict().items():
            if "num_batches" not in name:
                assert torch.equal(other.detector.state_dict()[name], value), name


def test_torchvisions_own_weights_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    published = torchvision.models.get_model_weights(SMALL).DEFAULT
    model = make_torchvision(SMALL, num_classes=91)
    torch.save(model.state_dict(), tmp_path / "checkpoints" / Path(published.url).name)
    extractor = load_region_extractor(f"torchvision:{SMALL}")
    assert not extractor.training and extractor.config.backbone_norm_eps == 1e-5
    assert extractor.config.num_proposals == 150 and len(extractor.config.id2label) == 90
    assert extractor.config.id2label[0] == "person" and extractor.config.id2label[17] == "dog"
    assert torch.equal(extractor.detector.roi_heads.box_head.fc7.bias, model.roi_heads.box_head.fc7.bias)
    make_table(tmp_path)
    main(["regions", str(tmp_path / "table"), "--extractor", f"torchvision:{SMALL}", "--dtype", "float32",
          "--output_dir", str(tmp_path / "out")])  # fmt: skip
    row = load_table(tmp_path / "out")["train"][1]
    expected = extractor.extract([PHOTOS[1]])
    assert row["num_regions"] == int(expected.num_regions[0])
    features = np.array(row["region_features"], dtype=np.float32).reshape(36, 1024)
    np.testing.assert_allclose(features, expected.region_features[0], atol=2e-3, rtol=1e-3)


def test_weights_out_of_reach_are_one_sentence(tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    make_table(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["regions", str(tmp_path / "table"), "--extractor", f"torchvision:{NEW}",
              "--output_dir", str(tmp_path / "out")])  # fmt: skip
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    said = capsys.readouterr().err
    assert "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth (<urlopen error no route to host>)" in said


def make_table(folder: Path) -> None:
    rows = {"image_id": ["a", "b", "c"], "image": [*PHOTOS[:2], None], "captions": [["x"]] * 3}
    DatasetDict({"train": Dataset.from_dict(rows, pair_features(None))}).save_to_disk(folder / "table")


def test_the_oldest_checkpoint_has_norms_without_epsilon(tmp_path):
    model = torchvision.models.get_model(OLD, weights=None, weights_backbone=None)
    for name in ("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", "mine.pth"):
        torch.save(frozen(model.state_dict()), tmp_path / name)
    own = EmocapRegionExtractor.from_torchvision(OLD, tmp_path / "mine.pth", **SIZES)
    published = EmocapRegionExtractor.from_torchvision(OLD, tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
    assert (own.config.backbone_norm_eps, published.config.backbone_norm_eps) == (1e-5, 0.0)
    assert published.detector.backbone.body.layer3[2].bn2.eps == 0.0 and own.detector.backbone.body.bn1.eps == 1e-5
    published.config.save_pretrained(tmp_path)
    with torch.device("meta"):
        loaded = EmocapRegionExtractor(EmocapRegionConfig.from_pretrained(tmp_path))
    assert loaded.detector.backbone.body.layer3[2].bn2.eps == 0.0


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_checkpoints_that_do_not_fit_are_refused(small, tmp_path):
    def refuse(message: str, weights: object, architecture: str = SMALL) -> None:
        torch.save(weights, tmp_path / "weights.pth")
        with pytest.raises(ValueError, match="(?s)" + message):
            EmocapRegionExtractor.from_torchvision(architecture, tmp_path / "weights.pth")

    state_dict = small[0].state_dict()
    refuse("'.*weights.pth' is no checkpoint of fasterrcnn_resnet50_fpn_v2: .*size mismatch", state_dict, NEW)
    refuse("is no checkpoint of .*: 2 tensors are missing or too many, such as rpn.head.bbox_pred.bias, extra",
           {name: value for name, value in state_dict.items() if name != "rpn.head.bbox_pred.bias"}
           | {"extra": torch.zeros(1)})  # fmt: skip
    refuse("Faster, Mask or Keypoint R-CNN", {"head.classification_head.cls_logits.bias": torch.zeros(3)})
    refuse("Faster, Mask or Keypoint R-CNN", [1, 2])
    with pytest.raises(ValueError, match="expected an existing .safetensors, .pth or .pt file"):
        EmocapRegionExtractor.from_torchvision(SMALL, tmp_path / "absent.pth")
    with pytest.raises(
        ValueError, match="'ssd300_vgg16' is no known torchvision detector; expected one of fasterrcnn"
    ):
        load_region_extractor("torchvision:ssd300_vgg16")
    torch.save(state_dict | {"backbone": Malicious(tmp_path / "trap")}, tmp_path / "weights.pth")
    with pytest.raises(pickle.UnpicklingError, match="[Ww]eights.only"):
        EmocapRegionExtractor.from_torchvision(SMALL, tmp_path / "weights.pth")
    assert not (tmp_path / "trap").exists()
    with pytest.raises(ValueError, match="feature_dim is 64"):
        EmocapRegionConfig(architecture=NEW, feature_dim=64)
