"""A worker's heartbeat: how far its training thread is, told to the board about once a second.

The training thread marks each phase as it enters it (:class:`Progress`, a few attribute writes). A thread beside it
(:class:`Heartbeat`) posts what it finds there. A heartbeat that has stopped means that the whole process is frozen; one
that goes on without progress, that the training thread hangs: then its Python stack goes along.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

COLLECTIVE = "collective"
ENDED = "ended"
COMPUTING = ("forward", "backward", "optimizer")
"""The phases whose time is a worker's own: in the others it waits, or does what the others do not."""

EVERY_SECONDS = 1.0
_BEATS_A_SECOND = 1_000
"""Of all workers: a third of the board's core."""

_STEPS_KEPT = 256


class Progress:
    """Where the training thread is; it alone writes, others may read.

    ``now`` is ``(marks, step, phase, since)``: how many marks there were, the step under way, its phase, and when that
    was entered, by the monotonic clock. All workers mark the same phases in the same order, so that who has the fewest
    marks is behind.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.now: tuple[int, int, str, float] = (0, 0, "starting", clock())
        self.thread = threading.get_ident()
        self.steps = 0
        self.busy: deque[tuple[int, float]] = deque(maxlen=_STEPS_KEPT)
        self._computed = 0.0

    def mark(self, phase: str, step: int | None = None) -> str:
        """Enter ``phase``; returns the one before. ``step`` is given where a step begins."""
        marks, at, before, since = self.now
        clock = self._clock()
        if before in COMPUTING:
            self._computed += clock - since
        if step is not None:
            if self._computed:
                self.busy.append((at, self._computed))
                self.steps += 1
            self._computed = 0.0
        self.now = (marks + 1, at if step is None else step, phase, clock)
        return before

    def collective(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, marked as a collective while it runs."""

        def marked(*args: Any, **kwargs: Any) -> Any:
            before = self.mark(COLLECTIVE)
            try:
                return call(*args, **kwargs)
            finally:
                self.mark(before)

        return marked


class Heartbeat:
    """The thread that posts a worker's :class:`Progress`.

    Args:
        progress: of the training thread.
        post: takes a heartbeat's values and must not wait.
        who: what is the same in every heartbeat: rank, world, incarnation, node, node_id, pid, born.
        stall_timeout: seconds; after half of them without progress the training thread's stack is posted, once.
    """

    def __init__(
        self,
        progress: Progress,
        post: Callable[[dict[str, Any]], None],
        who: dict[str, Any],
        stall_timeout: float,
    ) -> None:
        self._progress, self._post, self._who = progress, post, who
        self._patience = stall_timeout / 2
        self._every = min(beat_seconds(who["world"]), stall_timeout / 5)
        self._stack_at = -1
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()
        self._progress.mark(ENDED)
        with suppress(Exception):  # the board goes with the driver
            self._post(self.values())

    def values(self) -> dict[str, Any]:
        """The heartbeat of this moment; what each step took is in one heartbeat only."""
        progress = self._progress
        marks, step, phase, since = progress.now
        still = time.monotonic() - since
        busy = [progress.busy.popleft() for _ in range(len(progress.busy))]
        values = {**self._who, "marks": marks, "step": step, "phase": phase, "since": still, "busy": busy}
        values["steps"] = progress.steps
        if still > self._patience and marks != self._stack_at:
            self._stack_at = marks
            values["stack"], values["waits"] = stack_of(progress.thread)
        return values

    def _beat(self) -> None:
        while not self._end.is_set():
            with suppress(Exception):
                self._post(self.values())
            self._end.wait(self._every)


def beat_seconds(workers: int) -> float:
    """Seconds between two heartbeats of one of so many workers: the more there are, the more seldom."""
    return max(EVERY_SECONDS, workers / _BEATS_A_SECOND)


def stack_of(thread: int) -> tuple[str, bool]:
    """The Python stack of a thread of this process as text, and whether it is in a collective."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "", False
    stack = traceback.extract_stack(frame)
    places = ("/torch/distributed/", "/deepspeed/comm/", "/train/collective/")
    waits = any(part in entry.filename.replace("\\", "/") for entry in stack for part in places)
    return "".join(traceback.format_list(stack)), waits


def born(pid: int) -> int | None:
    """When a process of this machine began, in its kernel's ticks: with the pid it names one process for ever."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def state_of(pid: int) -> str | None:
    """The kernel's letter for what a process does: R runs, S sleeps, D waits for a disk, T is stopped by a signal."""
    fields = _stat(pid)
    return fields[0] if fields else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: the name before it may hold anything."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return []
