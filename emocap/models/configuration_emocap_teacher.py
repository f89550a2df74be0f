"""Configuration of the teacher: VisualBERT's, or any text encoder's beside it, and what lies above the body."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, VisualBertConfig

from .common_emocap import EMOTION_RECOGNITION, CodeCarryingConfig, check_loss

__all__ = ["EmocapTeacherConfig"]

OF_THE_ENCODER = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "pad_token_id",
)
"""Fields that follow `text_config`, where it has them."""


@strict
class EmocapTeacherConfig(CodeCarryingConfig, VisualBertConfig):
    """Configuration of [`EmocapTeacherForMultiLabelClassification`].

    Takes every field of [`~transformers.VisualBertConfig`]; the defaults that differ are BERT's own `pad_token_id` 0
    and the 2048-d features of bottom-up attention. Emotion names are `id2label`, in the order of the training table.

    Args:
        pooling: `"pooler"`: the body's trained pooler over `[CLS]`, as in the study and in every published VisualBERT.
            `"mean"`: the mean over words and the mean over regions, averaged, for bodies without a trained pooler.
        pooled_layers: with `"mean"`, the layers whose means, each of unit length, stand side by side before the head
            (0: the embeddings, -1: the last); None: the last layer's mean as it is. Regions that late fusion keeps out
            of the layers are the same at each.
        fusion: `"early"`: words and regions attend to each other, as in VisualBERT. `"late"`: the words alone pass
            through the body's layers, the regions through its embeddings and one activation function, of which the
            mean is taken; the head's logits of both are averaged, and in training each modality alone bears the loss
            too. Early fusion learns what words and picture mean together; late fusion is for few photos and for bodies
            whose layers never read a region.
        text_config: of the text encoder that reads the words in place of VisualBERT, such as MPNet, RoBERTa, DeBERTa
            or ModernBERT: any whose `AutoModel` gives hidden states. Goes with late fusion: regions pass a linear
            layer, a norm and the activation. Its size and vocabulary are this configuration's too; `hidden_act`,
            `hidden_dropout_prob` and `layer_norm_eps` are then of the regions alone. None: a VisualBERT body.
        classifier_dropout: dropout before the linear head; None takes `hidden_dropout_prob`.
        region_extractor: folder or Hub id of the extractor whose features the body was trained on, or None.
        modalities: what the weights were trained to read: "both", "text", "image", or None before any training.
            Scoring leaves out what the model never learned to read.
        label_prevalence: share of the training images that carry each emotion, in the order of `id2label`, or None
            before any training. Class-wise thresholds for pseudo-labels follow it, and losses that weigh emotions.
        temperature: probabilities are `sigmoid(logits / temperature)`; None: 1. Fitted on validation rows.
        thresholds: probability from which each emotion counts as predicted, in the order of `id2label`; None: 0.5.
        loss: `"bce"`, `"asl"` or `"db"`, see `multi_label_loss`; what `forward` returns when labels are given.
        pos_weight: with `"bce"`, positives of each emotion weigh as much as its negatives, but at most this; None: 1.
        label_smoothing: how far labels move toward `label_prevalence`, from 0 to below 1.
    """

    model_type = "emocap_teacher"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_emocap_teacher.EmocapTeacherConfig",
        "AutoModel": "modeling_emocap_teacher.EmocapTeacherForMultiLabelClassification",
        "AutoModelForSequenceClassification": "modeling_emocap_teacher.EmocapTeacherForMultiLabelClassification",
        "AutoProcessor": "processing_emocap.EmocapProcessor",
    }
    pipelines = EMOTION_RECOGNITION
    sub_configs: ClassVar[dict[str, type]] = {"text_config": AutoConfig}

    visual_embedding_dim: int = 2048
    pad_token_id: int | None = 0
    pooling: str = "pooler"
    pooled_layers: list[int] | None = None
    fusion: str = "early"
    text_config: dict | PreTrainedConfig | None = None
    classifier_dropout: float | None = None
    region_extractor: str | None = None
    modalities: str | None = None
    label_prevalence: list[float] | None = None
    temperature: float | int | None = None
    thresholds: list[float] | None = None
    loss: str = "bce"
    pos_weight: float | int | None = None
    label_smoothing: float | int = 0.0
    problem_type: str | None = "multi_label_classification"

    def __post_init__(self, **kwargs):
        if self.text_config is not None:
            encoder = self.text_config = text_encoder_config(self.text_config)
            if self.fusion != "late":
                raise ValueError(
                    f"fusion is '{self.fusion}' with a text encoder '{encoder.model_type}'; it must be 'late': only a "
                    "VisualBERT's or BERT's layers read words and regions together."
                )
            for name in OF_THE_ENCODER:
                if getattr(encoder, name, None) is not None:
                    setattr(self, name, getattr(encoder, name))
        super().__post_init__(**kwargs)
        check_loss(self.loss, self.pos_weight, self.label_smoothing)
        if self.pooling not in ("pooler", "mean"):
            raise ValueError(f"pooling is '{self.pooling}'; it must be 'pooler' or 'mean'.")
        layers = self.pooled_layers
        if layers is not None and (
            self.pooling != "mean" or not layers or not all(-1 <= layer <= self.num_hidden_layers for layer in layers)
        ):
            raise ValueError(
                f"pooled_layers is {layers} with pooling '{self.pooling}'; it goes with 'mean', and names layers from "
                f"0 to {self.num_hidden_layers}, or -1."
            )
        if self.fusion not in ("early", "late"):
            raise ValueError(f"fusion is '{self.fusion}'; it must be 'early' or 'late'.")


def text_encoder_config(given: dict | PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of a text encoder.

    Raises:
        ValueError: one that transformers does not know, or of another kind of model.
    """
    if isinstance(given, dict):
        if given.get("model_type") not in CONFIG_MAPPING:
            raise ValueError(
                f"text_config has model_type {given.get('model_type')!r}, which transformers does not know."
            )
        given = AutoConfig.for_model(**given)
    sizes = (getattr(given, name, None) for name in ("vocab_size", "hidden_size", "num_hidden_layers"))
    if given.is_encoder_decoder or not all(isinstance(size, int) for size in sizes):
        where = f" ('{given.name_or_path}')" if given.name_or_path else ""
        raise ValueError(
            f"A '{given.model_type}'{where} cannot read the words of a teacher, which takes an encoder of text alone "
            "with a vocab_size, hidden_size and num_hidden_layers, such as 'mpnet', 'roberta' or 'modernbert'."
        )
    return given
