"""What came out of the trials: the table, the best of each task, and means over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raypretrain.finetuning.report import write_report
from raypretrain.storage import write_atomic

Row = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """What decides between the trials of a task: a metric, without the split before its name."""

    metric: str
    larger_is_better: bool

    def goodness(self, row: Row) -> tuple[float, float]:
        """Larger for the better trial; of equals for the one with the lower validation loss."""
        value = float(row[f"validation_{self.metric}"])
        return (value if self.larger_is_better else -value, -float(row["validation_loss"]))


Goals = Mapping[str, Goal]
"""By task."""


def best_of(rows: Iterable[Row], goals: Goals) -> dict[str, Row]:
    """Task → its best finished trial."""
    best: dict[str, Row] = {}
    for row in rows:
        if row["status"] != "finished":
            continue
        known, goal = best.get(row["task"]), goals[row["task"]]
        if known is None or goal.goodness(row) > goal.goodness(known):
            best[row["task"]] = row
    return best


def compare(rows: Iterable[Row], goals: Goals) -> list[Row]:
    """Ways and initialisations against each other, each at its best settings.

    Trials that differ in nothing but their seed are one group. Of the groups of a task, way and
    initialisation with the most finished seeds (a scheduler may have stopped some), the one with the best
    mean validation metric is kept: the test set plays no part in the choice.

    Returns:
        Per task, way and init: the settings, ``seeds``, and the mean and the spread over seeds (standard
        deviation with n − 1; None for one seed) of the task's metric as ``score`` and ``spread``, on the test set or,
        where there is none, the validation set, with the mean seconds of a trial and what was forgotten.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "finished":
            groups.setdefault(_without_seed(row), []).append(row)
    best: dict[tuple[str, str, str], tuple[tuple[int, float], list[Row]]] = {}
    for group in groups.values():
        key = (group[0]["task"], group[0]["adapt.way"], group[0]["adapt.init"])
        goal = goals[group[0]["task"]]
        value = (len(group), float(np.mean([goal.goodness(row)[0] for row in group])))
        if key not in best or value > best[key][0]:
            best[key] = (value, group)
    return [_summary(group, goals[group[0]["task"]].metric) for _, group in best.values()]


def _without_seed(row: Row) -> str:
    kept = {key: value for key, value in row.items() if key.startswith("adapt.") and key != "adapt.seed"}
    return json.dumps([row["task"], kept], sort_keys=True)


def _summary(group: list[Row], metric: str) -> Row:
    first = group[0]
    split = "test" if f"test_{metric}" in first else "validation"
    scores = [row[f"{split}_{metric}"] for row in group]
    settings = {k: v for k, v in first.items() if k.startswith("adapt.") and k != "adapt.seed"}
    summary = {"task": first["task"], "way": first["adapt.way"], "init": first["adapt.init"]} | {
        "settings": {key.removeprefix("adapt."): value for key, value in settings.items()},
        "split": split,
        "metric": metric,
        "seeds": len(group),
        "score": float(np.mean(scores)),
        "spread": float(np.std(scores, ddof=1)) if len(group) > 1 else None,
        "validation": float(np.mean([row[f"validation_{metric}"] for row in group])),
        "seconds": float(np.mean([row["seconds"] for row in group])),
    }
    if "forgetting" in first:
        summary["forgetting"] = float(np.mean([row["forgetting"] for row in group]))
    return summary


def write_results(folder: Path, rows: list[Row], summary: dict[str, Any]) -> dict[str, str]:
    """Write ``results.parquet`` (a row a trial), ``results.json`` (with ``summary``), ``report.html``; their paths."""
    paths = write_tables(folder, rows, summary)
    return paths | {"report": str(write_report(folder))}


def write_tables(folder: Path, rows: list[Row], summary: dict[str, Any]) -> dict[str, str]:
    """As :func:`write_results`, without the report."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.table({column: pa.array([_cell(row.get(column)) for row in rows]) for column in columns})
    temporary = folder / "results.parquet.tmp"
    pq.write_table(table, temporary)
    temporary.replace(folder / "results.parquet")
    write_atomic(folder / "results.json", json.dumps(summary | {"rows": rows}, indent=2) + "\n")
    return {"table": str(folder / "results.parquet"), "results": str(folder / "results.json")}


def _cell(value: Any) -> Any:
    """A setting that has settings inside is a text in the table."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value
