"""The board: a small actor through which a run's workers and driver talk. Ray's ``report`` would block a step."""

from __future__ import annotations

import logging
import time
from typing import Any

import ray

from raypretrain.training.requests import Request

logger = logging.getLogger(__name__)

_BUSY_KEPT = 1000


class Board:
    """What the workers post and the driver reads, and what is asked of them: to stop, or to be grouped anew."""

    def __init__(self) -> None:
        self._stop = False
        self._regroup: int | None = None
        self._error: str | None = None
        self._notes: list[tuple[str, bool]] = []
        self._latest: dict[str, Any] = {}
        self._groups = 0
        self._beats: dict[int, dict[str, Any]] = {}
        self._arrived: dict[int, float] = {}
        self._lost: list[dict[int, tuple[str, str]]] = []

    def post(self, **values: Any) -> None:
        """Replace the latest values of these names, e.g. ``step=``, ``evaluation=``, ``phase=``."""
        self._latest |= values

    def note(self, line: str, logged: bool = False) -> None:
        """Something that the user should read once; ``logged`` where a worker has it in its log."""
        self._notes.append((line, logged))

    def fail(self, line: str) -> None:
        """An error of the user's: no restart will mend it."""
        self._error = self._error or line

    def error(self) -> str | None:
        """The first such error."""
        return self._error

    def ask_to_stop(self) -> None:
        """Have the workers save a checkpoint after the step that they are in, and end."""
        self._stop = True

    def ask_to_regroup(self, workers: int | None) -> None:
        """Have a group of ``workers`` save a checkpoint and leave, so that one of another size follows; None: no."""
        self._regroup = workers

    def asked(self, workers: int) -> Request:
        """What is asked of a group of ``workers``."""
        if self._stop:
            return Request.STOP
        return Request.REGROUP if self._regroup == workers else Request.NOTHING

    def enter(self) -> int:
        """The number of a group of workers that begins, larger than all before; those are forgotten."""
        self._groups += 1
        self._beats, self._arrived = {}, {}
        return self._groups

    def beat(self, values: dict[str, Any]) -> None:
        """A worker's heartbeat; of the newest group alone."""
        rank = values["rank"]
        before = self._beats.get(rank)
        if values["incarnation"] != self._groups:
            return
        if before:
            values["busy"] = [*before["busy"], *values["busy"]][-_BUSY_KEPT:]
            if "stack" in before and before["marks"] == values["marks"]:
                values = {"stack": before["stack"], "waits": before["waits"], **values}
        self._beats[rank], self._arrived[rank] = values, time.monotonic()

    def lost(self, failures: dict[int, tuple[str, str]]) -> None:
        """Ray lost workers: rank → ``(kind, what)``, see ``supervisor.py``."""
        self._lost.append(failures)

    def health(self) -> tuple[list[tuple[dict[str, Any], float]], list[dict[int, tuple[str, str]]]]:
        """Every worker's latest heartbeat with its age in seconds, and the losses since the last call."""
        now, lost = time.monotonic(), self._lost
        beats = [(dict(values), now - self._arrived[rank]) for rank, values in self._beats.items()]
        for values in self._beats.values():
            values["busy"] = []
        self._lost = []
        return beats, lost

    def read(self) -> tuple[dict[str, Any], list[tuple[str, bool]]]:
        """The latest values, and the notes since the last call."""
        notes, self._notes = self._notes, []
        return dict(self._latest), notes


def start_board() -> Any:
    """A board in a process of its own, for as long as its handle is held."""
    # Beside the driver: it is lost with it, and with no other node.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return ray.remote(Board).options(num_cpus=0, label_selector=here).remote()


class Poster:
    """A worker's side of the board: never waits for it.

    Args:
        board: the actor's handle.
        workers: of the group that this worker is in.
        every: seconds between two posts of the same kind.
    """

    def __init__(self, board: Any, workers: int, every: float = 0.25) -> None:
        self._board, self._workers, self._every = board, workers, every
        self._posted: dict[str, float] = {}
        self._answer: Any = board.asked.remote(workers)
        self._asked = Request.NOTHING

    def post(self, kind: str, value: Any, *, now: bool = False) -> None:
        """Post ``value``, unless the last one of its kind is very recent."""
        clock = time.monotonic()
        if now or clock - self._posted.get(kind, 0.0) > self._every:
            self._posted[kind] = clock
            self._board.post.remote(**{kind: value})

    def beat(self, values: dict[str, Any]) -> None:
        """This worker's heartbeat."""
        self._board.beat.remote(values)

    def note(self, line: str, level: int = logging.WARNING) -> None:
        """Something that the user should read once."""
        logger.log(level, line)
        self._board.note.remote(line, logged=True)

    def asked(self) -> Request:
        """What is asked of this worker's group, as of at most a moment ago."""
        if self._asked != Request.STOP and ray.wait([self._answer], timeout=0)[0]:
            self._asked = ray.get(self._answer)
            self._answer = self._board.asked.remote(self._workers)
        return self._asked
