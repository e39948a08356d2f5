"""How many parameters a network has, by part, and how many operations a token costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raypretrain.planning.network import Network

BACKWARD = 2
"""The backward pass in forward passes: each product needs its gradient for both of its factors."""


def parameters(network: Network) -> dict[str, int]:
    """All the weights, exactly, by part; what is tied is counted once."""
    n, wide = network, 2 if network.biases else 1
    matrices = n.feed_forward_matrices
    parts = {
        "embedding": n.vocabulary * n.width,
        "positions": n.positions * n.width,
        "attention": n.layers * n.width * (2 * n.queries + 2 * n.keys),
        "feed-forward": n.layers * matrices * n.width * n.feed_forward,
        # Two of each layer, and one before the first or after the last.
        "norms": (2 * n.layers + 1) * n.width * wide,
        "biases": n.layers * (n.queries + 2 * n.keys + 2 * n.width + n.feed_forward) if n.biases else 0,
        "output": 0 if n.tied else n.vocabulary * n.width,
        "prediction head": n.width**2 + n.width * (3 if n.biases else 1) + n.vocabulary if n.masked else 0,
    }
    return {part: number for part, number in parts.items() if number}


def orthogonalizing(network: Network) -> int:
    """Operations of Muon's update of all layers, once a step: of a matrix [m, n] with m ≤ n five iterations of Newton
    and Schulz, each with two products of m·m·n and one of m·m·m (Jordan et al., Muon, 2024).
    """
    n = network
    inner = [n.queries, n.keys, n.keys, n.queries] + n.feed_forward_matrices * [n.feed_forward]
    sides = [(min(n.width, other), max(n.width, other)) for other in inner]
    return n.layers * sum(5 * (4 * short**2 * long + 2 * short**3) for short, long in sides)


def number_of_parameters(network: Network) -> int:
    """The sum over all parts."""
    return sum(parameters(network).values())


def mean_span(length: int, documents: Sequence[int] = ()) -> float:
    """Positions that the attention of a token spans, on average, as if it saw both sides.

    Args:
        length: tokens of a sequence.
        documents: tokens of each document, where a position sees its own document only; none: it sees all.
    """
    if not documents:
        return float(length)
    cut = [part for size in documents for part in _rows_of(size, length)]
    return sum(part * part for part in cut) / sum(cut)


def _rows_of(size: int, length: int) -> list[int]:
    """What is longer than a sequence is spread over several."""
    return [length] * (size // length) + ([size % length] if size % length else [])


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of the forward pass of one token.

    Args:
        layers: of the layers' matrices.
        attention: of scores and mixing, all positions counted whether a causal mask hides them or not.
        head: of the output, over all positions on average.
    """

    layers: float
    attention: float
    head: float

    @property
    def forward(self) -> float:
        """All of them."""
        return self.layers + self.attention + self.head

    @property
    def training(self) -> float:
        """Forward and backward, nothing computed twice: what FLOPs utilisation is measured by (PaLM, appendix B)."""
        return (1 + BACKWARD) * self.forward

    def recomputed(self, checkpointing: str) -> float:
        """What gradient checkpointing computes once more: ``none``, ``selective`` or ``full``.

        The selective form keeps the results of products and attention, so that only cheap operations come again.
        """
        return self.layers + self.attention if checkpointing == "full" else 0.0


def operations(
    network: Network, length: int, predicted: float = 1.0, documents: Sequence[int] = ()
) -> Operations:
    """What one token of a sequence costs.

    Args:
        length: tokens of a sequence.
        predicted: share of the positions that have a target; the others do not pass the head.
        documents: as of :func:`mean_span`.
    """
    n = network
    span = mean_span(length, documents)
    local = min(span, n.window) if n.window else span
    spans = n.global_layers * span + (n.layers - n.global_layers) * local
    return Operations(
        layers=2.0 * n.layers * n.layer_matrices,
        attention=4.0 * n.queries * spans,
        head=2.0 * predicted * n.head_matrices,
    )
