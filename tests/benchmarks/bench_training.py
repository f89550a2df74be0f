"""Training steps a second of teacher and student beside the plain recipe, in one run, step by step in turn.

    EMOCAP_REAL_DATA=... python -m tests.benchmarks.bench_training [--bodies mini base] [--steps 8] [--compile]
    python -m tests.benchmarks.bench_training --tiny

Batches of 32 pairs: real captions (COCO's), 36 regions of 2048 numbers, real JPEGs for the student. The plain recipes:
`VisualBertModel` with eager attention, and a GRU beside a CNN, both in float32 on captions padded to 32 tokens; the
student's decodes and resizes its JPEGs at each step. Ours: captions padded to their batch's longest, batches by length
(`--train_sampling_strategy group_by_length`), sdpa, bfloat16 autocast where the machine has it (`--bf16 true`),
photos from the pixel cache. Both update with AdamW, ours with the fused one, which is `Trainer`'s default.

On a GPU it also prints samples a second in bfloat16 with and without torch.compile, and the time of one COCO epoch.
"""

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, VisualBertConfig, VisualBertModel
from transformers.trainer_pt_utils import get_length_grouped_indices

from emocap.models import (
    EmocapStudentConfig,
    EmocapStudentForMultiLabelClassification,
    EmocapTeacherConfig,
    EmocapTeacherForMultiLabelClassification,
)
from emocap.models.photo_emocap import resize_to_array
from emocap.models.processing_emocap import pad_tokens

BATCH, WORDS, REGIONS, DIM, LABELS, PHOTO = 32, 32, 36, 2048, 29, 224
COCO_IMAGES, COCO_CAPTIONS = 118_287, 591_753
BODIES = {
    "mini": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "tiny": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def real_inputs(folder: Path, rows: int) -> tuple[list[list[int]], list[bytes]]:
    """COCO's captions as tokens, and JPEGs."""
    annotations = json.loads((folder / "coco/annotations/captions_val2017.json").read_text())["annotations"]
    captions = [entry["caption"] for entry in np.random.default_rng(0).permutation(annotations)[:rows]]
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert_vocab")
    tokens = tokenizer(captions, truncation=True, max_length=WORDS, return_attention_mask=False)["input_ids"]
    files = sorted((folder / "coco/val2017").glob("*.jpg"))[: 4 * BATCH]
    return tokens, [path.read_bytes() for path in files]


def drawn_inputs() -> tuple[list[list[int]], list[bytes]]:
    """Random tokens for two batches, and a JPEG of noise, for a run that measures nothing."""
    rng, content = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(content, "JPEG")
    return [rng.integers(5, 1000, size).tolist() for size in rng.integers(8, 15, 2 * BATCH)], [content.getvalue()]


class Pairs:
    """Captions as tokens, random regions and labels, and JPEGs with their cached pixels."""

    def __init__(self, tokens: list[list[int]], jpegs: list[bytes]):
        rng, rows = np.random.default_rng(0), len(tokens)
        self.tokens, self.jpegs = tokens, jpegs
        self.lengths = np.array([len(own) for own in self.tokens])
        self.regions = torch.from_numpy(rng.random((256, REGIONS, DIM), dtype=np.float32)).half()
        self.labels = torch.from_numpy((rng.random((rows, LABELS)) < 0.14).astype(np.float32))
        with_size = [resize_to_array(Image.open(io.BytesIO(content)), PHOTO) for content in self.jpegs]
        self.pixels = torch.from_numpy(np.stack(with_size))

    def batches(self, by_length: bool) -> Iterator[np.ndarray]:
        """Rows of one batch after another, of random or of like lengths."""
        generator = torch.Generator().manual_seed(0)
        while True:
            if by_length:
                order = get_length_grouped_indices(self.lengths.tolist(), BATCH, generator=generator)
            else:
                order = torch.randperm(len(self.lengths), generator=generator).tolist()
            for start in range(0, len(order) - BATCH + 1, BATCH):
                yield np.array(order[start : start + BATCH])

    def words(self, rows: np.ndarray, width: int | None = None) -> dict[str, torch.Tensor]:
        """Tokens and mask, padded to the longest caption or to `width`."""
        flat, lengths = np.concatenate([self.tokens[row] for row in rows]), self.lengths[rows]
        words = pad_tokens(flat, lengths.cumsum() - lengths, lengths, 0)
        pad = 0 if width is None else width - words["input_ids"].shape[1]
        return {name: F.pad(torch.from_numpy(values), (0, pad)).to(DEVICE) for name, values in words.items()}

    def visual(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        mask = torch.ones(BATCH, REGIONS, dtype=torch.long)
        return {"visual_embeds": self.regions[rows % 256].to(DEVICE), "visual_attention_mask": mask.to(DEVICE)}

    def targets(self, rows: np.ndarray) -> torch.Tensor:
        return self.labels[rows].to(DEVICE)


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def has_bfloat16() -> bool:
    return DEVICE.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def plain_teacher(pairs: Pairs, fields: dict[str, int]) -> Callable[[], None]:
    config = VisualBertConfig(**fields, visual_embedding_dim=DIM, pad_token_id=0)
    body = VisualBertModel._from_config(config, attn_implementation="eager").to(DEVICE).train()
    head = nn.Linear(config.hidden_size, LABELS).to(DEVICE)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=1e-4)
    batches = pairs.batches(by_length=False)

    def step() -> None:
        rows = next(batches)
        inputs = pairs.words(rows, WORDS) | pairs.visual(rows)
        inputs["visual_embeds"] = inputs["visual_embeds"].float()
        logits = head(F.dropout(body(**inputs).pooler_output, 0.1))
        update(optimizer, F.binary_cross_entropy_with_logits(logits, pairs.targets(rows)))

    return step


def our_teacher(pairs: Pairs, fields: dict[str, int], **how: bool) -> Callable[[], None]:
    config = EmocapTeacherConfig(**fields, visual_embedding_dim=DIM, num_labels=LABELS)
    model = EmocapTeacherForMultiLabelClassification(config).to(DEVICE).train()
    return our_step(pairs, model, pairs.visual, **how)


def our_step(
    pairs: Pairs, model: nn.Module, photos: Callable, compiled: bool = False, bfloat16: bool = True
) -> Callable[[], None]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, batches = torch.optim.AdamW(trained, lr=1e-4, fused=True), pairs.batches(by_length=True)
    if compiled:
        model = torch.compile(model, fullgraph=True)

    def step() -> None:
        rows = next(batches)
        inputs = pairs.words(rows) | photos(rows)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bfloat16 and has_bfloat16()):
            loss = model(**inputs, labels=pairs.targets(rows)).loss
        update(optimizer, loss)

    return step


class PlainStudent(nn.Module):
    """The study's student as it is usually written: the GRU runs over the padding, photos come as floats."""

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128, 256)):
        super().__init__()
        self.embeddings = nn.Embedding(30522, 768).requires_grad_(False)
        self.gru = nn.GRU(768, 256, batch_first=True)
        stages = []
        for before, after in zip((3, *channels[:-1]), channels, strict=True):
            stages += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.GroupNorm(8, after), nn.ReLU()]
        self.cnn, self.pool = nn.Sequential(*stages), nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Linear(256 + channels[-1], 256), nn.Linear(256, LABELS)

    def forward(self, input_ids: torch.Tensor, lengths: torch.Tensor, photos: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(self.embeddings(input_ids))
        text = states[torch.arange(len(lengths)), lengths - 1]
        return self.fc2(F.relu(self.fc1(torch.cat((text, self.pool(self.cnn(photos)).flatten(1)), 1))))


def plain_student(pairs: Pairs) -> Callable[[], None]:
    model, batches = PlainStudent().to(DEVICE).train(), pairs.batches(by_length=False)
    optimizer = torch.optim.AdamW([own for own in model.parameters() if own.requires_grad], lr=1e-4)
    mean = np.array([0.485, 0.456, 0.406], dtype=np.float32)
    std = np.array([0.229, 0.224, 0.225], dtype=np.float32)

    def read(content: bytes) -> torch.Tensor:
        photo = Image.open(io.BytesIO(content)).convert("RGB").resize((PHOTO, PHOTO), Image.Resampling.BILINEAR)
        return torch.from_numpy((np.asarray(photo, dtype=np.float32) / 255 - mean) / std).permute(2, 0, 1)

    def step() -> None:
        rows = next(batches)
        words = pairs.words(rows, WORDS)
        photos = torch.stack([read(pairs.jpegs[row % len(pairs.jpegs)]) for row in rows]).contiguous().to(DEVICE)
        logits = model(words["input_ids"], words["attention_mask"].sum(1), photos)
        update(optimizer, F.binary_cross_entropy_with_logits(logits, pairs.targets(rows)))

    return step


def our_student(pairs: Pairs, **how: bool) -> Callable[[], None]:
    config = EmocapStudentConfig(num_labels=LABELS, freeze_word_embeddings=True)
    model = EmocapStudentForMultiLabelClassification(config).to(DEVICE).train()

    def photos(rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {"pixel_values": pairs.pixels[rows % len(pairs.pixels)].to(DEVICE)}

    return our_step(pairs, model, photos, **how)


def seconds_a_step(steps: dict[str, Callable[[], None]], number: int) -> dict[str, float]:
    """Median seconds of each way, one step of each in turn, so that what else the machine does meets all alike."""
    taken = {name: [] for name in steps}
    for step in steps.values():
        step()  # buffers, kernels, compilation
    for _ in range(number):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(own)) for name, own in taken.items()}


def report(name: str, seconds: dict[str, float]) -> None:
    for way, own in seconds.items():
        line = f"{name}, {way}: {1 / own:.2f} steps/s ({1000 * own:.0f} ms, {BATCH / own:.0f} samples/s)"
        print(f"{line}, {seconds['plain'] / own:.2f} times the plain recipe", flush=True)
    if DEVICE.type == "cuda":
        best = min(seconds.values()) / BATCH
        print(f"{name}: one COCO epoch {COCO_IMAGES * best:.0f} s (a caption an image), {COCO_CAPTIONS * best:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", nargs="*", choices=BODIES, default=["mini"], help="sizes of the teacher")
    parser.add_argument("--steps", type=int, default=8, help="steps of each way")
    parser.add_argument("--compile", action="store_true", help="ours under torch.compile too")
    parser.add_argument("--no_student", action="store_true", help="teachers alone")
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, whose figures mean nothing")
    arguments = parser.parse_args()
    folder = os.environ.get("EMOCAP_REAL_DATA")
    if arguments.tiny:
        arguments.bodies, arguments.steps = ["tiny"], 1
    elif not folder:
        parser.error("EMOCAP_REAL_DATA names no folder: the captions and photos are real ones.")
    pairs = Pairs(*(drawn_inputs() if arguments.tiny else real_inputs(Path(folder), 4096)))
    ways = {"ours in float32": {"bfloat16": False}, "ours": {}}
    if arguments.compile or DEVICE.type == "cuda":
        ways["ours compiled"] = {"compiled": True}
    kind = f"bfloat16 {'on' if has_bfloat16() else 'off'}"
    print(f"{DEVICE}, {torch.get_num_threads()} threads, {kind}, captions of {pairs.lengths.mean():.1f} tokens")
    for body in arguments.bodies:
        steps = {"plain": plain_teacher(pairs, BODIES[body])}
        steps |= {name: our_teacher(pairs, BODIES[body], **how) for name, how in ways.items()}
        report(f"teacher {body}", seconds_a_step(steps, arguments.steps))
    if not arguments.no_student:
        steps = {"plain": plain_student(pairs)}
        steps |= {name: our_student(pairs, **how) for name, how in ways.items()}
        report("student", seconds_a_step(steps, arguments.steps))


if __name__ == "__main__":
    main()
