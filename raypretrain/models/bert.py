"""BERT: learned positions, attention to both sides, and norms after each addition, all with biases.

Every matrix has the orientation of Hugging Face's ``BertForMaskedLM``, so that weights go there and back by renaming
alone (``layout.py``). Dropout, the pooler and the prediction of the next sentence are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypretrain.models.attention import bidirectional_attention
from raypretrain.models.bert_config import BertShape
from raypretrain.models.initial import draw_weights
from raypretrain.models.linear import Linear
from raypretrain.models.masked import MaskedLanguageModel, PredictionHead
from raypretrain.models.rotary import places_of, rotate
from raypretrain.models.shape import ModelShape


class BiasedAttention(nn.Module):
    """Self-attention to both sides, with biases; query and key may be turned by their positions."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = Linear(shape.width, shape.width, bias=True)
        self.key = Linear(shape.width, shape.width, bias=True)
        self.value = Linear(shape.width, shape.width, bias=True)
        self.output = Linear(shape.width, shape.width, bias=True)

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor] | None = None, starts: Tensor | None = None
    ) -> Tensor:
        query, key, value = (
            matrix(x).unflatten(-1, (self.heads, -1)) for matrix in (self.query, self.key, self.value)
        )
        if turns is not None:
            query, key = rotate(query, *turns), rotate(key, *turns)
        return self.output(bidirectional_attention(query, key, value, None, starts).flatten(2))


class BiasedFeedForward(nn.Module):
    """Two matrices with the exact gelu between them."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.up = Linear(shape.width, shape.feed_forward, bias=True)
        self.down = Linear(shape.feed_forward, shape.width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class BertBlock(nn.Module):
    """One layer: attention, then feed-forward, each added to the stream, which is normalised after it."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.attention = BiasedAttention(shape)
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.feed_forward = BiasedFeedForward(shape)
        self.feed_forward_norm = nn.LayerNorm(shape.width, eps=shape.norm_eps)

    def forward(self, x: Tensor, starts: Tensor | None = None) -> Tensor:
        x = self.attention_norm(x + self.attention(x, starts=starts))
        normed: Tensor = self.feed_forward_norm(x + self.feed_forward(x))
        return normed


class Bert(MaskedLanguageModel):
    """The language model: predicts the tokens that are hidden from it.

    Raises:
        TypeError: the shape is of another family.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        if not isinstance(shape, BertShape):
            raise TypeError(f"a BERT cannot have the shape of a {shape.family}")
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.max_length, shape.width)
        self.token_types = nn.Embedding(shape.token_types, shape.width)
        self.embedding_norm = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.blocks = nn.ModuleList(BertBlock(shape) for _ in range(shape.layers))
        dense = Linear(shape.width, shape.width, bias=True)
        self.head = PredictionHead(dense, nn.LayerNorm(shape.width, eps=shape.norm_eps))
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))

    def hidden(self, ids: Tensor, starts: Tensor | None = None) -> Tensor:
        """As of :class:`MaskedLanguageModel`; every text is of the first token type."""
        places = places_of(ids, starts)
        first = self.token_types(torch.zeros_like(ids[0, :1]))
        x = self.embedding_norm(self.embedding(ids) + (self.positions(places) + first))
        for block in self.blocks:
            x = block(x, starts)
        return x

    def predicting(self, x: Tensor) -> Tensor:
        """As of :class:`MaskedLanguageModel`."""
        return self.head(x)

    def init_weights(self, seed: int) -> None:
        """Set every weight, as :func:`draw_weights` says; no matrix is scaled by the depth."""
        draw_weights(self, self.shape, seed, ())
