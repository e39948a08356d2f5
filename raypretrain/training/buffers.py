"""A copy of what training goes on changing, in CPU memory that is kept from one save to the next."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

_PIECE = 4 << 20  # elements that one thread copies in one go
_MOST_THREADS = 8

Alias = tuple[Any, ...]
"""Two tensors with the same are the same memory: tied weights are copied once."""


class Buffers:
    """Copies of state: tensors in memory of our own, everything else as :func:`copy.deepcopy` makes it.

    The memory of the copy before is used again, so a copy holds only until the next one of the same name.
    """

    def __init__(self) -> None:
        self._kept: dict[str, list[Tensor]] = {}

    def copy(self, name: str, state: Any) -> Any:
        """A copy of ``state`` in which nothing is shared with it, on the CPU.

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
            kept[i] if i < len(kept) and _alike(kept[i], source) else _memory_for(source)
            for i, source in enumerate(sources)
        ]
        self._kept[name] = targets
        _copy_all(sources, targets)
        # deepcopy takes what its memo holds for a copy already made.
        memo: dict[int, Any] = {id(tensor): targets[first_of[_alias(tensor)]] for tensor in found}
        return copy.deepcopy(state, memo)


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


def _memory_for(source: Tensor) -> Tensor:
    # Pinned memory takes a copy from a GPU at the bus's full speed.
    return torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=source.is_cuda)


def _copy_all(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Copy each source to its target: those of a GPU in its order, those on the CPU by several threads."""
    pieces: list[tuple[Tensor, Tensor]] = []
    for source, target in zip(sources, targets, strict=True):
        if source.is_cuda:
            target.copy_(source.detach(), non_blocking=True)
        elif source.is_contiguous():
            flat = zip(target.view(-1).split(_PIECE), source.detach().view(-1).split(_PIECE), strict=True)
            pieces.extend(flat)
        else:
            pieces.append((target, source.detach()))
    threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    if threads > 1 and sum(target.numel() for target, _ in pieces) > _PIECE:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda pair: pair[0].copy_(pair[1]), pieces))
    else:
        for target, source in pieces:
            target.copy_(source)
    if any(source.is_cuda for source in sources):
        torch.cuda.synchronize()
