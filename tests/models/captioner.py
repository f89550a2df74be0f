"""Tiny captioners over several families of language models, shared by tests."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from emocap.models import EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from tests.conftest import EMOTIONS, REGION_DIM, fresh_rng, make_tokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 96}
GATED = {**SIZES, "num_key_value_heads": 1, "intermediate_size": 48}
FAMILIES = {
    "gpt2": lambda **own: GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=96, **own),
    "llama": lambda **own: LlamaConfig(**GATED, tie_word_embeddings=False, **own),
    "qwen2": lambda **own: Qwen2Config(**GATED, tie_word_embeddings=True, **own),
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """GPT-2's kind: bytes, one token that ends texts, none that pads."""
    letters = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def save_language_model(folder: Path, family: str, initializer_range: float = 0.3) -> str:
    """Folder of a tiny random language model of a family, with its tokenizer."""
    from transformers import AutoModelForCausalLM

    tokenizer = byte_tokenizer() if family == "gpt2" else make_tokenizer()
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    ids = {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    AutoModelForCausalLM.from_config(FAMILIES[family](initializer_range=initializer_range, **ids)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_captioner(
    folder: str, **processing
) -> tuple[EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor]:
    """A captioner of random weights over a language model, far from flat in what it says, and its processor."""
    from transformers import AutoTokenizer

    numbers = {"wish_mean": [-2.0, -1.0, -3.0, -2.0, -2.5], "wish_spread": [1.0, 2.0, 0.5, 1.5, 1.0]}
    processor = EmocapCaptionerProcessor(
        AutoTokenizer.from_pretrained(folder),
        emotions=EMOTIONS,
        **numbers,
        wish_high=[2.0, 1.5, 2.5, 3.0, 2.2],
        **processing,
    )
    model = EmocapCaptionerForConditionalGeneration.from_language_model(
        folder, processor, visual_embedding_dim=REGION_DIM, soft_hidden_size=16, num_region_heads=2, caption_length=12
    ).eval()
    with torch.no_grad():
        model.soft_projection[-1].weight.fill_(1.0)
        for name, parameter in model.named_parameters():
            if not name.startswith(("language_model", "soft_projection.1")):
                parameter.normal_(std=0.5)
    return model, processor


def random_regions(number: int, counts: list[int] | None = None) -> dict[str, np.ndarray]:
    """Regions as `encode_regions` gives them: the first picture has four, the second none."""
    rng = fresh_rng()
    counts = np.array([4, 0, 2, 5][:number] if counts is None else counts)
    size = max(int(counts.max()), 1)
    return {
        "visual_embeds": rng.normal(size=(number, size, REGION_DIM)).astype(np.float32),
        "visual_attention_mask": (np.arange(size) < counts[:, None]).astype(np.int64),
        "region_boxes": rng.random((number, size, 4)).astype(np.float32),
    }
