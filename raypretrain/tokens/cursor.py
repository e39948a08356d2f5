"""The cursor: where the data stands, and the fingerprint that proves what was read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cursor:
    """The next sequence: its window, the part of the window (most have one), and its index in the part."""

    window: int = 0
    part: int = 0
    index: int = 0


def fingerprint_rows(rows: NDArray[np.int32], first: int) -> int:
    """The share that ``rows`` have in the fingerprint of a global batch: an unsigned 64-bit sum.

    The fingerprint of a batch is the sum modulo 2^64 of a 64-bit hash of each sequence together with its
    place in the batch. A sum does not depend on who adds which part, so neither on the number of workers.

    Args:
        rows: int32 [sequences, length].
        first: place in the global batch of the first row.
    """
    total = 0
    little = np.ascontiguousarray(rows, dtype="<i4")
    for place, row in enumerate(little, start=first):
        digest = hashlib.blake2b(row, digest_size=8, salt=place.to_bytes(8, "little")).digest()
        total += int.from_bytes(digest, "little")
    return total % 2**64


def format_fingerprint(total: int) -> str:
    """The fingerprint as it stands in metrics.jsonl: 16 hexadecimal digits."""
    return f"{total % 2**64:016x}"
