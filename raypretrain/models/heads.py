"""A classification head on the decoder, releasable as a ``LlamaForSequenceClassification``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypretrain.errors import InputError
from raypretrain.models.llama import LlamaLayers
from raypretrain.models.shape import ModelShape

Pooling = Literal["mean", "last"]

MEAN_SCALE = 1000.0
"""How much more the mean weighs than the last position's residual, which an exported model cannot drop."""


class SequenceClassifier(LlamaLayers):
    """Scores one sequence as one of ``labels`` classes.

    ``LlamaForSequenceClassification`` reads the last token only. The mean over all positions is had from it
    by one more layer whose attention is uniform (``huggingface.save_classifier`` writes it); here the same
    formula is computed directly. With h the stream after the last layer::

        f = rms_norm(h_last + MEAN_SCALE · mean_t(norm(h_t)))      pooling "mean"; rms_norm has no weight
        f = norm(h_last)                                           pooling "last"
        scores = W f
    """

    def __init__(self, shape: ModelShape, labels: int, pooling: Pooling = "mean") -> None:
        super().__init__(shape)
        if pooling not in ("mean", "last"):
            raise ValueError(f"pooling is 'mean' or 'last', not {pooling!r}")
        self.pooling = pooling
        self.score = nn.Linear(shape.width, labels, bias=False)

    def features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """One vector per sequence.

        Args:
            ids: [B, L] int64, padded on the right with any id.
            lengths: [B] int64, the tokens of each sequence without padding, at least 1.

        Returns:
            [B, width], in the dtype of the weights.
        """
        hidden = self.hidden(ids)
        last = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
        if self.pooling == "last":
            return self.norm(last)
        real = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).to(hidden.dtype)
        mean = torch.einsum("bl,bld->bd", real, self.norm(hidden)) / lengths[:, None]
        return F.rms_norm(
            last + MEAN_SCALE * mean.to(hidden.dtype), (self.shape.width,), eps=self.shape.norm_eps
        )

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The scores (logits) [B, labels] of ``ids`` [B, L] with ``lengths`` [B]."""
        return self.score(self.features(ids, lengths))

    def load_base(self, state: Mapping[str, Tensor]) -> None:
        """Take the decoder's weights from a language model's; the score matrix stays as it is.

        Raises:
            InputError: a weight is missing, unknown or of another shape.
        """
        own = {name: weight for name, weight in self.state_dict().items() if name != "score.weight"}
        given = {name: weight for name, weight in state.items() if name != "head.weight"}
        for name in sorted(own.keys() ^ given.keys()):
            raise InputError(
                f"the weight '{name}' is {'missing' if name in own else 'unknown'}", where="base model"
            )
        for name, weight in given.items():
            if weight.shape != own[name].shape:
                shapes = f"{list(weight.shape)}, not {list(own[name].shape)}"
                raise InputError(f"the weight '{name}' has the shape {shapes}", where="base model")
        self.load_state_dict(given, strict=False)
