"""The logs of a run, read from its folder alone: of all workers and the driver by time, or of one of them."""

from __future__ import annotations

import heapq
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypretrain.errors import RunError
from raypretrain.training.logs import FOLDER
from raypretrain.training.status import refuse_no_run, state_of

LEVELS = ("debug", "info", "warning", "error", "critical")

_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Line:
    """A line of a log.

    Args:
        who: ``rank-3`` or ``driver``.
        time: Unix seconds; of a line that cannot be read, those of the line before it.
        text: as it stands in the file.
        values: what it holds (see ``logs.py``); nothing where it cannot be read.
    """

    who: str
    time: float
    text: str
    values: dict[str, Any]

    def __str__(self) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.time))
        if not self.values:
            return f"{clock}  {self.who}  (cannot be read)  {self.text}"
        get = self.values.get
        head = f"{clock}  {self.who}  step {get('step', 0):,}  {get('level')}  {get('where')}: "
        more = [*str(get("message")).split("\n"), *str(get("traceback", "")).split("\n")]
        return "\n    ".join([head + more[0], *filter(None, more[1:])])

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return self.values or {"who": self.who, "cannot_be_read": self.text}


@dataclass(frozen=True)
class Wanted:
    """Which lines; those that cannot be read always are.

    Args:
        who: ``rank-3``, ``driver``, or None: all.
        level: at least.
        steps: the first and the last, or None: to the end.
    """

    who: str | None = None
    level: str = "debug"
    steps: tuple[int, int | None] = (0, None)

    def takes(self, line: Line) -> bool:
        """Whether ``line`` is one of them."""
        if not line.values:
            return True
        first, last = self.steps
        step, level = line.values.get("step", 0), str(line.values.get("level")).upper()
        loud = logging.getLevelNamesMapping().get(level, logging.CRITICAL)
        within = first <= step and (last is None or step <= last)
        return within and loud >= logging.getLevelNamesMapping()[self.level.upper()]


def read_lines(run: Path, wanted: Wanted, follow: bool = False) -> Iterator[Line]:
    """The lines of a run's logs, by time.

    Args:
        follow: go on with those that come, until the run does not go on.

    Raises:
        RunError: there is no run, or nothing was logged by who is asked for.
    """
    refuse_no_run(run)
    logs = _Logs(run / FOLDER, wanted.who)
    while True:
        # Looked at before the files: what a run that ends meanwhile has said is read.
        lives = follow and (state_of(run) or ("",))[0] == "running"
        if not lives:
            _refuse_nothing(run, logs)
        yield from filter(wanted.takes, logs.new(last=not lives))
        if not lives:
            return
        time.sleep(_LOOK_SECONDS)


@dataclass
class _Logs:
    """The files of a run's logs, read on from where the last look ended, also when a full one was put aside."""

    folder: Path
    who: str | None
    _read: dict[int, int] = field(default_factory=dict)  # a file's inode → bytes

    def writers(self) -> list[str]:
        """Whose files there are."""
        return sorted(path.stem for path in self.folder.glob("*.jsonl"))

    def new(self, last: bool) -> Iterator[Line]:
        """The lines since the last call; with ``last`` also one that is not whole."""
        wanted = [who for who in self.writers() if self.who in (None, who)]
        return heapq.merge(*(self._of(who, last) for who in wanted), key=lambda line: line.time)

    def _of(self, who: str, last: bool) -> Iterator[Line]:
        at, name = 0.0, f"{who}.jsonl"
        for text in [*self._texts(f"{name}.1", last), *self._texts(name, last)]:
            values = _values(text)
            at = values.get("time", at)
            yield Line(who, at, text, values)

    def _texts(self, name: str, last: bool) -> list[str]:
        """What is new in a file, if it is there."""
        try:
            with (self.folder / name).open("rb") as file:
                status = os.fstat(file.fileno())
                begin = self._read.get(status.st_ino, 0)
                begin = begin if begin <= status.st_size else 0  # another file, on the old one's place
                file.seek(begin)
                data = file.read()
        except OSError:
            return []
        whole = len(data) if last else data.rfind(b"\n") + 1
        self._read[status.st_ino] = begin + whole
        return [line for line in data[:whole].decode("utf-8", "replace").split("\n") if line.strip()]


def _values(text: str) -> dict[str, Any]:
    """What a line holds; nothing where it is not one of ours, or was cut off."""
    try:
        values = json.loads(text)
        time.localtime(values["time"])
        sound = isinstance(values["step"], int)
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return {}
    return values if sound else {}


def _refuse_nothing(run: Path, logs: _Logs) -> None:
    there = logs.writers()
    if not there:
        raise RunError("has no logs", where=str(run), fix="a run writes them when it is started")
    if logs.who and logs.who not in there:
        others = ", ".join(there[:8])
        raise RunError(f"{logs.who} has logged nothing", where=str(logs.folder), fix=f"there are {others}")
