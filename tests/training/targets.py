"""Targets for tests of the engine, which know nothing of sequences."""

from __future__ import annotations

import torch
from torch import Tensor


def causal_targets(ids: Tensor) -> Tensor:
    """The next token at each place: int64 [B, L]; nothing at the last one."""
    targets = torch.full_like(ids, -100)
    targets[:, :-1] = ids[:, 1:]
    return targets
