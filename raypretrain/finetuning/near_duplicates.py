"""Near-duplicates among texts, by MinHash and locality-sensitive hashing.

Broder, On the resemblance and containment of documents, 1997: the share of equal minima of two sets under random orders
estimates their Jaccard similarity. The minima are cut into bands; only texts that share a whole band are compared, and
those by their true sets. With 16 bands of 4, two texts of similarity 0.8 share one with probability
1 − (1 − 0.8⁴)¹⁶ = 0.9998.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from raypretrain.finetuning.shingles import Hashes, combined, letter_hashes, shingles, unit_hashes, units

LEAST = 0.8

_LENGTH = 5
_BANDS, _ROWS = 16, 4
_DEVIATIONS = 4
_AT_ONCE = 1024  # sets whose minima are found together

# One other word in a text of n changes ten of its word shingles: short texts are compared by their letters. Texts
# between the two bounds are compared by both, so that no pair falls into a gap.
_FEWEST_WORDS, _MOST_OF_LETTERS = 48, 64


def near_duplicate_groups(texts: Sequence[str], least: float = LEAST) -> NDArray[np.int64]:
    """The group of each text: the place of its first text. int64 [texts]; deterministic.

    Two texts are near-duplicates where the Jaccard similarity of their sets of shingles is at least ``least``, and
    a group holds whoever is linked by such pairs. Shingles are five words, in lower case and without punctuation; of
    texts of up to 64 words, five letters without spaces.
    """
    words: dict[int, Hashes] = {}
    letters: dict[int, Hashes] = {}
    for place, text in enumerate(texts):
        each = units(text)
        if len(each) >= _FEWEST_WORDS:
            words[place] = np.unique(shingles(unit_hashes(each), _LENGTH))
        if len(each) <= _MOST_OF_LETTERS and text:
            hashes = letter_hashes("".join(each) or text)
            letters[place] = np.unique(shingles(hashes, min(_LENGTH, len(hashes))))
    group = np.arange(len(texts), dtype=np.int64)
    for sets in (words, letters):
        if sets:
            _unite(group, sets, least)
    return group


def _unite(group: NDArray[np.int64], sets: Mapping[int, Hashes], least: float) -> None:
    """Unite the groups, in place, of all whose ``sets`` are alike."""
    first: dict[bytes, int] = {}
    for place, found in sets.items():
        _merge(group, first.setdefault(found.tobytes(), place), place)
    places = np.array(list(first.values()), np.int64)
    minima = _minima([sets[place] for place in first.values()])
    # A pair of similarity 0.8 has fewer equal minima once in 8,000 times.
    estimate = least - _DEVIATIONS * (least * (1 - least) / minima.shape[1]) ** 0.5
    bands = np.stack([combined(minima[:, i : i + _ROWS]) for i in range(0, minima.shape[1], _ROWS)], axis=1)
    for band in range(_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        for a, b in _pairs(bands[order, band]):
            a, b = order[a], order[b]
            new = group[places[a]] != group[places[b]]
            new &= ~(bands[a, :band] == bands[b, :band]).any(axis=1)  # else they have been compared
            a, b = a[new], b[new]
            close = (minima[a] == minima[b]).mean(axis=1) >= estimate
            for one, other in zip(places[a[close]].tolist(), places[b[close]].tolist(), strict=True):
                if group[one] != group[other] and _jaccard(sets[one], sets[other]) >= least:
                    _merge(group, one, other)


def _pairs(keys: Hashes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places of all pairs that are equal among sorted ``keys``: neighbours first, then those two apart, and so on."""
    at = np.arange(len(keys))
    for apart in range(1, len(keys)):
        at = at[at + apart < len(keys)]
        at = at[keys[at] == keys[at + apart]]
        if not len(at):
            return
        yield at, at + apart


def _merge(group: NDArray[np.int64], one: int, other: int) -> None:
    low, high = sorted((group[one], group[other]))
    if low != high:
        group[group == high] = low


def _minima(sets: Sequence[Hashes]) -> NDArray[np.uint32]:
    """The smallest hash of each set under each of the functions. uint32 [sets, bands · rows]."""
    random = np.random.default_rng(0)
    factors = random.integers(0, 1 << 63, _BANDS * _ROWS, np.uint64) * np.uint64(2) + np.uint64(1)
    found = np.empty((len(sets), len(factors)), np.uint32)
    for begin in range(0, len(sets), _AT_ONCE):
        some = sets[begin : begin + _AT_ONCE]
        starts = np.cumsum([0] + [len(each) for each in some[:-1]])
        flat = np.concatenate(some)
        for i, factor in enumerate(factors):  # the upper half of a product hangs on all bits of the lower
            values = (flat * factor >> np.uint64(32)).astype(np.uint32)
            found[begin : begin + len(some), i] = np.minimum.reduceat(values, starts)
    return found


def _jaccard(one: Hashes, other: Hashes) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)
