"""Ways to give a captioner its wish, on the built-in corpus, each trained for as many seconds of CPU in the same run.

python -m tests.benchmarks.bench_wishes [--folder DIR] [--seconds 150] [--pictures 40] [--only WAY ...] [--tiny]

- subsets: the levels of some emotions, drawn anew for each caption and step, in one soft token (what is shipped);
- strongest: the name of the caption's strongest emotion in that token;
- vector: the levels of all emotions, always; a wish is completed to the mean levels of the 2 % of training captions
  that have most of it;
- none: no wish at all;
- cross-attention: subsets, but the soft tokens are what a decoder of the same width and depth attends to across
  (transformers' own GPT-2 with `add_cross_attention`), not a prefix among its words. A step is cheaper there, so it
  takes more of them.

Nats a token of held-back captions: without a wish; with the wish that the way has for a caption (all levels, or the
name of the strongest); with another caption's; with the level of the strongest alone; beside another picture. Then a
wish for one emotion at a time: the exact posterior of the wished emotion given picture and words, which no model of
the run has seen (levels are those of a trained teacher), at guidance 1 and 2; of the same captions under other wishes;
the share of what the best sentence of the grammar reaches; sentences of the grammar; the thing named is in the
picture, or in another one. A caption that the grammar does not produce counts as none.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import copy
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import yaml
from datasets import Dataset
from torch.nn import functional as F
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from emocap.data.captions import CaptionDataset, caption_scores
from emocap.data.schema import NUM_REGIONS, label_names, socratis_labels
from emocap.data.storage import load_table
from emocap.models import EmocapCaptionerConfig, EmocapCaptionerForConditionalGeneration, EmocapCaptionerProcessor
from emocap.scenes.corpus import PICTURE_STATES, WORD_STATES, label_probabilities, random_scene
from emocap.scenes.grammar import parse_caption
from emocap.studies.scenes_corpus import make_corpus
from emocap.training.build import sample_regions
from emocap.training.wishes import draw_wishes, wish_statistics

WAYS = ("subsets", "strongest", "vector", "none", "cross-attention")
WIDTH, LAYERS, BATCH, LENGTH, NO_WISH, SEED = 128, 2, 16, 32, 0.2, 0
EVALUATED = 64
SPREAD = 0.08  # of new weights: a language model of this size starts slowly from less


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the corpus is kept for the next run")
    parser.add_argument("--seconds", type=float, default=150.0, help="of CPU, for each way")
    parser.add_argument("--pictures", type=int, default=40, help="held-back pictures that get a caption for each wish")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--tiny", action="store_true", help="a run of seconds, whose figures mean nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"num_target": 1500, "num_source": 3000, "seed": SEED}
    if arguments.tiny:
        arguments.seconds, arguments.pictures = 0.5, 2
        sizes = {"num_target": 60, "num_source": 40, "seed": SEED}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(arguments.folder or Path(scratch), sizes, arguments.pictures)
        heads = ("steps", "no wish", "own wish", "another's", "strongest", "wrong pic.", "posterior", "guided 2",
                 "others", "of best", "grammar", "thing", "elsewhere")  # fmt: skip
        print(f"{'':16}" + "".join(f"{head:>11}" for head in heads))
        posteriors = {}
        for way in arguments.only:
            figures = bench.run(way, arguments.seconds)
            posteriors[way] = figures["posterior"]
            print(f"{way:16}" + "".join(bench.cell(figures.get(head)) for head in heads), flush=True)
    print(f"Best possible posterior {bench.best.mean():.3f}, without words {bench.unworded.mean():.3f}.")
    for way, posterior in posteriors.items():
        print(f"{way}: posterior {posterior / bench.unworded.mean():.3f} times that without words")


class Bench:
    """The corpus, its exact answers, and what is trained and measured on it."""

    def __init__(self, folder: Path, sizes: dict[str, int], pictures: int):
        if not (folder / "labelled" / "dataset_dict.json").is_file():
            settings = yaml.safe_load(resources.files("emocap.presets").joinpath("quickstart.yaml").read_text("utf-8"))
            make_corpus(folder, settings | {"scenes": sizes})
        table = load_table(folder / "labelled")["train"]
        held = max(pictures, min(100, len(table) // 15))
        self.train, test = table.select(range(held, len(table))), table.select(range(held))
        self.emotions = label_names(table)
        self.processor = EmocapCaptionerProcessor(
            AutoTokenizer.from_pretrained(folder / "body"),
            emotions=self.emotions,
            max_length=LENGTH,
            **wish_statistics(caption_scores(self.train), self.emotions),
        )
        self.pairs, self.test = CaptionDataset(self.train, self.processor), CaptionDataset(test, self.processor)
        levels, high = self.pairs.levels, np.percentile(self.pairs.levels, 98, axis=0)
        self.prototypes = np.stack([levels[levels[:, e] >= high[e]].mean(0) for e in range(len(self.emotions))])
        self.rows = np.arange(min(pictures, len(test)))
        self.states = [picture_state(test[int(row)]["image_id"], sizes["seed"]) for row in self.rows]
        kept = [socratis_labels().index(name) for name in self.emotions]
        both, _, image = label_probabilities()
        places = [PICTURE_STATES.index(state) for state in self.states]
        self.exact, self.unworded = both[places][:, :, kept], image[places][:, kept]  # (pictures, words, L), (.., L)
        self.best = self.exact.max(1)

    @staticmethod
    def cell(value: float | None) -> str:
        return f"{'-':>11}" if value is None else f"{value:11,.0f}" if value >= 10 else f"{value:11.3f}"

    def run(self, way: str, seconds: float) -> dict[str, float]:
        torch.manual_seed(SEED)
        model = make_model(CrossCaptioner if way == "cross-attention" else EmocapCaptionerForConditionalGeneration,
                           self.processor, self.train)  # fmt: skip
        steps = self.learn(model, way, seconds)
        return {"steps": steps, **self.likelihoods(model.eval(), way), **self.steering(model, way)}

    def shown(self, way: str, levels: np.ndarray, rng: np.random.Generator | None = None):
        """Levels and mask of captions as a way shows them; drawn as in training where there are random numbers."""
        mask = np.ones(levels.shape, dtype=bool)
        if way == "none":
            mask[:] = False
        elif way == "strongest":
            mask = np.eye(levels.shape[1], dtype=bool)[levels.argmax(1)]
            levels = mask.astype(np.float32)
        elif rng is not None and way != "vector":
            return levels, draw_wishes(rng, levels.shape, NO_WISH)
        if rng is not None:
            mask &= rng.random((len(mask), 1)) >= NO_WISH
        return levels, mask

    def learn(self, model, way: str, seconds: float) -> int:
        """Steps done in so many seconds of CPU; the rate warms up and falls linearly over them."""
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
        rng, start, steps = np.random.default_rng(SEED), time.process_time(), 0
        order = self.order(rng)
        while (spent := (time.process_time() - start) / seconds) < 1:
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(spent / 0.05, (1 - spent) / 0.95) + 1e-6
            chosen = next(order)
            batch = self.pairs.__getitems__(chosen)
            levels, mask = self.shown(way, self.pairs.levels[chosen], rng)
            batch |= {"wish_levels": torch.tensor(levels), "wish_mask": torch.tensor(mask).long()}
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        return steps

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Batches of captions of like length, drawn anew in each epoch."""
        lengths = np.diff(self.pairs.token_starts)
        while True:
            drawn = rng.permutation(len(self.pairs))
            batches = np.array_split(drawn[np.argsort(lengths[drawn], kind="stable")], -(-len(drawn) // BATCH))
            yield from (batches[place] for place in rng.permutation(len(batches)))

    def likelihoods(self, model, way: str) -> dict[str, float]:
        own = self.test
        rng = np.random.default_rng(SEED)
        other = copy(own)
        other.row_of_pair = np.roll(np.arange(own.row_of_pair.max() + 1), 1)[own.row_of_pair]
        strongest = np.eye(own.levels.shape[1], dtype=bool)[own.levels.argmax(1)]
        given = {"no wish": (own, (own.levels, np.zeros_like(strongest)))}
        if way != "none":
            levels, mask = self.shown(way, own.levels)
            mixed = rng.permutation(len(levels))
            given |= {"own wish": (own, (levels, mask)), "another's": (own, (levels[mixed], mask[mixed]))}
            if way != "strongest":
                given["strongest"] = (own, (levels, strongest))
        given["wrong pic."] = (other, given["no wish"][1])
        return {name: nats(model, pairs, *wish) for name, (pairs, wish) in given.items()}

    def steering(self, model, way: str) -> dict[str, float]:
        number, labels = len(self.rows), len(self.emotions)
        rows, wishes = np.repeat(self.rows, labels), np.tile(np.arange(labels), number)
        if way == "vector":
            levels, mask = self.prototypes[wishes], np.ones((len(wishes), labels), dtype=bool)
        else:
            mask = np.eye(labels, dtype=bool)[wishes]
            levels = mask * (1.0 if way == "strongest" else np.array(self.processor.wish_high))
            mask = mask & (way != "none")
        found, guided = {}, 2.0 if way not in ("none", "cross-attention") else None
        for scale in (1.0, guided):
            if scale is None:
                continue
            texts = self.write(model, rows, levels.astype(np.float32), mask, scale)
            told = [parse_caption(text) for text in texts]
            words = [None if own is None else WORD_STATES.index(own.words) for own in told]
            raised = np.stack([  # (captions, L)
                self.unworded[n // labels] if place is None else self.exact[n // labels, place]
                for n, place in enumerate(words)
            ])  # fmt: skip
            wished = raised[np.arange(len(wishes)), wishes]
            if scale != 1:
                found["guided 2"] = wished.mean()
                continue
            grid = raised.reshape(number, labels, labels)
            others = (grid.sum(1) - grid[:, np.arange(labels), np.arange(labels)]) / (labels - 1)
            things = [(own.seen["thing"], n // labels) for n, own in enumerate(told) if own and "thing" in own.seen]
            found |= {"posterior": wished.mean(), "others": others.mean(), "of best": wished.mean() / self.best.mean(),
                      "grammar": np.mean([own is not None for own in told])}  # fmt: skip
            for name, shift in (("thing", 0), ("elsewhere", 1)):
                right = [thing == self.states[(n + shift) % number].thing for thing, n in things]
                found[name] = np.mean(right) if right else None
        return {name: None if value is None else float(value) for name, value in found.items()}

    @torch.inference_mode()
    def write(self, model, rows: np.ndarray, levels: np.ndarray, mask: np.ndarray, scale: float) -> list[str]:
        texts, pairs = [], self.test
        for first in range(0, len(rows), EVALUATED):
            part = slice(first, first + EVALUATED)
            counts = pairs.region_counts[rows[part]]
            most = max(int(counts.max()), 1)
            inputs = self.processor(
                visual_embeds=pairs.regions[rows[part]].reshape(len(counts), NUM_REGIONS, -1)[:, :most],
                visual_attention_mask=(np.arange(most) < counts[:, None]).astype(np.int64),
                region_boxes=pairs.boxes[rows[part]].reshape(len(counts), NUM_REGIONS, 4)[:, :most],
            )
            inputs["visual_embeds"] = inputs["visual_embeds"].float()
            inputs |= {"wish_levels": torch.tensor(levels[part]), "wish_mask": torch.tensor(mask[part]).long()}
            if isinstance(model, CrossCaptioner):
                ids = model.write(inputs, self.processor.end_token_id)
            else:
                ids = model.generate(**inputs, guidance_scale=scale)[:, inputs["input_ids"].shape[1] :]
            texts += self.processor.batch_decode(ids, skip_special_tokens=True)
        return texts


@torch.inference_mode()
def nats(model, pairs: CaptionDataset, levels: np.ndarray, mask: np.ndarray) -> float:
    """A token of the captions."""
    total = tokens = 0
    for first in range(0, len(pairs), EVALUATED):
        own = np.arange(first, min(first + EVALUATED, len(pairs)))
        batch = pairs.__getitems__(own)
        batch |= {"wish_levels": torch.tensor(levels[own]), "wish_mask": torch.tensor(mask[own]).long()}
        number = int((batch["labels"] != -100).sum())
        total, tokens = total + model(**batch).loss.item() * number, tokens + number
    return total / tokens


class CrossCaptioner(EmocapCaptionerForConditionalGeneration):
    """The same soft tokens, attended to across. The place before the first word holds what starts a caption."""

    def __init__(self, config: EmocapCaptionerConfig):
        super().__init__(config)
        self.language_model = GPT2LMHeadModel(
            GPT2Config(**config.text_config.to_dict() | {"add_cross_attention": True})
        )

    def forward(self, input_ids, labels, attention_mask=None, **soft) -> CausalLMOutputWithPast:
        memory, present = self.soft_tokens(len(input_ids), **soft)
        words = int((labels != -100).sum(1).max()) + 1
        ids, labels = input_ids[:, -words:], labels[:, -words:]
        shown = F.pad(labels, (0, 1), value=0)[:, 1:] != -100
        told = self.language_model(
            input_ids=ids,
            attention_mask=shown.long(),
            position_ids=(shown.long().cumsum(1) - 1).clamp_min(0),
            encoder_hidden_states=memory,
            encoder_attention_mask=present.long(),
        )
        return CausalLMOutputWithPast(loss=self.loss(told.logits, labels))

    def write(self, inputs, end: int) -> torch.Tensor:
        """Greedy captions, int64 `(batch, LENGTH)` at most."""
        memory, present = self.soft_tokens(
            len(inputs["input_ids"]), *(inputs[name] for name in ("visual_embeds", "visual_attention_mask",
                                                                  "region_boxes", "wish_levels", "wish_mask"))
        )  # fmt: skip
        ids = torch.full((len(memory), 1), self.config.image_token_id)
        while ids.shape[1] <= LENGTH and not (ids == end).any(1).all():
            told = self.language_model(
                input_ids=ids, encoder_hidden_states=memory, encoder_attention_mask=present.long()
            )
            ids = torch.cat([ids, told.logits[:, -1:].argmax(-1)], 1)
        return until_the_end(ids[:, 1:], end)


def until_the_end(ids: torch.Tensor, end: int) -> torch.Tensor:
    """What comes after a row's first end is one as well."""
    return ids.masked_fill((ids == end).cumsum(1) > 0, end)


def make_model(kind: Callable, processor: EmocapCaptionerProcessor, table: Dataset):
    vocabulary, end = len(processor.tokenizer), processor.end_token_id
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": processor.tokenizer.pad_token_id}
    language_model = GPT2Config(
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=4,
        n_inner=2 * WIDTH,
        n_positions=2 * LENGTH + NUM_REGIONS,
        vocab_size=vocabulary,
        initializer_range=SPREAD,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **ids,
    )
    config = EmocapCaptionerConfig(
        text_config=language_model,
        image_token_id=processor.image_token_id,
        visual_embedding_dim=table.features["region_features"].length // NUM_REGIONS,
        soft_hidden_size=WIDTH,
        caption_length=LENGTH,
        initializer_range=SPREAD,
        **processor.wishes,
    )
    model = kind(config)
    for embedding in (model.wish_encoder.directions, model.wish_encoder.shown, model.wish_encoder.no_wish):
        torch.nn.init.normal_(embedding.weight, std=SPREAD)
    model.region_normalizer.fit(sample_regions(table), target_std=1.0)
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = end, processor.tokenizer.pad_token_id
    generation.suppress_tokens, generation.max_new_tokens = [processor.image_token_id], LENGTH
    return model


def picture_state(image_id: str, seed: int):
    """The state that `load_scenes` drew first for a row."""
    digest = hashlib.blake2b(f"{seed}:{image_id}".encode(), digest_size=16).digest()
    return random_scene(np.random.default_rng(int.from_bytes(digest, "big")))


if __name__ == "__main__":
    main()
