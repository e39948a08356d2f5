"""Workers as threads of the test, which agree as the processes of a run do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from raypretrain.training.crew import Crew

SECONDS = 60.0


class Together:
    """``world`` workers; ``notes`` is what they told the user."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.notes: list[str] = []
        self._rows: list[Tensor] = [torch.empty(0)] * world
        self._barrier = threading.Barrier(world, timeout=SECONDS)

    def crew(self, rank: int) -> Crew:
        def gather(values: Tensor) -> Tensor:
            self._rows[rank] = values
            self._barrier.wait()
            rows = torch.stack(self._rows)
            self._barrier.wait()
            return rows

        return Crew(rank, self.world, gather, self.notes.append)

    def each(self, work: Callable[[int], Any]) -> list[Any]:
        """``work(rank)`` of all at the same time; what each came to, an exception as it is."""

        def guarded(rank: int) -> Any:
            try:
                return work(rank)
            except Exception as error:
                return error

        with ThreadPoolExecutor(self.world) as pool:
            return list(pool.map(guarded, range(self.world)))
