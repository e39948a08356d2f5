"""A GPT-2 in as few lines as it takes, in the style of nanoGPT: no biases, torch's attention, all logits at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypretrain.models.shape import ModelShape


class PlainBlock(nn.Module):
    """Attention and a feed-forward block four times as wide, each on the normalised stream and added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3 * self.heads, -1))
        query, key, value = parts.transpose(1, 2).chunk(3, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.feed_forward_norm(x)), approximate="tanh"))


class PlainGpt2(nn.Module):
    """Learned positions, blocks, and an output matrix that is the embedding."""

    def __init__(self, vocabulary: int, length: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    @classmethod
    def as_large_as(cls, shape: ModelShape, length: int) -> PlainGpt2:
        """Of the width, heads and vocabulary of ``shape``, and so many layers that the parameters are nearest its."""
        outside = (shape.vocabulary + length + 1) * shape.width
        layers = round((shape.parameters - outside) / (12 * shape.width**2 + 2 * shape.width))
        return cls(shape.vocabulary, length, shape.width, layers, shape.heads)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of ``targets`` [B, L], the tokens after each of ``ids`` [B, L]."""
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def gpt2_flops_per_token(model: PlainGpt2, length: int) -> int:
    """As :meth:`ModelShape.flops_per_token` counts them."""
    width, layers = model.embedding.embedding_dim, len(model.blocks)
    matrices = 12 * layers * width**2 + model.embedding.num_embeddings * width
    return 6 * matrices + 12 * layers * width * length
