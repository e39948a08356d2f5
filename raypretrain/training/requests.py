"""What may be asked of the workers between two steps, and when a node that is being reclaimed asks for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

UNKNOWN_DEADLINE_SECONDS = 120.0
"""How long a node is taken to live after a notice that names no deadline; Ray Train waits as long."""

_MARGIN_SECONDS = 1.0
_SAVES = 1.5  # a save that takes half as long again as the last one still fits
_BYTES_PER_SECOND = 100e6  # of a save, before one was measured


class Request(IntEnum):
    """Travels in the exchange of each step; see :func:`agree`."""

    NOTHING = 0
    STOP = 1  # save, and end the run's process
    SAVE = 2  # save, and go on
    REGROUP = 3  # save, and have the workers started anew: on other nodes, or on more


class Regroup(Exception):
    """Raised by all workers after a checkpoint, so that Ray Train starts the group anew. No failure."""


def agree(requests: Iterable[int]) -> Request:
    """What all workers do, out of what each was asked: to stop goes before anything else."""
    asked = set(requests)
    return Request.STOP if Request.STOP in asked else Request(max(asked, default=0))


def save_estimate(last_seconds: float | None, nbytes: int) -> float:
    """How long a save will take: as long as the last one, or by its size."""
    return nbytes / _BYTES_PER_SECOND if last_seconds is None else last_seconds


@dataclass
class Notice:
    """A node of this group is being reclaimed.

    Args:
        deadline: clock time at which it is gone.
        noticed: clock time at which this worker heard of it.
    """

    deadline: float
    noticed: float

    def request(
        self, now: float, save_seconds: float, step_seconds: float, saved_at: float | None
    ) -> tuple[Request, bool]:
        """What to ask for now, and whether a save still fits before the deadline.

        A checkpoint at once, for safety; then training goes on, and the latest safe moment is for a second checkpoint
        and for leaving, so that hardly a step is repeated.

        Args:
            save_seconds: what a save is expected to take.
            step_seconds: what the last step took: nothing can be asked more often.
            saved_at: clock time of the last checkpoint.
        """
        need = _SAVES * save_seconds + 2 * step_seconds + _MARGIN_SECONDS
        left = self.deadline - now
        if left < need:
            return Request.NOTHING, False
        if left < 2 * need:
            return Request.REGROUP, True
        # The others may have heard of it a moment earlier.
        saved = saved_at is not None and saved_at > self.noticed - _MARGIN_SECONDS - 2 * step_seconds
        return (Request.NOTHING if saved else Request.SAVE), True
