"""A network in plain numbers: all that its parameters, its operations and its memory follow from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Network:
    """What the planner has to know of a network, whatever its family.

    Args:
        vocabulary: rows of the embedding.
        width: entries of the residual stream.
        heads, key_value_heads, head_width: of a layer's attention.
        feed_forward: entries inside the feed-forward block.
        gated: it has three matrices (SwiGLU, GeGLU), not two.
        biases: matrices and norms have them.
        tied: the embedding is also the output matrix.
        masked: it predicts hidden tokens, through a dense layer of its own; otherwise the next one.
        positions: rows of learned embeddings that stand beside the vocabulary's: positions, segments.
        window: positions that a local layer's attention spans; 0 where all layers see the whole sequence.
        global_every: with a window, layers 0, n, 2n … see the whole sequence all the same.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    feed_forward: int
    gated: bool
    biases: bool
    tied: bool
    masked: bool
    positions: int = 0
    window: int = 0
    global_every: int = 1

    @property
    def queries(self) -> int:
        """Entries of all query heads together."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        """Entries of all key heads together, and of all value heads."""
        return self.key_value_heads * self.head_width

    @property
    def layer_matrices(self) -> int:
        """Weights in the matrices of one layer."""
        return self.width * (
            2 * self.queries + 2 * self.keys + self.feed_forward_matrices * self.feed_forward
        )

    @property
    def feed_forward_matrices(self) -> int:
        """How many the feed-forward block has."""
        return 3 if self.gated else 2

    @property
    def head_matrices(self) -> int:
        """Weights that a position with a target passes after the last layer."""
        return self.vocabulary * self.width + (self.width**2 if self.masked else 0)

    @property
    def global_layers(self) -> int:
        """Layers whose attention spans the whole sequence."""
        return -(-self.layers // self.global_every) if self.window else self.layers
