"""Region extraction: photos a second of the job beside the plain way, and how long the model waits for photos.

    python -m tests.benchmarks.bench_extraction [--photos FOLDER ...] [--number 300] [--extractor scenes] [--tiny]

Without a folder the photos are noise of COCO's usual shapes. The plain way decodes a photo, runs the extractor on it,
and goes on to the next. Both run in turn, the job with threads and, to compare, with processes that decode.

Last, photos a second of the 6 x 6 grid of a vision encoder (DINOv2's smallest, 224 pixels) beside torchvision's Faster
R-CNN (ResNet-50 v2) on a few of the photos, both with random weights, in float32 and in turn.
"""

import argparse
import io
import itertools
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from transformers import PreTrainedModel

from emocap.models import EmocapGridConfig, EmocapGridExtractor, EmocapRegionConfig, EmocapRegionExtractor
from emocap.models.processing_emocap import load_region_extractor
from emocap.regions import SCENES_DETECTOR
from emocap.regions.extraction import SHARD_SIZES, default_workers, regions_of_shards
from emocap.regions.photos import decode_ahead, decode_photo, photo_column

SHAPES = [(480, 640), (427, 640), (640, 480), (375, 500)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, nargs="*", default=[], metavar="FOLDER", help="folders of photos")
    parser.add_argument("--number", type=int, default=300, help="photos (%(default)s)")
    parser.add_argument("--extractor", default=str(SCENES_DETECTOR), help="folder or Hub id (the built-in one)")
    parser.add_argument("--num_workers", type=int, default=default_workers(), help="threads (%(default)s)")
    parser.add_argument("--detector_photos", type=int, default=5, help="photos of the last comparison (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, whose figures mean nothing")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.number, arguments.repeats, arguments.detector_photos = 6, 1, 1
    table = photo_table(arguments.photos, arguments.number)
    size = SHARD_SIZES["cpu"]
    shards = [table.select(range(start, min(start + size, len(table)))) for start in range(0, len(table), size)]
    model = load_region_extractor(arguments.extractor)
    workers = arguments.num_workers
    ways = {
        "plain": lambda: plainly(model, shards),
        "job": lambda: run_job(model, shards, workers),
        "threads": lambda: waiting(model, shards, workers, ThreadPoolExecutor(workers)),
        "processes": lambda: waiting(model, shards, workers, ProcessPoolExecutor(workers)),
    }
    plainly(model, shards[:1])
    seconds, waits = {name: [] for name in ways}, {}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            result = way()
            seconds[name].append(time.perf_counter() - start)
            if name == "job":
                waits.setdefault(name, []).append(result)
            elif name != "plain":
                waits.setdefault(name, []).append(result / seconds[name][-1])
    rates = {name: len(table) / min(own) for name, own in seconds.items()}
    print(f"{len(table)} photos, {torch.get_num_threads()} compute thread(s), {workers} decoding; best of the runs")
    print(f"plain way: {rates['plain']:.1f} photos/s; job: {rates['job']:.1f} photos/s", end=", ")
    print(f"{rates['job'] / rates['plain']:.2f} times")
    memory = waits.pop("job")[-1]
    shown = [*memory[:: max(1, len(memory) // 10)], memory[-1]]
    print("anonymous memory in MB along the job: " + " ".join(f"{mb:.0f}" for mb in shown))
    for name in waits:
        print(f"decoding in {name}: {rates[name]:.1f} photos/s, the model waits {min(waits[name]):.1%} of the time")
    compare_encoder(shards[0], arguments.detector_photos, arguments.tiny)


def photo_table(folders: list[Path], number: int) -> Dataset:
    """Photos as bytes, as `emocap data` saves them."""
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png")]
    contents = [path.read_bytes() for path in paths[:number]]
    rng = np.random.default_rng(0)
    for _ in range(0 if folders else number):
        height, width = SHAPES[rng.integers(len(SHAPES))]
        coarse = PILImage.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((width, height)).save(file, "JPEG", quality=90)
        contents.append(file.getvalue())
    rows = {
        "image_id": [str(row) for row in range(len(contents))],
        "image": [{"bytes": content, "path": None} for content in contents],
    }
    return Dataset.from_dict(rows, Features({"image_id": Value("string"), "image": Image()}))


def compare_encoder(shard: Dataset, number: int, tiny: bool) -> None:
    """Photos a second of a grid beside a detector, photo by photo."""
    width = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2} if tiny else {}
    encoder = {"model_type": "dinov2", "hidden_size": 384, "num_attention_heads": 6, "image_size": 224, **width}
    sizes = {"shortest_edge": 64, "longest_edge": 64} if tiny else {}
    grid = EmocapGridConfig(vision_config=encoder, feature_dim=encoder["hidden_size"])
    detector = EmocapRegionConfig(architecture="fasterrcnn_resnet50_fpn_v2", num_labels=90, **sizes)
    models = {"grid": EmocapGridExtractor(grid).eval(), "detector": EmocapRegionExtractor(detector).eval()}
    photos = [decode_photo(photo.as_py()) for photo in photo_column(shard.select(range(min(number, len(shard)))))]
    seconds = dict.fromkeys(models, 0.0)
    for model in models.values():
        model.extract(photos[:1])  # first calls set kernels up
    for photo in photos:
        for name, model in models.items():
            start = time.perf_counter()
            model.extract([photo])
            seconds[name] += time.perf_counter() - start
    rates = {name: len(photos) / own for name, own in seconds.items()}
    print(f"encoder's grid: {rates['grid']:.1f} photos/s; Faster R-CNN: {rates['detector']:.3f} photos/s", end=", ")
    print(f"{rates['grid'] / rates['detector']:.1f} times")


def plainly(model: PreTrainedModel, shards: list[Dataset]) -> int:
    """One photo at a time, decoded when its turn comes; returns the photos."""
    photos = itertools.chain.from_iterable(photo_column(shard) for shard in shards)
    return sum(len(model.extract([decode_photo(photo.as_py())]).region_features.half()) for photo in photos)


def run_job(model: PreTrainedModel, shards: list[Dataset], workers: int) -> list[float]:
    """What `emocap regions` does on a CPU, but for writing; returns the memory after each shard."""
    return [anonymous_mb() for _ in regions_of_shards(model, 1, workers, torch.float32, False, shards)]


def anonymous_mb() -> float:
    """Memory of this process that is no file's: RssAnon of the kernel."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


def waiting(model: PreTrainedModel, shards: list[Dataset], workers: int, pool: Executor) -> float:
    """Seconds that the job's loop, as it runs beside a GPU, spends on the next photo; the rest is the model's."""
    waited = 0.0
    with pool:
        batches = decode_ahead(shards, 1, 2 * (1 + workers), pool)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - start
            if batch is None:
                return waited
            model.extract(batch[2]).region_features.half()


if __name__ == "__main__":
    main()
