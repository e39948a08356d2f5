"""What every benchmark ends with: a table of ratios, and the same as JSON."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One comparison: ``ours`` and ``peer`` in the same unit, ``goal`` for their ratio."""

    name: str
    ours: float
    peer: float
    goal: float

    @property
    def ratio(self) -> float:
        """Ours ÷ the peer's."""
        return self.ours / self.peer


def arguments(description: str) -> argparse.Namespace:
    """``--quick`` and ``--json FILE``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="under a minute, and noisier")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    return parser.parse_args()


def report(title: str, unit: str, rows: list[Row], file: Path | None) -> None:
    """Print the rows, and write them as ``{name, ours, peer, ratio, goal}``."""
    table = Table(
        "", f"ours, {unit}", f"peer, {unit}", "ratio", "goal", "", title=title, title_justify="left"
    )
    for row in rows:
        verdict = "reached" if row.ratio >= row.goal else "missed"
        table.add_row(
            row.name, f"{row.ours:,.0f}", f"{row.peer:,.0f}", f"{row.ratio:.3f}", f"{row.goal:g}", verdict
        )
    Console(width=130).print(table)
    if file:
        file.write_text(json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=1))
