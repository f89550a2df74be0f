"""The bottom-up detector on random weights in the published layout, against a slow reference of single operations."""

import copy
import json
import math
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F
from torchvision.ops import box_iou, nms, roi_pool
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from emocap.models import BottomUpConfig, BottomUpDetector, BottomUpImageProcessor
from emocap.models.image_processing_bottom_up import resized_size
from emocap.models.modeling_bottom_up import decode_boxes

PUBLISHED = {  # the published file at the widths and sizes of a test
    "model": {"max_pool": True, "pixel_mean": [102.9801, 115.9465, 122.7717], "pixel_std": [1.0, 1.0, 1.0]},
    "input": {"max_size_test": 160, "min_size_test": 96, "format": "BGR"},
    "proposal_generator": {"hidden_channels": 24, "min_size": 0.0},
    "anchor_generator": {"sizes": [[16, 32, 48, 64]], "aspect_ratios": [[0.5, 1.0, 2.0]], "offset": 0},
    "rpn": {
        "pre_nms_topk_test": 500,
        "post_nms_topk_test": 90,
        "bbox_reg_weights": [1.0, 1.0, 1.0, 1.0],
        "nms_thresh": 0.7,
    },
    "roi_heads": {"num_classes": 30, "score_thresh_test": 0.2, "nms_thresh_test": [0.5, 0.6, 0.7]},
    "roi_box_head": {
        "bbox_reg_weights": [10.0, 10.0, 5.0, 5.0],
        "pooler_resolution": 14,
        "res5halve": False,
        "attr": True,
        "num_attrs": 12,
        "cls_agnostic_bbox_reg": False,
    },
    "resnets": {
        "depth": 101,
        "num_groups": 1,
        "norm": "BN",
        "width_per_group": 8,
        "stride_in_1x1": True,
        "res5_dilation": 1,
        "res2_out_channels": 16,
        "stem_out_channels": 8,
    },
    "size_divisibility": 0,
    "pad_value": 0.0,
    "min_detections": 36,
    "max_detections": 36,
}


class Reference:
    """The detector written down from its description, one photo at a time, on a plain dictionary of tensors.

    While `calibrating`, every batch norm takes its statistics from what passes, so that random weights neither die
    nor explode.
    """

    def __init__(self, weights: dict[str, torch.Tensor], published: dict):
        self.weights, self.published, self.calibrating = weights, published, False

    def conv_norm(self, x: torch.Tensor, name: str, **kwargs) -> torch.Tensor:
        x = F.conv2d(x, self.weights[f"{name}.weight"], **kwargs)
        mean, var = self.weights[f"{name}.norm.running_mean"], self.weights[f"{name}.norm.running_var"]
        if self.calibrating:
            mean.copy_(x.mean((0, 2, 3)))
            var.copy_(x.var((0, 2, 3)))
        return F.batch_norm(
            x, mean, var, self.weights[f"{name}.norm.weight"], self.weights[f"{name}.norm.bias"], False, 0.0, 1e-5
        )

    def stage(self, x: torch.Tensor, name: str, blocks: int, stride: int, dilation: int) -> torch.Tensor:
        for block in range(blocks):
            own, step = f"{name}.{block}", stride if block == 0 else 1
            shortcut = self.conv_norm(x, f"{own}.shortcut", stride=step) if block == 0 else x
            x = F.relu(self.conv_norm(x, f"{own}.conv1", stride=step))
            x = F.relu(self.conv_norm(x, f"{own}.conv2", padding=dilation, dilation=dilation))
            x = F.relu(self.conv_norm(x, f"{own}.conv3") + shortcut)
        return x

    def pixels(self, photo: Image.Image) -> torch.Tensor:
        rgb = np.asarray(photo.convert("RGB")).astype(np.float32)
        height, width = rgb.shape[:2]
        short, long = self.published["input"]["min_size_test"], self.published["input"]["max_size_test"]
        scale = short / min(height, width)
        height, width = height * scale, width * scale
        if max(height, width) > long:
            height, width = height * long / max(height, width), width * long / max(height, width)
        bgr = torch.from_numpy(rgb[:, :, ::-1].copy()).permute(2, 0, 1)[None]
        bgr = F.interpolate(bgr, (int(height + 0.5), int(width + 0.5)), mode="bilinear", align_corners=False)
        return bgr - torch.tensor(self.published["model"]["pixel_mean"]).view(1, 3, 1, 1)

    def res4(self, pixels: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv_norm(pixels, "backbone.stem.conv1", stride=2, padding=3))
        x = F.max_pool2d(x, 3, 2, 0, ceil_mode=True)
        for name, blocks, stride in (("res2", 3, 1), ("res3", 4, 2), ("res4", 23, 2)):
            x = self.stage(x, f"backbone.{name}", blocks, stride, 1)
        return x

    def conv(self, x: torch.Tensor, name: str, **kwargs) -> torch.Tensor:
        name = f"proposal_generator.rpn_head.{name}"
        return F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **kwargs)

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        name = f"roi_heads.box_predictor.{name}"
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def move(self, box: list[float], deltas: list[float], weights: list[float], size: tuple[int, int]) -> list[float]:
        x1, y1, x2, y2 = box
        dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas, weights, strict=True))
        width, height = x2 - x1, y2 - y1
        x, y = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
        width *= math.exp(min(dw, math.log(1000 / 16)))
        height *= math.exp(min(dh, math.log(1000 / 16)))
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return [min(max(corner, 0), size[1 - axis % 2]) for axis, corner in enumerate(corners)]

    def proposals(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        hidden = F.relu(self.conv(x, "conv", padding=1))
        logits, deltas = self.conv(hidden, "objectness_logits")[0], self.conv(hidden, "anchor_deltas")[0]
        rows = []
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                kind = 0
                for side in self.published["anchor_generator"]["sizes"][0]:
                    for ratio in self.published["anchor_generator"]["aspect_ratios"][0]:
                        width = side / math.sqrt(ratio)
                        height = width * ratio
                        anchor = [16 * j - width / 2, 16 * i - height / 2, 16 * j + width / 2, 16 * i + height / 2]
                        own = deltas[4 * kind : 4 * kind + 4, i, j].tolist()
                        rows.append((logits[kind, i, j].item(), anchor, own))
                        kind += 1
        rpn = self.published["rpn"]
        rows = sorted(rows, key=lambda row: -row[0])[: rpn["pre_nms_topk_test"]]
        moved = [(score, self.move(anchor, own, rpn["bbox_reg_weights"], size)) for score, anchor, own in rows]
        moved = [(score, box) for score, box in moved if box[2] > box[0] and box[3] > box[1]]
        scores, boxes = torch.tensor([score for score, _ in moved]), torch.tensor([box for _, box in moved])
        return boxes[nms(boxes, scores, rpn["nms_thresh"])[: rpn["post_nms_topk_test"]]]

    def features(self, x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        grid = roi_pool(x, [boxes], self.published["roi_box_head"]["pooler_resolution"], 1 / 16)
        return self.stage(grid, "roi_heads.res5", 3, 1, 2).mean((2, 3))

    @torch.no_grad()
    def __call__(self, photo: Image.Image) -> dict[str, torch.Tensor]:
        pixels = self.pixels(photo)
        size = tuple(pixels.shape[2:])
        x = self.res4(pixels)
        proposals = self.proposals(x, size)
        features = self.features(x, proposals)
        logits, deltas = self.linear(features, "cls_score"), self.linear(features, "bbox_pred")
        probabilities = logits.softmax(1)[:, :-1]
        embedded = self.weights["roi_heads.box_predictor.cls_embedding.weight"][logits.argmax(1)]
        hidden = F.relu(self.linear(torch.cat((features, embedded), 1), "fc_attr"))
        attributes = self.linear(hidden, "attr_score")[:, :-1].softmax(1)
        weights = self.published["roi_box_head"]["bbox_reg_weights"]
        boxes, scores, classes = [], [], []
        for row, proposal in enumerate(proposals.tolist()):
            best = int(probabilities[row].argmax())
            boxes.append(self.move(proposal, deltas[row, 4 * best : 4 * best + 4].tolist(), weights, size))
            scores.append(probabilities[row, best].item())
            classes.append(best)
        boxes, scores, classes = torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes)
        for threshold in self.published["roi_heads"]["nms_thresh_test"]:
            kept = nms(boxes, scores, threshold)[: self.published["max_detections"]]
            if len(kept) >= self.published["min_detections"]:
                break
        return {
            "region_features": features[kept],
            "region_boxes": boxes[kept] / torch.tensor([size[1], size[0], size[1], size[0]]),
            "scores": scores[kept],
            "class_ids": classes[kept],
            "attribute_ids": attributes[kept].argmax(1),
            "attribute_scores": attributes[kept].amax(1),
            "background_wins": (logits[kept].argmax(1) == logits.shape[1] - 1),
        }


def changed(published: dict, **changes) -> dict:
    """The published file with other values, named as in `roi_heads__num_classes`."""
    published = copy.deepcopy(published)
    for name, value in changes.items():
        *sections, key = name.split("__")
        place = published
        for section in sections:
            place = place[section]
        place[key] = value
    return published


@torch.no_grad()
def random_weights(config: BottomUpConfig, published: dict, seed: int) -> dict[str, torch.Tensor]:
    """He weights, batch norms that have seen a photo, heads whose answers spread over proposals."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        layout = BottomUpDetector(config).state_dict()
    weights = {}
    for name, value in layout.items():
        if name.endswith("cell_anchors.0"):
            sides = [(side / ratio**0.5, side * ratio**0.5) for side in config.anchor_sizes for ratio in (0.5, 1, 2)]
            weights[name] = torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in sides])
        elif value.dtype == torch.int64:
            weights[name] = torch.tensor(1234)
        elif ".norm." in name:
            weights[name] = torch.rand(value.shape, generator=generator) * 0.5 + (0.0 if "bias" in name else 0.75)
            weights[name] *= 0.3 if "conv3" in name else 1.0  # as after training: no block drowns its shortcut
        elif name.endswith("bias"):
            weights[name] = 0.1 * torch.randn(value.shape, generator=generator)
        else:
            fan_in = value[0].numel()
            weights[name] = torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5
    reference = Reference(weights, published)
    reference.calibrating = True
    pixels = reference.pixels(make_photo(96, 128, 1000 + seed))
    x = reference.res4(pixels)
    hidden = F.relu(reference.conv(x, "conv", padding=1))
    for name, spread in (("objectness_logits", 2.0), ("anchor_deltas", 0.2)):
        own = f"proposal_generator.rpn_head.{name}"
        weights[f"{own}.weight"] *= spread / reference.conv(hidden, name).std()
        weights[f"{own}.bias"] -= reference.conv(hidden, name).mean((0, 2, 3))
    features = reference.features(x, reference.proposals(x, tuple(pixels.shape[2:])))
    for name, spread in (("cls_score", 2.0), ("bbox_pred", 0.5)):
        own = f"roi_heads.box_predictor.{name}"
        weights[f"{own}.weight"] *= spread / reference.linear(features, name).std(0).mean()
        weights[f"{own}.bias"] -= reference.linear(features, name).mean(0)
    weights["roi_heads.box_predictor.cls_score.bias"][-1] += 3.0  # many proposals are background
    return weights


def publish(folder: Path, published: dict, weights: dict[str, torch.Tensor]) -> Path:
    """The two files of the published repository."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(published))
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def make_photo(height: int, width: int, seed: int) -> Image.Image:
    """Soft blobs under a little noise: neighbouring regions look alike, distant ones do not."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return Image.fromarray((np.asarray(blobs) + rng.normal(0, 8, (height, width, 3))).clip(0, 255).astype(np.uint8))


PHOTOS = [make_photo(90, 120, 1), make_photo(130, 97, 2), make_photo(40, 100, 3), make_photo(101, 101, 4)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Folder in the published layout, and its tensors."""
    folder = tmp_path_factory.mktemp("bottom_up")
    (folder / "config.yaml").write_text(yaml.safe_dump(PUBLISHED))
    weights = random_weights(BottomUpConfig.from_pretrained(folder), PUBLISHED, seed=5)
    return publish(folder, PUBLISHED, weights), weights


@pytest.fixture(scope="module")
def detector(checkpoint) -> BottomUpDetector:
    return BottomUpDetector.from_pretrained(checkpoint[0])


@pytest.fixture(scope="module")
def regions(detector):
    return detector.extract(PHOTOS)


def with_settings(detector: BottomUpDetector, **settings) -> BottomUpDetector:
    """The same weights under other settings."""
    config = copy.deepcopy(detector.config)
    config.update(settings)
    other = BottomUpDetector(config).eval()
    other.load_state_dict(detector.state_dict())
    return other


def matches(boxes: torch.Tensor, others: torch.Tensor, at_least: float = 0.99) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of `boxes` with a counterpart in `others`, and the counterparts: ranks may swap, boxes may not."""
    overlap, row = box_iou(boxes, others).max(1)
    found = overlap >= at_least
    return found.nonzero()[:, 0], row[found]


@pytest.mark.real_data
def test_names_and_shapes_are_the_published_ones(real_data):
    names = real_data.parent / "docs" / "frcnn_keys.txt"
    if not names.is_file():
        pytest.skip("the list of the published tensors is not at hand")
    with torch.device("meta"):
        layout = BottomUpDetector(BottomUpConfig()).state_dict()
    published = {}
    for line in names.read_text().splitlines():
        if not line.startswith("#"):
            name, shape, dtype = line.split("\t")
            published[name] = (tuple(map(int, re.findall(r"\d+", shape))), dtype)
    assert len(published) == 640
    assert {name: (tuple(value.shape), str(value.dtype)) for name, value in layout.items()} == published


@pytest.mark.real_data
def test_the_published_settings_are_the_defaults(real_data, tmp_path):
    settings = real_data.parent / "docs" / "frcnn_config.yaml"
    if not settings.is_file():
        pytest.skip("the published settings are not at hand")
    (tmp_path / "config.yaml").write_text(settings.read_text())
    read, default = BottomUpConfig.from_pretrained(tmp_path), BottomUpConfig()
    assert json.loads(read.to_json_string()) == json.loads(default.to_json_string())
    assert read.feature_dim == 2048


def test_regions_are_those_of_the_reference(checkpoint, regions):
    reference, background = Reference(checkpoint[1], PUBLISHED), 0
    for index, photo in enumerate(PHOTOS):
        expected = reference(photo)
        count = int(regions.num_regions[index])
        assert count == len(expected["scores"]) == 36
        rows, others = matches(regions.region_boxes[index, :count], expected["region_boxes"])
        assert len(rows) == 36 and len(set(others.tolist())) == 36
        torch.testing.assert_close(
            regions.region_boxes[index, rows], expected["region_boxes"][others], atol=1e-4, rtol=0
        )
        features, wanted = regions.region_features[index, rows], expected["region_features"][others]
        assert ((features - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 1e-4
        assert ((features - wanted).abs().amax(1) / wanted.abs().amax(1)).max() < 1e-4
        for name in ("scores", "attribute_scores"):
            torch.testing.assert_close(regions[name][index, rows], expected[name][others], atol=1e-4, rtol=1e-4)
        for name in ("class_ids", "attribute_ids"):
            assert torch.equal(regions[name][index, rows], expected[name][others]), name
        background += int(expected["background_wins"].sum())
        # the reference has to tell photos, regions and classes apart, or agreeing with it says nothing
        assert (wanted.std(0) / wanted.mean(0)).mean() > 0.1 and len(set(expected["class_ids"].tolist())) > 5
        assert len(set(expected["attribute_ids"].tolist())) > 2
    assert 0 < background < 4 * 36


def test_types_shapes_and_order(regions):
    assert regions.region_features.shape == (4, 36, 128) and regions.region_features.dtype == torch.float32
    assert regions.region_boxes.shape == (4, 36, 4) and regions.region_boxes.dtype == torch.float32
    assert regions.num_regions.shape == (4,) and regions.num_regions.dtype == torch.int64
    for name in ("class_ids", "attribute_ids"):
        assert regions[name].shape == (4, 36) and regions[name].dtype == torch.int64
    assert regions.class_ids.min() >= 0 and regions.class_ids.max() < 30 and regions.attribute_ids.max() < 12
    assert (regions.scores[:, :-1] >= regions.scores[:, 1:]).all()
    assert regions.region_boxes.min() >= 0 and regions.region_boxes.max() <= 1
    assert (regions.region_boxes[..., 2:] >= regions.region_boxes[..., :2]).all()
    assert not regions.region_features.requires_grad


def test_a_padded_batch_equals_its_photos_one_by_one(detector, regions):
    processor = BottomUpImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    photos = [*PHOTOS, make_photo(180, 240, 9)]  # the last becomes as large as the first: they run together
    inputs = processor(photos)
    assert inputs["pixel_values"].shape == (5, 3, 129, 160)
    assert inputs["image_sizes"].tolist() == [[96, 128], [129, 96], [64, 160], [96, 96], [96, 128]]
    together = detector(**inputs)
    for index in range(4):
        assert together.num_regions[index] == regions.num_regions[index]
        rows, others = matches(together.region_boxes[index], regions.region_boxes[index])
        assert len(rows) == 36
        features, wanted = together.region_features[index, rows], regions.region_features[index, others]
        assert ((features - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 1e-4


def test_extracting_gives_the_same_bits_in_any_batch_and_order(detector, regions):
    backwards = detector.extract(PHOTOS[::-1])
    for name in regions:
        assert torch.equal(backwards[name].flip(0), regions[name]), name


def test_the_published_files_become_safetensors_of_the_same_bits(tmp_path, checkpoint, detector, regions):
    assert not detector.training and detector.dtype == torch.float32
    detector.save_pretrained(tmp_path)
    files = sorted(file.name for file in tmp_path.iterdir() if file.suffix != ".py")
    assert files == ["config.json", "model.safetensors", "preprocessor_config.json"]
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is BottomUpDetector and loaded.config.nms_thresholds == [0.5, 0.6, 0.7]
    weights = loaded.state_dict()
    assert weights.keys() == checkpoint[1].keys()
    for name, value in checkpoint[1].items():
        assert weights[name].dtype == value.dtype and torch.equal(weights[name], value), name
    again = loaded.extract(PHOTOS)
    assert all(torch.equal(again[name], regions[name]) for name in regions)


def test_the_published_repository_loads_from_the_cache(tmp_path, checkpoint):
    repository = tmp_path / "models--unc-nlp--frcnn-vg-finetuned"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(checkpoint[0], repository / "snapshots" / commit)
    loaded = BottomUpDetector.from_pretrained(
        "unc-nlp/frcnn-vg-finetuned", cache_dir=tmp_path, local_files_only=True, num_regions=7
    )
    assert loaded.config.num_regions == 7 and loaded.config.num_classes == 30
    assert torch.equal(
        loaded.roi_heads.box_predictor.fc_attr.bias, checkpoint[1]["roi_heads.box_predictor.fc_attr.bias"]
    )


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_runs_code_is_refused(tmp_path, checkpoint, zipped):
    folder, trap = publish(tmp_path / "checkpoint", PUBLISHED, {}), tmp_path / "trap"
    harmful = checkpoint[1] | {"backbone.stem.conv1.weight": Malicious(trap)}
    torch.save(harmful, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match="[Ww]eights.only"):
        BottomUpDetector.from_pretrained(folder)
    assert not trap.exists()


def test_anchors_come_from_the_checkpoint_and_from_the_config(tmp_path, checkpoint, detector):
    name = "proposal_generator.anchor_generator.cell_anchors.0"
    built = BottomUpDetector(detector.config).state_dict()[name]
    torch.testing.assert_close(built, checkpoint[1][name])
    widths, heights = built[:, 2] - built[:, 0], built[:, 3] - built[:, 1]
    torch.testing.assert_close(heights / widths, torch.tensor([0.5, 1.0, 2.0] * 4))
    torch.testing.assert_close((widths * heights).sqrt(), torch.tensor([16.0, 32, 48, 64]).repeat_interleave(3))
    without = {key: value for key, value in checkpoint[1].items() if key != name}
    assert torch.equal(
        BottomUpDetector.from_pretrained(publish(tmp_path / "a", PUBLISHED, without)).state_dict()[name], built
    )
    other = publish(tmp_path / "b", PUBLISHED, without | {name: 2 * built})
    assert torch.equal(BottomUpDetector.from_pretrained(other).state_dict()[name], 2 * built)
    halved = BottomUpDetector.from_pretrained(checkpoint[0], dtype=torch.bfloat16)
    assert halved.dtype == torch.bfloat16 and torch.equal(halved.state_dict()[name], built)


def test_other_nms_lists_and_numbers_are_honoured(tmp_path, checkpoint):
    published = changed(PUBLISHED, roi_heads__nms_thresh_test=[0.2], min_detections=5, max_detections=9)
    detector = BottomUpDetector.from_pretrained(publish(tmp_path, published, checkpoint[1]))
    few = detector.extract(PHOTOS[:2])
    assert few.region_features.shape == (2, 9, 128)
    reference = Reference(checkpoint[1], published)
    for index, photo in enumerate(PHOTOS[:2]):
        count = int(few.num_regions[index])
        assert count >= 5
        overlap = box_iou(few.region_boxes[index, :count], few.region_boxes[index, :count]) - torch.eye(count)
        assert overlap.max() < 0.2 + 1e-4
        assert len(matches(few.region_boxes[index, :count], reference(photo)["region_boxes"])[0]) == count


def test_the_next_threshold_is_tried_where_regions_are_missing(detector):
    strict = with_settings(detector, nms_thresholds=[0.3], num_regions=90).extract(PHOTOS[:1])
    loose = with_settings(detector, nms_thresholds=[0.7], num_regions=90).extract(PHOTOS[:1])
    assert 0 < strict.num_regions < loose.num_regions
    for min_regions, expected in ((int(strict.num_regions), strict), (int(strict.num_regions) + 1, loose)):
        both = with_settings(detector, nms_thresholds=[0.3, 0.7], min_regions=min_regions, num_regions=90)
        assert torch.equal(both.extract(PHOTOS[:1]).region_boxes, expected.region_boxes)


def test_fewer_regions_than_36_are_followed_by_zeros(tmp_path, checkpoint, regions):
    published = changed(PUBLISHED, rpn__post_nms_topk_test=8)
    few = BottomUpDetector.from_pretrained(publish(tmp_path, published, checkpoint[1])).extract(PHOTOS)
    assert few.region_features.shape == (4, 36, 128)
    reference = Reference(checkpoint[1], published)
    for index, count in enumerate(few.num_regions.tolist()):
        assert 1 <= count <= 8
        assert len(matches(few.region_boxes[index, :count], reference(PHOTOS[index])["region_boxes"])[0]) == count
        assert few.region_features[index, :count].abs().sum(1).min() > 0
        for name in ("region_features", "region_boxes", "scores", "attribute_scores"):
            assert few[name][index, count:].abs().max() == 0, name
        for name in ("class_ids", "attribute_ids"):
            assert (few[name][index, :count] >= 0).all() and (few[name][index, count:] == -1).all(), name
    assert len(set(few.region_boxes[:, 0, 2].tolist())) > 1  # no photo repeats another's


def test_no_proposal_at_all_gives_no_region(detector):
    none = with_settings(detector, rpn_min_size=1e6).extract(PHOTOS[:2])
    assert none.num_regions.tolist() == [0, 0] and none.region_features.shape == (2, 36, 128)
    assert none.region_features.abs().max() == 0 and (none.class_ids == -1).all()


def test_boxes_grow_by_62_times_at_most():
    box = torch.tensor([[10.0, 20.0, 14.0, 40.0]])
    moved = decode_boxes(torch.tensor([[5.0, -10.0, 100.0, 2.0]]), box, [10.0, 10.0, 5.0, 1.0])
    x, y, width, height = 12 + 0.5 * 4, 30 - 20.0, 4 * 62.5, 20 * math.exp(2)
    expected = torch.tensor([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]])
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("roi_chunk_size", [1, 7, 1000])
def test_the_chunk_size_changes_nothing(detector, regions, roi_chunk_size):
    other = with_settings(detector, roi_chunk_size=roi_chunk_size).extract(PHOTOS)
    for index in range(4):
        rows, others = matches(other.region_boxes[index], regions.region_boxes[index])
        assert len(rows) == 36
        torch.testing.assert_close(
            other.region_features[index, rows], regions.region_features[index, others], atol=1e-4, rtol=1e-4
        )


def test_regions_picked_in_bfloat16_have_float32_features(detector, regions):
    picked = with_settings(detector, selection_dtype="bfloat16").extract(PHOTOS)
    assert (picked.num_regions == 36).all() and (picked.scores[:, :-1] >= picked.scores[:, 1:]).all()
    shared = 0
    for index in range(4):
        rows, others = matches(picked.region_boxes[index], regions.region_boxes[index], at_least=0.999)
        shared += len(rows)
        for name in ("region_features", "region_boxes", "scores", "attribute_scores"):
            torch.testing.assert_close(picked[name][index, rows], regions[name][index, others], atol=1e-4, rtol=1e-4)
        assert torch.equal(picked.class_ids[index, rows], regions.class_ids[index, others])
    assert shared > 0.8 * 4 * 36


def in_bfloat16(way: str, folder: Path, detector: BottomUpDetector) -> BottomUpDetector:
    if way == "loaded":
        return BottomUpDetector.from_pretrained(folder, dtype=torch.bfloat16)
    return copy.deepcopy(detector).to(torch.bfloat16) if way == "cast" else detector


@pytest.mark.parametrize("way", ["loaded", "cast", "autocast"])
def test_bfloat16_finds_the_boxes_of_float32(checkpoint, detector, regions, way):
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        output = in_bfloat16(way, checkpoint[0], detector).extract(PHOTOS)
    shared, cosines = 0, []
    for index in range(4):
        rows, others = matches(regions.region_boxes[index], output.region_boxes[index])
        shared += len(rows)
        features, wanted = output.region_features[index, others], regions.region_features[index, rows]
        cosines.append(F.cosine_similarity(features, wanted))
    assert shared >= 0.94 * 4 * 36
    assert torch.cat(cosines).min() > 0.9995
    for values in (output.region_features, output.region_boxes, output.scores):
        assert values.dtype == torch.float32 and not torch.equal(values, values.bfloat16().float())
    assert not torch.equal(output.region_features, regions.region_features), "res5 is in bfloat16"


@torch.no_grad()
@pytest.mark.parametrize("way", ["loaded", "cast"])
def test_all_but_res5_keeps_its_bits_in_a_bfloat16_model(tmp_path, checkpoint, detector, way):
    model = in_bfloat16(way, checkpoint[0], detector)
    for name, value in model.state_dict().items():
        exact = detector.state_dict()[name]
        if name.startswith("roi_heads.res5") and ".norm." not in name:
            assert value.dtype == torch.bfloat16 and torch.equal(value, exact.bfloat16()), name
        else:
            assert value.dtype == exact.dtype and torch.equal(value, exact), name
    assert model.dtype == torch.bfloat16
    inputs = detector.image_processor()(PHOTOS[:1])
    maps, exact_maps = (one(**inputs, output_hidden_states=True).hidden_states[0] for one in (model, detector))
    assert torch.equal(maps, exact_maps)
    model.save_pretrained(tmp_path)
    again = BottomUpDetector.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert torch.equal(again.extract(PHOTOS[:1]).region_features, model.extract(PHOTOS[:1]).region_features)


def test_a_model_built_in_bfloat16_has_float32_where_boxes_are_made(detector):
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = BottomUpDetector(detector.config)
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.dtype == torch.bfloat16
    expected = {name: value.dtype for name, value in in_bfloat16("cast", None, detector).state_dict().items()}
    assert {name: value.dtype for name, value in model.state_dict().items()} == expected


def test_a_tuple_holds_what_the_output_holds_and_maps_come_where_asked_for(detector):
    inputs = detector.image_processor()(PHOTOS[:1])
    output = detector(**inputs, output_hidden_states=True)
    (maps,) = output.hidden_states
    torch.testing.assert_close(maps, detector.backbone(inputs["pixel_values"]).float(), atol=1e-4, rtol=1e-4)
    for found, expected in zip(detector(**inputs, return_dict=False), detector(**inputs).to_tuple(), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="Photos of different sizes"):
        detector(**detector.image_processor()(PHOTOS), output_hidden_states=True)
    assert detector.get_input_embeddings() is detector.backbone.stem.conv1


def test_weights_may_change_between_two_calls(detector, regions):
    other = with_settings(detector)
    other.extract(PHOTOS[:1])
    with torch.no_grad():
        other.roi_heads.res5[2].conv3.norm.bias += 5.0
    shifted = other.extract(PHOTOS[:1]).region_features
    assert shifted.mean() > regions.region_features[0].mean() + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roi_box_head__res5halve": True}, "res5halve to True.*knows only False"),
        ({"input__format": "RGB"}, "input.format to 'RGB'"),
        ({"resnets__depth": 18}, "resnets.depth to 18; expected one of"),
        ({"rpn": {}}, "has no 'rpn.bbox_reg_weights'"),
        ({"anchor_generator__sizes": [[32], [64]]}, "several feature maps"),
    ],
)
def test_another_network_is_refused_by_name(tmp_path, changes, message):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed(PUBLISHED, **changes)))
    with pytest.raises(ValueError, match=message):
        BottomUpConfig.from_pretrained(tmp_path)


def test_whole_numbers_and_a_single_threshold_are_read(tmp_path):
    published = changed(PUBLISHED, model__pixel_std=[1, 2, 3], roi_heads__nms_thresh_test=0.4, rpn__nms_thresh=1)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(published))
    config = BottomUpConfig.from_pretrained(tmp_path)
    assert config.image_std == [1, 2, 3] and config.nms_thresholds == [0.4] and config.rpn_nms_threshold == 1


def test_a_folder_with_neither_configuration_is_an_error(tmp_path):
    with pytest.raises(OSError, match="neither config.json nor the published config.yaml"):
        BottomUpDetector.from_pretrained(tmp_path)


def test_extracting_from_nothing_is_an_error(detector):
    with pytest.raises(ValueError, match="no photo"):
        detector.extract([])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((800, 800), (800, 800)),
        ((500, 333), (1201, 800)),
        ((300, 900), (444, 1333)),
        ((1000, 250), (1333, 333)),
        ((4000, 3000), (1067, 800)),
        ((2, 3000), (3, 1333)),
    ],
)
def test_sizes_of_resized_photos(size, expected):
    assert resized_size(*size, 800, 1333) == expected


def test_pixels_are_bgr_less_their_means():
    colours = np.zeros((10, 20, 3), dtype=np.uint8)
    colours[..., 0], colours[..., 1], colours[..., 2] = 200, 100, 50
    processor = BottomUpImageProcessor(size={"shortest_edge": 20, "longest_edge": 100}, image_std=[1.0, 2.0, 4.0])
    inputs = processor([Image.fromarray(colours), make_photo(20, 20, 0)])
    assert inputs["pixel_values"].shape == (2, 3, 20, 40) and inputs["pixel_values"].dtype == torch.float32
    expected = torch.tensor([50 - 102.9801, (100 - 115.9465) / 2, (200 - 122.7717) / 4])
    torch.testing.assert_close(inputs["pixel_values"][0], expected.view(3, 1, 1).expand(3, 20, 40))
    assert inputs["pixel_values"][1, :, :, 20:].abs().max() == 0 and inputs["image_sizes"].tolist() == [
        [20, 40],
        [20, 20],
    ]


def test_photos_of_every_mode_and_strips_are_read(detector):
    photo = make_photo(60, 80, 7)
    own = [
        photo.convert("L"),
        photo.convert("P"),
        photo.convert("RGBA"),
        photo.convert("CMYK"),
        photo.resize((2000, 1)),
    ]
    output = detector.extract([photo, *own])
    assert (output.num_regions > 0).all() and output.region_features.isfinite().all()
    torch.testing.assert_close(output.region_features[3], output.region_features[0])
    tensor = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    processor = BottomUpImageProcessor()
    assert torch.equal(processor([photo])["pixel_values"], processor([tensor])["pixel_values"])


def test_the_processor_is_saved_and_found_beside_the_model(tmp_path, detector):
    BottomUpImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}).save_pretrained(tmp_path)
    detector.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is BottomUpConfig
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is BottomUpImageProcessor
    assert processor(PHOTOS[0])["pixel_values"].shape == (1, 3, 96, 128)
