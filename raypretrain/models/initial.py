"""The first weights of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raypretrain.models.shape import ModelShape


@torch.no_grad()
def draw_weights(
    network: nn.Module,
    shape: ModelShape,
    seed: int,
    into_stream: tuple[str, ...],
    cutoff: float | None = None,
) -> None:
    """Set every weight; the same seed gives the same weights on every machine.

    Matrices are normal with the shape's ``initializer_range``; some are scaled by 1/sqrt(2·layers), as GPT-2's that
    write into the residual stream, so that its variance does not grow with depth. Norms are 1, biases 0.

    Args:
        into_stream: the ends of the names of the matrices that are scaled.
        cutoff: beyond so many standard deviations a weight is drawn anew; None keeps all.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        spread = shape.initializer_range
        if name.endswith(into_stream):
            spread /= math.sqrt(2 * shape.layers)
        drawn = torch.empty(weight.shape)  # in fp32 on the CPU, whatever the weight's own dtype and device
        if cutoff is None:
            drawn.normal_(0.0, spread, generator=generator)
        else:
            nn.init.trunc_normal_(drawn, 0.0, spread, -cutoff * spread, cutoff * spread, generator=generator)
        weight.copy_(drawn)


_OF_THE_VOCABULARY = ("embedding.weight", "head.weight", "bias")
"""The weights, of any family, that have a row for each token."""


def with_new_rows(state: Mapping[str, Tensor], tokens: int, new: int, rows: int) -> dict[str, Tensor]:
    """A model's weights with rows for new tokens: each begins as the mean of those that the model has learned.

    So a new token's logit is the mean of the others', and their probabilities hardly change: the partition function
    grows at most by the share of the new rows. Hewitt, Initializing New Word Embeddings for Pretrained Language
    Models, 2021 (nlp.stanford.edu/~johnhew/vocab-expansion.html). Without noise: gradients tell equal rows apart.

    Args:
        state: under our names.
        tokens: of the tokenizer that it was trained with; further rows of it mean nothing.
        new: how many tokens come after these. They take such rows first.
        rows: that there shall be, at least ``tokens + new`` and what the model has.
    """
    grown = dict(state)
    for name in _OF_THE_VOCABULARY if new else ():
        if name in state:
            old = state[name]
            mean = old[:tokens].double().mean(0).to(old.dtype)
            grown[name] = torch.cat([old, mean.expand(rows - len(old), *mean.shape)])
            grown[name][tokens : tokens + new] = mean
    return grown
