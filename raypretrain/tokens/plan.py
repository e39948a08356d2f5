"""The plan: which fragments of the corpus make up window ``w``, for any ``w``, as a pure function.

A window is the fragments that are shuffled, tokenized and packed together. Source ``i`` has an endless
sequence of fragments: all of its fragments in a seeded order, then all of them in another, epoch after epoch.
Laid end to end in bytes, the source's share of window ``w`` is the interval ``[w·b_i, (w+1)·b_i)``, and
the window gets the fragments that *begin* in it. So any window is found by arithmetic, without the ones before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from raypretrain.errors import InputError


class Plan:
    """Windows of a corpus.

    Args:
        sizes: bytes of each fragment, int64 [fragments].
        sources: source of each fragment, int [fragments].
        weights: the recipe's weight of each source; sources without one share by their size.
        window_bytes: size of a window, summed over the sources.
        seed: of the order of the fragments.

    Raises:
        InputError: a source without any text.
    """

    def __init__(
        self,
        sizes: NDArray[np.int64],
        sources: NDArray[np.integer],
        weights: Sequence[float | None],
        window_bytes: int,
        seed: int,
    ) -> None:
        self._seed = seed
        self._fragments = [np.flatnonzero(sources == s) for s in range(len(weights))]
        # An empty fragment begins nowhere of its own; one byte gives it a place in the order.
        self._sizes = [np.maximum(sizes[f], 1).astype(np.int64) for f in self._fragments]
        totals = np.array([s.sum() for s in self._sizes], dtype=np.int64)
        if (empty := np.flatnonzero(totals == 0)).size:
            raise InputError(f"source {empty[0]} of the corpus has no text", where="corpus.sources")
        shares = _shares(weights, totals)
        # No window is larger than one epoch of its largest source, or it would hold documents twice.
        window = min(window_bytes, int(min(totals / shares)))
        self._stride = [max(1, round(window * share)) for share in shares]
        self._order = lru_cache(maxsize=4 * len(weights))(self._epoch_order)
        self.windows_of_an_epoch = max(-(-int(t) // s) for t, s in zip(totals, self._stride, strict=True))

    def window(self, w: int) -> list[int]:
        """Indices of the fragments of window ``w``, by source and then in the order of the plan. May be empty."""
        return [f for source in range(len(self._stride)) for f in self._of_source(source, w)]

    def _of_source(self, source: int, w: int) -> list[int]:
        start, stop = w * self._stride[source], (w + 1) * self._stride[source]
        total = int(self._sizes[source].sum())
        found: list[int] = []
        for epoch in range(start // total, (stop - 1) // total + 1):
            order, begins = self._order(source, epoch)
            low, high = np.searchsorted(begins, [start - epoch * total, stop - epoch * total], side="left")
            found += order[low:high].tolist()
        return found

    def _epoch_order(self, source: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source's fragments in the order of ``epoch``, and the byte of the epoch at which each begins."""
        rng = np.random.default_rng([self._seed, source, epoch])
        order = rng.permutation(len(self._fragments[source]))
        ends = np.cumsum(self._sizes[source][order])
        begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        return self._fragments[source][order], begins


def _shares(weights: Sequence[float | None], totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each source, summing to 1. A source without a weight counts as much as its share of all bytes."""
    by_size = totals / totals.sum()
    if all(w is None for w in weights):
        return np.asarray(by_size, dtype=np.float64)
    values = np.array([by_size[i] if w is None else w for i, w in enumerate(weights)], dtype=np.float64)
    return np.asarray(values / values.sum(), dtype=np.float64)
