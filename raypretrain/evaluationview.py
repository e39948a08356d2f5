"""What ``raypretrain evaluate`` shows."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from raypretrain.console import out


def print_scores(found: dict[str, Any]) -> None:
    """A table of the scores, and what has to be known to read it."""
    table = Table("task", "metric")
    for name in ("value", "± stderr", "documents", "examples"):
        table.add_column(name, justify="right")
    for row in found["scores"]:
        table.add_row(
            row["task"],
            _metric(row),
            _number(row["value"]),
            _number(row["stderr"]),
            _documents(row),
            "" if row["few_shot"] is None else str(row["few_shot"]),
        )
    out.print(table)
    step = "" if found["step"] is None else f" after step {found['step']:,}"
    out.print(f"model: {found['model']}{step}; lm-eval {found['lm_eval']}", soft_wrap=True)
    if found["truncated"]:
        out.print(
            f"note: {found['truncated']:,} requests were longer than the model's positions and lost their beginning",
            soft_wrap=True,
        )


def _metric(row: dict[str, Any]) -> str:
    """Its name, the filter of the answers if there is one, and which way is better."""
    better = {True: " ↑", False: " ↓"}.get(row["higher_is_better"], "")
    return row["metric"] + ("" if row["filter"] == "none" else f" ({row['filter']})") + better


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,.4f}" if isinstance(value, float) else str(value)


def _documents(row: dict[str, Any]) -> str:
    if row["n"] is None or row["of"] in (None, row["n"]):
        return "" if row["n"] is None else f"{row['n']:,}"
    return f"{row['n']:,} of {row['of']:,}"
