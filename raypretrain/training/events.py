"""What happened to a run, in ``RUN/events.jsonl``."""

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
        """Add a line with the time, the event's name and ``values``."""
        line = json.dumps({"time": time.time(), "event": event, **values})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_events(path: Path) -> list[dict[str, Any]]:
    """All lines of events.jsonl; a last one that was cut off is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
