"""What the pictures of a search's report show, as plain data that JSON can hold; ``pictures.py`` draws it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]

_LOG_FROM = 8.0
"""A setting whose largest value is so many times its smallest is shown on a logarithmic axis."""


@dataclass(frozen=True)
class Metric:
    """What a task is judged by.

    Args:
        name: e.g. ``accuracy``; a row has it as ``validation_accuracy`` and ``test_accuracy``.
        larger_is_better: so it is of an accuracy, not of a loss.
        split: where the score is taken: ``test``, or ``validation`` for a task without a test set.
    """

    name: str
    larger_is_better: bool
    split: str

    def score(self, row: Row) -> float | None:
        """What a trial is reported with. It plays no part in any choice."""
        return number(row, f"{self.split}_{self.name}")

    def validation(self, row: Row) -> float | None:
        """What trials are chosen by."""
        return number(row, f"validation_{self.name}")

    def goodness(self, value: float | None) -> float:
        """Larger is better; nothing is worst."""
        if value is None:
            return -math.inf
        return value if self.larger_is_better else -value


def number(row: Mapping[str, Any], key: str) -> float | None:
    """A finite number of a row, or None."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def named(row: Row, best: str | None) -> Row:
    """What says in a picture which trial it is."""
    names = {key: str(row.get(f"adapt.{key}", "")) for key in ("way", "init", "seed")}
    return {"trial": str(row["trial"]), "best": row["trial"] == best} | names


def varied(rows: Iterable[Row], without: Sequence[str] = ("way", "init")) -> list[str]:
    """The keys of ``adapt`` in which trials differ that have them; not those that are a multiple of another."""
    rows = list(rows)
    keys = list(dict.fromkeys(key for row in rows for key in row if key.startswith("adapt.")))
    kept: list[str] = []
    for key in keys:
        values = {json.dumps(row[key], sort_keys=True) for row in rows if key in row}
        if len(values) > 1 and not any(_proportional(rows, key, other) for other in kept):
            kept.append(key)
    names = [key.removeprefix("adapt.") for key in kept]
    return [name for name in names if name not in without]


def _proportional(rows: list[Row], one: str, other: str) -> bool:
    pairs = [(number(row, one), number(row, other)) for row in rows if one in row or other in row]
    if any(a is None or not b for a, b in pairs):
        return False
    ratios = {f"{a / b:.6g}" for a, b in pairs if a is not None and b}
    return len(ratios) == 1


def curves(rows: Iterable[Row], logs: Mapping[str, list[Row]], key: str, best: str | None) -> list[Row]:
    """A line a trial of ``key`` by epoch, from its ``metrics.jsonl``; trials without one are left out."""
    lines = []
    for row in rows:
        log = logs.get(row["trial"], [])
        points = [[number(line, "epoch"), number(line, key)] for line in log]
        points = [point for point in points if None not in point]
        if points:
            lines.append(named(row, best) | {"points": points})
    return lines


def pareto(rows: Iterable[Row], metric: Metric, best: str | None) -> dict[str, Any]:
    """Score against forgetting: ``points`` (x: nats a token, y: score) and the ``front``, by rising x.

    A trial is on the front if none that forgot as little or less has a score as good or better.
    """
    points = []
    for row in rows:
        x, y = number(row, "forgetting"), metric.score(row)
        if row["status"] == "finished" and x is not None and y is not None:
            points.append(named(row, best) | {"x": x, "y": y})
    front: list[list[float]] = []
    for point in sorted(points, key=lambda p: (p["x"], -metric.goodness(p["y"]))):
        if not front or metric.goodness(point["y"]) > metric.goodness(front[-1][1]):
            front.append([point["x"], point["y"]])
    return {"points": points, "front": front}


def parallel(rows: Iterable[Row], metric: Metric, best: str | None) -> dict[str, Any]:
    """Parallel coordinates: ``axes`` (name, kind, values), and a line a trial with a place on each.

    The last axis is the validation metric. ``rank`` of a line is 0 for the worst trial, 1 for the best.
    A setting that a trial does not have is None there.
    """
    rows = [row for row in rows if metric.validation(row) is not None]
    keys = varied(rows, without=("seed",))
    if not keys:
        return {"axes": [], "lines": []}
    axes = [_axis(key, [row[f"adapt.{key}"] for row in rows if f"adapt.{key}" in row]) for key in keys]
    results = [metric.validation(row) for row in rows]
    axes.append({"name": f"validation {metric.name}", "kind": "linear", "values": results})
    ordered = sorted(results, key=metric.goodness)
    lines = []
    for row, result in zip(rows, results, strict=True):
        values = [
            _value(axis["kind"], row.get(f"adapt.{key}")) for axis, key in zip(axes[:-1], keys, strict=True)
        ]
        rank = ordered.index(result) / max(len(ordered) - 1, 1)
        lines.append(named(row, best) | {"values": [*values, result], "rank": rank})
    return {"axes": axes, "lines": lines}


def _axis(name: str, values: list[Any]) -> Row:
    if any(isinstance(value, bool) or not isinstance(value, int | float | None) for value in values):
        return {"name": name, "kind": "names", "values": sorted({str(v) for v in values if v is not None})}
    there = sorted({float(value) for value in values if value is not None})
    log = bool(there) and there[0] > 0 and there[-1] / there[0] >= _LOG_FROM
    return {"name": name, "kind": "log" if log else "linear", "values": there}


def _value(kind: str, value: Any) -> Any:
    if value is None:
        return None
    return str(value) if kind == "names" else float(value)


def label_counts(rows: Iterable[Row], metric: Metric) -> list[Row]:
    """The score by the number of labelled examples, a line for each way and init; empty for one number.

    At each number the settings with the best mean validation metric count, with the mean and the standard
    deviation (n − 1) over their seeds.
    """
    cells: dict[tuple[str, str, float], dict[str, list[Row]]] = {}
    for row in rows:
        count = number(row, "adapt.examples") or number(row, "examples")
        if row["status"] == "finished" and count and metric.score(row) is not None:
            cell = cells.setdefault((row["adapt.way"], row["adapt.init"], count), {})
            cell.setdefault(_without_seed(row), []).append(row)
    if len({count for _, _, count in cells}) < 2:
        return []
    lines: dict[tuple[str, str], list[Row]] = {}
    for (way, init, count), groups in sorted(cells.items()):
        chosen = max(groups.values(), key=lambda group: _choice(group, metric))
        scores = [score for row in chosen if (score := metric.score(row)) is not None]
        spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
        point = {"examples": count, "mean": float(np.mean(scores)), "spread": spread, "seeds": len(scores)}
        lines.setdefault((way, init), []).append(point)
    return [{"way": way, "init": init, "points": points} for (way, init), points in lines.items()]


def _choice(group: list[Row], metric: Metric) -> tuple[int, float]:
    return len(group), float(np.mean([metric.goodness(metric.validation(row)) for row in group]))


def _without_seed(row: Row) -> str:
    kept = {key: value for key, value in row.items() if key.startswith("adapt.") and key != "adapt.seed"}
    return json.dumps(kept, sort_keys=True, default=str)
