"""What all networks that predict hidden tokens share: which positions pass the head, and its loss."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from raypretrain.models.linear import linear
from raypretrain.models.loss import IGNORED, linear_cross_entropy


class MaskedLanguageModel(nn.Module):
    """Predicts the tokens that are hidden from it. The output matrix is the embedding.

    Attributes:
        embedding: [vocabulary, width].
        bias: [vocabulary], added to the logits.
        z_loss: as of :func:`linear_cross_entropy`.
    """

    z_loss = 0.0
    embedding: nn.Embedding
    bias: nn.Parameter

    @abstractmethod
    def hidden(self, ids: Tensor, starts: Tensor | None = None) -> Tensor:
        """The stream after the last layer, [B, L, width].

        Args:
            ids: [B, L] int64, without padding.
            starts: int64 [B, L], the column at which each position's document begins; it sees that alone, and is
                counted from there. None: each row is one document.
        """

    @abstractmethod
    def predicting(self, x: Tensor) -> Tensor:
        """Rows of the stream [..., width] → what the output matrix is applied to, [..., width]."""

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        each: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        """Logits, or with targets the loss; then only the positions that have one pass the head.

        Args:
            ids: [B, L] int64.
            targets: [B, L] int64, the true token at each position that is to be predicted, else -100.
            each: [B, L] fp32, contiguous; takes the loss of every target that counts.
            starts: int64 [B, L], as of :meth:`hidden`.

        Returns:
            The logits [B, L, vocabulary], or with targets the mean cross-entropy in nats, an fp32 scalar; NaN if
            no target counts.
        """
        x = self.hidden(ids, starts)
        if targets is None:
            return linear(self.predicting(x), self.embedding.weight, self.bias)
        rows = (targets.flatten() != IGNORED).nonzero()[:, 0]
        # Not x[rows], whose backward pass adds row by row.
        predicting = self.predicting(x.flatten(0, 1).index_select(0, rows))
        losses = None if each is None else torch.empty(len(rows), dtype=each.dtype, device=each.device)
        loss = linear_cross_entropy(
            predicting,
            self.embedding.weight,
            targets.flatten()[rows],
            each=losses,
            bias=self.bias,
            z_loss=self.z_loss,
        )
        if each is not None and losses is not None:
            each.view(-1)[rows] = losses
        return loss


class PredictionHead(nn.Module):
    """What stands before the output matrix in BERT and those after it: dense, gelu, norm."""

    def __init__(self, dense: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.dense, self.norm = dense, norm

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(nn.functional.gelu(self.dense(x)))
        return normed
