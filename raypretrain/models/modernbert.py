"""The encoder: attention to both sides, in most layers to near positions alone, as in ModernBERT.

The paper is arXiv:2412.13663. Every matrix has the orientation, and the fused ones have the order of parts, of
Hugging Face's ``ModernBertForMaskedLM``, so that weights go there and back by renaming alone
(``layout.py``). Dropout, which it has for fine-tuning, is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypretrain.models.attention import bidirectional_attention
from raypretrain.models.initial import draw_weights
from raypretrain.models.linear import Linear
from raypretrain.models.masked import MaskedLanguageModel, PredictionHead
from raypretrain.models.modernbert_config import ModernBertShape
from raypretrain.models.rotary import Rotary, rotate
from raypretrain.models.shape import ModelShape

CUTOFF = 2.0
"""Initial weights are drawn anew beyond so many standard deviations: ``initializer_cutoff_factor``."""


class LayerNorm(nn.LayerNorm):
    """``(x - mean) / std · weight`` over the last dimension (arXiv:1607.06450), without a bias."""

    def __init__(self, shape: ModernBertShape) -> None:
        super().__init__(shape.width, eps=shape.norm_eps, bias=False)


class ModernBertAttention(nn.Module):
    """Self-attention to both sides; query, key and value in one matrix."""

    def __init__(self, shape: ModernBertShape, layer: int) -> None:
        super().__init__()
        self.reach = None if shape.is_global(layer) else shape.reach
        self.heads = shape.heads
        self.query_key_value = Linear(shape.width, 3 * shape.width)
        self.output = Linear(shape.width, shape.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, starts: Tensor | None = None) -> Tensor:
        parts = self.query_key_value(x).unflatten(-1, (3 * self.heads, -1))
        turned, value = parts.split((2 * self.heads, self.heads), dim=2)
        query, key = rotate(turned, cos, sin).chunk(2, dim=2)
        return self.output(bidirectional_attention(query, key, value, self.reach, starts).flatten(2))


class ModernBertFeedForward(nn.Module):
    """GeGLU (arXiv:2002.05202) with the exact gelu; the gate and what it lets through in one matrix."""

    def __init__(self, shape: ModernBertShape) -> None:
        super().__init__()
        self.gate_up = Linear(shape.width, 2 * shape.feed_forward)
        self.down = Linear(shape.feed_forward, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.gelu(gate) * up)


class ModernBertBlock(nn.Module):
    """One layer: attention, then feed-forward, each on the normalised stream and added to it."""

    def __init__(self, shape: ModernBertShape, layer: int) -> None:
        super().__init__()
        self.is_global = shape.is_global(layer)
        # The embedding has been normalised just before the first layer.
        self.attention_norm = LayerNorm(shape) if layer else nn.Identity()
        self.attention = ModernBertAttention(shape, layer)
        self.feed_forward_norm = LayerNorm(shape)
        self.feed_forward = ModernBertFeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, starts: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, starts)
        return x + self.feed_forward(self.feed_forward_norm(x))


class ModernBertLayers(nn.Module):
    """Embedding, layers and final norm.

    Raises:
        TypeError: the shape is of another family.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        if not isinstance(shape, ModernBertShape):
            raise TypeError(f"an encoder cannot have the shape of a {shape.family}")
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.embedding_norm = LayerNorm(shape)
        self.blocks = nn.ModuleList(ModernBertBlock(shape, layer) for layer in range(shape.layers))
        self.norm = LayerNorm(shape)
        self.global_rotary = Rotary(shape.head_width, shape.global_rope_theta)
        self.local_rotary = Rotary(shape.head_width, shape.local_rope_theta)

    def hidden(self, ids: Tensor, starts: Tensor | None = None) -> Tensor:
        """The residual stream before the final norm.

        Args:
            ids: [B, L] int64, without padding: every position is seen.
            starts: int64 [B, L], as of :class:`MaskedLanguageModel`.

        Returns:
            [B, L, width], in the dtype of the weights.
        """
        x = self.embedding_norm(self.embedding(ids))
        everywhere = self.global_rotary.turns(0, ids, starts, like=x)
        nearby = self.local_rotary.turns(0, ids, starts, like=x)
        for block in self.blocks:
            x = block(x, *(everywhere if block.is_global else nearby), starts)
        return x

    def init_weights(self, seed: int) -> None:
        """Set every weight, as :func:`draw_weights` says.

        The cutoff, and that the head's matrix is scaled as well, are those of transformers 5
        (``ModernBertPreTrainedModel._init_weights``).
        """
        scaled = ("attention.output.weight", "feed_forward.down.weight", "head.dense.weight")
        draw_weights(self, self.shape, seed, scaled, CUTOFF)


class ModernBert(ModernBertLayers, MaskedLanguageModel):
    """The language model: predicts the tokens that are hidden from it."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        self.head = PredictionHead(Linear(shape.width, shape.width), LayerNorm(self.shape))
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))

    def predicting(self, x: Tensor) -> Tensor:
        """As of :class:`MaskedLanguageModel`."""
        return self.head(self.norm(x))
