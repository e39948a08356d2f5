"""The planner's efficiencies, found from measured rows by least squares of the logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from planning_rows import Measured
from scipy.optimize import least_squares

from raypretrain.planning.calibration import Calibration

NAMES = (
    "products of ampere", "products of hopper", "attention of ampere", "attention of hopper", "memory", "link",
    "network", "launch", "hidden", "fp8",
)  # fmt: skip
FIRST = (0.75, 0.65, 0.35, 0.25, 0.6, 0.5, 0.5, 3e-4, 0.5, 1.7)
"""Where the search begins; what the rows leave open stays near it."""

PULL = 0.1
"""How strongly: a parameter twice as large as at first counts as an error of 7 %."""

GENERATIONS = ("ampere", "hopper")


def calibrations(logs: Sequence[float], source: str) -> dict[str, Calibration]:
    """What the logarithms of :data:`NAMES` say, by generation."""
    found = dict(zip(NAMES, (math.exp(log) for log in logs), strict=True))
    return {
        generation: Calibration(
            products=found[f"products of {generation}"],
            attention=found[f"attention of {generation}"],
            memory=found["memory"],
            link=found["link"],
            network=found["network"],
            launch=found["launch"],
            hidden=min(1.0, found["hidden"]),
            fp8=found["fp8"],
            source=source,
        )
        for generation in GENERATIONS
    }


def fit(rows: Sequence[Measured], source: str = "") -> dict[str, Calibration]:
    """Efficiencies by generation. Rows far off count less (soft l1 beyond 5 %): some were disturbed."""
    first = np.log(FIRST)

    def residuals(logs: np.ndarray) -> np.ndarray:
        by = calibrations(logs, source)
        off = [math.log(row.predicted(by[row.gpu.efficiency]) / row.tokens_per_second) for row in rows]
        return np.concatenate([off, PULL * (logs - first)])

    found = least_squares(residuals, first, loss="soft_l1", f_scale=0.05)
    return calibrations(found.x, source)


def errors(rows: Sequence[Measured], by: dict[str, Calibration]) -> list[float]:
    """Predicted ÷ measured − 1, of each row."""
    return [row.predicted(by[row.gpu.efficiency]) / row.tokens_per_second - 1 for row in rows]
