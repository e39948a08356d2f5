"""events.jsonl: what happened to a run beside its steps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class Events:
    """events.jsonl: what happened to a run, a line each, never rewritten."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: str, **values: Any) -> None:
        """Write out one line, with the time."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "event": event, **values}) + "\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """The lines; a last one that was cut off in mid-write is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
