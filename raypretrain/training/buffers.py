"""A copy of what training goes on changing, in CPU memory that is kept from one save to the next.

The copying goes on beside the training, which does not change what is copied before the next step of the optimizer:
the next forward and backward pass only read it (Mohan et al., CheckFreq, FAST 2021).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_PIECE = 16 << 20  # bytes that one thread copies in one go
_LARGE = 1 << 20  # smaller tensors are copied at once
_MOST_THREADS = 8

Alias = tuple[Any, ...]
"""Two tensors with the same are the same memory: tied weights are copied once."""


def memory_for(source: Tensor) -> Tensor:
    """On the CPU, of its shape and dtype."""
    # Pinned memory takes a copy from a GPU at the bus's full speed.
    return torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=source.is_cuda)


class Buffers:
    """Copies of state: tensors in memory of our own, everything else as :func:`copy.deepcopy` makes it.

    The memory of the copy before is used again, so a copy holds only until the next one of the same name.

    Args:
        memory: gives CPU memory for a copy of a tensor.
    """

    def __init__(self, memory: Callable[[Tensor], Tensor] = memory_for) -> None:
        self._memory = memory
        self._kept: dict[str, list[Tensor]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._under_way: list[_Copying] = []

    def copy(self, name: str, state: Any) -> Any:
        """A copy of ``state`` in which nothing is shared with it, on the CPU. Whole after what :meth:`waits` gives.

        Args:
            name: whose memory to use again; what lay in it is lost.
            state: dicts, lists and tuples with tensors anywhere, and anything that can be copied deeply.
        """
        found = list(tensors(state))
        first_of: dict[Alias, int] = {}
        for tensor in found:
            first_of.setdefault(_alias(tensor), len(first_of))
        sources = list({_alias(tensor): tensor for tensor in reversed(found)}.values())
        sources.sort(key=lambda tensor: first_of[_alias(tensor)])
        kept = self._kept.get(name, [])
        targets = [
            kept[i] if i < len(kept) and _alike(kept[i], source) else self._memory(source)
            for i, source in enumerate(sources)
        ]
        self._kept[name] = targets
        self._under_way.append(_Copying(sources, targets, self._threads()))
        # deepcopy takes what its memo holds for a copy already made.
        memo: dict[int, Any] = {id(tensor): targets[first_of[_alias(tensor)]] for tensor in found}
        return copy.deepcopy(state, memo)

    def waits(self) -> Callable[[], None]:
        """What waits, in any thread, until all copies since the last call of this are whole."""
        under_way, self._under_way = self._under_way, []

        def wait() -> None:
            for copying in under_way:
                copying.wait()

        return wait

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            number = max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)) // 2))
            self._pool = ThreadPoolExecutor(number, thread_name_prefix="copy")
        return self._pool


def tensors(state: Any) -> Iterator[Tensor]:
    """Every tensor in nested dicts, lists and tuples, in order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from tensors(value)


def _alias(tensor: Tensor) -> Alias:
    if not tensor.numel():
        return (id(tensor),)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _alike(kept: Tensor, source: Tensor) -> bool:
    return kept.shape == source.shape and kept.dtype == source.dtype


class _Copying:
    """One copying of tensors, under way."""

    def __init__(self, sources: list[Tensor], targets: list[Tensor], pool: ThreadPoolExecutor) -> None:
        on_gpu = [pair for pair in zip(sources, targets, strict=True) if pair[0].is_cuda]
        on_cpu = [pair for pair in zip(sources, targets, strict=True) if not pair[0].is_cuda]
        self._event = _copy_beside(on_gpu) if on_gpu else None
        large = [(s, t) for s, t in on_cpu if s.is_contiguous() and s.nbytes >= _LARGE]
        for source, target in on_cpu:
            if not (source.is_contiguous() and source.nbytes >= _LARGE):
                target.copy_(source.detach())
        self._futures = [
            pool.submit(np.copyto, to, of)
            for source, target in large
            for to, of in zip(_pieces(target), _pieces(source), strict=True)
        ]

    def wait(self) -> None:
        """Until all is copied; from any thread."""
        for future in self._futures:
            future.result()
        if self._event is not None:
            self._event.synchronize()


def _copy_beside(pairs: list[tuple[Tensor, Tensor]]) -> Any:
    """Copy from a GPU in a stream of its own, after all that it has to do by now; the event that ends it."""
    device = pairs[0][0].device
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for source, target in pairs:
            source.record_stream(stream)  # a temporary one is not to be used again before
            target.copy_(source.detach(), non_blocking=True)
        return stream.record_event()


def _pieces(tensor: Tensor) -> list[NDArray[np.uint8]]:
    """The bytes of a contiguous tensor, in pieces. NumPy copies them in one thread each, and without Python's lock."""
    data = tensor.detach().view(-1).view(torch.uint8).numpy()
    return [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]
