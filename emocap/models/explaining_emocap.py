"""Which words and which parts of the photo carried an emotion's logit: integrated gradients."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

__all__ = ["explain", "integrated_gradients"]

CHUNK = 16
"""Points of the path that pass through the model together."""

PHOTO_INPUTS = ("visual_embeds", "pixel_values")


def explain(model: nn.Module, inputs: dict[str, torch.Tensor], label: int, tokenizer) -> dict[str, object]:
    """Weights of the words and of the parts of the photo for one emotion and one pair.

    Integrated gradients (Sundararajan et al. 2017) along the straight line from a pair that says nothing to this one.
    Words start from the embedding of `[PAD]`. A teacher's regions start from the mean region that it was trained with,
    which its body reads as zeros. A student's photo starts from the zeros that it reads where there is no photo, in
    the last map of the CNN: group norm makes as much of the faintest trace of a picture as of the picture itself, so
    that there is no way from an empty picture to be integrated over. The weights of words and boxes together sum to
    `logit - baseline_logit`.

    Args:
        model: a teacher or student in evaluation mode.
        inputs: its inputs for one pair, on its device; for a teacher with a photo also `region_boxes` float
            `(1, regions, 4)`.
        label: index of the emotion.
        tokenizer: the processor's.

    Returns:
        `logit` and `baseline_logit`; `tokens` and `token_weights`, without `[CLS]` and `[SEP]`; `boxes`, relative
        x1 y1 x2 y2, and `box_weights`: the teacher's regions, or for a student the cells of the CNN's last map, row
        by row, whose weights are `saliency`, too: float32 `(rows, columns)`.
    """
    inputs = dict(inputs)
    boxes = inputs.pop("region_boxes", None)
    input_ids, embedding = inputs["input_ids"][0], model.get_input_embeddings()
    framing = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id], device=input_ids.device)
    words = inputs["attention_mask"][0].bool() & ~torch.isin(input_ids, framing)
    silence = embedding.weight[tokenizer.pad_token_id].detach()
    photo = model.cnn if hasattr(model, "cnn") else model.region_normalizer
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
