"""A run's figures for Prometheus by Ray's own exporter: ``ray_pretrain_loss{run="…"}`` and so on, on the driver's node.

The driver reads them every few seconds from the files that the run writes anyway, in a thread of its own: the workers
have nothing to do with it, and no error here ends a run. Ray lets a figure go that is not set again for some 20 s, so
that those of a run that has ended disappear.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.util.metrics import Gauge

from raypretrain.training.status import restarts

logger = logging.getLogger(__name__)

PREFIX = "pretrain_"
"""Ray puts ``ray_`` before it."""

FIGURES = {
    "step": "steps done",
    "step_age_seconds": "since the last step was done, or the driver began",
    "loss": "of the last step, nats a token",
    "held_out_loss": "at the last evaluation, nats a token",
    "grad_norm": "of the last step, before clipping",
    "tokens_per_second": "over the last steps",
    "data_wait_share": "of the time of the last steps",
    "checkpoint_age_seconds": "since the last checkpoint was committed, or the driver began: what a loss would cost",
    "restarts": "of the workers and the driver, since the run first began",
    "goodput": "computing of steps that count, as a share of the wall time since the run first began",
}

_EVERY_SECONDS = 5.0
_RECENT_STEPS = 50

Row = dict[str, Any]


class Tail:
    """A file of JSON lines that grows, read on from where the last look ended.

    Args:
        path: the file; it may not exist yet.
        begin: called where it is another file than at the last look: a restart writes metrics.jsonl anew.
        take: is given each new row.
    """

    def __init__(self, path: Path, begin: Callable[[], None], take: Callable[[Row], None]) -> None:
        self._path, self._begin, self._take = path, begin, take
        self._inode, self._at = -1, 0

    def look(self) -> None:
        """Take what is new; the last line only once it is whole."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._at:
                self._inode, self._at = status.st_ino, 0
                self._begin()
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                try:
                    row = json.loads(line)
                except ValueError:  # cut off by the end of a driver
                    continue
                self._take(row)


class Figures:
    """The figures of a run's folder, at little cost for each look, however long the run.

    Args:
        run: the folder.
        begun: when this driver began, in Unix seconds.
    """

    def __init__(self, run: Path, begun: float) -> None:
        self._run, self._begun = run, begun
        self._recent: deque[Row] = deque(maxlen=_RECENT_STEPS)
        self._productive = 0.0
        self._events: list[Row] = []
        self._evaluation: Row = {}
        self._tails = (
            Tail(run / "metrics.jsonl", self._no_steps, self._step),
            Tail(run / "evaluations.jsonl", lambda: None, self._evaluated),
            Tail(run / "events.jsonl", self._events.clear, self._happened),
        )

    def look(self, now: float) -> dict[str, float]:
        """Those of :data:`FIGURES` that there are."""
        for tail in self._tails:
            tail.look()
        found: dict[str, float | None] = {
            "step_age_seconds": now - self._begun,
            "checkpoint_age_seconds": now - max([self._begun, *self._checkpoints()]),
            "held_out_loss": self._evaluation.get("held_out_loss"),
            "restarts": len(restarts(self._events)),
        }
        starts = [event["time"] for event in self._events if event["event"] == "start"]
        if starts and now > starts[0]:
            found["goodput"] = self._productive / (now - starts[0])
        if self._recent:
            last, seconds = self._recent[-1], sum(row["step_seconds"] for row in self._recent)
            tokens = sum(row["tokens_per_second"] * row["step_seconds"] for row in self._recent)
            found |= {name: last.get(name) for name in ("step", "loss", "grad_norm")}
            found["step_age_seconds"] = now - max(self._begun, last["time"])
            found["tokens_per_second"] = tokens / seconds
            found["data_wait_share"] = sum(row["data_wait_seconds"] for row in self._recent) / seconds
        return {name: float(value) for name, value in found.items() if value is not None}

    def _no_steps(self) -> None:
        self._recent.clear()
        self._productive = 0.0

    def _step(self, row: Row) -> None:
        self._recent.append(row)
        self._productive += row["step_seconds"] - row["data_wait_seconds"]

    def _evaluated(self, row: Row) -> None:
        self._evaluation = row

    def _happened(self, event: Row) -> None:
        if event["event"] != "save":  # the most of them, and no restart follows from one
            self._events.append(event)

    def _checkpoints(self) -> Iterator[float]:
        for manifest in (self._run / "checkpoints").glob("step-*/MANIFEST.json"):
            try:
                yield manifest.stat().st_mtime
            except OSError:  # removed at this moment
                continue


@contextmanager
def exported(run: Path, every: float = _EVERY_SECONDS) -> Iterator[None]:
    """Have Ray export the figures of a run while the block lasts; this process has to be in a cluster.

    Args:
        run: its folder, whose name is the label ``run``.
        every: seconds between two looks.
    """
    over = threading.Event()
    thread = threading.Thread(target=_export, args=(run, every, over), name="exporting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(every)


def _export(run: Path, every: float, over: threading.Event) -> None:
    figures, tags, told = Figures(run, time.time()), {"run": run.name}, False
    gauges = {name: Gauge(PREFIX + name, text, ("run",)) for name, text in FIGURES.items()}
    while not over.wait(every):
        try:
            for name, value in figures.look(time.time()).items():
                gauges[name].set(value, tags)
        except Exception:  # whatever it is, the run goes on without
            if not told:
                told = True
                logger.warning("the figures are not exported", exc_info=True)
