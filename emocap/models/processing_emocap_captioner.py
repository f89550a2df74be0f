"""From photos and wished emotions to what the captioner reads."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from transformers import AddedToken, BatchFeature

from .photo_emocap import as_list
from .processing_emocap import EmocapProcessor

__all__ = ["EmocapCaptionerProcessor"]

IMAGE_TOKEN = "<image>"

EDGE = 1e-6
"""Probabilities stay this far from 0 and 1: their logits are finite."""

Wish: TypeAlias = str | tuple[str, ...] | Mapping[str, float] | np.ndarray | torch.Tensor | None


class EmocapCaptionerProcessor(EmocapProcessor):
    """Lays out soft tokens before the beginning of a caption, and puts wishes into numbers.

    Where the tokenizer has a token that starts texts, it stands before the soft tokens: what comes first is attended
    to whatever it says (Xiao et al. 2024), and that shall not be the wish.

    A wish for one picture is the name of an emotion, a tuple of names, a mapping of names to weights, or a vector of
    weights (an array, NaN where an emotion is not wished for). A weight of 1 is the level that 2 % of the training
    captions exceed. A list is one entry a picture, always; what is no list holds for every picture.

    Args:
        tokenizer: the language model's. It pads on the left, and gets the entry `<image>` where it has none.
        region_extractor: as in `EmocapProcessor`.
        emotions: names of the emotions, in the order of the captioner's `id2label`.
        wish_mean, wish_spread, wish_high: as in `EmocapCaptionerConfig`.
        max_length: tokens kept of a caption, its end included.

    Raises:
        ValueError: the tokenizer has no token that ends a text.
    """

    def __init__(
        self,
        tokenizer,
        region_extractor: str | None = None,
        emotions: Sequence[str] = (),
        wish_mean: Sequence[float] | None = None,
        wish_spread: Sequence[float] | None = None,
        wish_high: Sequence[float] | None = None,
        **defaults: Any,
    ):
        self.emotions = list(emotions)
        self.wish_mean, self.wish_spread, self.wish_high = wish_mean, wish_spread, wish_high
        self.end_token_id = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        if self.end_token_id is None:
            raise ValueError("The tokenizer has no eos_token, so no caption would end: set one.")
        self.start_ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.end_token_id)
        tokenizer.padding_side = "left"
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
        self.image_token, self.image_token_id = IMAGE_TOKEN, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        super().__init__(tokenizer, region_extractor=region_extractor, **defaults)
        self.auto_map = {"AutoProcessor": "processing_emocap_captioner.EmocapCaptionerProcessor"}

    @property
    def wishes(self) -> dict[str, Any]:
        """What the captioner's configuration holds of emotions and wishes."""
        numbers = {name: getattr(self, name) for name in ("wish_mean", "wish_spread", "wish_high")}
        labels = {
            "id2label": dict(enumerate(self.emotions)),
            "label2id": {own: i for i, own in enumerate(self.emotions)},
        }
        return numbers | labels

    def __call__(
        self,
        images: Image.Image | str | os.PathLike | np.ndarray | torch.Tensor | Sequence | None = None,
        text: str | Sequence[str | None] | None = None,
        emotions: Wish | list[Wish] = None,
        away_from: str | tuple[str, ...] | list | None = None,
        emotion_scores: np.ndarray | torch.Tensor | list | None = None,
        visual_embeds: np.ndarray | torch.Tensor | None = None,
        visual_attention_mask: np.ndarray | torch.Tensor | None = None,
        region_boxes: np.ndarray | torch.Tensor | None = None,
        return_tensors: str | None = "pt",
        device: str | torch.device | None = None,
        **ignored: Any,
    ) -> BatchFeature:
        """Model inputs of a batch of pictures.

        Args:
            images: one or several photos: PIL images, paths, http(s) URLs, arrays or tensors (see `open_photo`); None
                in a list, or altogether, where there is no photo.
            text: how the caption of each picture begins; by default nothing is given.
            emotions: the wishes, see the class; None: no wish.
            away_from: emotions that captions shall not raise: a name, or a tuple of them; a list is one entry a
                picture.
            emotion_scores: float `(pictures, emotions)` or a list of such rows and None: the probabilities that a
                teacher gives each photo, which stand where there is no other wish.
            visual_embeds, visual_attention_mask, region_boxes: regions that are there already, instead of `images`, as
                `encode_regions` gives them.
            return_tensors: "pt", or "np".
            device: where the region extractor runs; by default where it is, at first the CPU.
            **ignored: what pipelines give every processor, such as `padding`.

        Returns:
            `input_ids`, `attention_mask` int64 `(batch, tokens)`, padded on the left; with photos `visual_embeds`
            float32, `visual_attention_mask` int64 `(batch, regions[, dim])` and `region_boxes` float32 `(batch,
            regions, 4)`; with a wish `wish_levels` float32 and `wish_mask` int64 `(batch, emotions)`.

        Raises:
            FileNotFoundError: there is no photo at a path.
            ValueError: an emotion that the captioner does not know, an empty wish, a weight that is negative or no
                number, numbers of entries that differ, or photos without a way to read them.
        """
        regions = {
            "visual_embeds": visual_embeds,
            "visual_attention_mask": visual_attention_mask,
            "region_boxes": region_boxes,
        }
        photos = None if images is None else as_list(images)
        number = self.count(photos, text, emotions, visual_embeds)
        texts = [text] * number if text is None or isinstance(text, str) else list(text)
        for beginning in texts:
            if not (beginning is None or isinstance(beginning, str)):
                raise ValueError(f"A text came as {type(beginning).__name__}; expected a string or None.")
        inputs = self.encode_wishes(number, emotions, away_from, emotion_scores)  # cheap, and wrong most often
        if visual_embeds is not None:
            if images is not None:
                raise ValueError("Photos came with visual_embeds; give one of them.")
            if region_boxes is None:
                raise ValueError("visual_embeds came without region_boxes; give the boxes of every region.")
            inputs |= {name: np.asarray(own) for name, own in regions.items() if own is not None}
            inputs.setdefault("visual_attention_mask", np.ones(inputs["visual_embeds"].shape[:2], dtype=np.int64))
        elif photos is not None and any(photo is not None for photo in photos):
            if self.region_extractor is None:
                raise ValueError(
                    "This processor names no region_extractor, so it reads no photos: name one, or give visual_embeds "
                    "with region_boxes."
                )
            inputs |= self.encode_regions(photos, device)
        counts = inputs["visual_attention_mask"].sum(1) if "visual_attention_mask" in inputs else np.zeros(number, int)
        words = [self.tokenizer(own or "", add_special_tokens=False)["input_ids"] for own in texts]
        rows = [
            [*self.start_ids, *[self.image_token_id] * (1 + int(count)), *own]
            for count, own in zip(counts, words, strict=True)
        ]
        longest = max(map(len, rows))
        inputs["input_ids"] = np.array([[self.tokenizer.pad_token_id] * (longest - len(own)) + own for own in rows])
        inputs["attention_mask"] = np.array([[0] * (longest - len(own)) + [1] * len(own) for own in rows])
        return BatchFeature(inputs, tensor_type=return_tensors)

    def count(self, photos, text, emotions, visual_embeds) -> int:
        """How many pictures the call is about."""
        given = {
            "photos": photos,
            "texts": None if isinstance(text, str) else text,
            "wishes": emotions if isinstance(emotions, list) else None,
            "regions": visual_embeds,
        }
        numbers = {name: len(own) for name, own in given.items() if own is not None}
        if not numbers:
            if text is None and emotions is None:
                raise ValueError("There is nothing to caption: give photos, visual_embeds, a text or a wish.")
            return 1
        told = ", ".join(f"{number} {name}" for name, number in numbers.items())
        if len(set(numbers.values())) > 1:
            raise ValueError(
                f"{told} came together; a list is one entry a picture: give several emotions of one picture as a "
                "tuple or a mapping."
            )
        number = next(iter(numbers.values()))
        if not number:
            raise ValueError(f"There is no picture in the batch ({told}); give at least one.")
        return number

    def encode_wishes(self, number: int, emotions, away_from=None, emotion_scores=None) -> dict[str, np.ndarray]:
        """`wish_levels` float32 and `wish_mask` int64 `(number, emotions)`; nothing where there is no wish at all."""
        if emotions is None and away_from is None and emotion_scores is None:
            return {}
        if self.wish_high is None:
            raise ValueError("This captioner was not trained with wishes: it writes captions without them alone.")
        weights = self.weigh_wishes(number, emotions, away_from)
        levels = weights * np.array(self.wish_high)
        for row, scores in enumerate(a_picture(emotion_scores, number, "emotion_scores")):
            if scores is not None and np.isnan(levels[row]).all():
                levels[row] = self.standardise(np.asarray(scores, dtype=np.float64))
        shown = ~np.isnan(levels)
        return {
            "wish_levels": np.where(shown, levels, 0).astype(np.float32),
            "wish_mask": shown.astype(np.int64),
        }

    def weigh_wishes(self, number: int, emotions, away_from=None) -> np.ndarray:
        """Weights float64 `(number, emotions)`, negative where captions shall not raise an emotion, NaN where nothing
        is wished."""
        weights = np.full((number, len(self.emotions)), np.nan)
        for row, (wish, other) in enumerate(
            zip(a_picture(emotions, number), a_picture(away_from, number), strict=True)
        ):
            for names, sign in ((wish, 1), (other, -1)):
                for label, weight in self.read_wish(names).items():
                    if not np.isnan(weights[row, label]):
                        raise ValueError(f"'{self.emotions[label]}' is wished for and to be kept away from.")
                    weights[row, label] = sign * weight
        return weights

    def read_wish(self, wish: Wish) -> dict[int, float]:
        """Weights of the labels that a wish names."""
        if wish is None:
            return {}
        if isinstance(wish, (np.ndarray, torch.Tensor)):
            vector = np.asarray(wish, dtype=np.float64)
            if vector.shape != (len(self.emotions),):
                raise ValueError(
                    f"A wish came as a vector of shape {vector.shape}; expected a weight for each of the "
                    f"{len(self.emotions)} emotions."
                )
            named = {self.emotions[label]: vector[label] for label in np.flatnonzero(~np.isnan(vector))}
        elif isinstance(wish, Mapping):
            named = dict(wish)
        elif isinstance(wish, (str, tuple)):
            named = dict.fromkeys([wish] if isinstance(wish, str) else wish, 1.0)
        else:
            raise ValueError(
                f"A wish came as {type(wish).__name__}; expected a name, a tuple of names, a mapping of names to "
                "weights, an array of weights, or None."
            )
        if not named or "" in named:
            raise ValueError("A wish is empty; name an emotion, or give None for no wish.")
        for name, weight in named.items():
            if name not in self.emotions:
                raise ValueError(f"There is no emotion '{name}'; the captioner knows {', '.join(self.emotions)}.")
            if isinstance(weight, (bool, str)) or not isinstance(weight, (int, float, np.number)):
                raise ValueError(f"The weight of '{name}' is {weight!r}; it must be a number.")
            if not math.isfinite(weight) or weight < 0:
                raise ValueError(
                    f"The weight of '{name}' is {weight}; it must be a finite number, 0 or more. Name what captions "
                    "shall not raise in away_from."
                )
        return {self.emotions.index(name): float(weight) for name, weight in named.items()}

    def standardise(self, probabilities: np.ndarray) -> np.ndarray:
        """Levels, float64, of a teacher's probabilities `(..., emotions)`."""
        if probabilities.shape[-1] != len(self.emotions) or not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError(
                f"emotion_scores must be probabilities from 0 to 1, one for each of the {len(self.emotions)} emotions."
            )
        return (logits_of(probabilities) - np.array(self.wish_mean)) / np.array(self.wish_spread)

    def encode_captions(self, captions: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each caption and of its end, unpadded."""
        ids = self.tokenizer(list(captions), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [[*own, self.end_token_id][: max_length or self.max_length] for own in ids]

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds."""
        own = {name: getattr(self, name) for name in ("emotions", "wish_mean", "wish_spread", "wish_high")}
        return {**super().to_dict(), **own}

    @property
    def model_input_names(self) -> list[str]:
        return [
            "input_ids",
            "attention_mask",
            "visual_embeds",
            "visual_attention_mask",
            "region_boxes",
            "wish_levels",
            "wish_mask",
        ]


EmocapCaptionerProcessor.register_for_auto_class()


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    bounded = np.clip(np.asarray(probabilities, dtype=np.float64), EDGE, 1 - EDGE)
    return np.log(bounded / (1 - bounded))


def a_picture(given, number: int, name: str = "wishes") -> list:
    """An entry a picture: a list, or the rows of a matrix, as they are; anything else once for each."""
    is_matrix = isinstance(given, (np.ndarray, torch.Tensor)) and given.ndim == 2
    if not isinstance(given, list) and not is_matrix:
        return [given] * number
    if len(given) != number:
        raise ValueError(
            f"{len(given)} {name} came for {number} picture(s); a list is one entry a picture: give several emotions "
            "of one picture as a tuple or a mapping."
        )
    return list(given)
