"""Silence for Ray Tune: our progress and our table say what it would say. Imports no Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

QUIET = {
    # Its tables on the standard output, which verbose=0 leaves half of.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Tune's own loggers write one file a trial and format; ours is the metrics.jsonl of the trial.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Its snapshots are for its own way of resuming; what has a result.json is done, for us.
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
}


@contextmanager
def quiet_tune(ahead: int = 200) -> Iterator[None]:
    """Switch off what Tune prints, logs and writes by itself, for as long as the context lasts.

    Args:
        ahead: so many trials wait for room; a searcher that learns is asked as late as can be.
    """
    changes = QUIET | {"TUNE_MAX_PENDING_TRIALS_PG": str(ahead)}
    before = {key: os.environ.get(key) for key in changes}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(changes)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
