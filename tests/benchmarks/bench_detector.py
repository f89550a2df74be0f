"""The bottom-up detector at its published width, on random weights, beside the same network run plainly.

    python -m tests.benchmarks.bench_detector [--photos 3] [--threads 1] [--data FOLDER] [--tiny]

On a CPU: images a second of the plain recipe (fp32, one photo at a time, all proposals at once, torch's single
operations on a dictionary of tensors) and of `BottomUpDetector.extract` in fp32 and under bf16 autocast, which is what
`emocap regions` runs. The ways take turns on each photo, so that other work on the machine slows all of them; seconds
are the processor's own, which it changes least. On a GPU: images a second of batches of 16 in bf16, and peak memory.

Boxes are compared with those of the plain way after each way has found its own: with random weights scores lie close
together, so a few regions change places with the next best. Cosines compare the features of boxes that both found.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from PIL import Image
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image, nms

from emocap.models import BottomUpConfig, BottomUpDetector
from tests.models.test_bottom_up import PUBLISHED, Reference, changed, make_photo, random_weights

WIDE = changed(
    PUBLISHED,
    input__min_size_test=800,
    input__max_size_test=1333,
    proposal_generator__hidden_channels=512,
    anchor_generator__sizes=[[64, 128, 256, 512]],
    rpn__pre_nms_topk_test=6000,
    rpn__post_nms_topk_test=300,
    roi_heads__num_classes=1600,
    roi_box_head__num_attrs=400,
    resnets__width_per_group=64,
    resnets__res2_out_channels=256,
    resnets__stem_out_channels=64,
)
CALIBRATION = changed(WIDE, input__min_size_test=256, input__max_size_test=400, rpn__post_nms_topk_test=40)
"""Norms take their statistics from a small photo and few proposals: the weights are random anyway."""


class Plain(Reference):
    """The test's reference with the anchors' loop as tensors: what remains is the network's own arithmetic."""

    def proposals(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        settings, rpn = self.published["anchor_generator"], self.published["rpn"]
        hidden = F.relu(self.conv(x, "conv", padding=1))
        logits = self.conv(hidden, "objectness_logits")[0].permute(1, 2, 0).flatten()
        deltas = self.conv(hidden, "anchor_deltas")[0].permute(1, 2, 0).reshape(-1, 4)
        sides = [(side / ratio**0.5, side * ratio**0.5) for side in settings["sizes"][0] for ratio in (0.5, 1.0, 2.0)]
        cell = torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in sides])
        y, x = torch.meshgrid(16 * torch.arange(x.shape[2]), 16 * torch.arange(x.shape[3]), indexing="ij")
        anchors = (torch.stack((x, y, x, y), -1)[:, :, None] + cell).reshape(-1, 4)
        logits, best = logits.topk(min(len(logits), rpn["pre_nms_topk_test"]))
        boxes = BoxCoder(tuple(rpn["bbox_reg_weights"])).decode_single(deltas[best], anchors[best])
        boxes = clip_boxes_to_image(boxes, size)
        filled = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, logits = boxes[filled], logits[filled]
        return boxes[nms(boxes, logits, rpn["nms_thresh"])[: rpn["post_nms_topk_test"]]]


def make_detector(tiny: bool, seed: int = 0) -> tuple[BottomUpDetector, dict[str, torch.Tensor]]:
    """The published network, or a tiny one, with random weights that have seen a photo."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").write_text(yaml.safe_dump(PUBLISHED))
        config = BottomUpConfig.from_pretrained(folder) if tiny else BottomUpConfig()
    weights = random_weights(config, PUBLISHED if tiny else CALIBRATION, seed)
    with torch.device("meta"):
        detector = BottomUpDetector(config)
    detector.load_state_dict(weights, assign=True)
    return detector.eval(), weights


def read_photos(number: int, data: Path | None) -> list[Image.Image]:
    """Photos of the folder, else drawn ones of 640x480 and 480x640."""
    paths = sorted(data.glob("*.jpg"))[:number] if data else []
    drawn = [make_photo(*((480, 640) if seed % 2 else (640, 480)), seed) for seed in range(number)]
    return [Image.open(path).convert("RGB") for path in paths] or drawn


def bf16(function: Callable, photo: Image.Image):
    with torch.autocast("cpu", torch.bfloat16):
        return function(photo)


def compare_on_cpu(photos: list[Image.Image], tiny: bool) -> None:
    detector, weights = make_detector(tiny)
    plain = Plain(weights, PUBLISHED if tiny else WIDE)

    def ours(photo: Image.Image):
        return detector.extract([photo])

    ways = {"plain fp32": plain, "emocap fp32": ours, "emocap bf16": lambda photo: bf16(ours, photo)}
    seconds, walls = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    detector.extract([make_photo(64, 64, 0)])  # first calls set kernels up
    found = {name: [] for name in ways}
    for index, photo in enumerate(photos):
        for name, way in ways.items():
            started, wall = time.process_time(), time.perf_counter()
            result = way(photo)
            seconds[name] += time.process_time() - started
            walls[name] += time.perf_counter() - wall
            pair = result["region_boxes"], result["region_features"]
            found[name].append([values.reshape(-1, values.shape[-1]) for values in pair])
        print(f"photo {index + 1} of {len(photos)}: {photo.width}x{photo.height}", flush=True)
    for name in ways:
        per_photo, ratio = seconds[name] / len(photos), seconds["plain fp32"] / seconds[name]
        print(
            f"{name:12} {per_photo:7.2f} processor s/photo  {1 / per_photo:.3f} images/s  {ratio:.2f}x  "
            f"(wall {walls[name] / len(photos):.2f} s)"
        )
    for name in list(ways)[1:]:
        overlaps, cosines = map(torch.cat, zip(*map(compare_regions, found["plain fp32"], found[name]), strict=True))
        shares = (f"{100 * (overlaps >= least).float().mean():.1f} % within IoU {least}" for least in (0.99, 0.7))
        print(
            f"{name:12} of the plain way's {len(overlaps)} boxes {', '.join(shares)}; "
            f"cosine of the former's features min {cosines.min():.5f}  mean {cosines.mean():.5f}"
        )


def compare_regions(regions: list[torch.Tensor], others: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU of each box with the nearest of the others, and the cosines of the features of those within IoU .99."""
    (boxes, features), (other_boxes, other_features) = regions, others
    overlaps, nearest = box_iou(boxes, other_boxes).max(1)
    same = overlaps >= 0.99
    return overlaps, F.cosine_similarity(features[same], other_features[nearest[same]])


def measure_on_gpu(photos: list[Image.Image], tiny: bool, batch_size: int = 16, batches: int = 10) -> None:
    detector = make_detector(tiny)[0].to("cuda")
    batch = (photos * batch_size)[:batch_size]
    with torch.autocast("cuda", torch.bfloat16):
        for _ in range(3):
            detector.extract(batch)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        for _ in range(batches):
            detector.extract(batch)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{torch.cuda.get_device_name()}: {batches * batch_size / seconds:.1f} images/s at batch {batch_size} in bf16"
    )
    print(f"peak memory {peak:.1f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=3, help="photos (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on a CPU (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder of .jpg photos (drawn ones)")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, whose figures mean nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    photos = read_photos(arguments.photos, arguments.data)
    if torch.cuda.is_available():
        measure_on_gpu(photos, arguments.tiny)
    else:
        compare_on_cpu(photos, arguments.tiny)


if __name__ == "__main__":
    main()
