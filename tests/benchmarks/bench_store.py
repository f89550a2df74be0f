"""Reading region features back: batches from Arrow beside a plain memory map, and an epoch of a DataLoader.

    python -m tests.benchmarks.bench_store --folder /tmp/bench [--rows 20000] [--dim 2048] [--tiny]

Writes `rows` x 36 x `dim` float16 (3 GB by default) twice under the folder, and deletes them.
"""

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, concatenate_datasets, load_from_disk
from datasets.arrow_writer import ArrowWriter

from emocap.data.pairs import FixedSizeColumn, PairDataset
from emocap.data.schema import NUM_REGIONS, pair_features, region_columns
from emocap.regions.extraction import regions_table
from tests.conftest import make_tokenizer

BATCH = 64
ROWS_A_SHARD = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the data lie meanwhile")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=200, help="batches of each kind (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, whose figures mean nothing")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.rows, arguments.dim, arguments.repeats = 700, 4, 3
    torch.set_num_threads(1)
    folder = arguments.folder / "bench_store"
    try:
        table, plain = write(folder, arguments.rows, arguments.dim)
        print_gathers(table, plain, arguments.repeats)
        print_epochs(table)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(folder: Path, rows: int, dim: int) -> tuple[Dataset, np.memmap]:
    """The same random features in a saved table, as `emocap regions` leaves it, and in a plain file."""
    folder.mkdir(parents=True)
    rng, width = np.random.default_rng(0), NUM_REGIONS * dim
    drawn = rng.standard_normal((ROWS_A_SHARD, NUM_REGIONS * dim), dtype=np.float32).astype(np.float16)
    plain = np.lib.format.open_memmap(folder / "plain.npy", "w+", np.float16, (rows, width))
    with ArrowWriter(features=Features(region_columns(dim)), path=str(folder / "features.arrow")) as writer:
        for start in range(0, rows, ROWS_A_SHARD):
            number = min(ROWS_A_SHARD, rows - start)
            features = np.roll(drawn, start, axis=1)[:number]  # no two rows alike, without drawing them all
            boxes = rng.random((number, NUM_REGIONS, 4), dtype=np.float32)
            writer.write_table(
                regions_table(
                    features.reshape(number, NUM_REGIONS, dim), boxes, np.full(number, NUM_REGIONS, dtype=np.int32)
                )
            )
            plain[start : start + number] = features
        writer.finalize()
    regions = Dataset.from_file(str(folder / "features.arrow"))
    captions = {"image_id": [str(row) for row in range(rows)], "captions": [["a dog at the house"]] * rows}
    features = Features({name: pair_features(None)[name] for name in captions})
    table = concatenate_datasets([Dataset.from_dict(captions, features), regions], axis=1)
    DatasetDict({"train": table}).save_to_disk(str(folder / "table"))
    (folder / "features.arrow").unlink()
    plain.flush()
    return load_from_disk(str(folder / "table"))["train"], np.load(folder / "plain.npy", mmap_mode="r")


def print_gathers(table: Dataset, plain: np.memmap, repeats: int) -> None:
    """Times of one random batch into a torch tensor, both ways in turn over the same rows, which are in memory."""
    rng = np.random.default_rng(1)
    pool = rng.permutation(len(table))
    views = {"as saved": table, "shuffled": table.shuffle(seed=0)}
    for what, view in views.items():
        column = FixedSizeColumn(view, "region_features")
        order = np.arange(len(table)) if view is table else np.asarray(view["image_id"][:]).astype(int)
        ways: dict[str, Callable[[np.ndarray], torch.Tensor]] = {
            "memory map": lambda rows, order=order: torch.from_numpy(plain[order[rows]]),
            "store": lambda rows, column=column: torch.from_numpy(column[rows]),
        }
        for way in [*ways.values()] * 2:
            for start in range(0, len(pool), BATCH):
                way(pool[start : start + BATCH])
        times = {name: [] for name in ways}
        for repeat in range(repeats):
            rows = rng.choice(pool, BATCH)
            tensors = []
            for name in sorted(ways, reverse=repeat % 2 == 1):
                start = time.perf_counter()
                tensors.append(ways[name](rows))
                times[name].append(time.perf_counter() - start)
            assert torch.equal(*tensors)
        medians = {name: 1000 * float(np.median(own)) for name, own in times.items()}
        print(
            f"{what} ({len(column.views)} chunks): a random batch of {BATCH} x {plain.shape[1]} float16: "
            + ", ".join(f"{name} {ms:.2f} ms" for name, ms in medians.items())
            + f": {medians['store'] / medians['memory map']:.2f} times"
        )


class Words:
    """All of a processor that region features need."""

    image_size = None
    max_length = 32
    tokenizer = make_tokenizer()

    def encode_captions(self, captions: list[str]) -> list[list[int]]:
        return self.tokenizer(captions)["input_ids"]


def print_epochs(table: Dataset) -> None:
    """Anonymous memory of this process, and rows a second, over a shuffled epoch."""
    pairs = PairDataset(table, Words())
    loader = torch.utils.data.DataLoader(pairs, BATCH, shuffle=True, collate_fn=PairDataset.collate)
    curve, start = [anonymous_mb()], time.perf_counter()
    for number, batch in enumerate(loader):
        assert batch["visual_embeds"].dtype == torch.float16
        if number % (len(loader) // 10) == 0:
            curve.append(anonymous_mb())
    seconds = time.perf_counter() - start
    print(f"DataLoader epoch over {len(pairs)} rows: {len(pairs) / seconds:.0f} rows/s")
    print("anonymous memory in MB along the epoch: " + " ".join(f"{mb:.0f}" for mb in curve))


def anonymous_mb() -> float:
    """Memory of this process that is no file's: RssAnon of the kernel."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


if __name__ == "__main__":
    main()
