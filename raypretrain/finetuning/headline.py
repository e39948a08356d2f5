"""What came out for a task, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raypretrain.finetuning.axes import amount_text, as_shown, score_text, time_text
from raypretrain.finetuning.figures import Metric, Row, number

RIVAL = "TF-IDF + logistic regression"


def headline(
    best: Row | None, trials: int, metric: Metric, groups: Sequence[Row], rival: dict[str, Any] | None
) -> str:
    """The best trial, its score, against scratch and the cheap rival, what it forgot and what it cost.

    Args:
        best: the best trial's row; None if none was finished.
        groups: the comparison: way, init, mean, seeds.
        rival: its scores by the metric's name, or None.
    """
    if best is None or metric.score(best) is None:
        return f"None of {trials} trials was finished with a {metric.name}, so there is no best one."
    score = metric.score(best)
    whose = f"{best['trial']} ({best['adapt.way']} from {best['adapt.init']})"
    parts = [
        f"The best of {trials} trials, {whose}, has a {metric.split} {metric.name} of {score_text(score)}: "
        + ", ".join([_against_other(best, metric, groups), _against_rival(best, metric, rival)]),
        _forgot(best),
        _cost(best),
    ]
    return "; ".join(parts) + "."


def _against_other(best: Row, metric: Metric, groups: Sequence[Row]) -> str:
    """Against the other initialisation, the same way if it was tried, else the best that was."""
    other = "base" if best["adapt.init"] == "scratch" else "scratch"
    found = [group for group in groups if group["init"] == other and group["mean"] is not None]
    same = [group for group in found if group["way"] == best["adapt.way"]]
    if not found:
        return f"nothing was trained from {other} to compare it with"
    group = max(same or found, key=lambda group: metric.goodness(group["mean"]))
    seeds = f", mean of {group['seeds']} seeds" if group["seeds"] > 1 else ""
    value = f"{group['way']} from {group['init']} ({score_text(group['mean'])}{seeds})"
    return _difference(best, metric, group["mean"]) + value


def _against_rival(best: Row, metric: Metric, rival: dict[str, Any] | None) -> str:
    value = number(rival or {}, metric.name)
    if value is None:
        return f"{RIVAL} was not measured"
    return _difference(best, metric, value) + f"{RIVAL} ({score_text(value)})"


def _difference(best: Row, metric: Metric, value: float) -> str:
    gain = metric.goodness(as_shown(metric.score(best) or 0.0)) - metric.goodness(as_shown(value))
    if not gain:
        return "as good as "
    return f"{score_text(abs(gain))} {'better' if gain > 0 else 'worse'} than "


def _forgot(best: Row) -> str:
    lost = number(best, "forgetting")
    if best["adapt.init"] == "scratch":
        return "it had nothing to forget"
    if lost is None:
        return "what it forgot was not measured"
    return f"it forgot {score_text(lost)} nats a token of the base's own objective"


def _cost(best: Row) -> str:
    hours = [
        f"{amount_text(value)} {name}-hours"
        for name in ("CPU", "GPU")
        if (value := number(best, f"{name.lower()}_hours"))
    ]
    took = time_text(number(best, "seconds"))
    return f"it took {took}" + (f" ({', '.join(hours)})" if hours else "")
