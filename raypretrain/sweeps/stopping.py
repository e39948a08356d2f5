"""Which trials end early: successive halving, or the median rule, from the losses of the trials before. Pure functions.

Trials run one after the other, so each is held against all before it, and the same search decides the same way however
often it was interrupted. Li et al., A System for Massively Parallel Hyperparameter Tuning, arXiv:1810.05934, of which
this is the variant that stops instead of pausing; Golovin et al., Google Vizier, KDD 2017, section 3.2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

Curve = list[tuple[int, float]]
"""``(tokens, held-out loss)`` of each evaluation of a trial, after its first step."""

REDUCTION = 3
RUNGS = (9, 3)
"""Parts of a trial's tokens at which only the best third goes on."""

LEAST = 3
"""Trials that have to be there to be compared with."""


def stopped_at(kind: str, curve: Curve, before: Sequence[Curve], budget: int) -> int | None:
    """The tokens after which a trial is ended, or None: it goes on.

    Args:
        kind: ``asha``, ``median`` or ``none``.
        curve: of the trial so far.
        before: of the trials before it, as far as they went.
        budget: tokens of a trial; what is measured at its end is nobody's to stop.
    """
    rule = {"asha": _halving, "median": _median}.get(kind)
    return rule(curve, before, budget) if rule else None


def _halving(curve: Curve, before: Sequence[Curve], budget: int) -> int | None:
    for part in RUNGS:
        own = at_rung(curve, budget, part)
        if own is None:
            return None
        others = [found[1] for other in before if (found := at_rung(other, budget, part))]
        better = sum(loss < own[1] for loss in others)
        if len(others) >= LEAST and better >= (len(others) + 1) // REDUCTION:
            return own[0]
    return None


def at_rung(curve: Curve, budget: int, part: int) -> tuple[int, float] | None:
    """The first evaluation after ``budget / part`` tokens, before the last one."""
    return next((point for point in curve if budget <= point[0] * part and point[0] < budget), None)


def _median(curve: Curve, before: Sequence[Curve], budget: int) -> int | None:
    best = float("inf")
    for tokens, loss in curve:
        best = min(best, loss)
        if tokens >= budget:
            return None
        means = [fmean(seen) for other in before if (seen := [value for at, value in other if at <= tokens])]
        if len(means) >= LEAST and best > median(means):
            return tokens
    return None
