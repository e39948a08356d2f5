"""The stream: windows read, tokenized and packed by Ray Data while the model trains.

A read task of Ray Data makes windows, one after the other. They come back in their order (``preserve_order``), whatever
the timing of the tasks; ``dealer.py`` hands out their sequences.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

# A dealer that was killed has not given back the CPUs that it asked Ray Data's coordinator for: by default they are
# counted as taken for 180 s, in which the one after it would go slowly. Read by ray.data when it is imported.
os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "15")
os.environ.setdefault("RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS", "5")

import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from raypretrain.corpus.documents import BadRecord
from raypretrain.errors import InputError
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealing import Part
from raypretrain.tokens.packing import Sequences

T = TypeVar("T")

# Tasks of the first Ray Data execution, so few that it starts quickly; the next ones have as many for each CPU, so
# that their start (0.1 s, and 0.5 ms a task), where nothing is read ahead, does not count.
_SEGMENT = 64
# Text that one task reads, window after window: Ray Data takes 0.1 to 0.2 s to see that a task has ended and to start
# the next, about as long as a window of the usual size takes.
_TASK_BYTES, _MOST_WINDOWS = 64 << 20, 16
_LEAST_AHEAD = 1 << 20
# So many windows in a row without one sequence mean that the corpus has none, or hardly any.
_EMPTY_WINDOWS = 256

# How long the scheduling loop rests between two looks at finished tasks, while nobody waits for one.
_REST_SECONDS = 0.05
_waiting = threading.Event()

_windows_here: dict[str, Any] = {}


class WindowSource(Protocol):
    """What the stream reads: :class:`raypretrain.tokens.window.Windows`, or a tokenized copy of them."""

    def windows_from(self, first: int) -> Iterator[int]:
        """The windows from ``first`` on that hold anything; it ends where the corpus is used up."""
        ...

    def begin(self, w: int) -> None:
        """Ask the storage for the beginning of window ``w``, which is the next one after the present one."""
        ...

    def parts(self, w: int, first: int = 0) -> Iterator[Part]:
        """Window ``w`` from part ``first`` on."""
        ...


def read_windows(ref: ray.ObjectRef[WindowSource], windows: Sequence[int], first: int) -> Iterator[pa.Table]:
    """These windows, the first from part ``first`` on; each part as a table of one row, as soon as it is there."""
    key = ref.hex()
    if key not in _windows_here:  # once for each worker process
        _windows_here.clear()
        _windows_here[key] = ray.get(ref)
    source = _windows_here[key]
    for i, w in enumerate(windows):
        if w != windows[-1]:
            source.begin(windows[i + 1])
        for part in source.parts(w, 0 if i else first):
            yield to_table(part)


def to_table(part: Part) -> pa.Table:
    """A part as an Arrow table of one row: its arrays as bytes, without a copy."""
    arrays = {name: getattr(part.sequences, name) for name in _ARRAYS}
    notes = {
        "shapes": {name: values.shape for name, values in arrays.items()},
        "bad": [asdict(record) for record in part.bad],
        "storage": part.storage,
    }
    columns = {
        "window": pa.array([part.window]),
        "part": pa.array([part.part]),
        "rows": pa.array([len(part.sequences)]),
        **{name: _as_bytes(values) for name, values in arrays.items()},
        "notes": pa.array([json.dumps(notes)], pa.large_string()),
    }
    return pa.table(columns)


def from_table(table: pa.Table) -> list[Part]:
    """The inverse of :func:`to_table`, for any number of rows."""
    parts = []
    for i in range(table.num_rows):
        notes = json.loads(table["notes"][i].as_py())
        arrays = {
            name: np.frombuffer(table[name][i].as_buffer(), dtype).reshape(notes["shapes"][name])
            for name, dtype in _ARRAYS.items()
        }
        bad = [BadRecord(**record) for record in notes["bad"]]
        place = table["window"][i].as_py(), table["part"][i].as_py()
        parts.append(Part(*place, Sequences(**arrays), bad, notes["storage"]))
    return parts


_ARRAYS: dict[str, Any] = {"tokens": np.int32, "begins": np.uint8, "filled": np.int32, "sources": np.int32}


def _as_bytes(values: NDArray[Any]) -> pa.Array:
    data = np.ascontiguousarray(values)
    offsets = np.array([0, data.nbytes], np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers)


class _Segment(ray.data.Datasource):
    """Windows as a datasource of Ray Data, a read task for each group; of the first from its part ``part`` on."""

    def __init__(self, source: ray.ObjectRef[WindowSource], groups: list[list[int]], part: int) -> None:
        self._source, self._groups, self._part = source, groups, part

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        source = self._source  # not self: the tasks are pickled
        return [
            ReadTask(partial(read_windows, source, group, 0 if i else self._part), nothing_known)
            for i, group in enumerate(self._groups)
        ]


class _Unhurried(ExecutionCallback):
    """Lets Ray Data's scheduling loop rest while nobody waits for a window.

    With its read-ahead full, the loop has nothing to do and does it without a pause, on most of a core.
    """

    def on_execution_step(self, executor: Any) -> None:
        _waiting.wait(_REST_SECONDS)


def _while_waiting(values: Iterable[T]) -> Iterator[T]:
    """The same values; says to the scheduling loop, a thread of this process, when one is waited for."""
    source = iter(values)
    while True:
        _waiting.set()
        try:
            value = next(source)
        except StopIteration:
            return
        finally:
            _waiting.clear()
        yield value


def stream_parts(
    windows: ray.ObjectRef[WindowSource],
    cursor: Cursor,
    *,
    cpus: float,
    window_bytes: int,
) -> Iterator[Part]:
    """The parts of the windows from the one in which ``cursor`` stands on; ends where the corpus is used up.

    Args:
        windows: the run's windows, in the object store.
        cursor: its window and part are the first.
        cpus: CPUs that the stream may use at once.
        window_bytes: of text in a window.

    Raises:
        InputError: no window gives a sequence.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = (
        1 << 20
    )  # or the parts of a window would be held back, to come as one block
    if _Unhurried not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(_Unhurried)
    options = context.execution_options
    options.preserve_order = True
    group = max(1, min(_MOST_WINDOWS, _TASK_BYTES // window_bytes))
    options.resource_limits = ray.data.ExecutionResources(
        cpu=cpus, object_store_memory=_ahead_bytes(cpus, group, window_bytes)
    )
    source: WindowSource = ray.get(windows)
    groups = _grouped(source.windows_from(cursor.window), 2 * math.ceil(cpus), group)
    made = _read(windows, groups, cursor, cpus)
    yield from not_empty(part for table in made for part in from_table(table))


def _read(
    windows: ray.ObjectRef[WindowSource], groups: Iterator[list[int]], cursor: Cursor, cpus: float
) -> Iterator[pa.Table]:
    """The tables of these windows, one Ray Data execution after the other."""
    size = _SEGMENT
    while segment := list(islice(groups, size)):
        first = cursor.part if segment[0][0] == cursor.window else 0
        size = _SEGMENT * max(2, math.ceil(cpus))
        dataset = ray.data.read_datasource(
            _Segment(windows, segment, first),
            override_num_blocks=len(segment),
            num_cpus=min(1.0, cpus),
        )
        # With windows to fetch ahead, the first would be handed over when they are there as well.
        ahead = 0 if segment[0][0] == cursor.window else 2
        tables = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=ahead)
        yield from _while_waiting(tables)


def not_empty(parts: Iterable[Part]) -> Iterator[Part]:
    """The same parts.

    Raises:
        InputError: none of very many has a sequence.
    """
    empty = 0
    for part in parts:
        empty = 0 if len(part.sequences) else empty + 1
        if empty >= _EMPTY_WINDOWS:
            what = f"{empty} windows in a row gave not one sequence"
            fix = "give more text, or a larger sequences.window"
            raise InputError(what, where="corpus.sources", fix=fix)
        yield part


def _grouped(windows: Iterator[int], alone: int, group: int) -> Iterator[list[int]]:
    """The windows of each task: the first ones ``alone``, so that the first batch comes soon, then ``group`` each."""
    for w in islice(windows, alone):
        yield [w]
    while together := list(islice(windows, group)):
        yield together


def _ahead_bytes(cpus: float, group: int, window_bytes: int) -> int:
    """How much may lie in the object store ahead of need: what all tasks make while the first of them is not done.

    Ids take about as many bytes as their text. At most half of the store.
    """
    wanted = max(_LEAST_AHEAD, 8 * window_bytes, int(1.5 * math.ceil(cpus) * group * window_bytes))
    return min(wanted, int(ray.cluster_resources().get("object_store_memory", wanted) / 2))


def all_parts(windows: WindowSource, cursor: Cursor, window_bytes: int) -> Iterator[Part]:
    """As :func:`stream_parts`, with every CPU of the cluster that this process has joined.

    Args:
        window_bytes: of text in a window.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # in this process, its notes would be the user's
    cpus = ray.cluster_resources().get("CPU", 1.0)
    yield from stream_parts(ray.put(windows), cursor, cpus=cpus, window_bytes=window_bytes)
