"""What the tests of a run elsewhere wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from runs import metrics


def wait_for_steps(run: Path, steps: int, alive: Callable[[], bool], within: float = 120.0) -> None:
    """Until so many steps stand in the run's metrics.

    Raises:
        AssertionError: they do not come in time, or what carries the run out is not alive any more.
    """
    until = time.monotonic() + within
    while not (run / "metrics.jsonl").exists() or len(metrics(run)) < steps:
        assert alive(), "it has ended"
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.1)
