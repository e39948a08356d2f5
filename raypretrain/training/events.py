"""The ledger of a run: what happened to it and when, a line each, never rewritten.

The driver appends ``start``, ``lost``, ``stall``, ``straggler``, ``killed``, ``stopped``, ``finished`` and ``failed``;
worker 0 appends ``group`` and ``save``. What a line holds beside ``time`` and ``event`` is said in docs/watching.md.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class Events:
    """events.jsonl: what happened to a run, a line each, never rewritten.

    Args:
        path: the file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: str, **values: Any) -> None:
        """Write one line, with the clock's time unless ``time`` is given.

        A ledger that cannot be written (a full disk) is no reason to end a run: the line is left out.
        """
        line = json.dumps({"time": time.time(), "event": event, **values}) + "\n"
        try:
            with self._path.open("ab") as file:
                torn = file.tell() > 0 and not _ends_with_a_line(self._path)
                # In one write: the driver and worker 0 append to the same file.
                os.write(file.fileno(), (b"\n" if torn else b"") + line.encode())
        except OSError:
            return


def read_events(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger, or of any log of JSON lines; those that were cut off in mid-write are left out."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    rows = []
    for line in data.split(b"\n")[:-1]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
