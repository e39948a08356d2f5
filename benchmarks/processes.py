"""What the processes of this machine's Ray cluster take: CPU time and memory, by what they are for."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass
class Use:
    """What the processes of a role take together.

    Args:
        cpu: seconds of CPU since they started.
        own: bytes of memory that they share with no other process.
        resident: bytes in memory, shared ones (the object store, libraries) counted for each process.
        processes: how many they are.
    """

    cpu: float = 0.0
    own: int = 0
    resident: int = 0
    processes: int = 0


def uses(memory: bool = True) -> dict[str, Use]:
    """By role, for this process and all it has started: ``driver``, ``raylet``, ``gcs``, ``actor NAME``, ``tasks``."""
    found: dict[str, Use] = defaultdict(Use)
    for role, process in _processes():
        with suppress(psutil.Error):
            times = process.cpu_times()
            use = found[role]
            use.cpu += times.user + times.system
            use.processes += 1
            if memory:
                full = process.memory_full_info()
                use.own += full.uss
                use.resident += full.rss
    return dict(found)


def store_bytes() -> int:
    """Bytes of memory of the object store that were ever filled."""
    found = 0
    for role, process in _processes():
        handles = Path(f"/proc/{process.pid}/fd").iterdir() if role == "raylet" else []
        for handle in handles:
            with suppress(OSError):
                if "plasma" in os.readlink(handle):
                    found = max(found, os.stat(handle).st_blocks * 512)
    return found


def cpu_between(before: dict[str, Use], after: dict[str, Use]) -> dict[str, float]:
    """Seconds of CPU by role."""
    return {role: use.cpu - before.get(role, Use()).cpu for role, use in after.items()}


def _processes() -> Iterator[tuple[str, psutil.Process]]:
    me = psutil.Process()
    yield "driver", me
    for process in me.children(recursive=True):
        with suppress(psutil.Error):
            yield _role(process), process


def _role(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    if command.startswith("ray::"):
        name = command[5:].split(".")[0].split("(")[0].split("->")[0].strip()
        # An idle worker has been, or will be, one of the stream's tasks.
        return "tasks" if name == "IDLE" or name.startswith(("Read", "Map", "read")) else f"actor {name}"
    for part in ("gcs_server", "raylet/raylet"):
        if part in command:
            return part.rpartition("/")[2].removesuffix("_server")
    return "other"
