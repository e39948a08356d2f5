"""The account of a run's wall time: what of it moved the model on, and what the rest went to. Pure functions.

A run's wall time goes from its first start to its end, or to now. It is made up of the *sessions* of a driver, and of
the time between them. In a session there is one group of workers after another; worker 0 leaves in the ledger when its
group was ready to train, and how much it found to be done again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raypretrain.training.events import read_events

Row = dict[str, Any]

ENDS = ("stopped", "finished", "failed")


@dataclass
class Account:
    """Seconds of wall time.

    Args:
        productive: computing of steps that count.
        start: Ray, workers, the engine, the first batch: until a group trains.
        restore: verifying checkpoints and taking one up.
        checkpoint: training waits for a checkpoint.
        data: training waits for data.
        evaluation: held-out loss.
        lost: steps that had to be done again, and from the last of them until the loss of a worker was noticed.
        idle: between the end of a driver and the next start.
        other: the rest: logging, the end of the run, the release of the model.
    """

    productive: float = 0.0
    start: float = 0.0
    restore: float = 0.0
    checkpoint: float = 0.0
    data: float = 0.0
    evaluation: float = 0.0
    lost: float = 0.0
    idle: float = 0.0
    other: float = 0.0

    @property
    def wall(self) -> float:
        """The sum."""
        return sum(asdict(self).values())

    @property
    def goodput(self) -> float:
        """The productive share of the wall time."""
        return self.productive / self.wall if self.wall > 0 else 0.0

    def as_dict(self) -> dict[str, float]:
        """For result.json and ``status --json``."""
        return {"goodput": round(self.goodput, 4), "wall": round(self.wall, 3)} | {
            name: round(seconds, 3) for name, seconds in asdict(self).items()
        }


@dataclass
class _Group:
    """A group of workers that began to train: when, from which step, and until when."""

    ready: float
    step: int
    event: Row
    end: float = 0.0
    broken: bool = False  # its end was no clean one


def account_of(run: Path, now: float) -> Account:
    """The account of a run's folder."""
    events, metrics, evaluations = read_logs(run)
    return account(events, metrics, evaluations, now)


def read_logs(run: Path) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows of a run's events, metrics and evaluations."""
    names = ("events.jsonl", "metrics.jsonl", "evaluations.jsonl")
    events, metrics, evaluations = (read_events(run / name) for name in names)
    return events, metrics, evaluations


def account(events: list[Row], metrics: list[Row], evaluations: list[Row], now: float | None) -> Account:
    """Divide a run's wall time.

    Args:
        events, metrics, evaluations: the rows of the run's logs.
        now: the clock's time if the run is under way, else None.
    """
    total = Account()
    if not any(event["event"] == "start" for event in events):
        return total
    sessions = _sessions(events)
    groups: list[_Group] = []
    for i, session in enumerate(sessions):
        last = i == len(sessions) - 1
        end = _end(session, sessions[i + 1] if not last else None, metrics, now if last else None)
        if not last:
            total.idle += max(0.0, sessions[i + 1][0]["time"] - end)
        groups += _starts(session, end, total, under_way=last and now is not None)
    _steps(groups, metrics, evaluations, total)
    first, end = sessions[0][0]["time"], _end(sessions[-1], None, metrics, now)
    rest = max(0.0, end - first) - total.wall
    if rest < 0:  # clocks that were set
        total.productive = max(0.0, total.productive + rest)
    total.other += max(0.0, rest)
    return total


def repeated(metrics: Path, evaluations: Path, after: int) -> Row | None:
    """What will be done again after the step ``after``: its steps, their seconds, and when the last was done."""
    rows = [row for row in read_events(metrics) if row["step"] > after]
    if not rows:
        return None
    extra = [row for row in read_events(evaluations) if row["step"] > after]
    seconds = sum(row["step_seconds"] for row in rows) + sum(row["seconds"] for row in extra)
    return {
        "steps": len(rows),
        "last": rows[-1]["step"],
        "seconds": seconds,
        "until": rows[-1].get("time", 0.0),
    }


def _sessions(events: list[Row]) -> list[list[Row]]:
    sessions: list[list[Row]] = []
    for event in events:
        if event["event"] == "start":
            sessions.append([])
        if sessions:
            sessions[-1].append(event)
    return sessions


def _end(session: list[Row], following: list[Row] | None, metrics: list[Row], now: float | None) -> float:
    """When a session ended; without a word (its driver was killed), at its last sign of life."""
    ends = [event["time"] for event in session if event["event"] in ENDS]
    if ends:
        return float(ends[0])
    if now is not None:
        return now
    begun, until = session[0]["time"], following[0]["time"] if following else float("inf")
    signs = [event["time"] for event in session]
    signs += [row["time"] for row in metrics if begun <= row.get("time", 0.0) <= until]
    for event in following or []:
        again = event.get("repeated") if event["event"] == "group" else None
        if again:
            signs.append(min(again["until"], until))
            break
    return float(max(signs))


def _starts(session: list[Row], end: float, total: Account, *, under_way: bool) -> list[_Group]:
    """The groups of a session; their starts and the checkpoints' stalls go into the account."""
    groups: list[_Group] = []
    waiting_since: float | None = session[0]["time"]
    for event in session:
        kind, at = event["event"], event["time"]
        if kind == "group":
            if waiting_since is None:  # nobody told the driver of a loss
                waiting_since = at
            if groups and not groups[-1].end:
                groups[-1].end, groups[-1].broken = waiting_since, True
            spans = event.get("spans", {})
            span = max(0.0, at - waiting_since)
            restore = min(span, spans.get("verify", 0.0) + spans.get("restore", 0.0))
            total.restore += restore
            total.start += span - restore
            groups.append(_Group(at, event["step"], event))
            waiting_since = None
        elif kind == "lost" and waiting_since is None:
            groups[-1].end, groups[-1].broken = at, True
            waiting_since = at
        elif kind == "save":
            total.checkpoint += event["stall_seconds"]
    if waiting_since is not None:  # it ended before it trained (again)
        total.start += max(0.0, end - waiting_since)
    if groups and not groups[-1].end:
        groups[-1].end = end
        clean = under_way or any(event["event"] in ("stopped", "finished") for event in session)
        groups[-1].broken = not clean
    return groups


def _steps(groups: list[_Group], metrics: list[Row], evaluations: list[Row], total: Account) -> None:
    """What the groups did, and what of it was for nothing."""
    done_until = [group.ready for group in groups]
    firsts = [group.step for group in groups]
    for row in metrics:
        # Who did it last did it for good: the last group that began before it.
        owner = max((i for i, first in enumerate(firsts) if first < row["step"]), default=None)
        waited = row["data_wait_seconds"]
        total.productive += row["step_seconds"] - waited
        if owner is not None and row["step"] == firsts[owner] + 1:
            total.start += waited  # the first batch of a group
        else:
            total.data += waited
        if owner is not None and "time" in row:
            done_until[owner] = max(done_until[owner], row["time"])
    total.evaluation += sum(row["seconds"] for row in evaluations)
    for i, group in enumerate(groups):
        again = groups[i + 1].event.get("repeated") if i + 1 < len(groups) else None
        if again:
            total.lost += again["seconds"]
            done_until[i] = max(done_until[i], min(again["until"], group.end))
        if group.broken:
            total.lost += max(0.0, group.end - done_until[i])
