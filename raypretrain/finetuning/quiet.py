"""What Ray Tune does by itself, switched off: our progress and our table say what it would say."""

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


@contextmanager
def without_environment() -> Iterator[None]:
    """Let a trial's process have the environment of its node alone, for as long as the context lasts.

    By itself Tune copies the driver's AWS credentials into the trials' ``runtime_env``, which whoever may list actors
    can read. And for a ``runtime_env`` Ray starts a process, where one that it started ahead would serve.
    """
    from ray.tune.execution import class_cache

    before = class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = {}, set()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = before
