"""`pipeline("emotion-recognition")`: from photos and captions to emotions, and what of a pair carried them."""

import os
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModel, AutoProcessor, Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator
from transformers.utils import logging

from .common_emocap import CommitteeConfig
from .photo_emocap import open_photo, photos_in_folder
from .processing_emocap import same_model

__all__ = ["EmotionRecognitionPipeline", "explain_pair", "integrated_gradients"]

logger = logging.get_logger(__name__)

DEFAULT_THRESHOLD = 0.5

CHUNK = 16
"""Points of the path that pass through the model together."""

PHOTO_INPUTS = ("visual_embeds", "pixel_values")


class EmotionRecognitionPipeline(Pipeline):
    """Emotions that a photo with its caption raises in people, each with its probability.

    ```python
    pipe = pipeline("emotion-recognition", model="me/emocap-student", trust_remote_code=True)
    pipe({"image": "party.jpg", "text": "a birthday party"}, top_k=3)
    ```

    A pair is a dict with `image`, `text` or both: a PIL image, path, http(s) URL, array or tensor, and a string. A
    string by itself is a caption, an image or array by itself a photo. What the model was not trained to read
    (`config.modalities`) is left out. A list gives a list; a generator, a `datasets.Dataset` or one of its columns
    gives an iterator that runs batch by batch. A `pathlib.Path` of a folder gives an iterator over the photos in it,
    see `photos_in_folder`: `{"image": path, "text": caption, "emotions": rows}` for each; those that cannot be read
    are left out with a warning.

    Several models with the same emotions, in whatever order, answer together, see `CommitteeConfig`:

    ```python
    pipe = pipeline("emotion-recognition", model="me/seed0", committee=["me/seed1", "me/seed2"])
    ```

    Each reads a pair in its own way, and every one has to find something in it that it reads.

    Args:
        committee: folder or Hub id of a further model, or several, loaded as the first was.

    Args, here or at each call:
        top_k: the most probable emotions; None: all.
        threshold: only emotions at least that probable: a number, or "config" for the configuration's `thresholds`
            (0.5 where it has none).
        explain: True, or the name of an emotion: adds `explanation` to the row of the most probable emotion, or of
            that one, which is then always among the rows. See `explain_pair` below. Not of a committee, whose
            members read different words and regions.
        batch_size: pairs that go through the model together.
        num_workers: processes that open (and, for a student, resize) the photos.

    Returns:
        For each pair a list of `{"label", "score"}`, most probable first. Scores are `sigmoid(logits / temperature)`
        with the configuration's `temperature`, where it has one. Of a committee a row has `disagreement`, too: the
        standard deviation of the members' own scores.

    Raises:
        ValueError: a pair with nothing that the model reads, unknown keys, an unreadable photo, a bad option, or
            models with unlike emotions.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(self, *args, committee: str | os.PathLike | Sequence[str | os.PathLike] = (), **kwargs):
        self.others: list[EmotionRecognitionPipeline] = []
        self.lookers: dict[nn.Module, int] = {}
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("emotion-recognition needs `processor`, such as AutoProcessor.from_pretrained(...).")
        if self.model.config.model_type not in ("emocap_teacher", "emocap_student"):
            raise ValueError(
                f"emotion-recognition takes an emocap teacher or student, not a '{self.model.config.model_type}'."
            )
        self.model.eval()
        names = [os.fspath(own) for own in ([committee] if isinstance(committee, (str, os.PathLike)) else committee)]
        self.others = [self.load_member(name) for name in names]
        self.committee = CommitteeConfig(
            [self.model.name_or_path or "the model", *names],
            [member.model.config for member in self.members],
        )

    @property
    def members(self) -> list["EmotionRecognitionPipeline"]:
        """The pipelines of the models that answer together, this one first."""
        return [self, *self.others]

    def load_member(self, name: str) -> "EmotionRecognitionPipeline":
        loading = {key: value for key, value in self.processor.loaded_with.items() if key != "revision"}
        return type(self)(
            model=AutoModel.from_pretrained(name, **loading),
            processor=AutoProcessor.from_pretrained(name, **loading),
            device=self.device,
        )

    def _sanitize_parameters(self, **parameters) -> tuple[dict, dict, dict]:
        parameters.pop("local_files_only", None)  # `pipeline` passes it on
        unknown = set(parameters) - {"top_k", "threshold", "explain"}
        if unknown:
            raise TypeError(f"emotion-recognition knows top_k, threshold and explain, not {sorted(unknown)}.")
        top_k, threshold = parameters.get("top_k"), parameters.get("threshold")
        if not (top_k is None or (isinstance(top_k, int) and top_k >= 1)):
            raise ValueError(f"top_k is {top_k!r}; expected a whole number from 1, or None for all emotions.")
        if not (threshold is None or threshold == "config" or is_probability(threshold)):
            raise ValueError(f"threshold is {threshold!r}; expected a number in 0..1, 'config' or None.")
        explain, known = parameters.get("explain"), list(self.model.config.id2label.values())
        if not (explain is None or isinstance(explain, bool) or explain in known):
            raise ValueError(f"explain is {explain!r}; expected True, False or one of {', '.join(known)}.")
        chosen = {"explain": explain} if "explain" in parameters else {}
        return {}, chosen, {name: parameters[name] for name in ("top_k", "threshold") if name in parameters}

    def __call__(self, inputs, **kwargs):
        """See the class."""
        if isinstance(inputs, os.PathLike) and os.path.isdir(inputs):
            return self.of_folder(photos_in_folder(inputs), kwargs)
        if isinstance(inputs, (list, tuple)):
            return super().__call__(list(inputs), **kwargs) if len(inputs) else []
        if isinstance(inputs, (Mapping, str, os.PathLike, Image.Image, np.ndarray, torch.Tensor, Dataset)):
            return super().__call__(inputs, **kwargs)
        if isinstance(inputs, Iterator) and not isinstance(inputs, types.GeneratorType):
            inputs = (pair for pair in inputs)
        elif hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):  # a data set or one of its columns
            inputs = Rows(inputs)
        return super().__call__(inputs, **kwargs)

    def preprocess(self, pair) -> dict[str, Image.Image | str | None]:
        """The photo, opened, and the caption of one pair; None for what is missing or not read."""
        if not isinstance(pair, Mapping):
            pair = {"text": pair} if isinstance(pair, str) else {"image": pair}
        if not pair or set(pair) - {"image", "text"}:
            raise ValueError(
                f"A pair came with {sorted(map(str, pair)) or 'nothing'}; expected 'image', 'text' or both. Rename a "
                "data set's columns with rename_columns, and choose them with select_columns."
            )
        text, image = pair.get("text"), pair.get("image")
        for member in self.members:
            reads = member.model.config.modalities or "both"
            if (reads == "text" or image is None) and (reads == "image" or not text):
                told = "an image, a text or both" if reads == "both" else f"{reads} alone"
                name = f"'{member.model.name_or_path}'" if self.others else "the model"
                raise ValueError(f"A pair has nothing that {name} reads, which is {told}.")
        modalities = self.committee.modalities
        return {
            "image": None if image is None or modalities == "text" else open_photo(image),
            "text": None if modalities == "image" else text,
        }

    def collate(self, pairs: list[dict]) -> dict[str, Any]:
        """What each member reads of the pairs, `{"inputs": [...]}`."""
        return {"inputs": [member.encode(pairs) for member in self.members]}

    def encode(self, pairs: list[dict]) -> dict[str, Any]:
        """Model inputs of pairs; a teacher's photos stay as they are, since regions are found beside the model."""
        photos, captions = ([pair[name] for pair in pairs] for name in ("image", "text"))
        modalities = self.model.config.modalities
        captions = [None] * len(pairs) if modalities == "image" else captions
        has_photos = modalities != "text" and any(photo is not None for photo in photos)
        if self.processor.image_size is not None or not has_photos:
            return dict(self.processor(images=photos if has_photos else None, text=captions))
        tokens = self.processor.encode_text(captions)
        return {name: torch.from_numpy(values) for name, values in tokens.items()} | {"photos": photos}

    def _forward(self, inputs: dict[str, Any], explain: bool | str | None = None) -> dict[str, Any]:
        if explain and self.others:
            raise ValueError(
                "explain goes with a single model: the members of a committee read unlike words and regions."
            )
        self.add_regions(inputs["inputs"])
        boxes = [own.pop("region_boxes", None) for own in inputs["inputs"]]
        logits = [
            member.model(**own).logits.float() for member, own in zip(self.members, inputs["inputs"], strict=True)
        ]
        explanations: list[dict | None] = [None] * len(logits[0])
        if explain:
            own = inputs["inputs"][0] | ({} if boxes[0] is None else {"region_boxes": boxes[0]})
            top = logits[0].argmax(1).tolist()
            labels = top if explain is True else [self.model.config.label2id[explain]] * len(top)
            for row, label in enumerate(labels):
                pair = {name: values[row : row + 1] for name, values in own.items()}
                explained = explain_pair(self.model, pair, label, self.processor.tokenizer)
                explanations[row] = {"label": self.model.config.id2label[label]} | explained
        return {"logits": torch.stack(logits, dim=1), "explanations": explanations}

    def add_regions(self, inputs: list[dict[str, Any]]) -> None:
        """Regions in place of each member's photos; an extractor that members share looks at them once."""
        found: dict[int, dict[str, torch.Tensor]] = {}
        for place, own in enumerate(inputs):
            photos = own.pop("photos", None)
            if photos is None:
                continue
            looks = self.who_looks(place)
            if looks not in found:
                regions = self.members[looks].processor.encode_regions(photos, self.device)
                found[looks] = {name: torch.from_numpy(values).to(self.device) for name, values in regions.items()}
            own |= found[looks]

    def who_looks(self, place: int) -> int:
        """The first member whose region extractor has the settings and weights of this one's."""
        extractor = self.members[place].processor.load_extractor()
        if extractor not in self.lookers:
            known = [(other, first) for other, first in self.lookers.items() if same_model(other, extractor)]
            self.lookers[extractor] = known[0][1] if known else place
        return self.lookers[extractor]

    def postprocess(self, outputs: dict[str, Any], top_k: int | None = None, threshold=None) -> list[dict]:
        """Rows of one pair."""
        config, explanation = self.model.config, outputs["explanations"]
        explanation = explanation[0] if isinstance(explanation, list) else explanation
        scaled = self.committee.scaled(outputs["logits"][0])
        scores = self.committee.mean(scaled).sigmoid()
        wanted = torch.zeros_like(scores) if threshold is None else self.thresholds(threshold).to(scores)
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] >= wanted[order]][:top_k].tolist()
        explained = config.label2id[explanation["label"]] if explanation else None
        if explanation and explained not in order:
            order = sorted([*order, explained], key=lambda label: -scores[label])
        rows = [{"label": config.id2label[label], "score": scores[label].item()} for label in order]
        if explanation:
            rows[order.index(explained)]["explanation"] = explanation
        if self.others:
            spread = torch.stack(scaled).sigmoid().std(dim=0, correction=0)
            for row, label in zip(rows, order, strict=True):
                row["disagreement"] = spread[label].item()
        return rows

    def thresholds(self, threshold: float | str) -> torch.Tensor:
        """The threshold of each emotion, `(num_labels,)`."""
        known = self.committee.thresholds if threshold == "config" else None
        if known is None:
            default = DEFAULT_THRESHOLD if threshold == "config" else threshold
            return torch.full((self.committee.num_labels,), default)
        return torch.tensor(known)

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params) -> list[dict]:
        outputs = self.forward(self.collate([self.preprocess(inputs, **preprocess_params)]), **forward_params)
        return self.postprocess(outputs, **postprocess_params)

    def get_iterator(
        self, inputs, num_workers: int, batch_size: int, preprocess_params, forward_params, postprocess_params
    ) -> Iterator[list[dict]]:
        if hasattr(inputs, "__len__"):
            pairs = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:
            pairs, num_workers = PipelineIterator(inputs, self.preprocess, preprocess_params), min(num_workers, 1)
        batches = DataLoader(pairs, batch_size=batch_size, num_workers=num_workers, collate_fn=self.collate)
        outputs = PipelineIterator(batches, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    def answers(
        self, pairs: Iterable[dict[str, str | None]], batch_size: int | None = None, **options
    ) -> Iterator[list[dict] | OSError | ValueError]:
        """The rows of each pair, or in their place the error of one that cannot be read. Threads open the photos of
        the next batch while the models look at this one.

        Args:
            pairs: `{"image", "text"}`.
            batch_size: pairs that go through the models together.
            options: `top_k` and `threshold`.
        """
        _, forward_params, postprocess_params = self._sanitize_parameters(**options)
        chosen = self._forward_params | forward_params, self._postprocess_params | postprocess_params
        pairs, size = iter(pairs), batch_size or self._batch_size or 1
        waiting: deque[list[Future]] = deque()
        with ThreadPoolExecutor() as pool:
            while True:
                if batch := list(islice(pairs, size)):
                    waiting.append([pool.submit(self.opened, pair) for pair in batch])
                if not waiting:
                    return
                if len(waiting) > 1 or not batch:
                    yield from self.rows_of([future.result() for future in waiting.popleft()], *chosen)

    def opened(self, pair: dict[str, str | None]) -> dict[str, Any] | OSError | ValueError:
        try:
            return self.preprocess(pair)
        except (OSError, ValueError) as error:
            return error

    def rows_of(self, pairs: list, forward_params: dict, postprocess_params: dict) -> Iterator:
        """As `answers`, of a batch that was opened."""
        readable = [pair for pair in pairs if isinstance(pair, dict)]
        outputs = self.forward(self.collate(readable), **forward_params) if readable else {}
        found = iter(range(len(readable)))
        for pair in pairs:
            if isinstance(pair, dict):
                row = next(found)
                own = {name: values[row : row + 1] for name, values in outputs.items()}
                yield self.postprocess(own, **postprocess_params)
            else:
                yield pair

    def of_folder(self, pairs: list[dict[str, str | None]], options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for pair, rows in zip(pairs, self.answers(pairs, **options), strict=True):
            if isinstance(rows, list):
                yield pair | {"emotions": rows}
            else:
                logger.warning(f"'{pair['image']}' is left out: {rows}")

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Saves model and processor, with their code and this pipeline's.

        Raises:
            ValueError: there are several models.
        """
        if self.others:
            raise ValueError("A committee is not one checkpoint: save each of its members.")
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)


class Rows(Dataset):
    """Anything with a length and rows, as torch's loader wants it."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int):
        return self.rows[row]


def is_probability(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def explain_pair(model: nn.Module, inputs: dict[str, torch.Tensor], label: int, tokenizer) -> dict[str, Any]:
    """Weights of the words and of the parts of the photo for one emotion and one pair.

    Integrated gradients (Sundararajan et al. 2017) along the straight line from a pair that says nothing to this one.
    Words start from the embedding of `[PAD]`, a teacher's from that of `[MASK]` where that of `[PAD]` is zero. Its
    regions start from the mean region that it was trained with, which its body reads as zeros. A student's photo
    starts from the zeros that it reads where there is no photo, in the last map of the CNN: group norm makes as much
    of the faintest trace of a picture as of the picture itself, so that there is no way from an empty picture to be
    integrated over. The weights of words and boxes together sum to `logit - baseline_logit`.

    Args:
        model: a teacher or student in evaluation mode.
        inputs: its inputs for one pair, on its device; for a teacher with a photo also `region_boxes` float
            `(1, regions, 4)`.
        label: index of the emotion.
        tokenizer: the processor's.

    Returns:
        `logit` and `baseline_logit`; `tokens`, the tokenizer's pieces, and `token_weights`, without `[CLS]` and
        `[SEP]`; `boxes`, relative x1 y1 x2 y2, and `box_weights`: the teacher's regions, or for a student the cells of
        the CNN's last map, row by row, whose weights are `saliency`, too: float32 `(rows, columns)`.
    """
    inputs = dict(inputs)
    boxes = inputs.pop("region_boxes", None)
    input_ids, embedding = inputs["input_ids"][0], model.get_input_embeddings()
    framing = [own for own in (tokenizer.cls_token_id, tokenizer.sep_token_id) if own is not None]
    framing = torch.tensor(framing, dtype=input_ids.dtype, device=input_ids.device)
    words = inputs["attention_mask"][0].bool() & ~torch.isin(input_ids, framing)
    silence = embedding.weight[tokenizer.pad_token_id].detach()
    is_student = hasattr(model, "cnn")
    if not (is_student or silence.any() or tokenizer.mask_token_id is None):
        silence = embedding.weight[tokenizer.mask_token_id].detach()  # from zero, norms make the way begin with a jump
    photo = model.cnn if is_student else model.region_normalizer
    weights, logit, baseline_logit = integrated_gradients(
        model,
        inputs,
        label,
        {
            embedding: lambda embedded: torch.where(words.view(1, -1, 1), silence, embedded),
            photo: torch.zeros_like,
        },
    )
    explanation = {
        "logit": logit,
        "baseline_logit": baseline_logit,
        "tokens": tokenizer.convert_ids_to_tokens(input_ids[words].tolist()),
        "token_weights": weights[embedding].sum(-1)[words].tolist(),
        "boxes": [],
        "box_weights": [],
    }
    if boxes is not None:
        seen = inputs["visual_attention_mask"][0].bool()
        explanation |= {"boxes": boxes[0][seen].tolist(), "box_weights": weights[photo].sum(-1)[seen].tolist()}
    elif photo in weights and inputs["pixel_mask"].any():
        saliency = weights[photo].sum(0).cpu().numpy()
        explanation |= {
            "boxes": cells(*saliency.shape),
            "box_weights": saliency.ravel().tolist(),
            "saliency": saliency,
        }
    return explanation


def integrated_gradients(
    model: nn.Module,
    inputs: dict[str, torch.Tensor],
    label: int,
    baselines: dict[nn.Module, Callable[[torch.Tensor], torch.Tensor]],
    steps: int = 64,
) -> tuple[dict[nn.Module, torch.Tensor], float, float]:
    """Integrated gradients of one logit for one pair with regard to outputs of inner modules, changed together.

    The integral over the path is a Gauss-Legendre sum.

    Args:
        model: gives `logits` float `(batch, num_labels)`.
        inputs: its inputs for one pair.
        label: index of the logit.
        baselines: of each module, what makes the baseline of its output for the pair.
        steps: points of the sum.

    Returns:
        The weights, float32 without the batch axis, of each entry of the outputs of those modules that have a part in
        the pair; the logit of the pair; and that of the baselines.
    """
    ends = {}

    def remember(module: nn.Module, arguments: tuple, output: torch.Tensor) -> None:
        ends[module] = output.detach()

    # cuDNN's GRU has no gradient in evaluation mode
    with torch.inference_mode(False), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        inputs = {name: values.clone() for name, values in inputs.items()}  # made under inference mode, perhaps
        with ExitStack() as hooks, torch.no_grad():
            for module in baselines:
                hooks.enter_context(hooked(module, remember))
            logit = model(**inputs).logits[0, label].item()
        starts = {module: baselines[module](end) for module, end in ends.items()}
        ways = {module: end - starts[module] for module, end in ends.items()}
        sums = {module: torch.zeros_like(way[0], dtype=torch.float32) for module, way in ways.items()}

        def logits_at(points: dict[nn.Module, torch.Tensor], number: int) -> torch.Tensor:
            batch = {  # what the photo makes is replaced: one is enough
                name: values if name in PHOTO_INPUTS else values.expand(number, *values.shape[1:])
                for name, values in inputs.items()
            }
            with ExitStack() as hooks:
                for module, values in points.items():
                    hooks.enter_context(hooked(module, lambda *call, own=values: own))
                return model(**batch).logits[:, label].float()

        nodes, measure = np.polynomial.legendre.leggauss(steps)
        shares, measure = (torch.from_numpy(values) for values in ((nodes + 1) / 2, measure / 2))
        for part, weight in zip(shares.split(CHUNK), measure.split(CHUNK), strict=True):
            points = {
                module: (start + part.to(start).view(-1, *[1] * (start.ndim - 1)) * ways[module]).requires_grad_()
                for module, start in starts.items()
            }
            weighted = logits_at(points, len(part)) * weight.to(next(iter(sums.values())))
            gradients = torch.autograd.grad(weighted.sum(), list(points.values()))
            for module, gradient in zip(points, gradients, strict=True):
                sums[module] += gradient.float().sum(0)
        with torch.no_grad():
            baseline_logit = logits_at(starts, 1).item()
    return {module: total * ways[module][0].float() for module, total in sums.items()}, logit, baseline_logit


@contextmanager
def hooked(module: nn.Module, hook: Callable) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def cells(rows: int, columns: int) -> list[list[float]]:
    """Relative boxes x1 y1 x2 y2 of a grid, row by row."""
    return [
        [column / columns, row / rows, (column + 1) / columns, (row + 1) / rows]
        for row in range(rows)
        for column in range(columns)
    ]
