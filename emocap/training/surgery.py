"""What passes from a source model A to a target model B (Yosinski et al. 2014): copied, adapted, fresh or frozen."""

import functools
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from emocap.data.storage import load_table
from emocap.evaluation.scoring import check_features, load_config
from emocap.models import EmocapProcessor, EmocapStudentForMultiLabelClassification
from emocap.models.modeling_emocap_teacher import EmocapTeacherForMultiLabelClassification
from emocap.records import recorded_arguments
from emocap.training.heads import collapsed_head, head_of, ridge_head, start_at_prior
from emocap.training.layers import layers_of, parts_beside

__all__ = ["STRATEGIES", "blocks_of", "check_frozen", "check_transfer", "load_source", "transfer_model"]

MODELS: dict[str, type[PreTrainedModel]] = {
    "emocap_student": EmocapStudentForMultiLabelClassification,
    "emocap_teacher": EmocapTeacherForMultiLabelClassification,
}
STRATEGIES = ("anb", "anb+", "bnb", "bnb+", "random", "scratch")
FREEZING = ("anb", "bnb", "random")


class Plan(NamedTuple):
    """What `check_transfer` was asked for, and what it found out without loading a weight."""

    strategy: str
    head_init: str  # asked for
    copy_word_embeddings: bool
    freeze_word_embeddings: bool | None
    base: str  # whose configuration and processor the target model takes
    source: str | None  # whose layers pass, None where none do
    num_blocks: int  # blocks that pass, the head included
    across: bool  # between different architectures, where only the head passes
    passes_head: bool  # by `head_init`; else it is fresh


def transfer_model(
    plan: Plan, prior: np.ndarray, source_table: datasets.Dataset | None = None
) -> tuple[nn.Module, EmocapProcessor, dict[str, Any]]:
    """The model that fine-tuning starts from.

    A is the student, B the target model: the teacher's architecture if one is named, else the student's. With
    `anb`/`anb+` the first `num_layers` blocks of B come from A, with `bnb`/`bnb+` from B's own checkpoint; the other
    blocks are drawn afresh, in `random` and `scratch` all of them. `anb` and `bnb` freeze the copied blocks, `random`
    freezes as many fresh ones; `anb+`, `bnb+` and `scratch` freeze nothing. The last block is the head: "all" counts
    it, and then it starts from A's by `head_init`, as in the study; else it is fresh, with its bias at the prior's
    logits. It trains under every strategy. Between different architectures no block fits: as in the study, the body is
    the teacher's own and only the head comes from the student.

    Two things are B's own under every strategy, since no training on emotions made them (`given_parts`): the region
    normaliser, and a student's word embeddings as long as they are as published. Where a training has moved them they
    are a block like any other.

    Args:
        plan: what `check_transfer` made of the strategy and the checkpoints.
        prior: float `(L,)`, mean of the target's training labels.
        source_table: rows of the source, on which `ridge` is fitted.

    Returns:
        The model, its processor, and the record of the surgery: for each tensor how it came, its checksum at the start
        and whether it is frozen; buffers, which no training moves, are marked as such and not as frozen.

    Raises:
        ValueError: a checkpoint that lacks tensors.
    """
    config, load = load_config(plan.base), functools.cache(load_giver)
    config.modalities = None if plan.source is None else config.modalities
    model, processor = MODELS[config.model_type](config), EmocapProcessor.from_pretrained(plan.base)
    blocks = list(blocks_of(model))
    passing = [part for block in blocks[: plan.num_blocks] for part in block]
    record: dict[str, dict[str, Any]] = {name: {"origin": "fresh"} for name in model.state_dict()}
    copy_tensors(model, load, plan.base, given_parts(model), record, "given by")
    if plan.source is not None:
        copy_tensors(model, load, plan.base if plan.across else plan.source, passing, record)
    if plan.copy_word_embeddings and plan.source is not None:
        pass_word_embeddings(model, load(plan.source), plan.source, record)
    start_at_prior(model, prior)
    head = head_of(model)
    if plan.passes_head:
        start_head(model, processor, load(plan.source), plan, source_table)
        for name, value in model.named_parameters():
            if value is head.weight or value is head.bias:
                how = "copied from" if plan.head_init == "collapse" and not plan.across else f"{plan.head_init} of"
                record[name] = {"origin": f"{how} {plan.source}"}
    freeze(model, passing if plan.strategy in FREEZING else [], plan.freeze_word_embeddings)
    if isinstance(model, EmocapStudentForMultiLabelClassification):
        note_word_embeddings(model, plan)
    moving, frozen = {*dict(model.named_parameters()), *norm_statistics(model)}, frozen_tensors(model)
    for name, tensor in model.state_dict().items():
        record[name] |= {"sha256": checksum(tensor), "frozen": name in frozen, "buffer": name not in moving}
    surgery = {
        "strategy": plan.strategy,
        "num_layers": plan.num_blocks,
        "head_init": plan.head_init,
        "freeze_word_embeddings": plan.freeze_word_embeddings,
        "tensors": record,
    }
    return model, processor, surgery


def check_transfer(
    student: str | None,
    teacher: str | None,
    strategy: str,
    num_layers: str = "all",
    head_init: str = "collapse",
    copy_word_embeddings: bool = False,
    freeze_word_embeddings: bool | None = None,
) -> Plan:
    """What is to be done, checked against the checkpoints' configurations before any weight is loaded.

    The arguments are those of `FinetuneArguments`, which explains them.

    Raises:
        ValueError: a checkpoint that the strategy needs is missing, there are fewer blocks than asked for, layers
            that shall pass are of another size, or word embeddings would be frozen as they were drawn.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"--strategy is '{strategy}'; it must be one of {', '.join(STRATEGIES)}.")
    base = teacher or student
    source = {"anb": student, "bnb": teacher}.get(strategy.removesuffix("+"))
    if base is None or (source is None and strategy not in ("random", "scratch")):
        needed = "--teacher" if strategy.startswith("bnb") else "--student"
        raise ValueError(f"--strategy {strategy} needs {needed}, the model whose layers are copied.")
    config = load_config(base)
    across = source is not None and load_config(source).model_type != config.model_type
    model = skeleton(config)
    total = len(list(blocks_of(model))) + 1
    count = check_num_layers(total, num_layers, strategy)
    if source is not None and across and num_layers != "all":
        raise ValueError(
            f"--num_layers is {num_layers}, but '{source}' is a '{load_config(source).model_type}' and '{base}' a "
            f"'{config.model_type}': between different architectures only the last layers pass. Leave it at 'all'."
        )
    if copy_word_embeddings:
        check_word_embeddings(source, base, across)
    drawn = (source is None or count == 0) and not getattr(config, "given_word_embeddings", False)
    if freeze_word_embeddings and drawn and strategy != "random":
        raise ValueError(
            f"--freeze_word_embeddings true with {strategy} and {count} layers: a training has moved the word "
            f"embeddings of '{base}', so they do not pass, and freshly drawn ones would stay noise. Leave it out."
        )
    if source is not None and not across:
        kept = head_init == "collapse" and count == total
        check_fit(model, skeleton(load_config(source)), source, blocks_of(model), count, with_head=kept)
    passes = source is not None and count == total and head_init != "random"
    asked = (strategy, head_init, copy_word_embeddings, freeze_word_embeddings)
    return Plan(*asked, base, source, count, across, passes)


def load_source(source_dataset: str | None, plan: Plan) -> datasets.Dataset | None:
    """The rows on which `ridge` is fitted: those named, or the ones that the source model was trained on, which its
    own run_arguments.json names, in its folder or on the Hub. None where nothing is fitted.

    Raises:
        ValueError: nobody says which data the model was trained on, or its features are of another width.
    """
    if plan.source is None or not plan.passes_head or plan.head_init != "ridge":
        return None
    split, named = "train", source_dataset
    if source_dataset is None:
        recorded = recorded_arguments(plan.source)
        if recorded is None or recorded["dataset"] is None:
            raise ValueError(
                f"--head_init ridge is fitted on the data that '{plan.source}' was trained on, and it has no "
                "run_arguments.json that names a folder or Hub id of them. Give --source_dataset."
            )
        source_dataset, split = str(recorded["dataset"]), recorded["train_split"]
    try:
        tables = load_table(source_dataset)
    except FileNotFoundError as error:
        if named is not None:
            raise
        raise ValueError(
            f"--head_init ridge is fitted on the data that '{plan.source}' was trained on, '{source_dataset}', which "
            f"is not at hand ({error}). Give --source_dataset."
        ) from error
    if split not in tables:
        raise ValueError(f"The source '{source_dataset}' has no split '{split}' (splits: {', '.join(tables)}).")
    for name in {plan.base, plan.source}:
        check_features(load_config(name), tables[split], name)
    return tables[split]


def check_frozen(model: nn.Module, surgery: dict[str, Any]) -> dict[str, Any]:
    """Compares every frozen tensor and every buffer of the trained model with its checksum before training.

    Returns:
        `frozen_tensors`, how many are frozen, and `moved`, the names of those, and of buffers, that differ by a bit or
        more.
    """
    tensors = surgery["tensors"]
    still = {name: entry["sha256"] for name, entry in tensors.items() if entry["frozen"] or entry["buffer"]}
    moved = [name for name, tensor in model.state_dict().items() if still.get(name) not in (None, checksum(tensor))]
    return {"frozen_tensors": sum(entry["frozen"] for entry in tensors.values()), "moved": moved}


def blocks_of(model: nn.Module) -> Iterator[list[nn.Module]]:
    """The blocks below the head, from the input: what `num_layers` counts, beside the head itself.

    Teacher: embeddings (with what all layers share), each encoder layer, the pooler (where it has one). Student: word
    embeddings, GRU, each convolution stage, fc1; with a BERT its embeddings and each of its layers, with a ResNet its
    stem and each of its four groups of blocks.
    """
    if isinstance(model, EmocapTeacherForMultiLabelClassification):
        body = model.body
        beside = [] if model.config.text_config is None else [model.region_embeddings]
        yield [*parts_beside(body), *beside, model.region_normalizer]
        for layer in layers_of(body):
            yield [layer]
        if body.pooler is not None:
            yield [body.pooler]
    else:
        if model.config.text_config is None:
            yield [model.word_embeddings]
            yield [model.gru] if model.word_projection is None else [model.word_projection, model.gru]
        else:
            yield [model.text_encoder.embeddings]
            for layer in model.text_encoder.encoder.layer:
                yield [layer]
        for stage in model.cnn:
            yield [stage]
        yield [model.fc1]


def frozen_tensors(model: nn.Module) -> set[str]:
    """Names of the parameters that do not train, and of the statistics of norms that do not train."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return frozen | {name for name, norm in norm_statistics(model).items() if not norm.weight.requires_grad}


def norm_statistics(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """The buffers that training moves: what batch norms keep of what they saw, and which norm it is."""
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return {f"{name}.{own}": norm for name, norm in norms for own, _ in norm.named_buffers(recurse=False)}


def given_parts(model: nn.Module) -> list[nn.Module]:
    """What every strategy starts from, scratch included, since no training on emotions made it: the normaliser of the
    region features, and a student's word embeddings that are as published."""
    if isinstance(model, EmocapTeacherForMultiLabelClassification):
        return [model.region_normalizer]
    return [model.get_input_embeddings()] if model.config.given_word_embeddings else []


def freeze(model: nn.Module, parts: list[nn.Module], word_embeddings: bool | None) -> None:
    """Freezes these parts and nothing else; word embeddings as asked, where that is not None."""
    model.requires_grad_(True)
    for part in parts:
        part.requires_grad_(False)
    if word_embeddings is not None:
        model.get_input_embeddings().requires_grad_(not word_embeddings)


def note_word_embeddings(model: EmocapStudentForMultiLabelClassification, plan: Plan) -> None:
    """Keeps the configuration true to the word embeddings: whether they are as given, and whether a checkpoint of this
    run freezes them once it is loaded. Where `anb` alone froze them that stays as it was, as for its other blocks."""
    config = model.config
    if plan.source is not None and (plan.copy_word_embeddings or (plan.num_blocks and not plan.across)):
        config.given_word_embeddings = getattr(load_config(plan.source), "given_word_embeddings", False)
    trains = model.get_input_embeddings().weight.requires_grad
    if trains or plan.freeze_word_embeddings is not None:
        config.freeze_word_embeddings = not trains


def start_head(
    model: nn.Module, processor: EmocapProcessor, giver: nn.Module, plan: Plan, table: datasets.Dataset | None
) -> None:
    """Sets the model's head from the source model's."""
    head = head_of(model)
    if plan.head_init == "collapse":
        weight, bias = collapsed_head(giver, head.in_features, keep=not plan.across)
    else:
        weight, bias = ridge_head(model, processor, giver, EmocapProcessor.from_pretrained(str(plan.source)), table)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)


def pass_word_embeddings(model: nn.Module, giver: nn.Module, source: str, record: dict) -> None:
    """The student's word embeddings in place of the teacher's."""
    own = model.get_input_embeddings()
    with torch.no_grad():
        own.weight.copy_(giver.get_input_embeddings().weight)
    for name, value in model.named_parameters():
        if value is own.weight:
            record[name] = {"origin": f"copied from {source}"}


def check_num_layers(available: int, num_layers: str, strategy: str) -> int:
    """Number of blocks that pass."""
    if strategy == "scratch":
        return 0
    if num_layers == "all":
        return available
    if not str(num_layers).isdigit() or int(num_layers) > available:
        raise ValueError(f"--num_layers is '{num_layers}'; expected 'all' or a number from 0 to {available}.")
    return int(num_layers)


def check_word_embeddings(source: str | None, base: str, across: bool) -> None:
    """Refuses to pass word embeddings of another vocabulary or width."""
    if source is None or not across:
        raise ValueError(
            "--copy_word_embeddings is for anb and anb+ between different architectures; between equal ones the word "
            "embeddings pass with the first block."
        )
    tables = [skeleton(load_config(name)).get_input_embeddings().weight.shape for name in (source, base)]
    vocabularies = [EmocapProcessor.from_pretrained(name).tokenizer.get_vocab() for name in (source, base)]
    if tables[0] != tables[1] or vocabularies[0] != vocabularies[1]:
        raise ValueError(
            f"The word embeddings of '{source}' are {tuple(tables[0])}, those of '{base}' {tuple(tables[1])}, of "
            f"{'one vocabulary' if vocabularies[0] == vocabularies[1] else 'different vocabularies'}: they pass where "
            "width and vocabulary are equal. Leave --copy_word_embeddings out."
        )


def check_fit(
    model: nn.Module, giver: nn.Module, source: str, blocks: Iterator[list[nn.Module]], count: int, with_head: bool
) -> None:
    """Refuses blocks whose tensors are missing from the source's architecture or of another shape there."""
    passing = [part for block in list(blocks)[:count] for part in block] + [head_of(model)] * with_head
    there = {name: tuple(tensor.shape) for name, tensor in giver.state_dict().items()}
    for name, tensor in tensors_inside(model, passing):
        if there.get(name) != tuple(tensor.shape):
            raise ValueError(
                f"'{source}' does not fit the target model: '{name}' is {there.get(name, 'absent')} there and "
                f"{tuple(tensor.shape)} here. Layers pass between models of one configuration."
            )


def skeleton(config: PreTrainedConfig) -> nn.Module:
    """The architecture without its values."""
    with torch.device("meta"):
        return MODELS[config.model_type](config)


def load_giver(origin: str) -> nn.Module:
    """A checkpoint in evaluation mode.

    Raises:
        ValueError: tensors that its configuration promises are missing or of another shape, which transformers would
            draw afresh.
    """
    model_class = MODELS[load_config(origin).model_type]
    model, found = model_class.from_pretrained(origin, output_loading_info=True, ignore_mismatched_sizes=True)
    bad = sorted({*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])})
    if bad:
        raise ValueError(
            f"'{origin}' is not whole: {', '.join(bad[:5])}{' ...' if len(bad) > 5 else ''} are missing or of another "
            "shape than its configuration says. Save the model again with save_pretrained."
        )
    return model.eval()


def tensors_inside(model: nn.Module, parts: list[nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of the parts' tensors within the model."""
    inside = tuple(f"{name}." for name, module in model.named_modules() if any(module is part for part in parts))
    for name, tensor in model.state_dict().items():
        if inside and name.startswith(inside):
            yield name, tensor


def copy_tensors(
    model: nn.Module, load, origin: str, parts: list[nn.Module], record: dict, how: str = "copied from"
) -> None:
    """Copies the parts' tensors from a checkpoint and notes where each came from."""
    if not parts:
        return
    values = load(origin).state_dict()
    for name, tensor in tensors_inside(model, parts):
        tensor.copy_(values[name])
        record[name] = {"origin": f"{how} {origin}"}


def checksum(tensor: torch.Tensor) -> str:
    """Of a tensor's bytes: the first 16 digits of their SHA-256."""
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(content).hexdigest()[:16]
