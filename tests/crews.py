"""Workers as threads of the test, which agree as the processes of a run do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raypretrain.tokens.cursor import Cursor
from raypretrain.training.background import Means
from raypretrain.training.cadence import Cadence
from raypretrain.training.checkpoint import Standing, committed, step_of
from raypretrain.training.checkpoint_config import CheckpointConfig
from raypretrain.training.crew import Crew
from raypretrain.training.durable import Copies
from raypretrain.training.fast import FastTier
from raypretrain.training.restoring import Found, find
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.saving import Saver
from raypretrain.training.writing import State

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


WANTED = Standing(
    step=0,
    cursor=Cursor(),
    tokens=0,
    world_size=2,
    zero=1,
    recipe="r" * 64,
    tokenizer="t" * 64,
    corpus="c" * 64,
)
Snapshot = Callable[[int, int], State]


def whole(rank: int, step: int) -> State:
    own = (f"engine/zero_pp_rank_{rank}_optim.pt", {"m": torch.full((20_000,), float(step + rank))})
    return [own] if rank else [("engine/model.pt", {"w": torch.full((30_000,), float(step))}), own]


def colliding(rank: int, step: int) -> State:
    """Where one worker needs a folder the other has a file: the system refuses one of them."""
    return [("engine", {"a": step})] if rank else [("engine/b.pt", {"b": step})]


class Run:
    """A run of two workers in ``folder``."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = RunFolder(folder)
        self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
        self.config = CheckpointConfig(**{"every": 10, "keep": 2, **config})
        self.together = Together(2)
        self.snapshot: Snapshot = whole
        self.step = 0
        self.savers = self.together.each(self._saver)

    def _saver(self, rank: int) -> Saver:
        every = self.config.every
        assert isinstance(every, int)
        means = Means(self.together.crew(rank), self.folder, self.config, self.fast(rank))
        return Saver(means, Cadence(every, 0, 3600.0), lambda fast: self._snapshot(rank))

    def _snapshot(self, rank: int) -> tuple[State, Callable[[], None]]:
        self.together.crew(rank).share(None)  # DeepSpeed begins with a barrier
        return self.snapshot(rank, self.step), lambda: None

    def fast(self, rank: int) -> FastTier | None:
        config = self.config.fast
        return FastTier(config.folder, self.folder.path, rank) if config.every else None

    def train(self, until: int, losses: dict[int, float] | None = None) -> list[Any]:
        """All steps to ``until``, saved where it is due; what the workers came to."""
        first = self.step + 1

        def work(rank: int) -> None:
            saver = self.savers[rank]
            for step in range(first, until + 1):
                if saver.due(step):
                    self.together.crew(rank).share(None)
                    self.step = step
                    saver.save(replace(WANTED, step=step), (losses or {}).get(step))
                    if saver._work:  # a step of training takes longer than to write these few bytes
                        saver._work.join(5.0)
            saver.settle()

        outcomes = self.together.each(work)
        self.step = until
        return outcomes

    def finish(self) -> list[Any]:
        return self.together.each(lambda rank: self.savers[rank].finish())

    def found(self) -> Found | None:
        def look(rank: int) -> Found | None:
            crew = self.together.crew(rank)
            return find(crew, self.folder, WANTED, self.fast(rank), Copies.of(self.config))

        first, second = self.together.each(look)
        if isinstance(first, Exception):
            assert str(first) == str(second)
            raise first
        assert first == second
        return first

    @property
    def steps(self) -> list[int]:
        return [step_of(folder) for folder in committed(self.folder.checkpoints)]

    def log(self, last: int) -> None:
        rows = [f'{{"step": {step}}}\n' for step in range(1, last + 1)]
        self.folder.metrics.write_text("".join(rows))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
