"""A fingerprint of parameters: equal on workers that hold the same bits, and another one if any single bit differs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

_COLUMNS = 2**15  # of int64: a row and its products stay in a core's cache
_ROWS = {"cpu": 1, "cuda": 256}
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_STEP = 0x9E3779B97F4A7C15  # odd: the golden ratio's bits


@torch.no_grad()
def fingerprint_of_tensors(tensors: Iterable[Tensor]) -> int:
    """64 bits, signed, of what the tensors hold, in their order.

    The bits of each number, as an integer, times an odd weight of its place, summed modulo 2⁶⁴. One changed number
    changes its product by other than 0 (a difference below 2⁶⁴ times an odd number), and so the sum; that several
    changes cancel each other has a chance of about 2⁻³².
    """
    sums = [part for tensor in tensors for part in _row_sums(tensor)]
    if not sums:
        return 0
    total = 0
    for row in torch.cat(sums).tolist():  # the only wait for the device
        total = (total * _STEP + row) % 2**64
    return total - 2**64 if total >= 2**63 else total


def _row_sums(tensor: Tensor) -> Iterable[Tensor]:
    bits = tensor.detach().reshape(-1).view(_INTEGERS[tensor.element_size()])
    weights = _weights(bits.device)
    whole = len(bits) - len(bits) % _COLUMNS
    for rows in bits[:whole].view(-1, _COLUMNS).split(_ROWS.get(bits.device.type, 1)):
        yield (rows * weights).sum(dim=1)  # as int64
    if whole < len(bits):
        rest = bits[whole:]
        yield (rest * weights[: len(rest)]).sum().view(1)


@cache
def _weights(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(20)
    drawn = torch.randint(-(2**63), 2**63 - 1, (_COLUMNS,), generator=generator)
    return (drawn | 1).to(device)
