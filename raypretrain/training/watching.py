"""What the workers' heartbeats mean: whether the group is stalled and by whom, and who is slower than the others.

Plain functions of heartbeats and a clock; what is done about it is in ``supervisor.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any

from raypretrain.training.heartbeat import COLLECTIVE, ENDED, EVERY_SECONDS

SLOW_PHASES = ("starting", "verify", "engine", "restore", "first batch", "checkpoint")
"""Phases that last as long as disks, compilers and networks want."""

SLOW_SECONDS = 600.0
"""They, and the first step of a group, are given so long, or the time-out if that is longer."""

SLOW_STEPS = 20
"""So many steps in a row make a straggler."""

_AGAIN_SECONDS = 30.0


@dataclass(frozen=True)
class Beat:
    """A worker's latest heartbeat.

    Args:
        rank, world: of the worker, and how many there are.
        incarnation: of its group; a later group has a larger one.
        node, node_id, pid, born: where it runs.
        marks: phases entered so far; all workers enter the same in the same order.
        step: the step under way.
        steps: steps finished in this incarnation.
        phase: see ``heartbeat.py``.
        since: seconds in this phase.
        arrived: when it reached the board, by the clock that :meth:`Watcher.look` is given.
        stack, waits: of the training thread, once it makes no progress: its Python stack, and whether that is in a
            collective.
        busy: ``(step, seconds of own computing)`` of each step since the heartbeat before.
    """

    rank: int
    world: int
    incarnation: int
    node: str
    node_id: str
    pid: int
    born: int | None
    marks: int
    step: int
    steps: int
    phase: str
    since: float
    arrived: float
    stack: str = ""
    waits: bool = False
    busy: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, values: dict[str, Any], arrived: float) -> Beat:
        """From what :meth:`Heartbeat.values` gave."""
        busy = tuple((int(step), float(seconds)) for step, seconds in values["busy"])
        return cls(**{**values, "busy": busy}, arrived=arrived)

    @property
    def moved(self) -> float:
        """When it entered its phase."""
        return self.arrived - self.since


@dataclass(frozen=True)
class Stall:
    """No worker makes progress.

    Args:
        kind: ``frozen`` (heartbeats have stopped), ``behind`` (the others wait for them) or ``together`` (all wait in
            the same collective).
        at_fault: the workers to end, so that the group is started again.
        seconds: since anybody's progress.
        beats: of all workers.
    """

    kind: str
    at_fault: tuple[Beat, ...]
    seconds: float
    beats: tuple[Beat, ...]

    def line(self) -> str:
        """What happened, for a person."""
        worst = self.at_fault[0]
        where = f"node {worst.node}, pid {worst.pid}"
        phase = f"in phase '{worst.phase}' of step {worst.step:,}"
        for_so_long = f"for {self.seconds:.0f} s"
        if self.kind == "together":
            return f"no worker got on {for_so_long}: all wait in a collective, worker {worst.rank} ({where}) {phase}"
        ranks = ", ".join(str(beat.rank) for beat in self.at_fault)
        if self.kind == "behind" and len(self.at_fault) == len(self.beats):
            return f"no worker got on {for_so_long}: all are {phase}, worker {worst.rank} ({where}) too"
        if self.kind == "frozen":
            return f"worker {ranks} ({where}) does not answer {for_so_long}; last heard of {phase}"
        return f"worker {ranks} ({where}) does not get on {for_so_long}: it is {phase}, the others wait"


@dataclass(frozen=True)
class Straggler:
    """A worker that was slower than the others for :data:`SLOW_STEPS` steps; ``ratio`` to the median, over them."""

    beat: Beat
    step: int
    ratio: float

    def line(self) -> str:
        """What happened, for a person."""
        return (
            f"worker {self.beat.rank} (node {self.beat.node}, pid {self.beat.pid}) is a straggler: it computes "
            f"{self.ratio:.2f} times as long as the median, for {SLOW_STEPS} steps up to step {self.step:,}"
        )


@dataclass
class Watcher:
    """Reads heartbeats, again and again; a group's stall is found twice at most, a straggler once.

    Args:
        stall_timeout: seconds without progress.
        straggler_factor: times the median.
    """

    stall_timeout: float
    straggler_factor: float
    _incarnation: int = 0
    _lost: int = 0
    _suspected: bool = False
    _found: tuple[float, Stall] | None = None
    _pace: _Pace = field(default_factory=lambda: _Pace())

    def lost(self) -> None:
        """The group is known to be lost: what its heartbeats say is over."""
        self._lost = self._incarnation

    def look(self, beats: Iterable[Beat], now: float) -> list[Stall | Straggler]:
        """What there is to say of the newest group, by the clock's ``now``. To be called about once a second."""
        every = list(beats)
        newest = max((beat.incarnation for beat in every), default=0)
        if newest > self._incarnation:
            self._incarnation, self._suspected, self._found, self._pace = newest, False, None, _Pace()
        group = [beat for beat in every if beat.incarnation == newest]
        if not group or newest <= self._lost:
            return []
        slow = self._pace.stragglers(group, self.straggler_factor)
        return [*slow, *self._stall([beat for beat in group if beat.phase != ENDED], now)]

    def _stall(self, group: list[Beat], now: float) -> list[Stall]:
        found = stalled(group, now, self.stall_timeout)
        # Seen twice: after a pause of the driver or the board, heartbeats look old until the next ones are in.
        sure, self._suspected = self._suspected and found is not None, found is not None
        if found is None or not sure:
            return []
        if self._found is None:
            self._found = (now, found)
            return [found]
        before, first = self._found
        if now - before < min(_AGAIN_SECONDS, self.stall_timeout) or len(first.at_fault) == len(group):
            return []
        # Ending the worker at fault brought no restart (its node is gone, or its kernel holds it): end all others.
        ended = {beat.rank for beat in first.at_fault}
        rest = tuple(beat for beat in group if beat.rank not in ended)
        self._found = (now, Stall(first.kind, tuple(group), found.seconds, found.beats))
        return [Stall("behind", rest, found.seconds, found.beats)] if rest else []


def stalled(group: list[Beat], now: float, timeout: float) -> Stall | None:
    """Whether no worker has made progress for ``timeout`` seconds, and who is at fault."""
    if not group:
        return None
    seconds = min(now - beat.moved for beat in group)
    if seconds <= timeout:
        return None
    silence = max(timeout, 3 * EVERY_SECONDS)
    frozen = tuple(beat for beat in group if now - beat.arrived > silence)
    beats = tuple(group)
    if frozen:
        return Stall("frozen", frozen, seconds, beats)
    if seconds <= max(patience(beat, timeout) for beat in group):
        return None
    behind = min(beat.marks for beat in group)
    if any(beat.marks > behind for beat in group):
        return Stall("behind", tuple(beat for beat in group if beat.marks == behind), seconds, beats)
    alone = tuple(beat for beat in group if beat.phase != COLLECTIVE and not beat.waits)
    if alone:
        return Stall("behind", alone, seconds, beats)
    return Stall("together", tuple(sorted(group, key=lambda beat: beat.rank)[:1]), seconds, beats)


def patience(beat: Beat, timeout: float) -> float:
    """How long a worker may stay where it is."""
    slow = beat.phase in SLOW_PHASES or not beat.steps
    return max(timeout, SLOW_SECONDS) if slow else timeout


@dataclass
class _Pace:
    """How long each worker computed in each step, until all have said it."""

    steps: dict[int, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    ratios: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    named: set[int] = field(default_factory=set)

    def stragglers(self, group: list[Beat], factor: float) -> list[Straggler]:
        """Take in what the heartbeats bring; who became a straggler by it."""
        by_rank = {beat.rank: beat for beat in group}
        for beat in group:
            for step, seconds in beat.busy:
                self.steps[step][beat.rank] = seconds
        found = []
        for step in sorted(step for step, each in self.steps.items() if len(each) == group[0].world):
            for rank in self._slow(self.steps.pop(step), factor):
                ratio = sum(self.ratios[rank]) / len(self.ratios[rank])
                found.append(Straggler(by_rank[rank], step, ratio))
            for old in [other for other in self.steps if other < step]:
                del self.steps[old]  # a heartbeat was lost
        return found

    def _slow(self, each: dict[int, float], factor: float) -> list[int]:
        # Of an even number the lower one: of two workers the slow one would otherwise raise what it is compared with.
        middle = median_low(each.values())
        new = []
        for rank, seconds in each.items():
            if seconds <= factor * middle:
                self.ratios[rank].clear()
                continue
            self.ratios[rank].append(seconds / middle if middle else 1.0)
            if len(self.ratios[rank]) == SLOW_STEPS and rank not in self.named:
                self.named.add(rank)
                new.append(rank)
        return new
