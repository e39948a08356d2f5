"""What came out of the trials: the table, the best of each task, and means over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from raypretrain.finetuning.space import SearchConfig
from raypretrain.storage import write_atomic

Row = dict[str, Any]


def best_of(rows: Iterable[Row], search: SearchConfig) -> dict[str, Row]:
    """Task → its finished trial with the best metric; of equals the one with the lower validation loss."""
    best: dict[str, Row] = {}
    for row in rows:
        if row["status"] != "finished":
            continue
        known = best.get(row["task"])
        if known is None or _goodness(row, search) > _goodness(known, search):
            best[row["task"]] = row
    return best


def _goodness(row: Row, search: SearchConfig) -> tuple[float, float]:
    value = float(row[search.metric])
    return (value if search.larger_is_better else -value, -float(row["validation_loss"]))


def compare(rows: Iterable[Row], search: SearchConfig) -> list[Row]:
    """Ways and initialisations against each other, each at its best settings.

    Trials that differ in nothing but their seed are one group. Of the groups of a task, way and
    initialisation with the most finished seeds (a scheduler may have stopped some), the one with the best
    mean validation metric is kept: the test set plays no part in the choice.

    Returns:
        Per task, way and init: the settings, ``seeds``, and the mean and the spread over seeds (standard
        deviation with n − 1; None for one seed) of the test accuracy, or of the validation accuracy where
        there is no test set, with the mean seconds of a trial.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["status"] == "finished":
            groups.setdefault(_without_seed(row), []).append(row)
    best: dict[tuple[str, str, str], tuple[tuple[int, float], list[Row]]] = {}
    for group in groups.values():
        key = (group[0]["task"], group[0]["adapt.way"], group[0]["adapt.init"])
        value = (len(group), float(np.mean([_goodness(row, search)[0] for row in group])))
        if key not in best or value > best[key][0]:
            best[key] = (value, group)
    return [_summary(group) for _, group in best.values()]


def _without_seed(row: Row) -> str:
    kept = {key: value for key, value in row.items() if key.startswith("adapt.") and key != "adapt.seed"}
    return json.dumps([row["task"], kept], sort_keys=True)


def _summary(group: list[Row]) -> Row:
    first = group[0]
    split = "test" if "test_accuracy" in first else "validation"
    accuracy = [row[f"{split}_accuracy"] for row in group]
    settings = {k: v for k, v in first.items() if k.startswith("adapt.") and k != "adapt.seed"}
    return {"task": first["task"], "way": first["adapt.way"], "init": first["adapt.init"]} | {
        "settings": {key.removeprefix("adapt."): value for key, value in settings.items()},
        "split": split,
        "seeds": len(group),
        "accuracy": float(np.mean(accuracy)),
        "spread": float(np.std(accuracy, ddof=1)) if len(group) > 1 else None,
        "validation_accuracy": float(np.mean([row["validation_accuracy"] for row in group])),
        "seconds": float(np.mean([row["seconds"] for row in group])),
    }


def write_results(folder: Path, rows: list[Row], summary: dict[str, Any]) -> dict[str, str]:
    """Write ``results.parquet`` (a row a trial) and ``results.json`` (with ``summary``); their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pa.table({column: pa.array([row.get(column) for row in rows]) for column in columns})
    temporary = folder / "results.parquet.tmp"
    pq.write_table(table, temporary)
    temporary.replace(folder / "results.parquet")
    write_atomic(folder / "results.json", json.dumps(summary | {"rows": rows}, indent=2) + "\n")
    return {"table": str(folder / "results.parquet"), "results": str(folder / "results.json")}
