"""The captioner: regions of a photo and wished emotions as soft tokens before the words of a causal language model."""

import inspect
import math
import os

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .common_emocap import RegionNormalizer, keep_frozen_in_eval
from .configuration_emocap_captioner import EmocapCaptionerConfig

__all__ = ["EmocapCaptionerForConditionalGeneration", "split_gguf"]

SOFT_INPUTS = ("visual_embeds", "visual_attention_mask", "region_boxes", "wish_levels", "wish_mask")
"""What becomes soft tokens; read with the prompt, not with the words that are generated."""


class EmocapCaptionerForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A causal language model that reads soft tokens, one of the wish and one a region, in place of the embeddings of
    `config.image_token_id` (as Liu et al. 2023 lay a picture among words).

    `generate` is transformers' own. Its `guidance_scale` s is classifier-free guidance (Ho and Salimans 2022) of the
    wish alone: log-probabilities `without + s * (with - without)`, both of which see the photo, in one batch of twice
    the rows.
    """

    config: EmocapCaptionerConfig
    config_class = EmocapCaptionerConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # num_items_in_batch: accumulated batches have one mean over all their words
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EmocapCaptionerConfig):
        super().__init__(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        width = config.soft_hidden_size
        self.region_normalizer = RegionNormalizer(config.visual_embedding_dim)
        self.region_projection = nn.Linear(config.visual_embedding_dim, width)
        self.box_projection = nn.Linear(5, width)
        self.region_layers = nn.ModuleList(
            RegionLayer(width, config.num_region_heads) for _ in range(config.num_region_layers)
        )
        self.wish_encoder = WishEncoder(config.num_labels, width)
        self.soft_projection = nn.Sequential(
            nn.Linear(width, self.language_model.get_input_embeddings().embedding_dim),
            nn.LayerNorm(self.language_model.get_input_embeddings().embedding_dim),
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):  # of the wish: sums over the emotions come out about as large as 1
            init.normal_(module.weight, std=self.config.num_labels**-0.5)
            return
        super()._init_weights(module)
        if isinstance(module, RegionNormalizer):
            init.zeros_(module.shift)
            init.ones_(module.scale)

    @classmethod
    def from_language_model(
        cls, model_name_or_path: str | os.PathLike, processor, random_weights: bool = False, **fields
    ) -> "EmocapCaptionerForConditionalGeneration":
        """A captioner that starts from a causal language model.

        Args:
            model_name_or_path: its folder or Hub id, or a GGUF file in one (`FOLDER/NAME.gguf`, for which the package
                gguf is needed), whose weights are from then on full float32 ones.
            processor: the `EmocapCaptionerProcessor` over the language model's tokenizer.
            random_weights: take its configuration alone.
            **fields: of [`EmocapCaptionerConfig`].

        Raises:
            ValueError: the tokenizer has no token that ends a text.
        """
        source, file = split_gguf(model_name_or_path)
        if random_weights:
            language_model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, **file))
        else:
            language_model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **file)
        if file and not random_weights:  # they were unpacked, but what is marked as quantized cannot be saved
            del language_model.config.quantization_config, language_model.hf_quantizer
            language_model.is_quantized = False
        tokenizer = processor.tokenizer
        if len(tokenizer) > language_model.get_input_embeddings().num_embeddings:
            language_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model = cls(
            EmocapCaptionerConfig(
                text_config=language_model.config,
                image_token_id=processor.image_token_id,
                **processor.wishes,
                **fields,
            )
        )
        model.language_model = language_model
        if not random_weights:  # soft tokens as large as words, which is what the language model knows
            nn.init.constant_(model.soft_projection[-1].weight, model.get_input_embeddings().weight.std().item())
        generation = model.generation_config
        generation.bos_token_id, generation.eos_token_id = tokenizer.bos_token_id, processor.end_token_id
        generation.pad_token_id, generation.suppress_tokens = tokenizer.pad_token_id, [processor.image_token_id]
        generation.max_new_tokens = model.config.caption_length
        return model

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def train(self, mode: bool = True) -> "EmocapCaptionerForConditionalGeneration":
        """Training mode, but for parts whose parameters are all frozen: their dropout stays off."""
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self)
        return self

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.LongTensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        visual_attention_mask: torch.LongTensor | None = None,
        region_boxes: torch.Tensor | None = None,
        wish_levels: torch.Tensor | None = None,
        wish_mask: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        guidance_scale: float | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """The language model's output.

        Args:
            input_ids: int64 `(batch, tokens)`. A row holds `config.image_token_id` once for its wish, then once for
                each region that its mask shows, then words; before them what starts a text, where there is such.
            attention_mask: int64 `(batch, tokens)`, or with a cache `(batch, earlier tokens + tokens)`, 0 for padding.
            position_ids: int64 `(batch, tokens)`; by default they count what the mask shows.
            visual_embeds: float16 or float32 `(batch, regions, visual_embedding_dim)`; None: no row has a photo.
            visual_attention_mask: int64 `(batch, regions)`, all 0 in rows without a photo; by default all 1.
            region_boxes: float `(batch, regions, 4)`, relative x1 y1 x2 y2.
            wish_levels: float `(batch, num_labels)`, in standard deviations, see `config.wish_mean`.
            wish_mask: int64 `(batch, num_labels)`, 1 for emotions whose level is shown; all 0, or None: no wish.
            inputs_embeds: float `(batch, tokens, width)` of the language model, instead of all of the above but the
                mask and the positions.
            labels: int64 `(batch, tokens)`, -100 where nothing is learned.
            guidance_scale: see the class; None: 1. Hidden states and attentions then have twice the rows.
            num_items_in_batch: words that the loss is a mean over; None: those of the batch.
            logits_to_keep, **kwargs: what language models take.

        Returns:
            `CausalLMOutputWithPast` with `loss` (with `labels`: nats a token, in float32; in training with the
            configuration's label smoothing) and `logits` float `(batch, tokens, vocabulary)`.

        Raises:
            ValueError: a row has more or fewer places than soft tokens, features of another width, regions without
                boxes, or more tokens than the language model has positions.
        """
        if guidance_scale is not None:
            inputs = (input_ids, attention_mask, position_ids, visual_embeds, visual_attention_mask, region_boxes)
            return self.guided(guidance_scale, inputs, wish_levels, wish_mask, logits_to_keep=logits_to_keep, **kwargs)
        if inputs_embeds is None:
            inputs_embeds = self.embed(
                input_ids, visual_embeds, visual_attention_mask, region_boxes, wish_levels, wish_mask
            )
        if position_ids is None and isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, -inputs_embeds.shape[1] :]
        if position_ids is not None and "position_ids" in inspect.signature(self.language_model.forward).parameters:
            kwargs["position_ids"] = position_ids
        output = self.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, logits_to_keep=logits_to_keep, **kwargs
        )
        if labels is not None:
            output["loss"] = self.loss(output.logits, labels, num_items_in_batch)
        return output

    def loss(self, logits, labels, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        smoothing = self.config.label_smoothing if self.training else 0.0
        reduction = "mean" if num_items_in_batch is None else "sum"
        told, words = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        loss = F.cross_entropy(told, words, reduction=reduction, label_smoothing=smoothing)
        return loss if num_items_in_batch is None else loss / num_items_in_batch

    def guided(self, scale: float, inputs: tuple, wish_levels, wish_mask, **kwargs) -> CausalLMOutputWithPast:
        """Output whose logits are guided log-probabilities, from rows with their wish and, below them, without."""
        if wish_mask is not None:
            wish_levels = torch.cat([wish_levels, wish_levels])
            wish_mask = torch.cat([wish_mask, torch.zeros_like(wish_mask)])
        output = self(*map(twice, inputs), wish_levels, wish_mask, return_dict=True, **kwargs)
        wished, unwished = output.logits.float().log_softmax(-1).chunk(2)
        output["logits"] = unwished + scale * (wished - unwished)
        return output

    def embed(
        self, input_ids, visual_embeds, visual_attention_mask, region_boxes, wish_levels, wish_mask
    ) -> torch.Tensor:
        """What the language model reads, `(batch, tokens, width)`: soft tokens in their places among the words."""
        self.check_positions(input_ids.shape[1])
        embedded, places = self.get_input_embeddings()(input_ids), input_ids == self.config.image_token_id
        if not places.any():
            return embedded
        soft, present = self.soft_tokens(
            len(input_ids), visual_embeds, visual_attention_mask, region_boxes, wish_levels, wish_mask
        )
        if not torch.equal(places.sum(1), present.sum(1)):
            row = int((places.sum(1) != present.sum(1)).nonzero()[0])
            raise ValueError(
                f"Row {row} has {int(places[row].sum())} places for {int(present[row].sum())} soft tokens: one of the "
                "wish and one a region. The processor lays them out."
            )
        return embedded.masked_scatter(places.unsqueeze(-1), soft[present].to(embedded.dtype))

    def soft_tokens(
        self, batch_size: int, visual_embeds, visual_attention_mask, region_boxes, wish_levels, wish_mask
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Soft tokens `(batch, 1 + regions, width)`, the wish's before the regions', which so are read in its light,
        and which of them there are, bool `(batch, 1 + regions)`."""
        device = self.soft_projection[0].weight.device
        if wish_mask is None:
            wish_mask = torch.zeros(batch_size, self.config.num_labels, dtype=torch.long, device=device)
            wish_levels = wish_mask.to(self.dtype)
        tokens = self.wish_encoder(wish_levels, wish_mask).unsqueeze(1)
        present = torch.ones(batch_size, 1, dtype=torch.bool, device=device)
        if visual_embeds is not None:
            if visual_attention_mask is None:
                visual_attention_mask = present.expand(visual_embeds.shape[:2])
            regions = self.read_regions(visual_embeds, visual_attention_mask.bool(), region_boxes)
            tokens = torch.cat([tokens, regions], dim=1)
            present = torch.cat([present, visual_attention_mask.bool()], dim=1)
        return self.soft_projection(tokens), present

    def read_regions(self, visual_embeds, present, region_boxes) -> torch.Tensor:
        """Regions float `(batch, regions, soft_hidden_size)` that know their place and each other."""
        if visual_embeds.shape[-1] != self.config.visual_embedding_dim:
            raise ValueError(
                f"The region features are {visual_embeds.shape[-1]}-d, but the captioner reads "
                f"{self.config.visual_embedding_dim}-d ones: extract features with its own extractor."
            )
        if region_boxes is None:
            raise ValueError("Region features came without region_boxes; give the boxes of every region.")
        boxes = region_boxes.to(self.box_projection.weight.dtype)
        area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        regions = self.region_projection(self.region_normalizer(visual_embeds).to(self.region_projection.weight.dtype))
        regions = regions + self.box_projection(torch.cat([boxes, area.unsqueeze(-1)], dim=-1))
        itself = torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
        seen = present[:, None, None, :] | itself  # a row without a photo has something to look at
        for layer in self.region_layers:
            regions = layer(regions, seen)
        return regions

    def check_positions(self, tokens: int) -> None:
        positions = getattr(self.config.text_config, "max_position_embeddings", None)
        if positions is not None and tokens > positions:
            raise ValueError(
                f"{tokens} tokens came or are to be written, soft ones of wish and regions among them, but the "
                f"language model has {positions} positions."
            )

    def _validate_generated_length(self, generation_config, *args) -> None:
        """Before a caption is begun that could not be ended."""
        super()._validate_generated_length(generation_config, *args)
        self.check_positions(generation_config.max_length)

    def prepare_inputs_for_generation(self, input_ids, *args, is_first_iteration: bool | None = False, **kwargs):
        if not is_first_iteration and kwargs.get("use_cache", True):
            kwargs = {name: own for name, own in kwargs.items() if name not in SOFT_INPUTS}
        return super().prepare_inputs_for_generation(input_ids, *args, is_first_iteration=is_first_iteration, **kwargs)

    def _get_logits_processor(self, generation_config, *args, model_kwargs: dict, **kwargs):
        """transformers' processors without its guidance, which leaves the photo out and loses its way under beams:
        `forward` guides here.

        Raises:
            ValueError: a guidance scale that is no number, or a negative prompt, whose place the missing wish has.
        """
        scale, generation_config.guidance_scale = generation_config.guidance_scale, None
        if scale is not None and scale != 1:
            if not math.isfinite(scale):
                raise ValueError(f"guidance_scale is {scale}; it must be a finite number.")
            if kwargs.get("negative_prompt_ids") is not None:
                raise ValueError("guidance_scale compares a wish with no wish here: leave negative_prompt_ids out.")
            model_kwargs["guidance_scale"] = scale
        return super()._get_logits_processor(generation_config, *args, model_kwargs=model_kwargs, **kwargs)

    def _reorder_cache(self, cache, beam_idx: torch.LongTensor):
        """The cache with its rows as beam search has reordered them, and under guidance those without a wish alike."""
        rows = next(len(layer.keys) for layer in cache.layers if getattr(layer, "keys", None) is not None)
        halves = range(0, rows, len(beam_idx))
        cache.reorder_cache(torch.cat([beam_idx + first for first in halves]))
        return cache


def split_gguf(model_name_or_path: str | os.PathLike) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` takes of a folder or Hub id, or of a GGUF file in one."""
    name = os.fspath(model_name_or_path)
    if not name.endswith(".gguf"):
        return name, {}
    folder, file = os.path.split(name)
    return folder, {"gguf_file": file}


def twice(batch):
    """The rows of a batch and, below them, the same once more; of masks a kind of layer each."""
    if isinstance(batch, dict):
        return {kind: twice(mask) for kind, mask in batch.items()}
    return None if batch is None else torch.cat([batch, batch])


class WishEncoder(nn.Module):
    """One vector of the emotions shown with their levels, whichever and how many there are."""

    def __init__(self, num_labels: int, width: int):
        super().__init__()
        self.directions = nn.Embedding(num_labels, width)
        self.shown = nn.Embedding(num_labels, width)
        self.no_wish = nn.Embedding(1, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, levels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(batch, width)` from levels float `(batch, num_labels)` and their mask."""
        dtype = self.directions.weight.dtype
        shown = mask.to(dtype)
        levels = levels.to(dtype).masked_fill(mask == 0, 0)
        pooled = levels @ self.directions.weight + shown @ self.shown.weight
        return torch.where(mask.any(1, keepdim=True), pooled + self.mlp(pooled), self.no_wish.weight.to(pooled.dtype))


class RegionLayer(nn.Module):
    """One transformer layer over the regions of a photo, norms first."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """States `(batch, regions, width)`; `seen` bool `(batch, 1, regions, regions)`: which reads which."""
        shape = (*states.shape[:2], 3, self.num_heads, -1)
        query, key, value = self.query_key_value(self.attention_norm(states)).view(shape).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        states = states + self.output(context.transpose(1, 2).flatten(2))
        return states + self.mlp(self.mlp_norm(states))
