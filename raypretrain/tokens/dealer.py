"""The dealer: an actor that lays the windows' sequences end to end, and hands every worker its rows of each step.

One lives as long as the run's driver, so that a group of workers that follows a lost one finds it, and the processes of
its tasks, with all that they have imported.

Ray's own ``streaming_split`` deals whole blocks, so that each step of each worker has to be a block, cut by a task of
its own; here a window stays one block, and a row's place is arithmetic, for any number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from raypretrain.corpus.documents import BadRecord
from raypretrain.errors import InputError, user_error
from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealing import Batch, Batches, Part
from raypretrain.tokens.objectives import Objective
from raypretrain.tokens.packing import Sequences
from raypretrain.tokens.stream import WindowSource, stream_parts

_MOST_STEPS_OF_A_DEAL = 16
_DEAL_OF_A_WORKER = 1 << 20  # bytes of tokens
_DEAL_OF_ALL = 1 << 29  # the dealer holds about two of them


@dataclass(frozen=True)
class StepRows:
    """A worker's rows of a step, and what it must know of the whole batch.

    Args:
        sequences: this worker's equal part of the batch's rows.
        places: int64 [rows, 3], each one's window, part and index.
        batch: the step's batch without its sequences.
        sources: tokens of the batch from each source, int64 [sources].
        predicted: tokens of the batch that the model learns to predict.
    """

    sequences: Sequences
    places: NDArray[np.int64]
    cursor: Cursor
    sources: list[int]
    predicted: int
    bad: list[BadRecord]
    storage: dict[str, float]


@dataclass(frozen=True)
class Supply:
    """What a run deals, to whatever group of workers.

    Args:
        windows: the run's windows, in the object store; in a list, or Ray would hand over the object itself.
        batches: sequences of each step.
        objective: what is learned of the sequences.
        cpus, window_bytes: as of :func:`stream_parts`.
    """

    windows: list[ray.ObjectRef[WindowSource]]
    batches: BatchSizes
    objective: Objective
    cpus: float
    window_bytes: int

    def parts(self, cursor: Cursor) -> Iterator[Part]:
        """As :func:`stream_parts`."""
        return stream_parts(self.windows[0], cursor, cpus=self.cpus, window_bytes=self.window_bytes)


@dataclass(frozen=True)
class Turn:
    """What a group of workers takes.

    Args:
        group: its number, larger than those of all groups before it.
        cursor: the first sequence.
        workers: how many take from each step.
        step: the last one before it.
        together: so many neighbouring workers take the same rows.
    """

    group: int
    cursor: Cursor
    workers: int
    supply: Supply
    step: int = 0
    together: int = 1


class Dealer:
    """An actor that lays the windows' sequences end to end and hands out rows of the global batches.

    Every worker of a group asks for its rows of the same steps; what all have taken is let go. Ray starts it again
    if it dies; what it was made with might be gone by then, so it is told all when a group begins.
    """

    def __init__(self) -> None:
        self._group = 0
        self._parts: Iterator[Part] | None = None

    @ray.method(max_task_retries=-1)
    def begin(self, turn: Turn) -> None:
        """Deal to another group; what the one before it has not taken is let go. Every worker of a group calls it."""
        if turn.group <= self._group:
            return
        if isinstance(self._parts, Generator):
            self._parts.close()  # ends its tasks, and gives back the CPUs that Ray Data has for them
        self._group, self._workers, self._objective = turn.group, turn.workers, turn.supply.objective
        self._together = turn.together
        self._parts = turn.supply.parts(turn.cursor)
        self._batches = Batches(self._parts, turn.cursor, turn.supply.batches.after(turn.step))
        self._steps: dict[int, StepRows] = {}
        self._taken: dict[int, int] = {}
        self._next_step = 0
        self._error: Exception | None = None

    def take(self, group: int, first: int, steps: int, rank: int, begun: None = None) -> list[StepRows]:
        """The rows of worker ``rank`` in the ``steps`` steps from ``first`` on, counted from the group's cursor.

        Args:
            begun: the result of :meth:`begin`, so that this comes after it.

        Raises:
            RaypretrainError: the corpus cannot be read, or is used up.
        """
        if group != self._group:
            raise RuntimeError(f"group {group} of workers asks for its rows in the turn of {self._group}")
        self._read_up_to(first + steps)
        deal = []
        for s in range(first, first + steps):
            whole = self._steps[s]
            share = len(whole.sequences) * self._together // self._workers
            part = rank // self._together
            rows = slice(part * share, (part + 1) * share)
            deal.append(replace(whole, sequences=whole.sequences[rows], places=whole.places[rows]))
            self._taken[s] = self._taken.get(s, 0) + 1
            if self._taken[s] == self._workers:
                del self._taken[s], self._steps[s]
        return deal

    def _read_up_to(self, step: int) -> None:
        if self._error:
            raise self._error
        try:
            while self._next_step < step:
                self._steps[self._next_step] = self._whole(next(self._batches))
                self._next_step += 1
        except StopIteration:
            what = "the corpus is used up: every source has been read as often as its 'epochs' allows"
            self._error = InputError(
                what, where="corpus.sources", fix="train on fewer tokens, or allow more epochs"
            )
        except Exception as error:
            self._error = user_error(error) or error  # the other workers get the same answer
        if self._error:
            raise self._error from None

    def _whole(self, batch: Batch) -> StepRows:
        sequences = batch.sequences
        sources = sequences.sources.sum(axis=0, dtype=np.int64).tolist()
        predicted = int(self._objective.counts(sequences).sum())
        return StepRows(sequences, batch.places, batch.cursor, sources, predicted, batch.bad, batch.storage)


def start_dealer(cpus: float) -> Any:
    """A :class:`Dealer` as an actor that takes no CPU, and processes for its tasks, which import meanwhile.

    It lives as long as its handle; Ray starts it again if its process ends.

    Args:
        cpus: that its stream will use.
    """
    # Beside the driver: it is lost with it, and with no other node; and Ray Data starts actors beside it that outlive
    # the run, which would keep another node for ever. A node that has just come may not know of this one yet: by its
    # label an actor waits until it does.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    dealer = ray.remote(Dealer).options(num_cpus=0, max_restarts=-1, label_selector=here).remote()
    for _ in range(math.ceil(cpus)):
        ray.remote(_warm_up).options(num_cpus=0, scheduling_strategy="SPREAD").remote()
    return dealer


def wake_dealer(dealer: Any, turn: Turn, seconds: float) -> None:
    """Have it begin before anybody asks it for rows.

    One that does not in that time waits for something that does not come: its process is ended, and Ray starts another.
    """
    begun = dealer.begin.remote(turn)
    if not ray.wait([begun], timeout=seconds)[0]:
        ray.kill(dealer, no_restart=False)
    ray.get(begun)


def _warm_up() -> None:
    """What a task of the stream imports, half a second's worth."""
    import raypretrain.tokens.window  # noqa: F401


def steps_of_a_deal(global_batch: int, length: int, workers: int = 1) -> int:
    """How many steps one hand-over carries at most: enough that its cost does not count, however many workers ask.

    At most 16; at most 1 MiB of tokens for each worker, and 512 MiB for all; but one step at least.
    """
    tokens = min(workers * _DEAL_OF_A_WORKER, _DEAL_OF_ALL) // 4
    return max(1, min(_MOST_STEPS_OF_A_DEAL, tokens // (global_batch * length)))


class DealtSteps:
    """A worker's steps, one after the other, from the dealer; the next deal is on its way while this one is used.

    The first deal is one step, so that it comes soon; each has twice as many as the one before, up to ``deal_steps``.
    """

    def __init__(self, dealer: Any, turn: Turn, rank: int, steps: int, deal_steps: int) -> None:
        """Args: the actor's handle, this worker's group and rank, its steps, and the most of one deal."""
        self._dealer, self._turn, self._rank = dealer, turn, rank
        self._left, self._deal_steps = steps, deal_steps
        self._first = 0
        self._next_deal = 1
        self._begun = dealer.begin.remote(turn)
        self._coming = self._ask()

    def __iter__(self) -> Iterator[StepRows]:
        while self._coming is not None:
            deal = ray.get(self._coming)
            self._coming = self._ask()
            yield from deal

    def _ask(self) -> Any:
        steps = min(self._next_deal, self._deal_steps, self._left)
        if steps == 0:
            return None
        self._next_deal = 2 * steps
        asked = self._dealer.take.remote(self._turn.group, self._first, steps, self._rank, self._begun)
        self._first += steps
        self._left -= steps
        return asked
