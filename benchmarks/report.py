"""What every benchmark ends with: a table of ratios, and the same as JSON."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One comparison: ``ours`` and ``peer`` in the same unit, ``goal`` for their ratio; None where there is none.

    Args:
        less: whether less is better: the ratio is then the peer's ÷ ours.
    """

    name: str
    ours: float
    peer: float
    goal: float | None
    less: bool = False

    @property
    def ratio(self) -> float:
        """Ours ÷ the peer's, or the other way round where less is better."""
        return self.peer / self.ours if self.less else self.ours / self.peer


def parser(description: str) -> argparse.ArgumentParser:
    """``--quick`` and ``--json FILE``; a benchmark may add its own."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="under a minute, and noisier")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    return made


def arguments(description: str) -> argparse.Namespace:
    """``--quick`` and ``--json FILE``."""
    return parser(description).parse_args()


def report(title: str, unit: str, rows: list[Row], file: Path | None) -> None:
    """Print the rows, and write them as ``{name, ours, peer, ratio, goal}``."""
    table = Table(
        "", f"ours, {unit}", f"peer, {unit}", "ratio", "goal", "", title=title, title_justify="left"
    )
    for row in rows:
        verdict = "" if row.goal is None else "reached" if row.ratio >= row.goal else "missed"
        goal = "" if row.goal is None else f"{row.goal:g}"
        table.add_row(row.name, figure(row.ours), figure(row.peer), f"{row.ratio:.3f}", goal, verdict)
    console = Console(width=130)
    console.print(table)
    if file:
        write(rows, file)


def write(rows: list[Row], file: Path) -> None:
    """The rows as JSON: ``[{name, ours, peer, ratio, goal}, …]``."""
    names = ("name", "ours", "peer", "ratio", "goal")
    file.write_text(json.dumps([{name: getattr(row, name) for name in names} for row in rows], indent=1))


def show(title: str, columns: list[str], rows: list[list[object]]) -> None:
    """Print a table of anything; numbers as :func:`figure` writes them."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(figure(v) if isinstance(v, int | float) else str(v) for v in row))
    Console(width=130).print(table)


def figure(value: float) -> str:
    """A number with about four digits."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def say_load() -> None:
    """Print how busy the machine is: what was measured beside other work says so."""
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs", flush=True)
