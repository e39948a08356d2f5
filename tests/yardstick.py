"""What this machine takes for something known, so that a bound on time means the same on any."""

from __future__ import annotations

import functools
import subprocess
import sys
import time


@functools.cache
def seconds_of_importing_torch() -> float:
    """Of a process that does nothing else: 1.5 on a processor of 2024; the least of three."""
    return min(_seconds([sys.executable, "-c", "import torch"]) for _ in range(3))


def _seconds(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - begun
