"""Configuration of the captioner: a causal language model, and what stands before its words."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, GPT2Config, PreTrainedConfig

from .common_emocap import CodeCarryingConfig

__all__ = ["EmocapCaptionerConfig"]


@strict
class EmocapCaptionerConfig(CodeCarryingConfig, PreTrainedConfig):
    """Configuration of [`EmocapCaptionerForConditionalGeneration`]. Emotion names are `id2label`.

    Args:
        text_config: of the language model: any that `AutoModelForCausalLM` knows; None: GPT-2's own.
        image_token_id: entry of the vocabulary that holds the place of a soft token.
        visual_embedding_dim: width of the region features.
        soft_hidden_size: width in which regions and wishes are read before they are laid among the words.
        num_region_layers: layers in which the regions of a photo attend to each other.
        num_region_heads: attention heads of each.
        wish_mean, wish_spread: mean and standard deviation of the teacher's logits over the training captions, an
            entry an emotion: the level of an emotion is `(logit - mean) / spread`. None before any training.
        wish_high: the level that a weight of 1 means, an entry an emotion: the 98th percentile over those captions.
        region_extractor: folder or Hub id of the extractor whose features it reads, or None.
        caption_length: tokens of a caption that it learned to write, its end included.
        label_smoothing: share of each target that training spreads over the vocabulary, from 0 to below 1.
        initializer_range: standard deviation of new linear layers: about one over the root of their width.
    """

    model_type = "emocap_captioner"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_emocap_captioner.EmocapCaptionerConfig",
        "AutoModel": "modeling_emocap_captioner.EmocapCaptionerForConditionalGeneration",
        "AutoModelForImageTextToText": "modeling_emocap_captioner.EmocapCaptionerForConditionalGeneration",
        "AutoProcessor": "processing_emocap_captioner.EmocapCaptionerProcessor",
    }
    sub_configs: ClassVar[dict[str, type]] = {"text_config": AutoConfig}

    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 0
    visual_embedding_dim: int = 2048
    soft_hidden_size: int = 256
    num_region_layers: int = 1
    num_region_heads: int = 4
    wish_mean: list[float] | None = None
    wish_spread: list[float] | None = None
    wish_high: list[float] | None = None
    region_extractor: str | None = None
    caption_length: int = 32
    label_smoothing: float | int = 0.0
    initializer_range: float = 0.06

    def __post_init__(self, **kwargs):
        if self.text_config is None:
            self.text_config = GPT2Config()
        elif isinstance(self.text_config, dict):
            self.text_config = AutoConfig.for_model(**self.text_config)
        self.tie_word_embeddings = getattr(self.text_config, "tie_word_embeddings", False)
        super().__post_init__(**kwargs)
        if self.soft_hidden_size % self.num_region_heads:
            raise ValueError(
                f"soft_hidden_size is {self.soft_hidden_size}; it must be a multiple of num_region_heads, "
                f"{self.num_region_heads}."
            )
        for name in ("wish_mean", "wish_spread", "wish_high"):
            values = getattr(self, name)
            if values is not None and len(values) != self.num_labels:
                raise ValueError(f"{name} has {len(values)} entries, but there are {self.num_labels} emotions.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"Label smoothing is {self.label_smoothing}; it must be at least 0 and below 1.")
