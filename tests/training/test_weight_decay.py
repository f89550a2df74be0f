"""Biases and norms have no weight decay, whoever trains."""

import pytest
import torch
from torch import nn
from transformers import AutoModel

from emocap.arguments import EmocapTrainingArguments
from emocap.training.trainer import EmocapTrainer
from emocap.training.weight_decay import parameter_groups

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def decay_of(optimizer, model: nn.Module) -> dict[str, float]:
    decay = {id(value): group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
    return {name: decay[id(value)] for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("checkpoint", ["tiny_teacher", "tiny_student"])
def test_both_loops_decay_weights_alone(checkpoint, request, tmp_path):
    model = AutoModel.from_pretrained(request.getfixturevalue(checkpoint))
    norms = {name for name, module in model.named_modules() if isinstance(module, NORMS)}
    assert norms
    expected = {
        name: 0.0 if name.rpartition(".")[0] in norms or "bias" in name else 0.25
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    arguments = EmocapTrainingArguments(
        str(tmp_path), weight_decay=0.25, use_cpu=True, eval_strategy="no", load_best_model_at_end=False
    )
    assert decay_of(EmocapTrainer(model, arguments).create_optimizer(), model) == expected
    groups = parameter_groups(model, 0.25, (0.1, 0.2), fresh={"word_embeddings.weight"})
    assert decay_of(torch.optim.AdamW(groups), model) == expected
    assert {group["lr"] for group in groups} == ({0.1, 0.2} if "word_embeddings.weight" in expected else {0.1})
