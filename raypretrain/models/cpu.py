"""How a process uses its node's CPUs and memory for the network's steps."""

from __future__ import annotations

import ctypes

import torch

# Of malloc.h, in glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_NEVER = -1
_LARGEST = 2**30, 2**25
"""Bytes from which on memory is mapped for itself and given back; an older glibc takes no more than the second."""
_PAD = 2**26


def use_cpus(threads: int) -> None:
    """Compute with so many threads, and keep the memory that a step frees for the next.

    By itself glibc gives what is freed back to the kernel, from which the next step gets it page by page, each filled
    with zeros: 5 to 10 % of a step's time (docs/performance.md).
    """
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    # First the size: without it, the others alone would have all from 128 KiB on mapped for itself.
    if mallopt and any(mallopt(_M_MMAP_THRESHOLD, size) for size in _LARGEST):
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
        mallopt(_M_TOP_PAD, _PAD)
