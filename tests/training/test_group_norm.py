"""The student's norms: eight groups of channels, whatever their number, as published checkpoints were trained."""

import torch
from torch import nn

from emocap.models import EmocapStudentConfig, EmocapStudentForMultiLabelClassification


def test_channels_are_normalised_in_eight_groups(rng):
    config = EmocapStudentConfig(vocab_size=9, word_embedding_size=8, gru_hidden_size=8, cnn_channels=[16, 24],
                                 image_size=16, fc_hidden_size=8, num_labels=3)  # fmt: skip
    model, seen = EmocapStudentForMultiLabelClassification(config).eval(), []
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert [norm.num_channels for norm in norms] == [16, 24]
    for norm in norms:
        norm.register_forward_hook(lambda norm, inputs, output: seen.append((norm, inputs[0], output)))
    photos = torch.from_numpy(rng.integers(0, 256, (2, 3, 16, 16))).to(torch.uint8)
    words = torch.ones(2, 3, dtype=torch.long)
    with torch.inference_mode():
        model(input_ids=words, attention_mask=words, pixel_values=photos)
    assert [own[0] for own in seen] == norms
    for norm, values, output in seen:
        groups = values.reshape(2, 8, -1)
        scaled = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
        expected = scaled.reshape(values.shape) * norm.weight[:, None, None] + norm.bias[:, None, None]
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
