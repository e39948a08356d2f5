"""Rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor

from raypretrain.models.rope import RopeScaling
from raypretrain.models.ulysses import columns_before


class Rotary:
    """The cosines and sines of rotary positions (arXiv:2104.09864).

    No module, and its tables are no buffers, because a model's ``.bfloat16()`` would round the angles away:
    they are computed in fp32 and rounded last.
    """

    def __init__(self, head_width: int, theta: float, scaling: RopeScaling | None = None) -> None:
        self.head_width = head_width
        self.theta = theta
        self.scaling = scaling
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def tables(self, start: int, stop: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of the positions start..stop-1 as :func:`rotate` takes them, each
        [stop - start, 1, head_width], as ``like``.
        """
        key = (like.device, like.dtype)
        if key not in self._tables or len(self._tables[key][0]) < stop:
            self._tables[key] = self._compute(max(stop, 128), like)
        cos, sin = self._tables[key]
        return cos[start:stop], sin[start:stop]

    def _compute(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.arange(0, self.head_width, 2, device=like.device).float() / self.head_width
        positions = torch.arange(length, device=like.device).float()
        frequencies = 1.0 / self.theta**steps
        if self.scaling:
            lower = [self.scaling.apply(frequency) for frequency in frequencies.tolist()]
            frequencies = torch.tensor(lower, device=like.device)
        angles = torch.outer(positions, frequencies)[:, None, :]
        cos, sin = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def turns(self, start: int, ids: Tensor, starts: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of the positions of ``ids`` [B, L], of which ``start`` others stand before.

        Args:
            starts: int64 [B, L], the column at which each position's document begins, where it is counted from; None
                counts from the first.

        Returns:
            Each [L, 1, head_width] or, with ``starts``, [B, L, 1, head_width], as ``like``.
        """
        start += columns_before(ids.shape[1])
        cos, sin = self.tables(0, start + ids.shape[1], like)
        if starts is None:
            return cos[start:], sin[start:]
        places = places_of(ids, starts)
        return cos[places], sin[places]


def places_of(ids: Tensor, starts: Tensor | None, start: int = 0) -> Tensor:
    """The positions of ``ids`` [B, L], int64 [L] or, with ``starts`` as of :meth:`Rotary.turns`, [B, L]."""
    start += columns_before(ids.shape[1])
    columns = torch.arange(start, start + ids.shape[1], device=ids.device)
    return columns if starts is None else columns - starts


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + head_width/2) of ``x`` [B, L, H, head_width] by their positions' angles.

    ``cos`` and ``sin`` hold every angle twice; the first half of ``sin`` is negative.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
