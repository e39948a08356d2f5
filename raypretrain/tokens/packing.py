"""Packing: documents of any length into sequences of one length, without padding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def concatenate(
    documents: Iterable[NDArray[np.int32]], length: int, *, bos: int, eos: int
) -> NDArray[np.int32]:
    """Lay documents end to end, each as ``bos … eos``, and cut the whole into rows.

    What is left at the end, shorter than a row, is dropped: a window's tail of less than ``length`` tokens,
    other documents in each epoch.

    Args:
        documents: token ids of each document, without special tokens.
        length: tokens of a sequence.
        bos: id put before each document.
        eos: id put after each document.

    Returns:
        int32 [sequences, length].
    """
    begin, end = np.array([bos], np.int32), np.array([eos], np.int32)
    parts = [part for ids in documents for part in (begin, ids, end)]
    if not parts:
        return np.empty((0, length), np.int32)
    flat = np.concatenate(parts)
    rows = len(flat) // length
    return flat[: rows * length].reshape(rows, length)
