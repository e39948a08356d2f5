"""A worker's ear for notices that its group's nodes are being reclaimed; what follows is decided in requests.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.train_fn_utils import get_train_fn_utils

from raypretrain.training.events import Events
from raypretrain.training.requests import UNKNOWN_DEADLINE_SECONDS, Notice, Request, save_estimate


class Preemption:
    """What this worker knows of a coming preemption, and how long its saves take.

    Args:
        save_bytes: of a checkpoint, about; gives an estimate before the first save.
    """

    def __init__(self, save_bytes: int) -> None:
        self._bytes = save_bytes
        self._save_seconds: float | None = None
        self._saved_at: float | None = None
        self._notice: Notice | None = None
        self._told = ""
        self._fits, self._estimate = True, 0.0
        self.step_seconds = 0.0

    def saved(self, seconds: float) -> None:
        """A checkpoint was just written, in so many seconds."""
        self._save_seconds, self._saved_at = seconds, time.time()

    def request(self) -> Request:
        """What this worker asks for after this step."""
        notice = self._hear()
        if notice is None:
            return Request.NOTHING
        self._estimate = save_estimate(self._save_seconds, self._bytes)
        request, self._fits = notice.request(time.time(), self._estimate, self.step_seconds, self._saved_at)
        return request

    def tell(self, agreed: Request, note: Callable[[str], None], events: Events) -> None:
        """Say and record what all workers do: another one may have asked for it, whose clock is a moment ahead."""
        if self._notice is None or (agreed == Request.NOTHING and self._fits):
            return
        at = datetime.fromtimestamp(self._notice.deadline, UTC).strftime("%H:%M:%S UTC")
        says = {
            Request.SAVE: f"a node is being reclaimed at {at}: saving a checkpoint, and going on until then",
            Request.REGROUP: f"a node is being reclaimed at {at}: saving a checkpoint and going on without it",
            Request.NOTHING: f"a node is being reclaimed at {at}: no checkpoint fits before that "
            f"(about {self._estimate:.1f} s), so the last one counts",
        }
        said = says.get(agreed, "")
        if said and said != self._told:
            self._told = said
            note(said)
            events.append(
                "preempted",
                deadline=self._notice.deadline,
                request=agreed.name.lower(),
                estimate=self._estimate,
            )

    def _hear(self) -> Notice | None:
        """Ray's notice, without its public call: that is a barrier over all workers, every step."""
        if not get_train_fn_utils().is_distributed():  # nobody watches over the node of a lone process
            return None
        info = get_train_context().preemption_context.preemption_info
        if info is None:
            return None
        if self._notice is None or (info.deadline_ms and info.deadline_ms / 1000 < self._notice.deadline):
            now = time.time()
            deadline = info.deadline_ms / 1000 if info.deadline_ms else now + UNKNOWN_DEADLINE_SECONDS
            self._notice = Notice(deadline, noticed=self._notice.noticed if self._notice else now)
        return self._notice
