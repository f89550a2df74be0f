"""The student's GRU over captions of differing lengths, in a form for every way of running it."""

import torch
from torch import nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional as F

__all__ = ["CaptionGRU"]


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
