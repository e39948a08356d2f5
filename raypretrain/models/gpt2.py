"""GPT-2: learned positions, LayerNorm, attention and a plain feed-forward block, all with biases.

Weights go to and from Hugging Face's ``GPT2LMHeadModel`` by renaming, and by transposing the matrices of the layers,
which it has with the inputs first (``layout.py``). Dropout is left out.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from raypretrain.models.attention import Cache, causal_attention
from raypretrain.models.gpt2_config import Gpt2Shape
from raypretrain.models.initial import draw_weights
from raypretrain.models.linear import Linear, linear
from raypretrain.models.loss import linear_cross_entropy
from raypretrain.models.rotary import places_of
from raypretrain.models.shape import ModelShape


class Gpt2Attention(nn.Module):
    """Causal self-attention; query, key and value in one matrix."""

    def __init__(self, shape: Gpt2Shape, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, shape.heads
        self.query_key_value = Linear(shape.width, 3 * shape.width, bias=True)
        self.output = Linear(shape.width, shape.width, bias=True)

    def forward(self, x: Tensor, cache: Cache | None = None, starts: Tensor | None = None) -> Tensor:
        parts = self.query_key_value(x).unflatten(-1, (3 * self.heads, -1))
        query, key, value = parts.chunk(3, dim=2)
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)
        return self.output(causal_attention(query, key, value, starts).flatten(2))


class Gpt2FeedForward(nn.Module):
    """Two matrices with gelu, by its approximation with tanh, between them."""

    def __init__(self, shape: Gpt2Shape) -> None:
        super().__init__()
        self.up = Linear(shape.width, shape.feed_forward, bias=True)
        self.down = Linear(shape.feed_forward, shape.width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Gpt2Block(nn.Module):
    """One layer: attention, then feed-forward, each on the normalised stream and added to it."""

    def __init__(self, shape: Gpt2Shape, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.attention = Gpt2Attention(shape, layer)
        self.feed_forward_norm = nn.LayerNorm(shape.width, eps=shape.norm_eps)
        self.feed_forward = Gpt2FeedForward(shape)

    def forward(self, x: Tensor, cache: Cache | None = None, starts: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cache, starts)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Gpt2(nn.Module):
    """The language model: predicts the next token of every position. Its output matrix is the embedding.

    Attributes:
        z_loss: as of :func:`linear_cross_entropy`.

    Raises:
        TypeError: the shape is of another family.
    """

    z_loss = 0.0

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        if not isinstance(shape, Gpt2Shape):
            raise TypeError(f"a GPT-2 cannot have the shape of a {shape.family}")
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.max_length, shape.width)
        self.blocks = nn.ModuleList(Gpt2Block(shape, layer) for layer in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, eps=shape.norm_eps)

    def hidden(self, ids: Tensor, cache: Cache | None = None, starts: Tensor | None = None) -> Tensor:
        """The residual stream before the final norm.

        Args:
            ids: [B, L] int64; at most ``max_length`` positions with those before.
            cache: the positions before ``ids``; it is extended by them.
            starts: int64 [B, L], as of :meth:`raypretrain.models.llama.LlamaLayers.hidden`.

        Returns:
            [B, L, width], in the dtype of the weights.
        """
        start = cache.length if cache is not None else 0
        x = self.embedding(ids) + self.positions(places_of(ids, starts, start))
        for block in self.blocks:
            x = block(x, cache, starts)
        return x

    def init_weights(self, seed: int) -> None:
        """Set every weight, as :func:`draw_weights` says."""
        draw_weights(self, self.shape, seed, ("attention.output.weight", "feed_forward.down.weight"))

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        each: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """As of :meth:`raypretrain.models.llama.Llama.forward`."""
        x = self.norm(self.hidden(ids, starts=starts))
        if targets is None:
            return linear(x, self.embedding.weight)
        losses = None if each is None else each.view(-1)
        return linear_cross_entropy(
            x.flatten(0, 1), self.embedding.weight, targets.flatten(), each=losses, z_loss=self.z_loss
        )

    def next_logits(self, ids: Tensor, cache: Cache) -> Tensor:
        """Logits [B, vocabulary] of the token after the last of ``ids`` [B, L], which extend ``cache``."""
        return linear(self.norm(self.hidden(ids, cache)[:, -1]), self.embedding.weight)
