"""metrics.jsonl and evaluations.jsonl: a line a step, none missing and none twice, after any number of restarts."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypretrain.corpus.documents import BadRecord
from raypretrain.storage import write_atomic


class StepLog:
    """An append-only file of JSON lines with a ``step`` each, in rising order.

    Args:
        path: the file; it may not exist yet.
        after: lines of later steps are removed: they will be written again.
    """

    def __init__(self, path: Path, after: int) -> None:
        rows = [row for row in read_log(path) if row["step"] <= after]
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Write ``row`` out, at once: what a killed process had done can be read. JSON has no nan: null."""
        self._file.write(json.dumps({key: _finite(value) for key, value in row.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """End of the run."""
        self._file.close()


class Quarantine:
    """quarantine.jsonl: every record that was left out because it holds no text, once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        rows = read_log(path)
        if rows:  # without a last line that was cut off
            write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._known = {(row["file"], row["position"]) for row in rows}

    def add(self, records: list[BadRecord]) -> None:
        """Write those that are not there yet: a record comes again in every epoch, and after a restart."""
        with self._path.open("a", encoding="utf-8") as file:
            for record in records:
                if (record.file, record.position) not in self._known:
                    self._known.add((record.file, record.position))
                    file.write(json.dumps(asdict(record)) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that was cut off in mid-write is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
