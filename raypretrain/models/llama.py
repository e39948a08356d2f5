"""The decoder: RMSNorm, rotary positions, grouped-query attention and SwiGLU, as in Llama.

Every matrix has the orientation and the order of heads of Hugging Face's ``LlamaForCausalLM``, so that
weights go there and back by renaming alone (``layout.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypretrain.models.attention import Attention, Cache
from raypretrain.models.initial import draw_weights
from raypretrain.models.linear import Linear, linear
from raypretrain.models.llama_config import LlamaShape
from raypretrain.models.loss import linear_cross_entropy
from raypretrain.models.rotary import Rotary
from raypretrain.models.shape import ModelShape


class RMSNorm(nn.Module):
    """``x / rms(x) · weight`` over the last dimension (arXiv:1910.07467), computed in fp32 for any dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate = Linear(shape.width, shape.feed_forward)
        self.up = Linear(shape.width, shape.feed_forward)
        self.down = Linear(shape.feed_forward, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """One layer: attention, then feed-forward, each on the normalised stream and added to it."""

    def __init__(self, shape: LlamaShape, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.width, shape.norm_eps)
        self.attention = Attention(shape, layer)
        self.feed_forward_norm = RMSNorm(shape.width, shape.norm_eps)
        self.feed_forward = FeedForward(shape)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None, starts: Tensor | None = None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, cache, starts)
        return x + self.feed_forward(self.feed_forward_norm(x))


class LlamaLayers(nn.Module):
    """Embedding, layers and final norm: what the language model and the classifiers share.

    Raises:
        TypeError: the shape is of another family.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        if not isinstance(shape, LlamaShape):
            raise TypeError(f"a decoder cannot have the shape of a {shape.family}")
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.norm_eps)
        self.rotary = Rotary(shape.head_width, shape.rope_theta, shape.rope_scaling)

    def hidden(self, ids: Tensor, cache: Cache | None = None, starts: Tensor | None = None) -> Tensor:
        """The residual stream before the final norm.

        Args:
            ids: [B, L] int64.
            cache: the positions before ``ids``; it is extended by them.
            starts: int64 [B, L], the column at which each position's document begins; it sees that alone, and is
                counted from there. None: each row is one document. Not with a cache.

        Returns:
            [B, L, width], in the dtype of the weights.
        """
        x = self.embedding(ids)
        start = cache.length if cache is not None else 0
        cos, sin = self.rotary.turns(start, ids, starts, like=x)
        for block in self.blocks:
            x = block(x, cos, sin, cache, starts)
        return x

    def init_weights(self, seed: int) -> None:
        """Set every weight, as :func:`draw_weights` says."""
        draw_weights(self, self.shape, seed, ("attention.output.weight", "feed_forward.down.weight"))


class Llama(LlamaLayers):
    """The language model: predicts the next token of every position.

    Its state dict holds ``head.weight`` only if the shape is not tied.

    Attributes:
        z_loss: as of :func:`linear_cross_entropy`.
    """

    z_loss = 0.0

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        self.head = None if shape.tied else Linear(shape.width, shape.vocabulary)

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        each: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Logits, or with targets the loss.

        Args:
            ids: [B, L] int64.
            targets: [B, L] int64, the token after each of ``ids`` (already shifted); -100 does not count.
            each: [B, L] fp32, contiguous; takes the loss of every target that counts.
            starts: int64 [B, L], as of :meth:`LlamaLayers.hidden`.

        Returns:
            The logits [B, L, vocabulary], or with targets the mean cross-entropy in nats, an fp32 scalar.
        """
        x = self.norm(self.hidden(ids, starts=starts))
        # Through the module's attribute: ZeRO 3 gathers the partitioned weight on that access.
        weight = self.embedding.weight if self.head is None else self.head.weight
        if targets is None:
            return linear(x, weight)
        losses = None if each is None else each.view(-1)
        return linear_cross_entropy(
            x.flatten(0, 1), weight, targets.flatten(), each=losses, z_loss=self.z_loss
        )

    def next_logits(self, ids: Tensor, cache: Cache) -> Tensor:
        """Logits [B, vocabulary] of the token after the last of ``ids`` [B, L], which extend ``cache``."""
        last = self.norm(self.hidden(ids, cache)[:, -1])
        return linear(last, self.embedding.weight if self.head is None else self.head.weight)
