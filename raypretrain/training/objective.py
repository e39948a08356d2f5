"""What the model learns to predict: sequences of token ids → inputs and targets."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100


def causal_targets(ids: Tensor, predicted: Tensor | None = None) -> Tensor:
    """The next token at each place: int64 [B, L]; nothing is predicted at the last one (:data:`IGNORED`).

    Args:
        ids: int64 [B, L].
        predicted: bool [B, L], whether a token is one to predict; without it all are but the first of a row.
    """
    targets = torch.full_like(ids, IGNORED)
    targets[:, :-1] = ids[:, 1:]
    if predicted is not None:
        targets[:, :-1][~predicted[:, 1:]] = IGNORED
    return targets
