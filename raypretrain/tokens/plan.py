"""The plan: which fragments of the corpus make up window ``w``, for any ``w``, as a pure function.

A window is the fragments that are shuffled, tokenized and packed together. Source ``i`` has an endless
sequence of fragments: all of its fragments in a seeded order, then all of them in another, epoch after epoch.
Laid end to end in bytes, the source's share of window ``w`` is the interval ``[w·b_i, (w+1)·b_i)``, and
the window gets the fragments that *begin* in it. So any window is found by arithmetic, without the ones before.

Sources that may be repeated only so often run out; from there on (a new *phase*) the others take their share.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from raypretrain.errors import InputError

# A small source with a large weight makes windows small, but not so small that their number costs more than they hold.
_LEAST_WINDOW = 1 << 18


@dataclass(frozen=True)
class _Phase:
    """Windows from ``window`` on: source i gives ``stride[i]`` bytes to each, from ``offset[i]`` on."""

    window: int
    offset: list[int]
    stride: list[int]


class Plan:
    """Windows of a corpus.

    Args:
        sizes: bytes of each fragment, int64 [fragments].
        sources: source of each fragment, int [fragments].
        weights: the share of each source in the tokens; sources without one share by their size.
        window_bytes: size of a window, summed over the sources.
        seed: of the order of the fragments.
        densities: tokens that a byte of each source comes to, on any common scale; all alike by default.
        epochs: how often each source may be repeated at most; None for ever.

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
        densities: Sequence[float] | None = None,
        epochs: Sequence[float | None] | None = None,
    ) -> None:
        self._seed = seed
        self._source = np.asarray(sources)
        self._fragments = [np.flatnonzero(self._source == s) for s in range(len(weights))]
        # An empty fragment begins nowhere of its own; one byte gives it a place in the order.
        self._sizes = [np.maximum(sizes[f], 1).astype(np.int64) for f in self._fragments]
        self._totals = [int(s.sum()) for s in self._sizes]
        if 0 in self._totals:
            raise InputError(
                f"source {self._totals.index(0)} of the corpus has no text", where="corpus.sources"
            )
        shares = _byte_shares(weights, self._totals, densities or [1.0] * len(weights))
        repeats = epochs or [None] * len(weights)
        self._most = [
            None if e is None else max(1, round(e * t)) for e, t in zip(repeats, self._totals, strict=True)
        ]
        one_epoch = [total / share for total, share in zip(self._totals, shares, strict=True)]
        # Not larger than one epoch of any source, if it can be: it would hold documents twice.
        self._window = min(window_bytes, int(max(one_epoch)), max(int(min(one_epoch)), _LEAST_WINDOW))
        self._order = lru_cache(maxsize=4 * len(weights))(self._epoch_order)
        self._phases, self.end = self._make_phases(shares)
        first = self._phases[0].stride
        self.windows_of_an_epoch = max(-(-t // s) for t, s in zip(self._totals, first, strict=True))

    def window(self, w: int) -> list[int]:
        """Indices of the fragments of window ``w``, by source and then in the order of the plan. May be empty."""
        return [fragment for fragment, _ in self.window_by_epoch(w)]

    def window_by_epoch(self, w: int) -> list[tuple[int, int]]:
        """As :meth:`window`, each with the epoch of its source."""
        if self.end is not None and w >= self.end:
            return []
        phase = self._phases[bisect_right(self._phases, w, key=lambda p: p.window) - 1]
        return [found for source in range(len(phase.stride)) for found in self._of_source(source, w, phase)]

    def windows_from(self, first: int) -> Iterator[int]:
        """The windows from ``first`` on that hold any fragment: endless, unless all sources run out."""
        for w in count(first):
            if self.end is not None and w >= self.end:
                return
            if self.window(w):
                yield w

    def windows_of(self, fragment: int) -> Iterator[int]:
        """The window of ``fragment`` in epoch 0, 1, …: endless, unless its source runs out."""
        source = int(self._source[fragment])
        total, most = self._totals[source], self._most[source]
        for epoch in count():
            order, begins = self._order(source, epoch)
            place = epoch * total + int(begins[np.flatnonzero(order == fragment)[0]])
            if most is not None and place >= most:
                return
            phase = self._phases[bisect_right(self._phases, place, key=lambda p: p.offset[source]) - 1]
            if not phase.stride[source]:
                return
            yield phase.window + (place - phase.offset[source]) // phase.stride[source]

    def _of_source(self, source: int, w: int, phase: _Phase) -> list[tuple[int, int]]:
        stride = phase.stride[source]
        start = phase.offset[source] + (w - phase.window) * stride
        stop, total, most = start + stride, self._totals[source], self._most[source]
        if most is not None:
            stop = min(stop, most)
        found: list[tuple[int, int]] = []
        for epoch in range(start // total, (stop - 1) // total + 1 if stop > start else 0):
            order, begins = self._order(source, epoch)
            low, high = np.searchsorted(begins, [start - epoch * total, stop - epoch * total], side="left")
            found += [(fragment, epoch) for fragment in order[low:high].tolist()]
        return found

    def _make_phases(self, shares: list[float]) -> tuple[list[_Phase], int | None]:
        """The phases, and the window at which all sources have run out, if they do."""
        phases: list[_Phase] = []
        window, offset = 0, [0] * len(shares)
        while True:
            left = [m is None or o < m for m, o in zip(self._most, offset, strict=True)]
            if not any(left):
                return phases, window
            whole = sum(s for s, more in zip(shares, left, strict=True) if more)
            stride = [
                max(1, round(self._window * s / whole)) if m else 0 for s, m in zip(shares, left, strict=True)
            ]
            phases.append(_Phase(window, offset, stride))
            lasting = [
                -(-(m - o) // s)
                for m, o, s in zip(self._most, offset, stride, strict=True)
                if m is not None and s
            ]
            if not lasting:
                return phases, None
            window += min(lasting)
            offset = [
                o + min(lasting) * s if m is None else min(m, o + min(lasting) * s)
                for m, o, s in zip(self._most, offset, stride, strict=True)
            ]

    def _epoch_order(self, source: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source's fragments in the order of ``epoch``, and the byte of the epoch at which each begins."""
        rng = np.random.default_rng([self._seed, source, epoch])
        order = rng.permutation(len(self._fragments[source]))
        ends = np.cumsum(self._sizes[source][order])
        begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        return self._fragments[source][order], begins


def _byte_shares(
    weights: Sequence[float | None], totals: Sequence[int], densities: Sequence[float]
) -> list[float]:
    """Share of each source in the bytes of a window, summing to 1, such that ``weights`` are its shares of the tokens.

    A source without a weight counts as much as its share of all tokens there are.
    """
    tokens = [total * density for total, density in zip(totals, densities, strict=True)]
    wanted = [t / sum(tokens) if w is None else w for w, t in zip(weights, tokens, strict=True)]
    shares = [w / density for w, density in zip(wanted, densities, strict=True)]
    return [share / sum(shares) for share in shares]
