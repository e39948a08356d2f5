"""What ``raypretrain status`` shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

_WATCH_SECONDS = 2.0
_NAMES = {
    "productive": "computing of steps that count",
    "start": "start of Ray, workers, engine, first batch",
    "restore": "verifying and loading checkpoints",
    "checkpoint": "waiting for checkpoints",
    "data": "waiting for data",
    "evaluation": "held-out loss",
    "lost": "done again after a loss, until it was noticed",
    "idle": "between a stop and the next start",
    "other": "the rest: logging, ending, releasing",
}


def goodput_line(account: dict[str, float]) -> str:
    """The account of the wall time as a line: the goodput, and what the rest went to, the most first."""
    wall = account["wall"] or 1.0
    rest = sorted(((account[name], name) for name in _NAMES if name != "productive"), reverse=True)
    parts = ", ".join(f"{name} {seconds / wall:.1%}" for seconds, name in rest if seconds / wall >= 0.0005)
    line = f"goodput {account['goodput']:.1%} of {duration(account['wall'])}"
    return f"{line}: {parts}" if parts else line


def bits(*values: float | None) -> str:
    """The held-out loss by bytes of text, as the end of a line; nothing where it is not known (a masked objective)."""
    known = [f"{value:.4f}" for value in values if value is not None]
    return f", {' → '.join(known)} bits a byte" if known else ""


def show_status(found: dict[str, Any]) -> RenderableType:
    """The tables of a status."""
    parts: list[RenderableType] = [_progress(found)]
    if found["restarts"]:
        parts += ["", _restarts(found["restarts"])]
    for event in found["stragglers"]:
        line = (
            f"straggler: worker {event['rank']} (node {event['node']}), {event['ratio']:.2f} times the median"
        )
        parts.append(Text(f"{line}, step {event['step']:,}"))
    if found["account"]["wall"]:
        parts += ["", _account(found["account"])]
    return Group(*parts)


def watch_status(look: Callable[[], dict[str, Any]], out: Console) -> dict[str, Any]:
    """Show ``look()`` again and again until the run does not go on; returns the last."""
    found = look()
    with Live(show_status(found), console=out, auto_refresh=False) as live:
        while found["state"] == "running":
            time.sleep(_WATCH_SECONDS)
            found = look()
            live.update(show_status(found), refresh=True)
    return found


def duration(seconds: float) -> str:
    """``1 d 2 h``, ``2 h 5 min``, ``5 min 3 s``, ``3 s``."""
    whole = round(seconds)
    for size, name, below, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // below} {lower}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _progress(found: dict[str, Any]) -> Table:
    steps = found["steps"]
    of = f" of {steps:,} ({found['step'] / steps:.1%})" if steps else ""
    ago = found["last_step_seconds_ago"]
    running = found["state"] == "running"
    lines = {
        "run": found["run"],
        "state": found["state"] + (f": {found['reason']}" if found["reason"] else ""),
        "step": f"{found['step']:,}{of}, {found['tokens']:,} tokens"
        + (f", {duration(ago)} ago" if running and ago is not None else ""),
    }
    if found["loss"] is not None:
        lines["loss"] = f"{found['loss']:.4f} nats a token"
    if found["tokens_per_second"]:
        workers = f" with {found['workers']} workers" if found["workers"] else ""
        wait = f", {found['data_wait_share']:.1%} of the time waiting for data"
        lines["pace"] = f"{found['tokens_per_second']:,.0f} tokens/s{workers}{wait}"
    if found["seconds_left"] is not None:
        lines["left"] = duration(found["seconds_left"])
    held_out, checkpoint = found["held_out"], found["checkpoint"]
    if held_out:
        lines["held-out loss"] = (
            f"{held_out['first_loss']:.4f} → {held_out['loss']:.4f} nats a token"
            f"{bits(held_out['bits_per_byte'])}, at step {held_out['step']:,}"
        )
    if plan := found["plan"]:
        took, said = plan["measured_step_seconds"], plan["predicted_step_seconds"]
        lines["plan"] = f"a step took {took:.3f} s; the planner says {said:.3f}, {said / took - 1:+.0%}"
    saved = "none yet"
    if checkpoint:
        saved = f"step {checkpoint['step']:,}, {duration(checkpoint['age_seconds'])} ago"
    lines["checkpoint"] = saved
    if found["others"]:
        lines["also"] = ", ".join(f"{name}: {number}" for name, number in found["others"].items())
    table = Table(show_header=False, box=None)
    for name, text in lines.items():
        table.add_row(name, Text(text))
    return table


def _restarts(rows: list[dict[str, Any]]) -> Table:
    table = Table("restart", "why", box=None)
    for name in ("after step", "from step", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        again = row.get("seconds")
        table.add_row(
            time.strftime("%m-%d %H:%M:%S", time.localtime(row["time"])),
            Text(row["reason"]),
            "" if row["after_step"] is None else f"{row['after_step']:,}",
            f"{row['from_step']:,}" if "from_step" in row else "",
            "" if again is None else f"{again:.1f}",
        )
    return table


def _account(account: dict[str, float]) -> Table:
    table = Table("wall time", "", box=None)
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    wall = account["wall"]
    for name, meaning in _NAMES.items():
        if account[name] > 0:
            table.add_row(name, meaning, f"{account[name]:,.1f}", f"{account[name] / wall:.1%}")
    table.add_row("sum", f"goodput {account['goodput']:.1%}", f"{wall:,.1f}", "")
    return table
