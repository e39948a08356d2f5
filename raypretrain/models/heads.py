"""Heads on a language model, each read from it as a class of ``transformers`` reads it, so that it can be released.

What a head reads is computed by the formula of that class, with what an exported model cannot leave out included:
nothing is approximated, and what differs is rounding.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypretrain.models.bert import Bert
from raypretrain.models.families import LanguageModel
from raypretrain.models.linear import linear
from raypretrain.models.llama import Llama
from raypretrain.models.loss import IGNORED
from raypretrain.models.modernbert import ModernBert
from raypretrain.models.shape import Objective

Pooling = Literal["mean", "last", "cls"]
"""What stands for a whole text: the mean over its positions, its last position, or its first."""

POOLINGS: dict[Objective, tuple[Pooling, ...]] = {"causal": ("mean", "last"), "masked": ("mean", "cls")}
"""Those that fit a network: the first position of a decoder has seen nothing, the last of an encoder means nothing."""

MEAN_SCALE = 1000.0
"""How much more the mean weighs than the one position's residual, which an exported model cannot drop."""

TANH_SCALE = 2.0**-10
"""BERT's and ESM's classes have a matrix and a tanh before the scores: with so small a matrix it is the identity."""


def starts_of(lengths: Tensor, longest: int) -> Tensor:
    """For rows padded on the right, int64 [B, longest]: the padding is a document of its own, which no text sees.

    Args:
        lengths: int64 [B], the tokens of each row without padding.
    """
    columns = torch.arange(longest, device=lengths.device)
    return torch.where(columns < lengths[:, None], 0, lengths[:, None])


def states(network: LanguageModel, ids: Tensor, starts: Tensor | None) -> Tensor:
    """What a token's own head reads of each position, [B, L, width].

    The stream after the final norm, if there is one; of a ModernBERT after the head of its pretraining.
    """
    hidden = network.hidden(ids, starts=starts)
    if isinstance(network, ModernBert):
        return network.predicting(hidden)
    return _normed(network, hidden)


def mean_state(network: LanguageModel, ids: Tensor, lengths: Tensor) -> Tensor:
    """The mean of the stream after the final norm over each text, [B, width]: an embedding.

    Args:
        ids: int64 [B, L], padded on the right with any id.
        lengths: int64 [B], at least 1.
    """
    return _mean(_normed(network, _hidden(network, ids, lengths)), lengths)


def pooled(network: LanguageModel, ids: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """What a text's head reads: one vector for each text, [B, width].

    With h the stream after the last layer, norm the final norm (none in BERT), and C = ``MEAN_SCALE``::

        decoders          last   norm(h_last)
                          mean   N(h_last + C · mean_t norm(h_t))
        BERT, ESM         cls    T(norm(h_0))
                          mean   T(N(h_0 + C · mean_t norm(h_t)))
        ModernBERT        cls    head(norm(h_0))            head: that of its pretraining
                          mean   head(mean_t norm(h_t))

    N is the family's norm without weights, in BERT twice; T(x) = tanh(εx) / ε with ε = ``TANH_SCALE``. The mean of
    those that ``transformers`` gives none is one more layer there, whose attention is uniform (``releasing.py``).

    Args:
        ids: int64 [B, L], padded on the right with any id.
        lengths: int64 [B], at least 1.
    """
    hidden = _hidden(network, ids, lengths)
    at = lengths - 1 if network.shape.objective == "causal" else torch.zeros_like(lengths)
    one = hidden[torch.arange(len(ids), device=ids.device), at]
    if isinstance(network, ModernBert):
        read: Tensor = network.head(
            network.norm(one) if pooling == "cls" else _mean(network.norm(hidden), lengths)
        )
        return read
    if pooling == "mean":
        read = _plain_norm(network, one + MEAN_SCALE * _mean(_normed(network, hidden), lengths))
    else:
        read = _normed(network, one)
    if network.shape.objective == "causal":
        return read
    return torch.tanh(TANH_SCALE * read) / TANH_SCALE


def log_probabilities(network: LanguageModel, ids: Tensor, targets: Tensor) -> Tensor:
    """The log-probability of all targets of each row of a decoder, in nats: fp32 [B].

    Args:
        ids: int64 [B, L], padded on the right with any id.
        targets: int64 [B, L], the token after each of ``ids``; -100 does not count.
    """
    hidden = _normed(network, network.hidden(ids))
    rows, columns = (targets != IGNORED).nonzero(as_tuple=True)
    matrix = network.embedding.weight
    if isinstance(network, Llama) and network.head is not None:
        matrix = network.head.weight
    losses = F.cross_entropy(
        linear(hidden[rows, columns], matrix).float(), targets[rows, columns], reduction="none"
    )
    return -torch.zeros(len(ids), device=ids.device).index_add(0, rows, losses)


def _hidden(network: LanguageModel, ids: Tensor, lengths: Tensor) -> Tensor:
    # Of a decoder no position sees the padding to its right.
    causal = network.shape.objective == "causal"
    return network.hidden(ids, starts=None if causal else starts_of(lengths, ids.shape[1]))


def _normed(network: LanguageModel, hidden: Tensor) -> Tensor:
    if isinstance(network, Bert):
        return hidden
    normed: Tensor = network.norm(hidden)
    return normed


def _plain_norm(network: LanguageModel, x: Tensor) -> Tensor:
    width, eps = (network.shape.width,), network.shape.norm_eps
    if isinstance(network, Llama):
        return F.rms_norm(x, width, eps=eps)
    normed = F.layer_norm(x, width, eps=eps)
    return F.layer_norm(normed, width, eps=eps) if isinstance(network, Bert) else normed


def _mean(x: Tensor, lengths: Tensor) -> Tensor:
    """[B, L, width] → [B, width], over the first ``lengths`` positions of each row."""
    real = (torch.arange(x.shape[1], device=x.device) < lengths[:, None]).to(x.dtype)
    return torch.einsum("bl,bld->bd", real, x) / lengths[:, None].to(x.dtype)


class SequenceClassifier(nn.Module):
    """Scores a whole text: ``W f`` with f as of :func:`pooled`.

    Args:
        network: with its output matrix, so that what it was pretrained for can be measured at any time.
        outputs: scores of each text.
    """

    def __init__(self, network: LanguageModel, outputs: int, pooling: Pooling) -> None:
        super().__init__()
        if pooling not in POOLINGS[network.shape.objective]:
            raise ValueError(f"pooling is one of {POOLINGS[network.shape.objective]}, not {pooling!r}")
        self.network, self.pooling = network, pooling
        self.score = nn.Linear(network.shape.width, outputs, bias=False)
        nn.init.zeros_(self.score.weight)

    def features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """[B, width] of ``ids`` [B, L] with ``lengths`` [B]."""
        return pooled(self.network, ids, lengths, self.pooling)

    def scores(self, features: Tensor) -> Tensor:
        """[B, outputs] of features [B, width]."""
        scores: Tensor = self.score(features.to(self.score.weight.dtype))
        return scores

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The scores (logits) [B, outputs] of ``ids`` [B, L] with ``lengths`` [B]."""
        return self.scores(self.features(ids, lengths))

    def released(self) -> tuple[Tensor, Tensor | None]:
        """The matrix [outputs, width] and the bias, if there is one, that give these scores of the features."""
        return self.score.weight, None


class SequenceRegressor(SequenceClassifier):
    """Gives a whole text a number: ``deviation · W f + mean``, W being learned.

    Decoders have no bias in the classes of ``transformers``. There ``one · f`` stands for it: a vector of which
    ``one`` makes 1, as nearly as there is one (:func:`raypretrain.finetuning.head.constant_of`).
    """

    one: Tensor

    def __init__(self, network: LanguageModel, pooling: Pooling, mean: float, deviation: float) -> None:
        super().__init__(network, 1, pooling)
        self.mean, self.deviation = mean, deviation
        self.biased = network.shape.objective == "masked"
        self.register_buffer("one", torch.zeros(network.shape.width))

    def constant(self, features: Tensor) -> Tensor:
        """What stands for 1 beside the mean, [B, 1]."""
        if self.biased:
            return torch.ones(len(features), 1, dtype=features.dtype, device=features.device)
        return (features @ self.one.to(features.dtype))[:, None]

    def scores(self, features: Tensor) -> Tensor:
        """The numbers [B, 1] of features [B, width]."""
        features = features.to(self.score.weight.dtype)
        scores: Tensor = self.deviation * self.score(features) + self.mean * self.constant(features)
        return scores

    def released(self) -> tuple[Tensor, Tensor | None]:
        """As of :class:`SequenceClassifier`."""
        weight = self.deviation * self.score.weight
        if self.biased:
            return weight, weight.new_tensor([self.mean])
        return weight + self.mean * self.one, None


class TokenClassifier(nn.Module):
    """Scores every token: ``W s + b`` with s as of :func:`states`.

    Args:
        network: as of :class:`SequenceClassifier`.
        outputs: scores of each token.
    """

    def __init__(self, network: LanguageModel, outputs: int) -> None:
        super().__init__()
        self.network = network
        self.score = nn.Linear(network.shape.width, outputs)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def features(self, ids: Tensor, starts: Tensor) -> Tensor:
        """[B, L, width] of ``ids`` [B, L]; ``starts`` [B, L] says where each position's text begins."""
        return states(self.network, ids, starts)

    def scores(self, features: Tensor) -> Tensor:
        """[…, outputs] of features […, width]."""
        scores: Tensor = self.score(features.to(self.score.weight.dtype))
        return scores

    def forward(self, ids: Tensor, starts: Tensor) -> Tensor:
        """The scores (logits) [B, L, outputs] of ``ids`` [B, L] with ``starts`` [B, L]."""
        return self.scores(self.features(ids, starts))
