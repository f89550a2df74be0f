"""The student: word embeddings and a GRU beside a small CNN, or a BERT and a ResNet, joined by two linear layers."""

import os
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, BertModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import load_state_dict

from .common_emocap import keep_frozen_in_eval, multi_label_loss
from .configuration_emocap_student import EmocapStudentConfig

__all__ = ["CaptionGRU", "EmocapStudentForMultiLabelClassification", "resnet_stages"]

NORM_GROUPS = 8

USUAL_RANGE = 0.02
"""The `initializer_range` at which linear layers start as Xavier has them."""


class EmocapStudentForMultiLabelClassification(PreTrainedModel):
    """GRU over the caption and CNN over the photo; `sigmoid(logits)` are the emotions' probabilities.

    With `config.text_config` a BERT reads the caption, with `config.image_backbone` a ResNet the photo. A ResNet's
    batch norm makes training depend on which photos share a batch.
    """

    config: EmocapStudentConfig
    config_class = EmocapStudentConfig
    base_model_prefix = "student"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean: Trainer has to divide by the accumulation steps itself

    def __init__(self, config: EmocapStudentConfig):
        super().__init__(config)
        if config.text_config is None:
            self.word_embeddings = nn.Embedding(config.vocab_size, config.word_embedding_size, config.pad_token_id)
            width = config.word_projection_size or config.word_embedding_size
            self.word_projection = (
                nn.Linear(config.word_embedding_size, width) if config.word_projection_size else None
            )
            self.gru = CaptionGRU(width, config.gru_hidden_size, config.gru_num_layers)
            text_width = config.gru_hidden_size
        else:
            self.text_encoder = BertModel(config.text_config, add_pooling_layer=False)
            text_width = self.text_encoder.config.hidden_size
        self.freeze_word_embeddings()
        if config.image_backbone is None:
            channels = [3, *config.cnn_channels]
            self.cnn, self.photo_width = (
                nn.Sequential(*map(ConvolutionStage, channels[:-1], channels[1:])),
                channels[-1],
            )
        else:
            self.cnn, self.photo_width = resnet_stages(config.image_backbone)
        self.register_buffer("image_mean", of_channels(config.image_mean), persistent=False)
        self.register_buffer("image_std", of_channels(config.image_std), persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.fc1 = nn.Linear(text_width + self.photo_width, config.fc_hidden_size)
        self.fc2 = nn.Linear(config.fc_hidden_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, CaptionGRU):
            for parameter in module.parameters():
                init.uniform_(parameter, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight, gain=self.config.initializer_range / USUAL_RANGE)
            init.zeros_(module.bias)
        elif isinstance(module, EmocapStudentForMultiLabelClassification):
            init.copy_(module.image_mean, of_channels(self.config.image_mean))
            init.copy_(module.image_std, of_channels(self.config.image_std))
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As everywhere in transformers. Loading makes every parameter trainable: frozen embeddings freeze again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_word_embeddings()
        return loaded

    def freeze_word_embeddings(self) -> None:
        """Word embeddings train or stand still, as the configuration says."""
        self.get_input_embeddings().weight.requires_grad_(not self.config.freeze_word_embeddings)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.word_embeddings if self.config.text_config is None else self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        if self.config.text_config is None:
            self.word_embeddings = value
        else:
            self.text_encoder.set_input_embeddings(value)

    def train(self, mode: bool = True) -> "EmocapStudentForMultiLabelClassification":
        """Training mode, but for parts whose parameters are all frozen: their dropout stays off. Word embeddings that
        train from here on are no longer as they were given, and the configuration says so."""
        super().train(mode)
        if mode:
            keep_frozen_in_eval(self)
            if self.get_input_embeddings().weight.requires_grad:
                self.config.given_word_embeddings = False
        return self

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
        labels: torch.FloatTensor | None = None,
        pooled_output: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
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
            token_type_ids: int64 `(batch, words)`, which BERT's tokenizers give along; a caption is one segment, so
                nothing is read from them.
            output_attentions: refused, since there is no attention.
            output_hidden_states: return what the GRU, the CNN and fc1 give, see `encode_pairs`: one vector a pair
                each, since there is no stack of layers whose states have one shape.
            return_dict: as everywhere in transformers.

        Returns:
            `SequenceClassifierOutput` with `loss` (the configuration's, when `labels` are given) and `logits` float
            `(batch, num_labels)`.
        """
        if output_attentions:
            raise ValueError("The student has no attention: leave out output_attentions, or ask a teacher.")
        hidden_states = None
        if pooled_output is None:
            hidden_states = self.encode_pairs(input_ids, attention_mask, pixel_values, pixel_mask)
            pooled_output = hidden_states[-1]
        logits = self.fc2(self.dropout(pooled_output))
        loss = None if labels is None else multi_label_loss(logits, labels, self.config)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states if wanted else None)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def pooled_outputs(self, *args, **kwargs) -> dict[str, torch.Tensor]:
        """What fc2 reads, `pooled_output` `(batch, fc_hidden_size)`: computed once where all below fc2 is frozen."""
        return {"pooled_output": self.encode_pairs(*args, **kwargs)[-1]}

    def encode_pairs(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the GRU or BERT `(batch, gru_hidden_size or hidden_size)`, the CNN `(batch, its last channels)` and fc1
        with its ReLU `(batch, fc_hidden_size)` make of `forward`'s inputs."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        text = self.encode_text(input_ids, attention_mask)
        photo = self.encode_photo(pixel_values, pixel_mask, input_ids.shape[0])
        joined = F.dropout(torch.cat((text, photo), dim=1), self.dropout.p, self.fc1.training)  # frozen: in evaluation
        return text, photo, F.relu(self.fc1(joined))

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The GRU's last hidden state at each caption's last word, `(batch, gru_hidden_size)`, or BERT's last state at
        `[CLS]`, `(batch, hidden_size)`; 0 without a caption."""
        if self.config.text_config is not None:
            first = torch.arange(attention_mask.shape[1], device=attention_mask.device) == 0
            seen = torch.where(first, 1, attention_mask)  # attention over nothing has no softmax
            states = self.text_encoder(input_ids=input_ids, attention_mask=seen).last_hidden_state[:, 0]
            return states * (attention_mask.sum(1) > 0).to(states.dtype).unsqueeze(1)
        words = self.word_embeddings(input_ids)
        if self.word_projection is not None:
            words = self.word_projection(words)
        return self.gru(words, attention_mask.sum(1))

    def encode_photo(self, pixel_values: torch.Tensor | None, pixel_mask: torch.Tensor | None, batch: int):
        """The CNN's channels averaged over the photo, `(batch, photo_width)`; 0 without a photo."""
        weight = self.fc1.weight
        if pixel_values is None:
            return weight.new_zeros(batch, self.photo_width)
        unit = 1 if pixel_values.is_floating_point() else 255
        pixels = (pixel_values.to(weight.dtype) - self.image_mean * unit) / (self.image_std * unit)
        if self.cnn.training and getattr(self.cnn[0], "gradient_checkpointing", False):
            pixels.requires_grad_()  # a reentrant checkpoint gives no gradients below inputs that want none
        if self.cnn.training and self.config.image_backbone is not None and pixel_mask is not None:
            return self.encode_present(pixels, pixel_mask.bool())
        features = self.cnn(pixels).mean((2, 3))  # adaptive average pool to 1x1
        return features if pixel_mask is None else features * pixel_mask.to(features.dtype).unsqueeze(1)

    def encode_present(self, pixels: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """`encode_photo` of the rows with a photo alone: the others' zeros must not enter the batch norm."""
        features = pixels.new_zeros(len(pixels), self.photo_width)
        if not present.any():
            return features
        seen = self.cnn(pixels[present]).mean((2, 3))
        return features.to(seen.dtype).masked_scatter(present.unsqueeze(1), seen)

    @torch.no_grad()
    def load_text_encoder(self, model_name_or_path: str) -> None:
        """Copies the weights of the BERT checkpoint that `text_config` comes from."""
        giver = BertModel.from_pretrained(model_name_or_path, dtype=torch.float32, add_pooling_layer=False)
        self.text_encoder.load_state_dict(giver.state_dict())
        self.config.given_word_embeddings = True

    def load_image_backbone(self, weights: str) -> None:
        """Trained weights of the ResNet, see `resnet_stages`."""
        self.cnn.load_state_dict(resnet_stages(str(self.config.image_backbone), weights)[0].state_dict())

    @torch.no_grad()
    def load_word_embeddings(self, model_name_or_path: str) -> None:
        """Copies the word embedding table of any BERT-family checkpoint, and notes in the configuration whether it is
        as published: an emocap model's has met emotions already.

        Raises:
            ValueError: the table is of another shape than this student's.
        """
        giver = AutoModel.from_pretrained(model_name_or_path, dtype=torch.float32)
        table = giver.get_input_embeddings().weight
        if table.shape != self.word_embeddings.weight.shape:
            raise ValueError(
                f"The word embeddings of '{model_name_or_path}' are {tuple(table.shape)}, the student's are "
                f"{tuple(self.word_embeddings.weight.shape)}: set vocab_size and word_embedding_size to fit."
            )
        self.word_embeddings.weight.copy_(table)
        self.config.given_word_embeddings = not giver.config.model_type.startswith("emocap")


def of_channels(values: Sequence[float] | float) -> torch.Tensor:
    """`(1, 3, 1, 1)` of three numbers, or of one for all channels."""
    return torch.tensor(values).expand(3).reshape(1, 3, 1, 1)


class ConvolutionStage(GradientCheckpointingLayer, nn.Sequential):
    """3x3 convolution of stride 2. Group norm, so that rows without a photo do not touch the others' statistics."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.extend(
            [
                nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(NORM_GROUPS, out_channels),
                nn.ReLU(),
            ]
        )


class CaptionGRU(nn.RNNBase):
    """`nn.GRU`'s parameters, read as the state of the last layer at each caption's last word.

    Run as it is, captions are packed, so that padding costs nothing. Under `torch.compile` and `torch.export`, which
    know neither `nn.GRU` nor packed sequences, the same sums are one `scan`: one graph for every batch and length.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int):
        super().__init__("GRU", input_size, hidden_size, num_layers, batch_first=True)

    def forward(self, embeddings: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """State float `(batch, hidden_size)` after the first `lengths` words; 0 where there are none.

        Args:
            embeddings: float `(batch, words, input_size)`, padded on the right.
            lengths: int64 `(batch,)`.
        """
        if torch.compiler.is_compiling():
            return self.scan_words(embeddings, lengths)
        packed = nn.utils.rnn.pack_padded_sequence(
            embeddings, lengths.clamp_min(1).cpu(), batch_first=True, enforce_sorted=False
        )
        start = embeddings.new_zeros(self.num_layers, len(lengths), self.hidden_size)
        weights = self._flat_weights
        _, hidden = torch.gru(
            packed.data, packed.batch_sizes, start, weights, True, self.num_layers, 0.0, self.training, False
        )
        return hidden[-1][packed.unsorted_indices] * (lengths > 0).to(hidden.dtype).unsqueeze(1)

    def scan_words(self, embeddings: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`forward` as a scan over the words: a caption that has ended keeps its state."""
        from torch._higher_order_ops.scan import scan  # private: another torch may lack it, and only this needs it

        states = embeddings.transpose(0, 1)
        positions = torch.arange(embeddings.shape[1], device=lengths.device)
        inside = (positions.unsqueeze(1) < lengths).unsqueeze(-1)
        for layer in range(self.num_layers):
            weight_ih, weight_hh, bias_ih, bias_hh = (
                getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )

            def step(hidden, word, weight_hh=weight_hh, bias_hh=bias_hh):
                gates, here = word
                reset_in, update_in, new_in = gates.chunk(3, -1)
                reset_own, update_own, new_own = F.linear(hidden, weight_hh, bias_hh).chunk(3, -1)
                update = torch.sigmoid(update_in + update_own)
                new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_own) * new_own)
                hidden = torch.where(here, new + update * (hidden - new), hidden)
                return hidden, hidden.clone()  # a scan's carry and output may not be one tensor

            gates = F.linear(states, weight_ih, bias_ih)
            hidden, states = scan(step, gates.new_zeros(gates.shape[1], self.hidden_size), (gates, inside))
        return hidden * inside[0]  # a product: the scan's backward wants a gradient of its own layout


def resnet_stages(name: str, weights: str | os.PathLike | None = None) -> tuple[nn.Sequential, int]:
    """A torchvision ResNet without its classifier, as five stages (stem and four groups of blocks), and its width.

    Args:
        name: torchvision's, such as `resnet50`.
        weights: None: random; the path of a .safetensors file that holds the network's state dict, with or without
            the classifier; or torchvision's name of trained weights, such as `DEFAULT`, which it downloads once.

    Raises:
        ImportError: torchvision is not installed.
        ValueError: no such weights, or those of another network.
    """
    try:  # code that travels with a checkpoint: torchvision is asked for where it is used alone
        import torchvision
    except ImportError as error:
        raise ImportError(f"The student reads photos with torchvision's {name}: pip install torchvision.") from error
    is_file = weights is not None and str(weights).endswith(".safetensors")
    if weights is not None and not is_file:
        known = [own.name for own in torchvision.models.get_model_weights(name)]
        if weights not in ("DEFAULT", *known):
            raise ValueError(
                f"torchvision has no weights '{weights}' of {name}; expected DEFAULT, {', '.join(known)}, or the path "
                "of a .safetensors file."
            )
    network = torchvision.models.get_model(name, weights=None if is_file else weights)
    if is_file:
        found = network.load_state_dict(load_state_dict(weights), strict=False)
        missing = [own for own in found.missing_keys if not own.startswith("fc.")]
        if missing or found.unexpected_keys:
            raise ValueError(
                f"'{weights}' is no state dict of {name}: missing {missing[:3]}, unexpected "
                f"{found.unexpected_keys[:3]}."
            )
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    return nn.Sequential(stem, network.layer1, network.layer2, network.layer3, network.layer4), network.fc.in_features
