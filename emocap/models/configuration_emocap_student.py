"""Configuration of the student."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import BertConfig, PreTrainedConfig

from .common_emocap import EMOTION_RECOGNITION, CodeCarryingConfig, check_loss

__all__ = ["EmocapStudentConfig"]

RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
"""torchvision's names of what may read the photos."""

LEAST_IMAGE_SIZE = 64
"""Of a ResNet, which takes the 32nd part of each side: batch norm needs more than one value of a photo."""


@strict
class EmocapStudentConfig(CodeCarryingConfig, PreTrainedConfig):
    """Configuration of [`EmocapStudentForMultiLabelClassification`]; the defaults are the study's.

    Args:
        vocab_size: entries of the WordPiece vocabulary.
        pad_token_id: its padding entry.
        word_embedding_size: width of the word embeddings, BERT's 768.
        word_projection_size: width to which a learned linear layer brings the word embeddings before the GRU reads
            them; None: it reads them as they are.
        freeze_word_embeddings: whether training leaves the word embeddings as they are.
        given_word_embeddings: whether the word embeddings are as a published (or untrained) checkpoint gave them: no
            training on emotions has moved them, this model's or that of an emocap model which gave them. Only such
            are what a control of transfer may start from.
        gru_hidden_size: hidden units of the GRU.
        gru_num_layers: layers of the GRU.
        text_config: of a BERT that reads the captions in place of word embeddings and GRU, as the study tried too;
            None: there is none. `freeze_word_embeddings` holds for its word embeddings; `word_projection_size` and
            the GRU's fields have no say, and `vocab_size`, `pad_token_id` and `word_embedding_size` follow it.
        image_backbone: torchvision's name of a ResNet that reads the photos in place of the small CNN, such as
            `resnet50`; None: the small CNN.
        cnn_channels: output channels of the strided 3x3 convolutions, in order.
        image_size: side in pixels of the square photos it reads.
        image_mean, image_std: of the three channels of photos scaled to 0..1.
        fc_hidden_size: width of fc1.
        dropout: before fc1 and before fc2.
        initializer_range: standard deviation of new embeddings; new linear layers have Xavier's range at the default
            0.02, and scale with it.
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

    model_type = "emocap_student"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_emocap_student.EmocapStudentConfig",
        "AutoModel": "modeling_emocap_student.EmocapStudentForMultiLabelClassification",
        "AutoModelForSequenceClassification": "modeling_emocap_student.EmocapStudentForMultiLabelClassification",
        "AutoProcessor": "processing_emocap.EmocapProcessor",
    }
    pipelines = EMOTION_RECOGNITION
    sub_configs: ClassVar[dict[str, type]] = {"text_config": BertConfig}

    vocab_size: int = 30522
    pad_token_id: int | None = 0
    word_embedding_size: int = 768
    word_projection_size: int | None = None
    freeze_word_embeddings: bool = False
    given_word_embeddings: bool = False
    gru_hidden_size: int = 256
    gru_num_layers: int = 1
    text_config: dict | PreTrainedConfig | None = None
    image_backbone: str | None = None
    cnn_channels: list[int] | tuple[int, ...] = (32, 64, 128, 256)
    image_size: int = 224
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] | float = (0.229, 0.224, 0.225)
    fc_hidden_size: int = 256
    dropout: float | int = 0.1
    initializer_range: float = 0.02
    modalities: str | None = None
    label_prevalence: list[float] | None = None
    temperature: float | int | None = None
    thresholds: list[float] | None = None
    loss: str = "bce"
    pos_weight: float | int | None = None
    label_smoothing: float | int = 0.0
    problem_type: str | None = "multi_label_classification"

    def __post_init__(self, **kwargs):
        given = self.text_config
        if given is not None:
            body = self.text_config = BertConfig(**given) if isinstance(given, dict) else given
            self.vocab_size, self.pad_token_id = body.vocab_size, body.pad_token_id
            self.word_embedding_size = body.hidden_size
        super().__post_init__(**kwargs)
        check_loss(self.loss, self.pos_weight, self.label_smoothing)
        if any(channels % 8 for channels in self.cnn_channels):
            raise ValueError(f"cnn_channels are {list(self.cnn_channels)}; each must be a multiple of 8 (group norm).")
        if self.image_backbone is not None and self.image_backbone not in RESNETS:
            raise ValueError(f"image_backbone is '{self.image_backbone}'; it must be one of {', '.join(RESNETS)}.")
        if self.image_backbone is not None and self.image_size < LEAST_IMAGE_SIZE:
            raise ValueError(
                f"image_size is {self.image_size} with image_backbone '{self.image_backbone}'; it must be "
                f"{LEAST_IMAGE_SIZE} or more."
            )
