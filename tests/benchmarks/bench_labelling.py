"""What the labelling job costs beside the bare model: time at a realistic size, memory by rows, selection, and disk.

python -m tests.benchmarks.bench_labelling [--rows 300] [--few 10000] [--many 100000] [--wide 2000] [--tiny]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from transformers import BertTokenizerFast, VisualBertConfig

from emocap.data.pairs import PairDataset
from emocap.data.schema import NUM_REGIONS, region_columns
from emocap.data.storage import load_table, save_table
from emocap.evaluation.scoring import load_model
from emocap.models import EmocapProcessor, EmocapTeacherConfig, EmocapTeacherForMultiLabelClassification
from emocap.pseudo_labels.labelling import OWN_COLUMNS, label_tables
from emocap.pseudo_labels.selection import select_pseudo_labels
from emocap.regions.extraction import regions_table

COCO_ROWS = 118_287
WORDS = [f"word{index}" for index in range(2000)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
REAL = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
"""MiniLM's size: small for a teacher, so that the overhead shows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300, help="images, five captions each, for the time")
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--wide", type=int, default=2000, help="images of 36 x 2048 features, for the disk")
    parser.add_argument("--only", choices=["time", "memory", "selection", "disk"])
    parser.add_argument("--label", nargs=3, metavar=("TABLE", "TEACHER", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, whose figures mean nothing")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.rows, arguments.few, arguments.many, arguments.wide = 8, 20, 40, 20
    torch.set_num_threads(1)
    if arguments.label:
        source, teacher, out = arguments.label
        with sampled_peak() as peak:
            label_tables(load_table(source), teacher, out)
        print(peak[0] / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    with tempfile.TemporaryDirectory() as folder:
        parts = {"selection": lambda: selection(500 if arguments.tiny else COCO_ROWS),
                 "time": lambda: overhead(Path(folder), arguments.rows),
                 "memory": lambda: memory(Path(folder), arguments.few, arguments.many),
                 "disk": lambda: disk(Path(folder), arguments.wide)}  # fmt: skip
        for name, part in parts.items():
            if arguments.only in (None, name):
                part()


def overhead(folder: Path, rows: int) -> None:
    """CPU time of the whole job (loading, tokenising, scoring, selecting, writing) over that of the bare forwards."""
    teacher = make_teacher(folder / "real", REAL)
    save_table(make_table(rows), folder / "table")
    table = load_table(folder / "table")
    model, processor = load_model(teacher)
    pairs = PairDataset(table["train"], processor)
    order = np.argsort(np.diff(pairs.token_starts), kind="stable")
    batches = [pairs.__getitems__(order[start : start + 64]) for start in range(0, len(order), 64)]
    plain, job = [], []
    for attempt in range(3):
        start = time.process_time()
        with torch.inference_mode():
            for batch in batches:
                model(**batch)
        plain.append(time.process_time() - start)
        start = time.process_time()
        label_tables(table, teacher, str(folder / f"out{attempt}"))
        job.append(time.process_time() - start)
    print(f"time: {5 * rows} pairs, bare loop {min(plain):.2f} s, job {min(job):.2f} s of CPU, "
          f"ratio {min(job) / min(plain):.3f}")  # fmt: skip


def memory(folder: Path, few: int, many: int) -> None:
    """Peak memory of the job in a process of its own: what it allocated, and with the pages of mapped files, which the
    system takes back when it needs them."""
    teacher, peaks = make_teacher(folder / "tiny", TINY), {}
    for rows in (few, many):
        save_table(make_table(rows), folder / f"rows{rows}")
        command = [sys.executable, "-m", "tests.benchmarks.bench_labelling", "--label", str(folder / f"rows{rows}"),
                   teacher, str(folder / f"labelled{rows}")]  # fmt: skip
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        peaks[rows] = [float(number) for number in output.split()[-2:]]
    for what, first, second in zip(("allocated", "with mapped files"), peaks[few], peaks[many], strict=True):
        print(f"memory {what}: {few} rows {first:.0f} MiB, {many} rows {second:.0f} MiB, ratio {second / first:.3f}")


@contextmanager
def sampled_peak() -> Iterator[list[int]]:
    """The largest RssAnon of this process in kB, looked up every 20 ms (Linux)."""
    peak, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.02):
            line = next(own for own in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in own)
            peak[0] = max(peak[0], int(line.split()[1]))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def disk(folder: Path, rows: int) -> None:
    """Bytes and seconds of saving the labels of wide features: with the features, and beside the files they are in.
    Then the whole job once more with another selection."""
    captions, rng, dim = make_table(rows)["train"], np.random.default_rng(0), 2048
    drawn = rng.standard_normal((100, NUM_REGIONS, dim), dtype=np.float32).astype(np.float16)
    shapes = ((drawn, (NUM_REGIONS, dim)), (np.ones(1, np.float32), (NUM_REGIONS, 4)), (np.full(1, 36, np.int32), ()))
    path = str(folder / "wide.arrow")
    with ArrowWriter(features=Features(region_columns(dim)), path=path) as writer:
        for start in range(0, rows, 100):
            number = min(100, rows - start)
            writer.write_table(regions_table(*(np.resize(values, (number, *shape)) for values, shape in shapes)))
        writer.finalize()
    wide = concatenate_datasets([captions, Dataset.from_file(path)], axis=1)
    save_table(DatasetDict({"train": wide}), folder / "regions")
    Path(path).unlink()
    tables, teacher, out = load_table(folder / "regions"), make_teacher(folder / "tiny", TINY), folder / "labelled"
    labelled = label_tables(tables, teacher, str(out))
    taken = {}
    for name, stored in (("whole", None), ("beside", tables)):
        start = time.perf_counter()
        save_table(labelled, folder / name, stored=stored)
        taken[name] = time.perf_counter() - start
    start = time.perf_counter()
    label_tables(tables, teacher, str(out), images_per_label=100)
    again = time.perf_counter() - start
    before = {path.stat().st_ino for path in (folder / "regions").rglob("*")}
    sizes = {name: sum(path.stat().st_size for path in (folder / name).rglob("*")
                       if path.is_file() and path.stat().st_ino not in before) for name in taken}  # fmt: skip
    labels = sum(labelled["train"].data.column(name).nbytes for name in OWN_COLUMNS)
    whole, beside = (f"{sizes[name] / 1e6:.2f} MB in {taken[name]:.2f} s" for name in ("whole", "beside"))
    fewer = sizes["whole"] / sizes["beside"]
    print(f"disk: {rows} x {NUM_REGIONS} x {dim}, labels {labels / 1e6:.2f} MB: the table written whole {whole}, "
          f"beside its features {beside}, {fewer:.0f} times fewer bytes; the whole job with another selection "
          f"{again:.2f} s")  # fmt: skip


def selection(rows: int) -> None:
    """CPU time."""
    rng = np.random.default_rng(0)
    scores, ids = rng.random((rows, 29), dtype=np.float32), [f"{image:012d}.jpg" for image in range(rows)]
    settings = {
        "top 4": {},
        "top 4, 2,000 images a label": {"images_per_label": 2000},
        "threshold 0.9": {"labels_per_image": None, "threshold": 0.9},
        "prevalence": {"labels_per_image": None, "label_shares": (rng.random(29) / 4).tolist()},
        "balanced": {"labels_per_image": None, "label_shares": 4 / 29},
    }
    for name, options in settings.items():
        taken = []
        for _ in range(3):
            start = time.process_time()
            select_pseudo_labels(scores, **options, image_ids=ids)
            taken.append(time.process_time() - start)
        print(f"selection of {rows:,} x 29, {name}: {min(taken):.2f} s")


def make_teacher(folder: Path, sizes: dict[str, int]) -> str:
    """An untrained teacher of 29 emotions that reads captions."""
    torch.manual_seed(0)
    tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate([*SPECIAL, *WORDS])})
    names = {index: f"emotion{index}" for index in range(29)}
    fields = VisualBertConfig(vocab_size=len(tokenizer), visual_embedding_dim=16, **sizes).to_dict()
    own = {name: fields[name] for name in ("vocab_size", "visual_embedding_dim", *sizes)}
    config = EmocapTeacherConfig(**own, id2label=names, label2id={name: index for index, name in names.items()},
                                 pooling="mean", modalities="text")  # fmt: skip
    EmocapTeacherForMultiLabelClassification(config).save_pretrained(folder)
    EmocapProcessor(tokenizer).save_pretrained(folder)
    return str(folder)


def make_table(rows: int) -> DatasetDict:
    """Captions of COCO's length, five an image."""
    rng = np.random.default_rng(0)
    captions = [" ".join(rng.choice(WORDS, size)) for size in rng.integers(8, 14, 2000)]
    drawn = rng.integers(0, len(captions), (rows, 5))
    content = {
        "image_id": [f"{row:012d}.jpg" for row in range(rows)],
        "captions": [[captions[index] for index in own] for own in drawn],
    }
    return DatasetDict({"train": Dataset.from_dict(content)})


if __name__ == "__main__":
    main()
