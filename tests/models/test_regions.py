"""The region extractor on random weights: shapes, order, padding, and the same answer every time."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou
from transformers import AutoModel

from emocap.models import EmocapRegionConfig, EmocapRegionExtractor
from emocap.models.photo_emocap import resize_to_array
from tests.conftest import fresh_rng


def make_extractor(**fields) -> EmocapRegionExtractor:
    torch.manual_seed(0)
    defaults = {
        "backbone_channels": [8, 16],
        "anchor_sizes": [8, 16, 24],
        "pool_size": 3,
        "feature_dim": 20,
        "image_size": 64,
        "num_proposals": 120,
        "id2label": {0: "dog", 1: "house", 2: "spider"},
        "label2id": {"dog": 0, "house": 1, "spider": 2},
    }
    model = EmocapRegionExtractor(EmocapRegionConfig(**(defaults | fields)))
    for module in model.modules():  # as after training: norms that have seen pictures, weights that tell them apart
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.01, 0.1)
    return model.eval()


def photos(number: int) -> list[Image.Image]:
    rng = fresh_rng()
    return [
        Image.fromarray(rng.integers(0, 256, (*rng.integers(20, 120, 2), 3), dtype=np.uint8)) for _ in range(number)
    ]


@pytest.fixture(scope="module")
def extractor():
    return make_extractor()


def test_shapes_and_types(extractor):
    output = extractor.extract(photos(3))
    assert output.region_features.shape == (3, 36, 20) and output.region_features.dtype == torch.float32
    assert output.region_boxes.shape == (3, 36, 4)
    assert output.num_regions.shape == (3,) and output.num_regions.dtype == torch.int64
    assert output.scores.shape == output.class_ids.shape == (3, 36)
    assert not output.region_features.requires_grad
    assert (output.num_regions > 5).all() and (output.num_regions <= 36).all()


def test_the_whole_photo_comes_first_and_the_rest_by_score(extractor):
    output = extractor.extract(photos(4))
    assert torch.equal(output.region_boxes[:, 0], torch.tensor([0.0, 0, 1, 1]).expand(4, 4))
    for row, count in enumerate(output.num_regions):
        scores = output.scores[row, 1:count]
        assert (scores[:-1] >= scores[1:]).all()
        assert (output.class_ids[row, :count] >= 0).all() and (output.class_ids[row, :count] < 3).all()


def test_boxes_are_relative_and_upright(extractor):
    boxes = extractor.extract(photos(4)).region_boxes
    assert boxes.min() >= 0 and boxes.max() <= 1
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


def test_kept_boxes_overlap_less_than_the_threshold():
    output = make_extractor(box_nms_threshold=0.4).extract(photos(2))
    for row, count in enumerate(output.num_regions):
        overlaps = box_iou(output.region_boxes[row, :count], output.region_boxes[row, :count])
        assert (overlaps - torch.eye(count)).max() <= 0.4 + 1e-5


def test_a_batch_equals_its_photos_one_by_one(extractor):
    own = photos(4)
    together = extractor.extract(own)
    for row, photo in enumerate(own):
        alone = extractor.extract([photo])
        assert alone.num_regions[0] == together.num_regions[row]
        for name in ("region_features", "region_boxes", "scores"):
            torch.testing.assert_close(alone[name][0], together[name][row], atol=1e-4, rtol=1e-4)
        assert torch.equal(alone.class_ids[0], together.class_ids[row])


def test_features_are_the_box_heads_hidden_layer_over_the_boxes(extractor):
    photo = photos(1)[0]
    output = extractor.extract([photo])
    pixels = torch.from_numpy(resize_to_array(photo, 64).copy()).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normed = ((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)).unsqueeze(0)
    heads = extractor.detector.roi_heads
    with torch.no_grad():
        maps = extractor.detector.backbone(normed)
        whole = torch.tensor([[0.0, 0, 64, 64]])
        hidden = heads.box_head(heads.box_roi_pool({"0": maps}, [whole], [(64, 64)]))
        logits = heads.box_predictor(hidden)[0]
    torch.testing.assert_close(output.region_features[0, 0], hidden[0])
    torch.testing.assert_close(output.scores[0, 0], logits.softmax(-1)[0, 1:].max())


def test_saving_and_loading_gives_the_same_regions(tmp_path, extractor):
    extractor.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is EmocapRegionExtractor and not any(part.training for part in loaded.modules())
    own = photos(2)
    before, after = extractor.extract(own), loaded.extract(own)
    for name in before:
        assert torch.equal(before[name], after[name]), name


def test_two_calls_agree(extractor):
    own = photos(2)
    first, second = extractor.extract(own), extractor.extract(own)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fewer_regions_than_36_are_followed_by_zeros():
    output = make_extractor(num_proposals=6).extract(photos(3))
    assert output.region_features.shape == (3, 36, 20) and (output.num_regions <= 7).all()
    for row, count in enumerate(output.num_regions):
        assert count >= 1
        assert output.region_features[row, :count].abs().sum(-1).min() > 0
        for name in ("region_features", "region_boxes", "scores"):
            assert output[name][row, count:].abs().max() == 0, name
        assert (output.class_ids[row, count:] == -1).all()


def test_any_number_of_regions_may_be_asked_for():
    own = photos(2)
    many, few = make_extractor().extract(own), make_extractor(num_regions=5).extract(own)
    assert few.region_features.shape == (2, 5, 20) and few.num_regions.tolist() == [5, 5]
    torch.testing.assert_close(few.region_features, many.region_features[:, :5])


@pytest.mark.parametrize("architecture", ["small", "fasterrcnn_mobilenet_v3_large_320_fpn"])
@torch.no_grad()
def test_a_tuple_holds_what_the_output_holds_and_maps_come_where_asked_for(architecture):
    extractor = make_extractor() if architecture == "small" else make_large(architecture)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    output = extractor(pixels, output_hidden_states=True)
    assert all(level.shape[0] == 2 and level.dtype == torch.float32 for level in output.hidden_states)
    assert len(output.hidden_states) == (1 if architecture == "small" else 3)
    assert extractor(pixels).hidden_states is None
    for found, expected in zip(extractor(pixels, return_dict=False), extractor(pixels).to_tuple(), strict=True):
        assert torch.equal(found, expected)
    torch.testing.assert_close(extractor(pixels.float() / 255).region_boxes, output.region_boxes)
    first = extractor.get_input_embeddings()
    assert isinstance(first, torch.nn.Conv2d) and first.in_channels == 3
    extractor.set_input_embeddings(torch.nn.Identity())
    assert isinstance(extractor.get_input_embeddings(), torch.nn.Identity)


def make_large(architecture: str) -> EmocapRegionExtractor:
    torch.manual_seed(0)
    config = EmocapRegionConfig(architecture=architecture, shortest_edge=64, longest_edge=64, num_labels=3)
    return EmocapRegionExtractor(config).eval()


def test_maps_of_photos_of_different_sizes_are_no_batch():
    extractor = make_large("fasterrcnn_mobilenet_v3_large_320_fpn")
    pixels = [torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(3, 64, 20, dtype=torch.uint8)]
    with pytest.raises(ValueError, match="Photos of different sizes"):
        extractor(pixels, output_hidden_states=True)
