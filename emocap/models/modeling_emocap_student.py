"""The student: word embeddings and a GRU beside a small CNN, joined by two linear layers."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_emocap_student import EmocapStudentConfig
from .freezing_emocap import keep_frozen_in_eval
from .losses_emocap import multi_label_loss

__all__ = ["EmocapStudentForMultiLabelClassification"]

NORM_GROUPS = 8


class EmocapStudentForMultiLabelClassification(PreTrainedModel):
    """GRU over the caption and CNN over the photo; `sigmoid(logits)` are the emotions' probabilities."""

    config: EmocapStudentConfig
    config_class = EmocapStudentConfig
    base_model_prefix = "student"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # the loss is a mean: Trainer has to divide by the accumulation steps itself

    def __init__(self, config: EmocapStudentConfig):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.word_embedding_size, config.pad_token_id)
        self.word_embeddings.weight.requires_grad_(not config.freeze_word_embeddings)
        self.gru = nn.GRU(config.word_embedding_size, config.gru_hidden_size, config.gru_num_layers, batch_first=True)
        channels = [3, *config.cnn_channels]
        self.cnn = nn.Sequential(*map(convolution_stage, channels[:-1], channels[1:]))
        self.register_buffer("image_mean", torch.tensor(config.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(config.image_std).view(1, 3, 1, 1), persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.fc1 = nn.Linear(config.gru_hidden_size + channels[-1], config.fc_hidden_size)
        self.fc2 = nn.Linear(config.fc_hidden_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.GRU):
            for parameter in module.parameters():
                init.uniform_(parameter, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, EmocapStudentForMultiLabelClassification):
            init.copy_(module.image_mean, torch.tensor(self.config.image_mean).view(1, 3, 1, 1))
            init.copy_(module.image_std, torch.tensor(self.config.image_std).view(1, 3, 1, 1))
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As everywhere in transformers. Loading makes every parameter trainable: frozen embeddings freeze again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.word_embeddings.weight.requires_grad_(not model.config.freeze_word_embeddings)
        return loaded

    def get_input_embeddings(self) -> nn.Embedding:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.word_embeddings = value

    def train(self, mode: bool = True) -> "EmocapStudentForMultiLabelClassification":
        """Training mode, but for parts whose parameters are all frozen: their dropout stays off."""
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self)
        return self

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
        labels: torch.FloatTensor | None = None,
        pooled_output: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[torch.Tensor, ...]:
        """Logits of every emotion.

        Args:
            input_ids: int64 `(batch, words)`, padded on the right.
            attention_mask: int64 `(batch, words)`, 1 for words; all 0 in rows without a caption.
            pixel_values: uint8 0..255 or float 0..1, `(batch, 3, height, width)`; None for text alone.
            pixel_mask: int64 `(batch,)`, 1 where the row has a photo; all by default.
            labels: float `(batch, num_labels)`, multi-hot or shares in 0..1.
            pooled_output: what `pooled_outputs` gave for the batch, instead of the inputs above.
            return_dict: as everywhere in transformers.

        Returns:
            `SequenceClassifierOutput` with `loss` (the configuration's, when `labels` are given) and `logits` float
            `(batch, num_labels)`.
        """
        if pooled_output is None:
            pooled_output = self.pooled_outputs(input_ids, attention_mask, pixel_values, pixel_mask)["pooled_output"]
        logits = self.fc2(self.dropout(pooled_output))
        loss = None if labels is None else multi_label_loss(logits, labels, self.config)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def pooled_outputs(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """What fc2 reads, `pooled_output` `(batch, fc_hidden_size)`: computed once where all below fc2 is frozen."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        joined = torch.cat(
            (self.encode_text(input_ids, attention_mask), self.encode_photo(pixel_values, pixel_mask, len(input_ids))),
            dim=1,
        )
        joined = F.dropout(joined, self.dropout.p, self.fc1.training)  # a frozen fc1 is in evaluation mode
        return {"pooled_output": F.relu(self.fc1(joined))}

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The GRU's last hidden state at each caption's last word, `(batch, gru_hidden_size)`; 0 without a caption."""
        lengths = attention_mask.sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.word_embeddings(input_ids), lengths.clamp_min(1).cpu(), batch_first=True, enforce_sorted=False
        )
        _, hidden = self.gru(packed)
        return hidden[-1] * (lengths > 0).to(hidden.dtype).unsqueeze(1)

    def encode_photo(self, pixel_values: torch.Tensor | None, pixel_mask: torch.Tensor | None, batch: int):
        """The CNN's channels averaged over the photo, `(batch, cnn_channels[-1])`; 0 without a photo."""
        weight = self.fc1.weight
        if pixel_values is None:
            return weight.new_zeros(batch, self.config.cnn_channels[-1])
        pixels = pixel_values.to(weight.dtype)
        if not pixel_values.is_floating_point():
            pixels = pixels / 255
        features = self.cnn((pixels - self.image_mean) / self.image_std).mean((2, 3))  # adaptive average pool to 1x1
        return features if pixel_mask is None else features * pixel_mask.to(features.dtype).unsqueeze(1)

    @torch.no_grad()
    def load_word_embeddings(self, model_name_or_path: str) -> None:
        """Copies the word embedding table of any BERT-family checkpoint.

        Raises:
            ValueError: the table is of another shape than this student's.
        """
        table = AutoModel.from_pretrained(model_name_or_path, dtype=torch.float32).get_input_embeddings().weight
        if table.shape != self.word_embeddings.weight.shape:
            raise ValueError(
                f"The word embeddings of '{model_name_or_path}' are {tuple(table.shape)}, the student's are "
                f"{tuple(self.word_embeddings.weight.shape)}: set vocab_size and word_embedding_size to fit."
            )
        self.word_embeddings.weight.copy_(table)


def convolution_stage(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution of stride 2. Group norm, so that rows without a photo do not touch the others' statistics."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
        nn.GroupNorm(NORM_GROUPS, out_channels),
        nn.ReLU(),
    )
