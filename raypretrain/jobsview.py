"""What ``submit``, ``jobs``, ``follow`` and ``stop`` show."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from rich.table import Table

from raypretrain.console import out, progress_out
from raypretrain.statusview import duration

if TYPE_CHECKING:
    from raypretrain.cluster.jobserver import ClusterJob, JobServer
    from raypretrain.cluster.submission import Submission

_INTERRUPTED = 130


def say(line: str) -> None:
    """A line beside the result."""
    progress_out.print(line, soft_wrap=True)


def print_jobs(rows: list[dict[str, Any]]) -> None:
    """The jobs of a cluster."""
    if not rows:
        out.print("no job of ours yet")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("job", "command", "state", "since", "for", "progress"):
        table.add_column(name, justify="right" if name == "for" else "left", overflow="fold")
    for row in rows:
        since = time.strftime("%m-%d %H:%M:%S", time.localtime(row["started"])) if row["started"] else ""
        took = duration(row["seconds"]) if row["seconds"] is not None else ""
        table.add_row(row["job"], row["command"], row["state"], since, took, _progress(row["progress"]))
    out.print(table)


def print_submitted(submission: Submission, address: str | None) -> None:
    """What was sent, and what to do next."""
    said = f"{submission.name}: submitted to {submission.server.address}, {submission.sent:,} bytes sent"
    out.print(said, soft_wrap=True)
    _print_hints(submission.name, address)


def print_submittable(submission: Submission) -> None:
    """What would be sent."""
    payload = submission.payload
    out.print(f"{submission.name}: would be submitted to {submission.server.address}", soft_wrap=True)
    out.print(f"it would run: {payload.entrypoint}", soft_wrap=True)
    out.print(f"with this as recipe.yaml, {submission.sent:,} bytes:\n\n{payload.text}", soft_wrap=True)


def print_stopped(found: dict[str, Any]) -> None:
    """How a job that was asked to stop has ended."""
    said = (
        found["said"] or "it had saved nothing since its last checkpoint; the same command goes on from there"
    )
    out.print(f"{found['job']}: {found['state']} within {duration(found['seconds'])}; {said}", soft_wrap=True)


def follow_job(server: JobServer, name: str, address: str | None, quiet: bool = False) -> int:
    """Show what a job prints until it ends; returns the exit status. Ctrl-C leaves the job as it is.

    Args:
        address: as it was given, for the hints.
        quiet: print it on stderr, since stdout is for something else.
    """
    from raypretrain.cluster.following import exit_status, follow

    def write(text: str) -> None:
        print(text, end="", flush=True, file=sys.stderr if quiet else sys.stdout)

    try:
        job = follow(server, name, write)
    except KeyboardInterrupt:
        say(f"\n{name} goes on without being followed")
        _print_hints(name, address, to_stderr=True)
        return _INTERRUPTED
    say(f"{name}: {job.state}{_why(job)}")
    return exit_status(job)


def _why(job: ClusterJob) -> str:
    """Of a job that failed, the last line that says something."""
    lines = [line.strip() for line in job.message.splitlines() if line.strip()]
    return f" ({lines[-1]})" if job.state == "failed" and lines else ""


def _print_hints(name: str, address: str | None, to_stderr: bool = False) -> None:
    where = f" --address {address}" if address else ""
    console = progress_out if to_stderr else out
    for what, command in (("follow it", "follow"), ("stop it", "stop")):
        console.print(f"  {what + ':':<11}raypretrain {command} {name}{where}", soft_wrap=True)


def _progress(found: dict[str, Any] | None) -> str:
    return f"{found['unit']} {found['done']:,}/{found['of']:,}  {found['text']}" if found else ""
