"""The logs of a run: what the driver and every worker say beside the figures, as JSON lines, each in a file of its own.

Python's ``logging`` carries them: our own lines, and from the libraries (Ray, torch, DeepSpeed) warnings and above.
Nothing is written per step. What ``raypretrain logs`` makes of the files is in ``logreading.py``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from raypretrain.buckets.refusals import without_secrets

FOLDER = "logs"
"""In a run's folder."""

_OURS = "raypretrain"
_MOST_BYTES = 10 * 2**20
"""Of a file; one of before is kept beside it."""


def writer(rank: int | None) -> str:
    """Who writes a file, and its name without ``.jsonl``: ``rank-3``, or ``driver`` (None)."""
    return "driver" if rank is None else f"rank-{rank}"


class JsonLines(logging.Formatter):
    """A record as a line of JSON: time (Unix seconds), level, run, rank, step, where, message, and a traceback.

    Args:
        run: its name.
        rank: of the worker; None is the driver.
    """

    def __init__(self, run: str, rank: int | None) -> None:
        super().__init__()
        self._run, self._rank = run, rank
        self.step: Callable[[], int] = lambda: 0
        """The step under way."""

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "run": self._run,
            "rank": self._rank,
            "step": self.step(),
            "where": record.name,
            "message": without_secrets(record.getMessage(), None),
        }
        if record.exc_info and record.exc_info[0]:
            values["traceback"] = without_secrets(self.formatException(record.exc_info), None)
        return json.dumps(values, ensure_ascii=False)


class _Lines(RotatingFileHandler):
    """Appends to a file; where that cannot be (a full disk), the line is left out and the run goes on."""

    def __init__(self, path: Path, lines: JsonLines) -> None:
        super().__init__(
            path, maxBytes=_MOST_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace", delay=True
        )
        self._lines = lines
        self.addFilter(lambda record: is_ours(record.name) or record.levelno >= logging.WARNING)

    def format(self, record: logging.LogRecord) -> str:
        """As JSON, whatever :meth:`setFormatter` was told: Ray gives its own to every handler that it finds."""
        return self._lines.format(record)

    def _open(self) -> Any:
        file = super()._open()
        if _torn(Path(self.baseFilename)):
            file.write("\n")
        return file

    def handleError(self, record: logging.LogRecord) -> None:
        """Nobody can be told."""


def is_ours(logger: str) -> bool:
    """Whether a logger of this name is this package's."""
    return logger == _OURS or logger.startswith(f"{_OURS}.")


@contextmanager
def logged(run: Path, rank: int | None) -> Iterator[JsonLines]:
    """Write what this process logs into the run's folder while the block lasts; yields what knows the step.

    Args:
        run: the run's folder.
        rank: of the worker; None is the driver.
    """
    folder = run / FOLDER
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    lines = JsonLines(run.name, rank)
    handler = _Lines(folder / f"{writer(rank)}.jsonl", lines)
    ours = logging.getLogger(_OURS)
    before = ours.level, ours.propagate
    # Our lines are for the file alone: what a process prints stays as it is.
    ours.setLevel(logging.INFO)
    ours.propagate = False
    loggers = _heard()
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield lines
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        ours.setLevel(before[0])
        ours.propagate = before[1]
        with suppress(OSError):  # it would write once more what found no room
            handler.close()


def _heard() -> list[logging.Logger]:
    """The loggers through which every record comes: the root, and those that keep theirs from it, as Ray's do."""
    known = [
        each for each in list(logging.root.manager.loggerDict.values()) if isinstance(each, logging.Logger)
    ]
    return [logging.root, *(each for each in known if not each.propagate)]


def _torn(path: Path) -> bool:
    """Whether the file's last line was cut off: a process was killed as it wrote it."""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        file.seek(-1, 2)
        return file.read(1) != b"\n"
