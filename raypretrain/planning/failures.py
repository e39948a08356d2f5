"""How often a run fails, and what that and saving cost it: Llama 3's rate; Young, 1974; Daly, 2006. Pure functions."""

from __future__ import annotations

import math

_INTERRUPTIONS, _DAYS, _GPUS = 419, 54, 16_384
"""Unexpected interruptions of Llama 3's pretraining (Grattafiori et al., The Llama 3 Herd of Models, 2024)."""


def mean_time_between_failures(gpus: int) -> float:
    """Seconds between two failures of a run on ``gpus`` GPUs, at Llama 3's rate."""
    return _DAYS * 86_400 * _GPUS / _INTERRUPTIONS / max(1, gpus)


def best_interval(cost: float, failures: float) -> float:
    """Seconds of training between two saves so that saving and repeating together cost least.

    Daly's estimate of higher order; for a cost far below ``failures`` it is Young's √(2 · cost · failures).

    Args:
        cost: seconds that training loses by a save.
        failures: mean seconds between two failures.
    """
    if cost <= 0:
        return 0.0
    if cost >= 2 * failures:
        return failures
    x = cost / (2 * failures)
    return math.sqrt(2 * cost * failures) * (1 + math.sqrt(x) / 3 + x / 9) - cost


def best_steps(cost: float, failures: float, step_seconds: float, save_seconds: float) -> int:
    """:func:`best_interval` in steps, at least one, and no less than a save takes until it is committed.

    Args:
        step_seconds: of a step.
        save_seconds: from the beginning of a save until it counts; two are never under way.
    """
    seconds = max(best_interval(cost, failures), save_seconds)
    return max(1, math.ceil(seconds / max(step_seconds, 1e-9)))


def goodput(cost: float, interval: float, failures: float, restart: float) -> float:
    """The expected share of the time in which a run makes progress that it keeps.

    Args:
        cost: seconds that training loses by a save.
        interval: seconds of training between two saves.
        failures: mean seconds between two failures.
        restart: seconds from a failure until training goes on.
    """
    # Failures as a Poisson process: the expected time until ``interval`` and its save are through (Daly, 2006).
    try:
        spent = failures * math.exp(restart / failures) * math.expm1((interval + cost) / failures)
    except OverflowError:
        return 0.0
    return interval / spent
