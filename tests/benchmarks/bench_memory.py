"""Peak memory of one training step with and without gradient checkpointing, each in a process of its own.

    python -m tests.benchmarks.bench_memory [--models mini base student] [--batch 32] [--tiny]

Batches of 32 captions of 32 tokens, 36 regions of 2048 numbers, photos of 224 pixels, in float32; on a GPU in bfloat16
autocast. What weights and optimizer take is in the peak, and shown apart.
"""

import argparse
import multiprocessing
import resource
from pathlib import Path

import torch

from emocap.models import (
    EmocapStudentConfig,
    EmocapStudentForMultiLabelClassification,
    EmocapTeacherConfig,
    EmocapTeacherForMultiLabelClassification,
)
from tests.benchmarks.bench_training import BODIES, DEVICE, DIM, LABELS, PHOTO, REGIONS, WORDS


def resident() -> float:
    """MiB that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(name: str, batch: int, checkpointing: bool, answer: multiprocessing.Queue) -> None:
    """Puts MiB before the step, with weights and optimizer, and at its peak."""
    cuda = DEVICE.type == "cuda"
    words = torch.randint(5, 1000, (batch, WORDS), device=DEVICE)
    inputs = {"input_ids": words, "labels": torch.rand(batch, LABELS, device=DEVICE)}
    if name == "student":
        model = EmocapStudentForMultiLabelClassification(
            EmocapStudentConfig(num_labels=LABELS, freeze_word_embeddings=True)
        )
        inputs["pixel_values"] = torch.randint(0, 256, (batch, 3, PHOTO, PHOTO), dtype=torch.uint8, device=DEVICE)
    else:
        model = EmocapTeacherForMultiLabelClassification(
            EmocapTeacherConfig(**BODIES[name], visual_embedding_dim=DIM, num_labels=LABELS)
        )
        inputs["visual_embeds"] = torch.randn(batch, REGIONS, DIM, device=DEVICE)
    model.to(DEVICE).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(trained, fused=True)
    optimizer.step()  # its moments are there before the step that counts
    before = torch.cuda.memory_allocated() / 2**20 if cuda else resident()
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=cuda):
        loss = model(**inputs).loss
    loss.backward()
    optimizer.step()
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.put((before, peak / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["mini", "student"], choices=[*BODIES, "student"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, whose figures mean nothing")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.models, arguments.batch = ["tiny"], 2
    context = multiprocessing.get_context("spawn")
    for name in arguments.models:
        peaks, steps = {}, {}
        for checkpointing in ("without", "with"):
            answer = context.Queue()
            process = context.Process(target=measure, args=(name, arguments.batch, checkpointing == "with", answer))
            process.start()
            before, peaks[checkpointing] = answer.get()
            process.join()
            steps[checkpointing] = peaks[checkpointing] - before
            print(
                f"{name} {checkpointing}: peak {peaks[checkpointing]:.0f} MiB, {steps[checkpointing]:.0f} for the step"
            )
        peak, step = (own["with"] / own["without"] for own in (peaks, steps))
        print(f"{name}: with checkpointing {peak:.2f} of the peak, {step:.2f} of what the step takes", flush=True)


if __name__ == "__main__":
    main()
