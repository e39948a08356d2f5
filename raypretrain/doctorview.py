"""What ``raypretrain doctor`` shows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def show_examination(found: dict[str, Any]) -> RenderableType:
    """A line for each thing that was looked at, and below it what to do."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(max_width=16)
    table.add_column(overflow="fold")
    for line in found["lines"]:
        said = Text(line["found"])
        if line["do"]:
            said.append(f"\n→ {line['do']}")
        table.add_row(Text(line["state"], style=_STYLES[line["state"]]), Text(line["what"]), said)
    return Group(table, "", Text(summary(found)))


def summary(found: dict[str, Any]) -> str:
    """``2 nodes: 1 fail, 2 warn, 9 ok``."""
    counts = Counter(line["state"] for line in found["lines"])
    nodes = len(found["nodes"])
    said = ", ".join(f"{counts[state]} {state}" for state in ("fail", "warn", "ok") if counts[state])
    return f"{nodes} node{'' if nodes == 1 else 's'}: {said}"
