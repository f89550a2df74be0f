"""The teacher's body: transformers' VisualBERT (Li et al. 2019), its attention through the attention interface."""

import torch
from torch import nn
from transformers import VisualBertModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.visual_bert.modeling_visual_bert import VisualBertAttention, VisualBertSelfAttention

from .configuration_emocap_teacher import EmocapTeacherConfig

__all__ = ["EmocapTeacherBody"]


class EmocapSelfAttention(VisualBertSelfAttention):
    """VisualBERT's self-attention, computed by whichever function `attn_implementation` names."""

    is_causal = False

    def __init__(self, config: EmocapTeacherConfig):
        super().__init__(config)
        self.config = config

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, output_attentions: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """Context float `(batch, length, hidden_size)`, and with `output_attentions` the probabilities float
        `(batch, heads, length, length)`, for which attention is eager whatever the implementation."""
        shape = hidden_states.shape[:-1]
        query, key, value = (
            layer(hidden_states).view(*shape, -1, self.attention_head_size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attend = eager_attention_forward
        if not output_attentions:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        context, probabilities = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.dropout.p if self.training else 0.0,
            scaling=self.attention_head_size**-0.5,
        )
        context = context.reshape(*shape, -1)
        return (context, probabilities) if output_attentions else (context,)


class EmocapTeacherBody(VisualBertModel):
    """`VisualBertModel` with the attention implementations of current models: eager, sdpa (the default) and flash.

    Tensors keep their names, so that checkpoints of either class load into the other.
    """

    config: EmocapTeacherConfig
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EmocapTeacherConfig, add_pooling_layer: bool = True):
        super().__init__(config, add_pooling_layer)
        for module in self.modules():
            if isinstance(module, VisualBertAttention):
                module.self = EmocapSelfAttention(config)
        self.post_init()


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax of scaled dot products, with the mask of any implementation: additive, boolean or one row a sequence."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        if attention_mask.dim() == 2:  # flash's mask, 1 for what is seen
            attention_mask = attention_mask[:, None, None, :].bool()
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    probabilities = nn.functional.softmax(scores, dim=-1)
    probabilities = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities
