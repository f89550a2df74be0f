"""Captions a second of the captioner's `generate`, beside a plain loop without a cache, in one run, in turn.

python -m tests.benchmarks.bench_captions [--sizes 1 16 64] [--words 16] [--width 384] [--layers 6] [--tiny]

Random weights over 36 regions a picture; every caption is as long as asked. CPU time, the best of three. Peak memory
is what a process of its own allocates beyond model and inputs (on a GPU torch's own count). Guidance needs a second
row for each caption, and so do two beams: twice the work.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig

from emocap.data.schema import NUM_REGIONS
from emocap.models import EmocapCaptionerConfig, EmocapCaptionerForConditionalGeneration
from tests.benchmarks.bench_labelling import sampled_peak

VOCABULARY, LABELS, DIM = 8000, 29, 512
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 64], help="pictures a step")
    parser.add_argument("--words", type=int, default=16)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, whose figures mean nothing")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.sizes, arguments.words, arguments.width, arguments.layers = [1, 2], 3, 32, 1
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = make_model(arguments.width, arguments.layers)
    number = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{number:.1f} M parameters, {NUM_REGIONS} regions, {arguments.words} words a caption, {DEVICE.type}")
    length = {"max_new_tokens": arguments.words, "min_new_tokens": arguments.words}
    ways: dict[str, Callable] = {
        "plain loop": lambda inputs: plain_loop(model, inputs, arguments.words),
        "cache": lambda inputs: model.generate(**inputs, **length),
        "guidance": lambda inputs: model.generate(**inputs, **length, guidance_scale=2.0),
        "2 beams": lambda inputs: model.generate(**inputs, **length, num_beams=2),
        "8 drawn": lambda inputs: model.generate(**inputs, **length, do_sample=True, num_return_sequences=8),
    }
    batches = {size: make_inputs(model, size) for size in arguments.sizes}
    # before anything has run here, whose memory a forked process would use again
    memory = {(size, name): peak(way, inputs) for size, inputs in batches.items() for name, way in ways.items()}
    for size, inputs in batches.items():
        assert torch.equal(ways["plain loop"](inputs), ways["cache"](inputs)), "the plain loop writes the same"
        seconds = {name: min(timed(way, inputs) for _ in range(3)) for name, way in ways.items()}
        for name in ways:
            print(f"{size:3} a step, {name:10} {size / seconds[name]:8.1f} captions/s, {memory[size, name]:6.1f} MiB, "
                  f"{seconds['plain loop'] / seconds[name]:.3f} times the plain loop")  # fmt: skip


def make_model(width: int, layers: int) -> EmocapCaptionerForConditionalGeneration:
    text_config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width, max_position_embeddings=256, initializer_range=0.3, bos_token_id=1,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = EmocapCaptionerConfig(
        text_config=text_config, image_token_id=3, visual_embedding_dim=DIM, soft_hidden_size=64,
        id2label={place: f"emotion{place}" for place in range(LABELS)},
    )  # fmt: skip
    model = EmocapCaptionerForConditionalGeneration(config).eval().to(DEVICE)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.generation_config.suppress_tokens = [config.image_token_id]
    return model


def make_inputs(model, size: int) -> dict[str, torch.Tensor]:
    levels = torch.randn(size, LABELS)
    inputs = {
        "input_ids": torch.full((size, 1 + NUM_REGIONS), model.config.image_token_id),
        "attention_mask": torch.ones(size, 1 + NUM_REGIONS, dtype=torch.long),
        "visual_embeds": torch.randn(size, NUM_REGIONS, DIM),
        "visual_attention_mask": torch.ones(size, NUM_REGIONS, dtype=torch.long),
        "region_boxes": torch.rand(size, NUM_REGIONS, 4),
        "wish_levels": levels,
        "wish_mask": (levels > 1).long(),
    }
    return {name: values.to(DEVICE) for name, values in inputs.items()}


@torch.inference_mode()
def plain_loop(model, inputs: dict[str, torch.Tensor], words: int) -> torch.Tensor:
    """The whole sequence once more for each word."""
    given, ids = dict(inputs), inputs["input_ids"]
    for _ in range(words):
        given |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        scores = model(**given, use_cache=False).logits[:, -1]
        scores[:, [model.generation_config.eos_token_id, model.config.image_token_id]] = -torch.inf
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], 1)
    return ids


def timed(way: Callable, inputs: dict[str, torch.Tensor]) -> float:
    clock = time.process_time if DEVICE.type == "cpu" else time.perf_counter
    start = clock()
    way(inputs)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak(way: Callable, inputs: dict[str, torch.Tensor]) -> float:
    """MiB."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way(inputs)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=allocated, args=(way, inputs, queue))
    process.start()
    process.join()
    return queue.get()


def allocated(way: Callable, inputs: dict[str, torch.Tensor], queue) -> None:
    with sampled_peak() as before:
        time.sleep(0.1)
    with sampled_peak() as after:
        way(inputs)
    queue.put(max(0, after[0] - before[0]) / 1024)


if __name__ == "__main__":
    main()
