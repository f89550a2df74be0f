"""Time of AnB with the frozen body's outputs computed once, against running the body in every epoch.

    python -m tests.benchmarks.bench_frozen [--epochs 20] [--rows 110] [--tiny]

The same fine-tuning both ways in one process, a VisualBERT of MiniLM's size (6 layers, width 384) over 36 regions and
captions of usual length, evaluated in every epoch. Both ways write a checkpoint an epoch with `--checkpoints`, none
without: so few rows take less time than that.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features
from transformers import BertTokenizerFast

from emocap.cli import main as main_command
from emocap.data.schema import NUM_REGIONS, pair_features, region_columns
from emocap.models import EmocapProcessor, EmocapTeacherConfig, EmocapTeacherForMultiLabelClassification

EMOTIONS = [f"emotion{index}" for index in range(29)]
WORDS = [f"word{index}" for index in range(500)]
REGION_DIM = 256


def make_table(folder: Path, rows: int) -> None:
    """Random rows: 8 to 14 words, 36 regions, 29 labels."""
    rng = np.random.default_rng(0)
    features = Features({**pair_features(EMOTIONS), **region_columns(REGION_DIM)})
    tables = DatasetDict()
    for split, number in (("train", rows), ("validation", max(rows // 7, 8)), ("test", max(rows // 4, 8))):
        labels = (rng.random((number, len(EMOTIONS))) < 0.15).astype(np.float32)
        regions = rng.normal(size=(number, NUM_REGIONS * REGION_DIM)).astype(np.float16)
        columns = {
            "image_id": [f"{split}{row}" for row in range(number)],
            "image": [None] * number,
            "captions": [[" ".join(rng.choice(WORDS, rng.integers(8, 15)))] for _ in range(number)],
            "labels": list(labels),
            "emotions": [np.flatnonzero(own).tolist() for own in labels],
            "region_features": list(regions),
            "region_boxes": list(rng.random((number, NUM_REGIONS * 4), dtype=np.float32)),
            "num_regions": [NUM_REGIONS] * number,
        }
        tables[split] = Dataset.from_dict(columns, features=features)
    tables.save_to_disk(str(folder))


def make_model(folder: Path) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(0)
    config = EmocapTeacherConfig(
        vocab_size=len(vocabulary),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        visual_embedding_dim=REGION_DIM,
        pooling="mean",
        id2label=dict(enumerate(EMOTIONS)),
        label2id={name: index for index, name in enumerate(EMOTIONS)},
    )
    EmocapTeacherForMultiLabelClassification(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab={word: index for index, word in enumerate(vocabulary)})
    EmocapProcessor(tokenizer).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=110, help="training rows")
    parser.add_argument("--checkpoints", action="store_true", help="write one after every epoch, as a run does")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, whose figures mean nothing")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.epochs, arguments.rows = 2, 12
    torch.set_num_threads(1)
    saving = [] if arguments.checkpoints else ["--save_strategy", "no", "--load_best_model_at_end", "false"]
    seconds, metrics = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_table(work / "table", arguments.rows)
        make_model(work / "model")
        for way, flags in (("cached", []), ("plain", ["--no_cache_frozen_outputs"])):
            started = time.perf_counter()
            main_command(["finetune",
                "--student", str(work / "model"), "--strategy", "anb", "--dataset", str(work / "table"),
                "--output_dir", str(work / way), "--num_train_epochs", str(arguments.epochs), "--use_cpu",
                "--early_stopping_patience", "0", "--disable_tqdm", "true", *flags, *saving,
            ])  # fmt: skip
            seconds[way] = time.perf_counter() - started
            metrics[way] = json.loads((work / way / "metrics.json").read_text())
    print(f"\n{arguments.epochs} epochs over {arguments.rows} training pairs:")
    for way in ("plain", "cached"):
        print(f"{way:7s} {seconds[way]:8.2f} s   map_macro {metrics[way]['map_macro']:.6f}")
    print(f"ratio   {seconds['plain'] / seconds['cached']:8.1f}")


if __name__ == "__main__":
    main()
