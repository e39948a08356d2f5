"""Saving beside the training: each worker copies its state and goes on; a thread of it writes, hashes and commits.

One save at a time. What it came to is agreed on by all at the next one, or at the end: see :meth:`Saver.settle`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from raypretrain.errors import StorageError
from raypretrain.training import checkpoint
from raypretrain.training.background import Means, ToNode, ToRun
from raypretrain.training.cadence import Cadence
from raypretrain.training.checkpoint import Standing
from raypretrain.training.writing import Snapshot


class Saver:
    """What a worker saves with. Every method but :meth:`due` is to be called by all workers after the same step.

    Args:
        means: what to save with.
        cadence: when to save.
        snapshot: copies this worker's state, for the run's folder (False) or for its node (True).
    """

    def __init__(self, means: Means, cadence: Cadence, snapshot: Callable[[bool], Snapshot]) -> None:
        self._means, self._cadence, self._snapshot = means, cadence, snapshot
        self._crew, self._config = means.crew, means.config
        self._work: ToRun | ToNode | None = None
        self._failures = 0
        self._failed: tuple[Path, str] | None = None
        self._trained_from: tuple[int, float] | None = None

    def due(self, step: int) -> bool:
        """Whether to call :meth:`save` after ``step``."""
        return self._cadence.due(step) or self._fast_due(step)

    def save(self, standing: Standing, held_out_loss: float | None = None, now: bool = False) -> None:
        """Begin to save where the run stands, in the tier that is due; the save before is over then.

        Args:
            held_out_loss: as measured at this step, if it was.
            now: to the run's folder, due or not.

        Raises:
            StorageError: too many in a row have failed.
        """
        slow = now or self._cadence.due(standing.step)
        if not slow and self._busy():
            return  # the next one will be soon; training would wait for a whole save to the run's folder
        self.settle(self._step_seconds(standing.step))
        begun = time.perf_counter()
        folder = checkpoint.checkpoint_folder(self._means.run.checkpoints, standing.step)
        if slow and self._crew.rank == 0:
            checkpoint.clear(folder)  # a snapshot begins with a barrier: nobody writes before
        snapshot = self._snapshot(not slow)
        make = ToRun if slow else ToNode
        self._work = make(self._means, standing, folder, snapshot, held_out_loss)
        self._work.stall = time.perf_counter() - begun
        self._work.start()
        if slow:
            self._cadence.saved(standing.step)
        self._trained_from = (standing.step, time.perf_counter())

    def settle(self, step_seconds: float = 0.0) -> None:
        """Wait for the save under way, if one is, and agree on what it came to.

        Raises:
            StorageError: it has failed, as too many in a row have.
        """
        work, self._work = self._work, None
        if work is None:
            return
        work.own.wait()
        parts = self._crew.share(work.problem)
        work.told(parts)
        work.join()
        if work.bug is not None:
            raise work.bug
        ends = self._crew.share([work.problem, work.stall, step_seconds, work.seconds])
        problem = next((end[0] for end in ends if end[0]), None)
        if isinstance(work, ToNode):
            return
        if self._cadence.automatic and step_seconds:
            self._cadence.learn(max(end[1] for end in ends), ends[0][2], ends[0][3])
        self._failures = self._failures + 1 if problem else 0
        self._failed = (work.folder, problem) if problem else None
        if problem and self._crew.rank == 0:  # nobody writes there any more
            with contextlib.suppress(StorageError):
                checkpoint.clear(work.folder)
        if self._failures >= self._config.failures:
            raise self._error(work.folder, str(problem))

    def finish(self) -> None:
        """Wait for the last save of the run, or before a stop.

        Raises:
            StorageError: it has failed.
        """
        self.settle()
        if self._failed:
            raise self._error(*self._failed)

    def end(self) -> None:
        """The run has all its steps, and they are saved: the fast tier is of no use any more."""
        if self._means.fast:
            self._means.fast.clear()

    def _busy(self) -> bool:
        """Whether any worker still writes."""
        writes = self._work is not None and self._work.is_alive()
        return any(self._crew.share(writes))

    def _fast_due(self, step: int) -> bool:
        every = self._config.fast.every
        return every is not None and step % every == 0

    def _step_seconds(self, step: int) -> float:
        if self._trained_from is None or step <= self._trained_from[0]:
            return 0.0
        then, clock = self._trained_from
        return (time.perf_counter() - clock) / (step - then)

    def _error(self, folder: Path, problem: str) -> StorageError:
        times = f", {self._failures} times in a row" if self._failures > 1 else ""
        return StorageError(
            f"the checkpoint cannot be written ({problem}){times}",
            where=str(folder),
            fix="make room there and start again: the run goes on from the last whole checkpoint",
        )
