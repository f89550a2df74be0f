"""The head of a target model from a source model's last layers: collapsed into one linear map, or fitted by ridge."""

import datasets
import numpy as np
import torch
from torch import nn

from emocap.data.pairs import PairDataset
from emocap.evaluation.scoring import prepare_table
from emocap.models import EmocapProcessor, EmocapStudentForMultiLabelClassification
from emocap.models.modeling_emocap_teacher import EmocapTeacherForMultiLabelClassification

__all__ = ["collapsed_head", "head_of", "pooled_outputs", "resize_columns", "ridge_head", "start_at_prior"]


def head_of(model: nn.Module) -> nn.Linear:
    """The last linear layer: the teacher's classifier, the student's fc2."""
    return model.classifier if isinstance(model, EmocapTeacherForMultiLabelClassification) else model.fc2


def start_at_prior(model: nn.Module, prior: np.ndarray) -> None:
    """Starts the head from the constant answer's logits, float `(L,)`: nothing has to be learned to be as good."""
    with torch.no_grad():
        head_of(model).bias.copy_(torch.logit(torch.from_numpy(prior).float(), eps=1e-3))


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
    sums over columns are kept. Equal widths are copied to the bit.

    The study says only that sizes were adapted. The inputs of the two heads have nothing to do with each other, so no
    rule can carry their meaning over; this one keeps each emotion's weight and order, and needs no draw.
    """
    if weight.shape[1] == width:
        return weight.clone()
    old, new = (torch.arange(number + 1).double() / number for number in (weight.shape[1], width))
    overlap = torch.minimum(old[1:, None], new[1:]) - torch.maximum(old[:-1, None], new[:-1])
    return (weight.double() @ (overlap.clamp_min(0) * weight.shape[1])).to(weight.dtype)


@torch.inference_mode()
def ridge_head(
    model: nn.Module,
    processor: EmocapProcessor,
    giver: nn.Module,
    giver_processor: EmocapProcessor,
    table: datasets.Dataset,
    penalty: float = 1.0,
    batch_size: int = 64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight float32 `(L, width)` and bias `(L,)` of the linear map on the model's pooled outputs that best reproduces
    the giver's logits on the table's pairs: ridge regression in closed form, the intercept not penalised.

    The sums behind it grow batch by batch, so memory does not depend on the number of rows.

    Args:
        model, processor: the target model, whose head receives.
        giver, giver_processor: the source model.
        table: rows of the source, with what both models read.
        penalty: of the squared weights, beside the sum of squared errors over the pairs.
        batch_size: pairs a step.

    Raises:
        ValueError: the two models read another number of pairs from the table.
    """
    own, given = (
        PairDataset(prepare_table(table, reader), reader, modalities=each.config.modalities or "both")
        for each, reader in ((model, processor), (giver, giver_processor))
    )
    if len(own) != len(given):
        seen, known = (each.config.modalities or "both" for each in (model, giver))
        raise ValueError(
            f"From the source's {len(table)} rows the target model reads {len(own)} pairs ({seen}) and the student "
            f"{len(given)} ({known}): ridge needs the same pairs. Use --head_init collapse, or models that read the "
            "same modalities."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()
    giver.to(device).eval()
    width = head_of(model).in_features
    gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    cross = torch.zeros(width + 1, head_of(giver).out_features, dtype=torch.float64)
    for start in range(0, len(own), batch_size):
        chosen = range(start, min(start + batch_size, len(own)))
        inputs = pooled_outputs(model, on_device(own.__getitems__(chosen), device))
        targets = giver(**on_device(given.__getitems__(chosen), device)).logits.double().cpu()
        design = torch.cat([inputs.double().cpu(), torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)
        gram += design.T @ design
        cross += design.T @ targets
    model.cpu()
    gram.diagonal()[:width] += penalty
    solution = torch.linalg.solve(gram, cross).float()
    return solution[:width].T.clone(), solution[width].clone()


def pooled_outputs(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What enters the head, `(batch, width)`. With late fusion, the mean over the modalities that a row has: the
    logits, averaged there, are linear in it."""
    pooled = model.pooled_outputs(**{name: values for name, values in batch.items() if name != "labels"})
    if "pooled_mask" not in pooled:
        return pooled["pooled_output"]
    present = pooled["pooled_mask"].to(pooled["pooled_output"].dtype).unsqueeze(-1)
    return (pooled["pooled_output"] * present).sum(1) / present.sum(1).clamp_min(1)


def on_device(batch: dict[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: values.to(device) for name, values in batch.items()}
