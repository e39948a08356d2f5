"""The report of a search, ``RUN/report.html``: one page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from raypretrain.errors import RunError
from raypretrain.finetuning import axes, figures, pictures
from raypretrain.finetuning.figures import Metric, Row, number
from raypretrain.finetuning.headline import RIVAL, headline
from raypretrain.finetuning.history import history
from raypretrain.storage import write_atomic
from raypretrain.training.metrics import read_log

REPORT = "report.html"
MOST_LABELS = 20
"""A confusion matrix of more labels is shown as its most confused pairs, as many."""
MOST_CHARACTERS = 1000
"""Of a text among the hardest examples."""

_TEMPLATE = "report.html.j2"
_COSTS = ("seconds", "cpu_hours", "gpu_hours")


def write_report(folder: Path) -> Path:
    """Write ``report.html`` of a search into its ``folder``; the page's path.

    Raises:
        RunError: the folder holds no results, or none that this version wrote.
    """
    environment = Environment(
        loader=PackageLoader("raypretrain.finetuning", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,  # labels and texts are anybody's
    )
    environment.globals["pictures"] = pictures
    environment.filters |= {
        "digest": _digest,
        "score": axes.score_text,
        "count": axes.count_text,
        "amount": axes.amount_text,
        "time": axes.time_text,
    }
    page = environment.get_template(_TEMPLATE).render(report_data(folder))
    write_atomic(folder / REPORT, page + "\n")
    return folder / REPORT


def report_data(folder: Path) -> dict[str, Any]:
    """What the page shows, as plain data that JSON can hold: ``name``, ``seconds``, ``tasks``, ``costs``.

    It is read from ``results.json``, and of the trials from ``metrics.jsonl`` and ``examples.json``; what is
    not there is None or empty, and the page says so.

    Raises:
        RunError: as :func:`write_report`.
    """
    folder = Path(folder)
    results = _results(folder / "results.json")
    tasks = [_task(folder, name, results) for name in results["tasks"]]
    rows = results["rows"]
    return {
        "name": folder.resolve().name,
        "seconds": number(results, "seconds"),
        "trials": len(rows),
        "finished": sum(row["status"] == "finished" for row in rows),
        "rival": RIVAL,
        "tasks": tasks,
        "costs": _costs(rows),
        "total": _cost(rows),
    }


def _digest(text: str) -> str:
    """Of a script, as a Content-Security-Policy names it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _results(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RunError("there is no results.json", where=str(path.parent), fix="name the folder of a search")
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"not JSON: {error}", where=str(path), fix="run the search again") from None
    if not isinstance(results, dict) or not {"rows", "tasks", "best"} <= set(results):
        raise RunError("the results of another version", where=str(path), fix="run the search again")
    return results


def _task(folder: Path, name: str, results: dict[str, Any]) -> dict[str, Any]:
    about = results["tasks"][name]
    rows = [row for row in results["rows"] if row["task"] == name]
    best = results["best"].get(name)
    of = best["trial"] if best else None
    tested = any(number(row, f"test_{about['metric']}") is not None for row in rows)
    metric = Metric(about["metric"], about["larger_is_better"], "test" if tested else "validation")
    logs = {row["trial"]: read_log(folder / "trials" / row["trial"] / "metrics.jsonl") for row in rows}
    groups = [_group(row, metric) for row in results.get("comparison", []) if row["task"] == name]
    examples = _examples(folder / "trials" / of / "examples.json") if of else {}
    labels = examples.get("confusion") or {"labels": [], "counts": []}
    return {
        "name": name,
        "kind": about.get("kind", ""),
        "metric": metric.name,
        "larger_is_better": metric.larger_is_better,
        "split": metric.split,
        "sizes": {split: about.get(split) for split in ("train", "validation", "test")},
        "dropped": about.get("dropped") or 0,
        "unseen": number(best or {}, f"{metric.split}_unseen"),
        "seen": about.get("seen"),
        "labels": about.get("labels") or [],
        "ways": list(dict.fromkeys(str(row["adapt.way"]) for row in rows)),
        "best": of,
        "headline": headline(best, len(rows), metric, groups, about.get("rival")),
        "leaderboard": _leaderboard(rows, metric, of),
        "comparison": [group for group in groups if group["mean"] is not None],
        "rival": number(about.get("rival") or {}, metric.name),
        "rival_seconds": number(about.get("rival") or {}, "seconds"),
        "curves": figures.curves(rows, logs, f"validation_{metric.name}", of),
        "losses": _losses(rows, logs, of),
        "pareto": figures.pareto(rows, metric, of),
        "forgetting": _forgetting(best or {}),
        "blends": _blends(folder / "trials" / of / "blend.json", metric) if of else [],
        "parallel": figures.parallel(rows, metric, of),
        "exchanges": [line for row in rows for line in _exchanges(folder, row["trial"])],
        "label_counts": figures.label_counts(rows, metric),
        "confusion": _matrix(**labels) if 0 < len(labels["labels"]) <= MOST_LABELS else [],
        "confused": _confused(**labels) if len(labels["labels"]) > MOST_LABELS else [],
        "per_label": examples.get("per_label") or [],
        "hardest": [_shortened(example) for example in examples.get("hardest") or []],
        "ended": [_ended(row) for row in rows if row["status"] != "finished"],
    }


def _group(row: Row, metric: Metric) -> Row:
    settings = {key: value for key, value in row.get("settings", {}).items() if key not in ("way", "init")}
    return {"way": row["way"], "init": row["init"], "seeds": row["seeds"], "settings": settings} | {
        "mean": number(row, "score"),
        "spread": number(row, "spread"),
        "seconds": number(row, "seconds"),
    }


def _leaderboard(rows: Sequence[Row], metric: Metric, best: str | None) -> list[Row]:
    """All trials, by falling validation metric."""
    differ = figures.varied(rows)
    board: list[Row] = [
        figures.named(row, best)
        | {
            "status": row["status"],
            "settings": {key: row[f"adapt.{key}"] for key in differ if f"adapt.{key}" in row},
            "validation": metric.validation(row),
            "test": number(row, f"test_{metric.name}"),
            "forgetting": number(row, "forgetting"),
            "parameters": number(row, "parameters_trained"),
        }
        | {key: number(row, key) for key in _COSTS}
        for row in rows
    ]
    return sorted(board, key=lambda row: (not row["best"], -metric.goodness(row["validation"])))


def _exchanges(folder: Path, trial: str) -> list[Row]:
    """After which epochs a trial went on from another's state."""
    return [
        {"trial": trial, "from": line["from"], "epoch": float(line["epoch"])}
        | {
            key: {name: _plain(value, ", ") for name, value in line[key].items()}
            for key in ("before", "theirs", "after")
        }
        for line in history(folder / "trials" / trial)
    ]


def _losses(rows: Sequence[Row], logs: dict[str, list[Row]], best: str | None) -> dict[str, Any]:
    """Curves of the validation loss; of the training loss for a task that has no other."""
    for name in ("validation_loss", "train_loss"):
        if lines := figures.curves(rows, logs, name, best):
            return {"name": name.replace("_", " "), "lines": lines}
    return {"name": "", "lines": []}


def _blends(path: Path, metric: Metric) -> list[Row]:
    """The weights that were looked at between the base and the best trial, by their share of the latter."""
    if not path.is_file():
        return []
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    kept = [
        {"share": row["share"], "score": metric.validation(row), "forgetting": number(row, "forgetting")}
        for row in rows
    ]
    return sorted(kept, key=lambda row: row["share"])


def _forgetting(best: Row) -> dict[str, Any]:
    """Of the best trial: the base's objective before and after, and what was forgotten of each source."""
    keys = ("forgetting", "base_nats", "tuned_nats", "base_bits_per_byte", "tuned_bits_per_byte")
    sources = {
        key.removeprefix("forgetting."): number(best, key) for key in best if key.startswith("forgetting.")
    }
    return {key: number(best, key) for key in keys} | {"sources": sources}


def _examples(path: Path) -> dict[str, Any]:
    examples: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return examples


def _matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> list[Row]:
    """A row a true label; ``share``: of that label's examples."""
    return [
        {"label": label, "cells": [{"count": n, "share": n / max(sum(row), 1)} for n in row]}
        for label, row in zip(labels, counts, strict=True)
    ]


def _confused(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> list[Row]:
    """The pairs of labels that are most often taken for each other, the most frequent first."""
    pairs: list[Row] = [
        {"truth": labels[i], "predicted": labels[j], "count": n, "share": n / sum(row)}
        for i, row in enumerate(counts)
        for j, n in enumerate(row)
        if n and i != j
    ]
    return sorted(pairs, key=lambda pair: -pair["count"])[:MOST_LABELS]


def _shortened(example: Row) -> Row:
    """An example as text: of a pair, each on a line; of tags, all in one."""
    between = {"text": "\n", "truth": " ", "predicted": " "}
    plain = {key: _plain(example.get(key), join)[: MOST_CHARACTERS + 1] for key, join in between.items()}
    cut = {key: text[:-1] + "…" if len(text) > MOST_CHARACTERS else text for key, text in plain.items()}
    return cut | {"loss": number(example, "loss")}


def _plain(value: Any, join: str) -> str:
    if isinstance(value, list):
        return join.join(str(one) for one in value)
    return axes.score_text(value) if value is None or isinstance(value, float) else str(value)


def _ended(row: Row) -> Row:
    """A trial without a test score, and why."""
    reasons = {"stopped": "the scheduler ended it early", "missing": "it has not run"}
    reason = row.get("error") or reasons.get(row["status"], "no reason is known")
    return {"trial": row["trial"], "status": row["status"], "reason": reason, "epochs": _epochs(row)}


def _epochs(row: Row) -> float | None:
    return number(row, "epoch") if number(row, "epochs") is None else number(row, "epochs")


def _costs(rows: Sequence[Row]) -> list[Row]:
    """What the trials of each task and way took together."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], str(row["adapt.way"])), []).append(row)
    return [{"task": task, "way": way} | _cost(group) for (task, way), group in groups.items()]


def _cost(rows: Sequence[Row]) -> Row:
    """Sums over trials; None where no trial has the number. ``untimed``: trials that recorded no time."""
    known = {key: [value for row in rows if (value := number(row, key)) is not None] for key in _COSTS}
    untimed = sum(number(row, "seconds") is None for row in rows)
    return {key: sum(values) if values else None for key, values in known.items()} | {
        "trials": len(rows),
        "untimed": untimed,
    }
