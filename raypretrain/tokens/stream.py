"""The stream: windows read, tokenized and packed by Ray Data while the model trains, dealt to the workers in one order.

Each window is one read task of Ray Data. The windows come back in their order (``preserve_order``), whatever
the timing of the tasks, and one :class:`Dealer` lays their sequences end to end and hands every worker its
rows. Ray's own ``streaming_split`` deals whole blocks, so that each step of each worker has to be a block,
cut by a task of its own; here a window stays one block, and a row's place is arithmetic, for any number of workers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from raypretrain.errors import InputError, user_error
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.window import Windows

# Windows of one Ray Data execution: enough that its start (about 0.1 s) does not count, few enough that it is quick.
_SEGMENT = 64
# So many segments in a row without one sequence mean that the corpus has none, or hardly any.
_EMPTY_SEGMENTS = 4

# How long the scheduling loop rests between two looks at finished tasks, while nobody waits for one.
_REST_SECONDS = 0.05
_waiting = threading.Event()

_windows_here: dict[str, Windows] = {}


def read_window(ref: ray.ObjectRef[Windows], w: int) -> Iterator[pa.Table]:
    """Window ``w`` as one Arrow table, ``tokens`` (int32 lists of one length) and ``window``."""
    key = ref.hex()
    if key not in _windows_here:  # once for each worker process
        _windows_here.clear()
        _windows_here[key] = ray.get(ref)
    rows = _windows_here[key].read(w)
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    yield pa.table({"tokens": tokens, "window": pa.array(np.full(len(rows), w))})


class _Segment(ray.data.Datasource):
    """Windows ``[first, first + number)`` as a datasource of Ray Data, a read task for each."""

    def __init__(self, windows: ray.ObjectRef[Windows], first: int, number: int) -> None:
        self._windows, self._first, self._number = windows, first, number

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        windows = self._windows
        return [
            ReadTask(partial(read_window, windows, w), nothing_known)
            for w in range(self._first, self._first + self._number)
        ]


class _Unhurried(ExecutionCallback):
    """Lets Ray Data's scheduling loop rest while nobody waits for a window.

    With its read-ahead full, the loop has nothing to do and does it without a pause, on most of a core.
    """

    def on_execution_step(self, executor: Any) -> None:
        _waiting.wait(_REST_SECONDS)


def _while_waiting(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same tables; says to the scheduling loop, a thread of this process, when one is waited for."""
    source = iter(tables)
    while True:
        _waiting.set()
        table = next(source, None)
        _waiting.clear()
        if table is None:
            return
        yield table


def window_blocks(
    windows: ray.ObjectRef[Windows], first: int, *, cpus: float, task_cpus: float, ahead_bytes: int
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Windows from ``first`` on, for ever: ``(window, int32 [sequences, length])``. Empty ones are left out.

    Args:
        windows: the run's :class:`Windows`, in the object store.
        first: the first window.
        cpus: CPUs that the stream may use at once.
        task_cpus: CPUs that Ray reserves for one task.
        ahead_bytes: how much may be read ahead of need, in the object store.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if _Unhurried not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(_Unhurried)
    options = context.execution_options
    options.preserve_order = True
    options.resource_limits = ray.data.ExecutionResources(cpu=cpus, object_store_memory=ahead_bytes)
    empty = 0
    for start in count(first, _SEGMENT):
        dataset = ray.data.read_datasource(
            _Segment(windows, start, _SEGMENT),
            override_num_blocks=_SEGMENT,
            ray_remote_args={"num_cpus": task_cpus},
        )
        for table in _while_waiting(
            dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
        ):
            if table.num_rows:
                empty = -1
                column = table["tokens"].combine_chunks()
                rows = column.flatten().to_numpy(zero_copy_only=True).reshape(table.num_rows, -1)
                yield table["window"][0].as_py(), rows
        empty += 1
        if empty == _EMPTY_SEGMENTS:
            what = f"{empty * _SEGMENT} windows in a row gave not one sequence"
            raise InputError(what, where="corpus.sources", fix="give more text, or a larger sequences.window")


class Deal(dict[str, Any]):
    """What a worker gets: ``tokens`` int32 [steps, rows, length], and ``cursors``, where each step ends."""


class Dealer:
    """An actor that lays the windows' sequences end to end and hands out rows of the global batches.

    Every worker asks for its rows of the same steps; what all have taken is let go.

    Args:
        windows: the run's :class:`Windows`, in the object store.
        cursor: the first sequence.
        global_batch: sequences of a step.
        workers: how many take from each step.
        limits: of :func:`window_blocks`.
    """

    def __init__(
        self,
        windows: list[ray.ObjectRef[Windows]],  # in a list, or Ray would hand over the object itself
        cursor: Cursor,
        global_batch: int,
        workers: int,
        limits: dict[str, Any],
    ) -> None:
        self._blocks = window_blocks(windows[0], cursor.window, **limits)
        self._skip = cursor.index
        self._cursor = cursor
        self._global_batch, self._workers = global_batch, workers
        self._rest: tuple[int, int, NDArray[np.int32]] | None = None  # window, index of the first row, rows
        self._steps: dict[int, tuple[NDArray[np.int32], Cursor]] = {}
        self._next_step = 0
        self._taken: dict[int, int] = {}
        self._error: Exception | None = None

    def take(self, first: int, steps: int, rank: int) -> Deal:
        """The rows of worker ``rank`` in the ``steps`` steps from ``first`` on (counted from the start of this dealer).

        Raises:
            RaypretrainError: the corpus cannot be read.
        """
        if self._error:
            raise self._error
        try:
            while self._next_step < first + steps:
                self._steps[self._next_step] = self._batch()
                self._next_step += 1
        except Exception as error:
            self._error = user_error(error) or error  # the other workers get the same answer
            raise self._error from None
        share = self._global_batch // self._workers
        chosen = [self._steps[s] for s in range(first, first + steps)]
        deal = Deal(
            tokens=np.stack([rows[rank * share : (rank + 1) * share] for rows, _ in chosen]),
            cursors=[cursor for _, cursor in chosen],
        )
        for s in range(first, first + steps):
            self._taken[s] = self._taken.get(s, 0) + 1
            if self._taken[s] == self._workers:
                del self._taken[s], self._steps[s]
        return deal

    def _batch(self) -> tuple[NDArray[np.int32], Cursor]:
        """The next global batch, int32 [global_batch, length], and the cursor after it."""
        parts, missing = [], self._global_batch
        while missing:
            window, index, rows = self._rest or self._next_window()
            parts.append(rows[:missing])
            taken = len(parts[-1])
            missing -= taken
            self._cursor = Cursor(window, index + taken)
            self._rest = (window, index + taken, rows[taken:]) if taken < len(rows) else None
        return np.concatenate(parts), self._cursor

    def _next_window(self) -> tuple[int, int, NDArray[np.int32]]:
        while True:
            window, rows = next(self._blocks)
            skip, self._skip = (self._skip, 0) if window == self._cursor.window else (0, 0)
            if skip < len(rows):
                return window, skip, rows[skip:]


def steps_of_a_deal(global_batch: int, length: int) -> int:
    """How many steps one hand-over carries: enough that its cost does not count, at most 1 MiB of tokens in all."""
    return max(1, min(16, (1 << 18) // (global_batch * length)))


class DealtSteps:
    """A worker's steps, one after the other, from the dealer; the next deal is on its way while this one is used."""

    def __init__(self, dealer: Any, rank: int, steps: int, deal_steps: int) -> None:
        self._dealer, self._rank, self._left, self._deal_steps = dealer, rank, steps, deal_steps
        self._first = 0
        self._coming = self._ask()

    def __iter__(self) -> Iterator[tuple[NDArray[np.int32], Cursor]]:
        """Yields ``(rows, cursor)``: int32 [rows of this worker, length], and where the data stands after the step."""
        while self._coming is not None:
            deal = ray.get(self._coming)
            self._coming = self._ask()
            yield from zip(deal["tokens"], deal["cursors"], strict=True)

    def _ask(self) -> Any:
        steps = min(self._deal_steps, self._left)
        if steps == 0:
            return None
        asked = self._dealer.take.remote(self._first, steps, self._rank)
        self._first += steps
        self._left -= steps
        return asked
