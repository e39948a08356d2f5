"""What the model learns to predict: sequences of token ids → inputs and targets."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100


def causal_targets(ids: Tensor) -> Tensor:
    """The next token at each place: int64 [B, L]; nothing is predicted at the last one (:data:`IGNORED`).

    Args:
        ids: int64 [B, L].
    """
    targets = torch.full_like(ids, IGNORED)
    targets[:, :-1] = ids[:, 1:]
    return targets
