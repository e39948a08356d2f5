"""What low-rank adapters are like. Imports no torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from raypretrain.config import Config, Count


class LoraConfig(Config):
    """Low-rank adapters (LoRA, arXiv:2106.09685): of a frozen matrix W [outputs, inputs], W + scale · B · A.

    Args:
        rank: rows of A [rank, inputs] and columns of B [outputs, rank].
        alpha: what the scale is made of: alpha / rank.
        targets: the matrices of every layer that get one: ``all``, as QLoRA (arXiv:2305.14314, section 4) finds
            needed for the quality of full fine-tuning, or those of the ``attention`` or the ``feed_forward`` alone.
        dropout: share of the entries that A does not see, in training.
        rank_stabilised: the scale is alpha / sqrt(rank), with which higher ranks learn as fast as lower ones
            (rsLoRA, arXiv:2312.03732).
        dora: each row of W + scale · B · A gets a trained length of its own (DoRA, arXiv:2402.09353).
    """

    rank: Count = Field(default=8, gt=0)
    alpha: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    targets: Literal["all", "attention", "feed_forward"] = "all"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rank_stabilised: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        """What B · A is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)
