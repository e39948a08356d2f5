"""Sequences that several workers share: each has a part of the columns, and in attention a part of the heads.

Jacobs et al., DeepSpeed Ulysses, arXiv:2309.14509: before attention one exchange between the workers turns [all heads
of a part of the columns] into [all columns of a part of the heads], after it another one turns it back. All else that
a network does is done column by column.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class SequenceShare:
    """This worker's part of every sequence.

    Args:
        rank: which part, of the columns and of the heads.
        workers: how many have the others.
        group: of these workers.
    """

    rank: int
    workers: int
    group: Any


_share: SequenceShare | None = None


@contextmanager
def shared(share: SequenceShare | None) -> Iterator[None]:
    """While it lasts, what networks are given are this worker's columns; None gives them whole sequences.

    It has to last over the backward pass, which may compute the forward pass again.
    """
    global _share
    before, _share = _share, share
    try:
        yield
    finally:
        _share = before


def share_of_sequences(workers: int) -> SequenceShare | None:
    """This worker's part of each sequence, of so many neighbours'; all workers call it. None where it is all of it."""
    if workers == 1:
        return None
    rank, world = dist.get_rank(), dist.get_world_size()
    groups = [dist.new_group(list(range(first, first + workers))) for first in range(0, world, workers)]
    return SequenceShare(rank % workers, workers, groups[rank // workers])


def current_share() -> SequenceShare | None:
    """As :func:`shared` says."""
    return _share


def columns_before(length: int) -> int:
    """Columns of other workers before this one's ``length``."""
    return _share.rank * length if _share else 0


def to_heads(x: Tensor, share: SequenceShare) -> Tensor:
    """[B, L / workers, H, W] → [B, L, H / workers, W]; every worker of the group calls it."""
    made: Tensor = _Exchange.apply(x, share, 2, 1)
    return made


def to_columns(x: Tensor, share: SequenceShare) -> Tensor:
    """[B, L, H / workers, W] → [B, L / workers, H, W]; every worker of the group calls it."""
    made: Tensor = _Exchange.apply(x, share, 1, 2)
    return made


def all_columns(starts: Tensor | None, share: SequenceShare) -> Tensor | None:
    """[B, L / workers] of every worker → [B, L]; once for all layers that ask with the same ``starts``."""
    if starts is None:
        return None
    known: Tensor | None = getattr(starts, "all_columns", None)
    if known is None:
        parts = [torch.empty_like(starts) for _ in range(share.workers)]
        dist.all_gather(parts, starts.contiguous(), group=share.group)
        known = torch.cat(parts, dim=1)
        starts.all_columns = known  # type: ignore[attr-defined]
    return known


class _Exchange(torch.autograd.Function):
    """Every worker gives each of the others its part of one dimension, and joins what it gets along another one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: SequenceShare, split: int, join: int) -> Tensor:
        ctx.share, ctx.split, ctx.join = share, split, join
        return _exchange(x, share, split, join)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return _exchange(upstream, ctx.share, ctx.join, ctx.split), None, None, None


def _exchange(x: Tensor, share: SequenceShare, split: int, join: int) -> Tensor:
    given = torch.stack(x.chunk(share.workers, dim=split))
    got = torch.empty_like(given)
    dist.all_to_all_single(got, given, group=share.group)
    return torch.cat(list(got), dim=join)
