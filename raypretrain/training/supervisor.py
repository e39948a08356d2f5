"""The driver's eyes and hands: it reads the workers' heartbeats, says what is wrong, and ends who hangs.

What the heartbeats mean is decided in ``watching.py``. Ray Train starts the group anew as soon as a worker is dead.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypretrain.training.compute_config import ComputeConfig
from raypretrain.training.events import Events
from raypretrain.training.heartbeat import EVERY_SECONDS, born, state_of
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.watching import Beat, Stall, Watcher

_MORE_THAN_RAY_SECONDS = 60
_STATES = {"T": "stopped by a signal", "t": "held by a debugger", "D": "waiting for its disk", "Z": "dead"}


class TellOfLosses(ray.train.UserCallback):
    """Runs in Ray Train's controller: tells the board which workers failed, and how, as soon as Ray knows.

    Args:
        board: the actor's handle.
    """

    def __init__(self, board: Any) -> None:
        self._board = board

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called before the group is started anew."""
        self._board.lost.remote({rank: describe(error) for rank, error in worker_exceptions.items()})


def describe(error: BaseException) -> tuple[str, str]:
    """``(kind, what)`` of a worker's failure; the kind is ``lost`` (its process is gone) or ``error``."""
    cause = getattr(error, "health_check_failure", error)
    if isinstance(cause, ray.exceptions.OutOfMemoryError):
        return "lost", "its node ran out of memory"
    if isinstance(cause, ray.exceptions.RayActorError):
        if cause.preempted:
            return "lost", "its node was reclaimed"
        return "lost", "its node is gone" if "its node has died" in str(cause) else "its process ended"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "error", lines[-1][:200] if lines else type(error).__name__


class Supervisor:
    """Watches over the workers of one session.

    Args:
        board: the actor's handle.
        run: the run's folder, for its ledger and its stacks.
        compute: of the recipe.
        say: takes a line for the user.
    """

    def __init__(
        self, board: Any, run: RunFolder, compute: ComputeConfig, say: Callable[[str], None]
    ) -> None:
        self._board, self._run, self._events, self._say = board, run, Events(run.events), say
        self._watcher = Watcher(compute.stall_timeout, compute.straggler_factor)
        self._every = min(EVERY_SECONDS, compute.stall_timeout / 5)
        self._looked = 0.0
        self._beats: list[Beat] = []
        self._lost_incarnation = -1
        self._killing: list[tuple[Beat, Any]] = []
        # Ray gives a frozen worker up by itself after so long: later than we do, so that it is said who and where.
        os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(
            int(compute.stall_timeout) + _MORE_THAN_RAY_SECONDS
        )

    def look(self, *, last: bool = False) -> None:
        """Called again and again; reads the heartbeats about once a second, and always if it is the ``last`` call."""
        now = time.monotonic()
        if now - self._looked < self._every and not last:
            return
        self._looked = now
        values, losses = ray.get(self._board.health.remote())
        self._beats = [Beat.of(each, now - age) for each, age in values]
        for failures in losses:
            self._lost(failures)
        if last:
            return
        for found in self._watcher.look(self._beats, now):
            self._say(found.line())
            if isinstance(found, Stall):
                self._stall(found)
            else:
                where = {"rank": found.beat.rank, "node": found.beat.node, "pid": found.beat.pid}
                self._events.append("straggler", **where, step=found.step, ratio=round(found.ratio, 3))
        self._killed()

    def _lost(self, failures: dict[int, tuple[str, str]]) -> None:
        incarnation = max((beat.incarnation for beat in self._beats), default=0)
        if incarnation == self._lost_incarnation and incarnation:
            return  # Ray tells of a group's failures as often as it looks
        self._lost_incarnation = incarnation
        self._watcher.lost()
        reason = reason_of(failures, self._beats)
        under_way = max((beat.step for beat in self._beats), default=0)
        step = under_way - 1 if under_way else None
        self._events.append("lost", reason=reason, ranks=sorted(failures), step=step, incarnation=incarnation)
        self._say(reason)

    def _stall(self, stall: Stall) -> None:
        path = write_stacks(self._run.stacks, stall)
        self._say(
            f"the workers' stacks are in {path}; worker {_ranks(stall)} is ended, so that all start again"
        )
        worst = stall.at_fault[0]
        self._events.append(
            "stall",
            reason=stall.line(),
            kind=stall.kind,
            ranks=[beat.rank for beat in stall.at_fault],
            node=worst.node,
            pid=worst.pid,
            phase=worst.phase,
            step=worst.step,
            seconds=round(stall.seconds, 3),
            stacks=str(path.relative_to(self._run.path)),
        )
        for beat in stall.at_fault:
            there = NodeAffinitySchedulingStrategy(beat.node_id, soft=False)
            task = ray.remote(end_process).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
            self._killing.append((beat, task.remote(beat.pid, beat.born)))

    def _killed(self) -> None:
        for beat, answer in list(self._killing):
            if not ray.wait([answer], timeout=0)[0]:
                continue
            self._killing.remove((beat, answer))
            state = None
            with suppress(ray.exceptions.RayError):  # its node is gone
                state = ray.get(answer)
            if state:
                how = _STATES.get(state, f"in state {state}")
                self._say(f"worker {beat.rank} (pid {beat.pid}) was {how}; it was ended with SIGKILL")
                self._events.append("killed", rank=beat.rank, node=beat.node, pid=beat.pid, state=state)


def reason_of(failures: dict[int, tuple[str, str]], beats: list[Beat]) -> str:
    """Why a group was lost, as a line; who merely failed because another was lost is left out."""
    lost = {rank: what for rank, (kind, what) in failures.items() if kind == "lost"}
    if not lost:
        if not failures:
            return "the workers were lost"
        rank = min(failures)
        return f"worker {rank} failed: {failures[rank][1]}"
    places = {beat.rank: f"node {beat.node}, pid {beat.pid}: " for beat in beats}
    parts = [f"worker {rank} was lost ({places.get(rank, '')}{what})" for rank, what in sorted(lost.items())]
    return "; ".join(parts)


def write_stacks(folder: Path, stall: Stall) -> Path:
    """A file with where each worker was, and the Python stacks of those that answer."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / time.strftime("%Y%m%d-%H%M%S.txt")
    parts = [stall.line()]
    for beat in sorted(stall.beats, key=lambda beat: beat.rank):
        place = f"worker {beat.rank}, node {beat.node}, pid {beat.pid}"
        where = f"phase '{beat.phase}' of step {beat.step:,} for {beat.since:.1f} s"
        parts.append(f"{place}: {where}\n{beat.stack or '  no stack: it does not answer'}")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def end_process(pid: int, begun: int | None) -> str | None:
    """SIGKILL to a process of this node, which ends even one under SIGSTOP; returns the state that it was in.

    Args:
        begun: see :func:`born`; another process that got the same number is left alone.
    """
    state = state_of(pid)
    if state is None or born(pid) != begun:
        return None
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return state


def _ranks(stall: Stall) -> str:
    return ", ".join(str(beat.rank) for beat in stall.at_fault)
