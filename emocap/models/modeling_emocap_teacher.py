"""The teacher: a VisualBERT body (Li et al. 2019) or a text encoder, and one linear layer over its pooled output."""

import inspect

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel, VisualBertModel, VisualBertPreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.visual_bert.modeling_visual_bert import VisualBertAttention, VisualBertSelfAttention
from transformers.utils import logging

from .common_emocap import RegionNormalizer, keep_frozen_in_eval, multi_label_loss
from .configuration_emocap_teacher import EmocapTeacherConfig

__all__ = ["EmocapTeacherBody", "EmocapTeacherForMultiLabelClassification"]

logger = logging.get_logger(__name__)

BERT_FIELDS = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
]


class RegionEmbeddings(nn.Module):
    """Regions beside a text encoder, as VisualBERT's embeddings have them; its vectors of position and kind, the same
    for every region, are one."""

    def __init__(self, config: EmocapTeacherConfig):
        super().__init__()
        self.visual_projection = nn.Linear(config.visual_embedding_dim, config.hidden_size)
        self.visual_kind = nn.Parameter(torch.zeros(config.hidden_size))
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float `(batch, regions, visual_embedding_dim)` to `(batch, regions, hidden_size)`."""
        return self.dropout(self.LayerNorm(self.visual_projection(features) + self.visual_kind))


class EmocapTeacherForMultiLabelClassification(VisualBertPreTrainedModel):
    """VisualBERT body, or with `config.text_config` a text encoder, with a linear multi-label head; `sigmoid(logits)`
    are the emotions' probabilities."""

    config: EmocapTeacherConfig
    config_class = EmocapTeacherConfig
    accepts_loss_kwargs = False  # the loss is a mean: Trainer has to divide by the accumulation steps itself
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EmocapTeacherConfig):
        super().__init__(config)
        if config.text_config is None:
            self.visual_bert = EmocapTeacherBody(config, add_pooling_layer=config.pooling == "pooler")
        else:
            self.text_encoder = make_text_encoder(config)
            self.region_embeddings = RegionEmbeddings(config)
        self.region_normalizer = RegionNormalizer(config.visual_embedding_dim)
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size * len(config.pooled_layers or [-1]), config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RegionNormalizer):
            init.zeros_(module.shift)
            init.ones_(module.scale)
        elif isinstance(module, RegionEmbeddings):
            init.normal_(module.visual_kind, std=2**0.5 * self.config.initializer_range)  # of a sum of two

    @property
    def body(self) -> PreTrainedModel:
        """What reads the words: the VisualBERT, or the text encoder."""
        return self.visual_bert if self.config.text_config is None else self.text_encoder

    @property
    def region_part(self) -> nn.Module:
        """What reads the regions' features first, which only training on photos makes: VisualBERT's projection, or all
        that stands beside a text encoder."""
        if self.config.text_config is None:
            return self.visual_bert.embeddings.visual_projection
        return self.region_embeddings

    def get_input_embeddings(self) -> nn.Module:
        return self.body.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.body.set_input_embeddings(value)

    def train(self, mode: bool = True) -> "EmocapTeacherForMultiLabelClassification":
        """Training mode, but for parts whose parameters are all frozen: their dropout stays off."""
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self)
        return self

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        labels: torch.FloatTensor | None = None,
        pooled_output: torch.Tensor | None = None,
        pooled_mask: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[torch.Tensor, ...]:
        """Logits of every emotion.

        Args:
            input_ids: int64 `(batch, words)`.
            attention_mask: int64 `(batch, words)`, 1 for words; all 0 in rows without a caption.
            token_type_ids: int64 `(batch, words)`, 0 by default; a text encoder that knows none leaves them out.
            visual_embeds: float16 or float32 `(batch, regions, visual_embedding_dim)`; None for text alone.
            visual_attention_mask: int64 `(batch, regions)`, 1 for regions; all 0 in rows without a photo.
            labels: float `(batch, num_labels)`, multi-hot or shares in 0..1.
            pooled_output, pooled_mask: what `pooled_outputs` gave for the batch, instead of the inputs above.
            output_attentions: return attention probabilities; attention is then eager, whatever `attn_implementation`.
                A text encoder gives those that its own implementation of attention has.
            output_hidden_states, return_dict: as everywhere in transformers.

        Returns:
            `SequenceClassifierOutput` with `loss` (the configuration's, when `labels` are given; in training with
            late fusion half of each modality's own is added) and `logits` float `(batch, num_labels)`. With late
            fusion hidden states and attentions are those of the words.
        """
        hidden_states = attentions = None
        wanted = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        wanted = {name: getattr(self.config, name) if own is None else own for name, own in wanted.items()}
        if pooled_output is None:
            pooled_output, pooled_mask, body = self.encode_pairs(
                input_ids,
                attention_mask,
                token_type_ids,
                visual_embeds,
                visual_attention_mask,
                **wanted,
            )
            hidden_states = body.hidden_states if wanted["output_hidden_states"] else None
            attentions = body.attentions
        logits = apart = self.classifier(self.dropout(pooled_output))
        if pooled_mask is not None:
            present = pooled_mask.to(apart.dtype).unsqueeze(-1)
            logits = (apart * present).sum(1) / present.sum(1).clamp_min(1)
        loss = None if labels is None else multi_label_loss(logits, labels, self.config)
        if labels is not None and pooled_mask is not None and self.training:
            loss = loss + multi_label_loss(apart, labels.unsqueeze(1), self.config, present)
        output = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states, attentions=attentions)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def pooled_outputs(self, *args, **kwargs) -> dict[str, torch.Tensor]:
        """What the head reads of `forward`'s inputs: computed once where the whole body is frozen.

        Returns:
            `pooled_output` float `(batch, width)`, `width` being `hidden_size` or as many times that as there are
            `pooled_layers`; with late fusion of words and regions `(batch, 2, width)`, and `pooled_mask` int64
            `(batch, 2)`: which of the two each row has.
        """
        pooled_output, pooled_mask, _ = self.encode_pairs(*args, **kwargs)
        pooled = {"pooled_output": pooled_output}
        return pooled if pooled_mask is None else pooled | {"pooled_mask": pooled_mask}

    def encode_pairs(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        **wanted,
    ) -> tuple[torch.Tensor, torch.Tensor | None, BaseModelOutputWithPooling]:
        """Pooled output and mask as in `pooled_outputs`, and the body's own output."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if visual_embeds is not None:
            visual_embeds = self.region_normalizer(visual_embeds)
            if visual_attention_mask is None:
                visual_attention_mask = torch.ones(visual_embeds.shape[:2], dtype=torch.long, device=input_ids.device)
        words = (input_ids, attention_mask, token_type_ids)
        if self.config.fusion == "early" or visual_embeds is None or visual_attention_mask is None:
            body = self.encode(*words, visual_embeds, visual_attention_mask, **wanted)
            return self.pool(body, attention_mask, visual_attention_mask), None, body
        body = self.encode(*words, None, None, **wanted)
        regions = ACT2FN[self.config.hidden_act](self.embed_regions(visual_embeds))
        pictures = self.side_by_side([regions] * len(self.config.pooled_layers or [-1]), visual_attention_mask)
        pooled = [self.pool(body, attention_mask, None), pictures]
        present = torch.stack([attention_mask.amax(1), visual_attention_mask.amax(1)], dim=1)
        return torch.stack(pooled, dim=1), present, body

    def embed_regions(self, visual_embeds: torch.Tensor) -> torch.Tensor:
        """Normalised features of regions that pass no layer, `(batch, regions, hidden_size)`."""
        if self.config.text_config is not None:
            return self.region_embeddings(visual_embeds)
        no_words = visual_embeds.new_zeros(len(visual_embeds), 0, self.config.hidden_size)
        return self.visual_bert.embeddings(inputs_embeds=no_words, visual_embeds=visual_embeds)

    def encode(
        self, input_ids, attention_mask, token_type_ids, visual_embeds, visual_attention_mask, **wanted
    ) -> BaseModelOutputWithPooling:
        """One pass of the body. A row that has nothing to see looks at its first token: what attention makes of no
        token at all differs between implementations."""
        seen = attention_mask.any(1)
        if visual_attention_mask is not None:
            seen = seen | visual_attention_mask.any(1)
        first = attention_mask[:, :1].masked_fill(~seen[:, None], 1)
        if self.config.pooled_layers is not None:
            wanted["output_hidden_states"] = True
        if self.config.text_config is None:
            regions = {"visual_embeds": visual_embeds, "visual_attention_mask": visual_attention_mask}
            wanted |= regions | {"token_type_ids": token_type_ids}
        elif token_type_ids is not None and takes(self.text_encoder, "token_type_ids"):
            wanted["token_type_ids"] = token_type_ids
        attention_mask = torch.cat((first, attention_mask[:, 1:]), dim=1)
        return self.body(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **wanted)

    def pool(self, body: BaseModelOutputWithPooling, attention_mask, visual_attention_mask) -> torch.Tensor:
        """What the head reads of one pass, `(batch, width)`."""
        if self.config.pooling == "pooler":
            return body.pooler_output
        layers = self.config.pooled_layers
        states = [body.last_hidden_state] if layers is None else [body.hidden_states[layer] for layer in layers]
        return self.side_by_side(states, attention_mask, visual_attention_mask)

    def side_by_side(self, states: list[torch.Tensor], *masks: torch.Tensor | None) -> torch.Tensor:
        """The means of each of the states, of unit length where there are `pooled_layers`, `(batch, width)`."""
        means = [mean_over_modalities(own, *masks) for own in states]
        if self.config.pooled_layers is None:
            return means[0]
        return torch.cat([nn.functional.normalize(mean, dim=-1) for mean in means], dim=-1)

    @classmethod
    def from_body(
        cls, model_name_or_path: str, *, reinit_visual_projection: bool = False, **overrides
    ) -> "EmocapTeacherForMultiLabelClassification":
        """A teacher whose body starts from a VisualBERT, a BERT, an emocap teacher or a text encoder's checkpoint.

        Args:
            model_name_or_path: folder or Hub id. From a BERT checkpoint every tensor of the body passes but the
                `visual_*` ones, which are new. Any other text encoder stays what it is, see `text_config` in
                [`EmocapTeacherConfig`], with late fusion.
            reinit_visual_projection: draw a new visual projection, for features of another detector.
            **overrides: fields of [`EmocapTeacherConfig`], such as `id2label`, `label2id`, `visual_embedding_dim`,
                `pooling` ("mean" by default where the checkpoint brings no pooler). Of a teacher of other emotions, or
                of other `pooled_layers`, the head is drawn anew, and reads the last layer unless `pooled_layers` says
                otherwise.

        Raises:
            ValueError: the checkpoint is of another family, or `visual_embedding_dim` does not fit its body.
        """
        source = AutoConfig.from_pretrained(model_name_or_path)
        if source.model_type in ("visual_bert", "emocap_teacher"):
            return cls._from_visual_bert(model_name_or_path, source, reinit_visual_projection, overrides)
        fields = {name: getattr(source, name) for name in BERT_FIELDS if getattr(source, name, None) is not None}
        if source.model_type != "bert":
            source.dtype = torch.float32  # as the teacher's own
            fields |= {"text_config": source, "fusion": "late"}
        model = cls(EmocapTeacherConfig(**{"pooling": "mean", **fields, **overrides}))
        giver = AutoModel.from_pretrained(model_name_or_path, dtype=torch.float32)
        new, unused = model.body.load_state_dict(giver.state_dict(), strict=False)
        if model.config.text_config is None:
            embeddings = model.visual_bert.embeddings
            with torch.no_grad():  # as VisualBERT's own special_visual_initialize
                embeddings.visual_token_type_embeddings.weight.copy_(embeddings.token_type_embeddings.weight)
                embeddings.visual_position_embeddings.weight.copy_(embeddings.position_embeddings.weight)
        given = {id(values) for name, values in model.body.named_parameters() if name not in new}
        new = [name for name, values in model.named_parameters() if id(values) not in given]
        logger.warning(f"Body from {model_name_or_path}: new tensors {sorted(new)}, unused tensors {sorted(unused)}.")
        return model

    @classmethod
    def _from_visual_bert(cls, model_name_or_path, source, reinit_visual_projection, overrides):
        own = ("architectures", "auto_map", "model_type", "transformers_version")
        fields = {key: value for key, value in source.to_dict().items() if value is not None and key not in own}
        if getattr(source, "modalities", None) == "text":  # its visual projection was never trained
            reinit_visual_projection = True
        dim = overrides.get("visual_embedding_dim", source.visual_embedding_dim)
        if dim != source.visual_embedding_dim and not reinit_visual_projection:
            raise ValueError(
                f"The region features are {dim}-d, but the body '{model_name_or_path}' was trained on "
                f"{source.visual_embedding_dim}-d features. Extract features of its own detector, or pass "
                "--reinit_visual_projection to learn a new visual projection."
            )
        before = fields.get("id2label"), getattr(source, "pooled_layers", None)
        if "id2label" in overrides:  # and what was fitted on other emotions goes with them
            gone = {"id2label", "label2id", "label_prevalence", "thresholds", "temperature"}
            if overrides["id2label"] != fields.get("id2label"):
                gone.add("pooled_layers")  # what the head read goes with it
            fields = {key: value for key, value in fields.items() if key not in gone}
        config = EmocapTeacherConfig(**{**fields, **overrides})
        model = cls.from_pretrained(
            model_name_or_path, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
        )
        if reinit_visual_projection:
            part = model.region_part
            projection = part if isinstance(part, nn.Linear) else part.visual_projection
            nn.init.normal_(projection.weight, std=config.initializer_range)
            nn.init.zeros_(projection.bias)
        if before != (config.id2label, config.pooled_layers):
            logger.warning(f"Body from {model_name_or_path}: a new head, for these emotions and pooled layers.")
            nn.init.normal_(model.classifier.weight, std=config.initializer_range)
            nn.init.zeros_(model.classifier.bias)
        return model


def make_text_encoder(config: EmocapTeacherConfig) -> PreTrainedModel:
    """The text encoder of `config.text_config`, with a pooler where the head reads one.

    Raises:
        ValueError: an encoder without attention mask, or without the pooler that the head shall read.
    """
    encoder = AutoModel.from_config(config.text_config)
    kind = encoder.config.model_type
    if not takes(encoder, "attention_mask"):
        raise ValueError(f"A '{kind}' takes no attention_mask, so padding would count as words; take another encoder.")
    if config.pooling == "mean":
        encoder.pooler = None
    elif getattr(encoder, "pooler", None) is None:
        raise ValueError(f"pooling is 'pooler', but a '{kind}' has none; use 'mean'.")
    return encoder


def takes(model: nn.Module, name: str) -> bool:
    """Whether a model's forward has such an argument."""
    return name in inspect.signature(model.forward).parameters


def mean_over_modalities(
    hidden_states: torch.Tensor, attention_mask: torch.Tensor, visual_attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over words and mean over regions, averaged over the modalities that a row has: `(batch, hidden_size)`."""
    words = attention_mask.shape[1]
    parts = [(hidden_states[:, :words], attention_mask)]
    if visual_attention_mask is not None:
        parts.append((hidden_states[:, words:], visual_attention_mask))
    total = sum(mean_over(states, mask) for states, mask in parts)
    present = sum(mask.amax(1, keepdim=True) for _, mask in parts)
    return total / present.clamp_min(1)


def mean_over(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the states `(batch, length, hidden_size)` that the mask shows, 0 where it shows none."""
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


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
