"""A scaling law from small runs of one's own, and what it says of a large one, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypretrain.errors import InputError
from raypretrain.planning.law import CHINCHILLA, Law

LEAST_RUNS, LEAST_SIZES, LEAST_LENGTHS = 5, 3, 3
"""Runs with which a law can be fitted at all: it has five numbers, of which two are held near the published ones."""

RESAMPLES = 200
COVERAGE = 0.9

_FIRST = np.array(
    [math.log(1.8), math.log(CHINCHILLA.a), math.log(CHINCHILLA.b), CHINCHILLA.alpha, CHINCHILLA.beta]
)
_SPREAD = np.array([1.0, 3.0, 3.0, 0.1, 0.1])
"""How far the law's logarithms and exponents may lie from where they begin, as one standard deviation: a guess."""

_NOISE = 0.01
"""Of a loss, by seed and order, relatively: 0.5 to 2 % between small runs. A guess."""


@dataclass(frozen=True)
class SmallRun:
    """A finished run.

    Args:
        loss: held out, nats a token.
        rate: its learning rate.
    """

    name: str
    parameters: float
    tokens: float
    loss: float
    rate: float


@dataclass(frozen=True)
class Fitted:
    """A law, and the same from runs that were drawn again.

    Args:
        runs: that it was fitted to: of those that differ in the learning rate alone, the best.
        error: the largest relative error on one of them.
    """

    law: Law
    resampled: tuple[Law, ...]
    runs: tuple[SmallRun, ...]
    error: float

    def predict(self, parameters: float, tokens: float) -> dict[str, float]:
        """The loss of a run, between ``low`` and ``high`` in nine of ten cases."""
        loss = self.law.loss(parameters, tokens)
        drawn = np.sort([law.loss(parameters, tokens) for law in self.resampled])
        tail = (1 - COVERAGE) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        noise = 1.645 * max(_NOISE, self.error / 2) * loss
        below, above = max(0.0, loss - low), max(0.0, high - loss)
        return {"loss": loss, "low": loss - math.hypot(below, noise), "high": loss + math.hypot(above, noise)}


def best_of_rates(runs: Sequence[SmallRun]) -> list[SmallRun]:
    """Of runs of one size and length, that with the lowest loss."""
    best: dict[tuple[float, float], SmallRun] = {}
    for run in runs:
        known = best.setdefault((run.parameters, run.tokens), run)
        if run.loss < known.loss:
            best[run.parameters, run.tokens] = run
    return sorted(best.values(), key=lambda run: (run.parameters, run.tokens))


def fit_law(runs: Sequence[SmallRun]) -> Fitted:
    """The law of these runs.

    Raises:
        InputError: they are too few, or too alike.
    """
    kept = best_of_rates(runs)
    sizes, lengths = {run.parameters for run in kept}, {run.tokens for run in kept}
    if len(kept) < LEAST_RUNS or len(sizes) < LEAST_SIZES or len(lengths) < LEAST_LENGTHS:
        raise InputError(
            f"{len(kept)} runs of {len(sizes)} sizes and {len(lengths)} lengths are too few to fit a law to",
            where="--fit",
            fix=f"give at least {LEAST_RUNS}, of {LEAST_SIZES} sizes and {LEAST_LENGTHS} lengths",
        )
    found = _solve(kept)
    draw = np.random.default_rng(0)
    again = [_solve([kept[i] for i in draw.integers(0, len(kept), len(kept))]) for _ in range(RESAMPLES)]
    worst = max(abs(found.loss(run.parameters, run.tokens) / run.loss - 1) for run in kept)
    return Fitted(found, tuple(again), tuple(kept), worst)


def _solve(runs: Sequence[SmallRun]) -> Law:
    """Least squares of the logarithms; a run far off counts less, and what the runs leave open stays as published."""
    from scipy.optimize import least_squares

    parameters, tokens, losses = (
        np.array([getattr(run, name) for run in runs]) for name in ("parameters", "tokens", "loss")
    )

    def off(values: Any) -> Any:
        floor, a, b, alpha, beta = values
        guess = np.exp(floor) + np.exp(a) / parameters**alpha + np.exp(b) / tokens**beta
        return np.concatenate([(np.log(guess) - np.log(losses)) / _NOISE, (values - _FIRST) / _SPREAD])

    floor, a, b, alpha, beta = least_squares(off, _FIRST, loss="soft_l1", f_scale=2.0).x
    return Law(
        floor=math.exp(floor), a=math.exp(a), alpha=alpha, b=math.exp(b), beta=beta,
        source=f"fitted to {len(runs)} runs of your own",
    )  # fmt: skip


def rate_for(runs: Sequence[SmallRun], parameters: float) -> float | None:
    """The learning rate for so many parameters: a power of the best ones of the sizes where several were tried.

    None where fewer than two sizes were tried with two rates and more.
    """
    by_size: dict[float, list[SmallRun]] = {}
    for run in runs:
        by_size.setdefault(run.parameters, []).append(run)
    tried = {size: some for size, some in by_size.items() if len({run.rate for run in some}) > 1}
    if len(tried) < 2:
        return None
    best = [min(some, key=lambda run: run.loss).rate for some in tried.values()]
    slope, offset = np.polyfit(np.log(list(tried)), np.log(best), 1)
    return float(math.exp(offset + slope * math.log(parameters)))
