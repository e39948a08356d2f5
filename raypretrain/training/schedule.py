"""The learning rate of each step: a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from raypretrain.config import Config


class ScheduleConfig(Config):
    """Warm-up, then cosine, linear, warm-up-stable-decay (WSD) or constant."""

    kind: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup: float = Field(default=0.02, ge=0, lt=1, description="share of the steps that warm up linearly")
    decay: float = Field(default=0.2, gt=0, le=1, description="share of the steps that decay, for wsd")
    final: float = Field(default=0.1, ge=0, le=1, description="last learning rate, as a share of the peak")


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """The learning rate of ``step`` (from 1) out of ``steps``.

    Cosine: Loshchilov & Hutter, SGDR, 2017, eq. 5, without restarts. WSD: Hu et al., MiniCPM, 2024, section 4.2,
    with a linear decay.
    """
    warmup = round(schedule.warmup * steps)
    if step <= warmup:
        return peak * step / warmup
    floor = peak * schedule.final
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule.kind == "cosine":
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.kind == "linear":
        return floor + (peak - floor) * (1 - progress)
    if schedule.kind == "wsd":
        decay = max(1, round(schedule.decay * steps))
        left = min(1.0, (steps - step) / decay)
        return floor + (peak - floor) * left
    return peak
