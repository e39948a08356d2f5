"""What a trial takes."""

from __future__ import annotations

import time
from typing import Any

import torch

from raypretrain.finetuning.team import ALONE, Team


class Spent:
    """What was spent since it was made.

    Args:
        before: :meth:`costs` of what counts as well.
    """

    def __init__(self, before: dict[str, Any] | None = None) -> None:
        known = before or {"seconds": 0.0, "cpu_hours": 0.0}
        self._began = time.perf_counter() - known["seconds"]
        self._used = time.process_time() - known["cpu_hours"] * 3600

    @property
    def seconds(self) -> float:
        """Of the clock, to the millisecond."""
        return round(time.perf_counter() - self._began, 3)

    def costs(self, device: torch.device, team: Team = ALONE) -> dict[str, float]:
        """``seconds``, and of the team ``cpu_hours``, and ``gpu_hours`` if each had the one that ``device`` is."""
        seconds = self.seconds
        return {
            "seconds": seconds,
            "cpu_hours": team.total((time.process_time() - self._used) / 3600),
            "gpu_hours": team.total(seconds / 3600 if device.type == "cuda" else 0.0),
        }
