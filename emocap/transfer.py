"""What passes from a source model A to a target model B (Yosinski et al. 2014): copied, adapted, fresh or frozen."""

import hashlib
from collections.abc import Iterator

import datasets
import numpy as np
import torch
from torch import nn

from emocap.data.pairs import PairDataset
from emocap.inference import load_config, prepare_table
from emocap.models import EmocapProcessor, EmocapStudentForMultiLabelClassification
from emocap.models.modeling_emocap_teacher import EmocapTeacherForMultiLabelClassification

__all__ = ["blocks_of", "collapsed_head", "head_of", "ridge_head", "transfer_model"]

MODELS = {
    "emocap_student": EmocapStudentForMultiLabelClassification,
    "emocap_teacher": EmocapTeacherForMultiLabelClassification,
}


def transfer_model(
    *,
    student: str | None,
    teacher: str | None,
    strategy: str,
    num_layers: str = "all",
    head_init: str = "collapse",
    prior: np.ndarray,
    table: datasets.Dataset,
) -> tuple[nn.Module, EmocapProcessor, dict[str, object]]:
    """The model that fine-tuning starts from.

    A is the student, B the target model: the teacher's architecture if one is named, else the student's. With
    `anb`/`anb+` the first `num_layers` blocks of B come from A, with `bnb`/`bnb+` from B's own checkpoint; the other
    blocks are drawn afresh. Without `+` the copied blocks are frozen. Between different architectures no block fits:
    as in the study, the body is the teacher's own and only the head comes from the student. With `num_layers` "all"
    the head starts from A's by `head_init`; otherwise it is fresh, with its bias at the prior's logits.

    Args:
        student, teacher: folders or Hub ids.
        strategy: anb, anb+, bnb, bnb+ or scratch. Word embeddings that the configuration freezes stay frozen in all.
        num_layers: number of blocks from the input, or "all" below the head.
        head_init: collapse, ridge or random.
        prior: float `(L,)`, mean of the target's training labels.
        table: the target's training rows, on which `ridge` is fitted.

    Returns:
        The model, its processor, and the record of the surgery: for each tensor how it came and whether it is frozen.

    Raises:
        ValueError: a checkpoint that the strategy needs is missing, or there are fewer blocks than asked for.
    """
    source = {"anb": student, "bnb": teacher}.get(strategy.removesuffix("+"))
    base = teacher or student
    if base is None or (source is None and strategy != "scratch"):
        needed = "--teacher" if strategy.startswith("bnb") else "--student"
        raise ValueError(f"--strategy {strategy} needs {needed}, the model whose layers are copied.")
    config = load_config(base)
    across = strategy.startswith("anb") and load_config(student).model_type != config.model_type
    config.modalities = None if strategy == "scratch" else config.modalities
    model, processor = MODELS[config.model_type](config), EmocapProcessor.from_pretrained(base)
    blocks = list(blocks_of(model))
    count = check_num_layers(len(blocks), num_layers, strategy)
    record = {name: {"origin": "fresh"} for name in model.state_dict()}
    copy_tensors(model, base, given_parts(model), record)
    if count:
        copy_tensors(model, base if across else source, [part for block in blocks[:count] for part in block], record)
    head = head_of(model)
    with torch.no_grad():
        head.bias.copy_(torch.logit(torch.from_numpy(prior).float(), eps=1e-3))
    if count == len(blocks) and head_init != "random":
        start_head(model, processor, source, head_init, table)
        for name, value in model.named_parameters():
            if value is head.weight or value is head.bias:
                record[name] = {"origin": f"{head_init} of {source}"}
    if strategy in ("anb", "bnb"):
        for part in (part for block in blocks[:count] for part in block):
            part.requires_grad_(False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, entry in record.items():
        entry["frozen"] = name not in trained
    return model, processor, {"strategy": strategy, "num_layers": count, "head_init": head_init, "tensors": record}


def given_parts(model: nn.Module) -> list[nn.Module]:
    """What every strategy starts from, scratch included, since no training on the source made it: the normaliser of
    the region features, and word embeddings that the configuration freezes."""
    if isinstance(model, EmocapTeacherForMultiLabelClassification):
        return [model.region_normalizer]
    return [model.word_embeddings] if model.config.freeze_word_embeddings else []


def start_head(
    model: nn.Module, processor: EmocapProcessor, source: str, head_init: str, table: datasets.Dataset
) -> None:
    """Sets the model's head from the source model's."""
    giver, head = MODELS[load_config(source).model_type].from_pretrained(source).eval(), head_of(model)
    if head_init == "collapse":
        weight, bias = collapsed_head(giver, head.in_features, keep=type(giver) is type(model))
    else:
        weight, bias = ridge_head(model, processor, giver, EmocapProcessor.from_pretrained(source), table)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)


def blocks_of(model: nn.Module) -> Iterator[list[nn.Module]]:
    """The blocks below the head, from the input: what `num_layers` counts.

    Teacher: embeddings, each encoder layer, the pooler (where it has one). Student: word embeddings, GRU, each
    convolution stage, fc1.
    """
    if isinstance(model, EmocapTeacherForMultiLabelClassification):
        body = model.visual_bert
        yield [body.embeddings, model.region_normalizer]
        for layer in body.encoder.layer:
            yield [layer]
        if body.pooler is not None:
            yield [body.pooler]
    else:
        yield [model.word_embeddings]
        yield [model.gru]
        for stage in model.cnn:
            yield [stage]
        yield [model.fc1]


def head_of(model: nn.Module) -> nn.Linear:
    """The last linear layer: the teacher's classifier, the student's fc2."""
    return model.classifier if isinstance(model, EmocapTeacherForMultiLabelClassification) else model.fc2


def collapsed_head(giver: nn.Module, width: int, keep: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight `(L, width)` and bias `(L,)` of one linear head, from the giver's last layers.

    Args:
        giver: the model that gives.
        width: input width of the head that receives.
        keep: copy the giver's head as it is (same architecture). Otherwise a student's fc2 and fc1 are multiplied
            into one map, `W2 W1` and `W2 b1 + b2` (its ReLU left out, as in the study), see `resize_columns`.
    """
    head = head_of(giver)
    weight, bias = head.weight.detach(), head.bias.detach()
    if isinstance(giver, EmocapStudentForMultiLabelClassification) and not keep:
        weight, bias = weight @ giver.fc1.weight.detach(), weight @ giver.fc1.bias.detach() + bias
    return resize_columns(weight, width), bias


def resize_columns(weight: torch.Tensor, width: int) -> torch.Tensor:
    """`(L, columns)` laid over `(L, width)`: each column goes to the new ones that it overlaps, in proportion, so that
    sums over columns are kept."""
    old, new = (torch.arange(number + 1).double() / number for number in (weight.shape[1], width))
    overlap = torch.minimum(old[1:, None], new[1:]) - torch.maximum(old[:-1, None], new[:-1])
    return (weight.double() @ (overlap.clamp_min(0) * weight.shape[1])).to(weight.dtype)


def ridge_head(
    model: nn.Module,
    processor: EmocapProcessor,
    giver: nn.Module,
    giver_processor: EmocapProcessor,
    table: datasets.Dataset,
    penalty: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the linear map on the model's pooled outputs that best reproduces the giver's logits on the
    table's pairs: ridge regression in closed form, the intercept not penalised."""
    inputs = collect(model, head_of(model), PairDataset(prepare_table(table, processor), processor), pooled=True)
    targets = collect(
        giver, head_of(giver), PairDataset(prepare_table(table, giver_processor), giver_processor), pooled=False
    )
    center, offset = inputs.mean(0), targets.mean(0)
    centered = inputs - center
    gram = centered.T @ centered + penalty * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weight = torch.linalg.solve(gram, centered.T @ (targets - offset)).T
    return weight.float(), (offset - weight @ center).float()


@torch.inference_mode()
def collect(model: nn.Module, head: nn.Linear, pairs: PairDataset, pooled: bool, batch_size: int = 64) -> torch.Tensor:
    """What enters the head (`pooled`) or what leaves it, for every pair: float64 `(pairs, width)`."""
    outputs = []
    hook = head.register_forward_hook(lambda _, given, left: outputs.append((given[0] if pooled else left).double()))
    model.eval()
    for start in range(0, len(pairs), batch_size):
        model(**pairs.__getitems__(range(start, min(start + batch_size, len(pairs)))))
    hook.remove()
    return torch.cat(outputs).clone()


def check_num_layers(available: int, num_layers: str, strategy: str) -> int:
    """Number of blocks that pass."""
    if strategy == "scratch":
        return 0
    if num_layers == "all":
        return available
    if not str(num_layers).isdigit() or int(num_layers) > available:
        raise ValueError(f"--num_layers is '{num_layers}'; expected 'all' or a number from 0 to {available}.")
    return int(num_layers)


def copy_tensors(model: nn.Module, origin: str, parts: list[nn.Module], record: dict) -> None:
    """Copies the parts' tensors from a checkpoint and notes where each came from, with a checksum.

    Raises:
        ValueError: a tensor of the checkpoint has another shape, or is missing.
    """
    if not parts:
        return
    values = type(model).from_pretrained(origin).state_dict()
    inside = tuple(f"{name}." for name, module in model.named_modules() if any(module is part for part in parts))
    for name, tensor in model.state_dict().items():
        if not name.startswith(inside):
            continue
        if name not in values or values[name].shape != tensor.shape:
            there = tuple(values[name].shape) if name in values else "absent"
            raise ValueError(
                f"'{origin}' does not fit the target model: '{name}' is {there} there and {tuple(tensor.shape)} here. "
                "Layers pass between models of one configuration."
            )
        tensor.copy_(values[name])
        digest = hashlib.sha256(values[name].contiguous().numpy().tobytes()).hexdigest()[:16]
        record[name] = {"origin": f"copied from {origin}", "sha256": digest}
