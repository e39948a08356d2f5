"""ESM-2, for proteins: rotary positions, attention to both sides, norms before each part, all with biases.

Every matrix has the orientation of Hugging Face's ``EsmForMaskedLM``, so that weights go there and back by renaming
alone (``layout.py``). Dropout and the prediction of contacts are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raypretrain.models.bert import BiasedAttention, BiasedFeedForward
from raypretrain.models.esm2_config import Esm2Shape
from raypretrain.models.initial import draw_weights
from raypretrain.models.linear import Linear
from raypretrain.models.masked import MaskedLanguageModel, PredictionHead
from raypretrain.models.rotary import Rotary
from raypretrain.models.shape import ModelShape

_MASKED_IN_TRAINING = 0.15 * 0.8
"""Of the tokens that the published models were trained on: 15 % chosen, 80 % of these hidden."""


class Esm2Block(nn.Module):
    """One layer: attention, then feed-forward, each on the normalised stream and added to it."""

    def __init__(self, shape: Esm2Shape) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.attention = BiasedAttention(shape)
        self.feed_forward_norm = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.feed_forward = BiasedFeedForward(shape)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], starts: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turns, starts)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Esm2(MaskedLanguageModel):
    """The language model: predicts the amino acids that are hidden from it.

    Raises:
        TypeError: the shape is of another family.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        if not isinstance(shape, Esm2Shape):
            raise TypeError(f"an ESM-2 cannot have the shape of a {shape.family}")
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Esm2Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.rotary = Rotary(shape.head_width, shape.rope_theta)
        dense = Linear(shape.width, shape.width, bias=True)
        self.head = PredictionHead(dense, nn.LayerNorm(shape.width, eps=shape.norm_eps))
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))

    def hidden(self, ids: Tensor, starts: Tensor | None = None) -> Tensor:
        """As of :class:`MaskedLanguageModel`; before the final norm."""
        x = self.embedding(ids)
        if self.shape.mask_token is not None:
            x = _dropped_out(x, ids == self.shape.mask_token, starts)
        turns = self.rotary.turns(0, ids, starts, like=x)
        for block in self.blocks:
            x = block(x, turns, starts)
        return x

    def predicting(self, x: Tensor) -> Tensor:
        """As of :class:`MaskedLanguageModel`."""
        return self.head(self.norm(x))

    def init_weights(self, seed: int) -> None:
        """Set every weight, as :func:`draw_weights` says; no matrix is scaled by the depth."""
        draw_weights(self, self.shape, seed, ())


def _dropped_out(x: Tensor, masked: Tensor, starts: Tensor | None) -> Tensor:
    """``x`` [B, L, width] without the rows that are ``masked`` [B, L], the others scaled as in training.

    By how many of them there are in the row or, with ``starts``, in the document.
    """
    hidden = masked.float()
    if starts is None:
        seen = 1 - hidden.mean(dim=1, keepdim=True)
    else:
        sums = [
            torch.zeros_like(hidden).scatter_add_(1, starts, v) for v in (hidden, torch.ones_like(hidden))
        ]
        seen = 1 - (sums[0] / sums[1]).gather(1, starts)
    scale = torch.where(masked, 0.0, (1 - _MASKED_IN_TRAINING) / seen)
    return x * scale[..., None].to(x.dtype)
