"""Texts as sets of hashed shingles: what stands in a row in them, for finding copies that are not quite alike."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Thai, Lao, Burmese, Khmer, kana, Han: scripts without spaces between words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_UNIT = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
_LONGEST_WORD = 20  # letters on average; what has more is no words: a protein

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


def units(text: str) -> list[str]:
    """The words of a text, in lower case and without what stands between them.

    Where words have no spaces between them, the characters; and the letters of what is not words, as proteins.
    """
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    found = _UNIT.findall(text.lower())
    letters = "".join(found)
    return list(letters) if len(letters) > _LONGEST_WORD * len(found) else found


def unit_hashes(each: list[str]) -> Hashes:
    """A hash of each unit. uint64 [units]."""
    return np.fromiter(map(_hash, each), np.uint64, len(each))


def letter_hashes(text: str) -> Hashes:
    """Each character of a text. uint64 [characters]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)


def shingles(hashes: Hashes, *lengths: int) -> Hashes:
    """A hash of every ``length`` neighbours, for each of ``lengths``; the same on every machine. uint64 [shingles].

    There are max(0, units − length + 1) of a length; other lengths have other hashes.
    """
    parts = [hashes[:0]]
    found = np.zeros(len(hashes), np.uint64)
    for i in range(max(lengths, default=0)):
        after = hashes[i:]
        found = _mixed(found[: len(after)] + after)
        if i + 1 in lengths:
            parts.append(_mixed(found + np.uint64(i + 1)))
    return np.concatenate(parts)


def combined(columns: NDArray[np.uint32]) -> Hashes:
    """A hash of each row. uint64 [rows]."""
    found = np.zeros(len(columns), np.uint64)
    for column in columns.T:
        found = _mixed(found + column)
    return found


def _mixed(values: Hashes) -> Hashes:
    values = values * _FACTOR  # modulo 2^64
    values ^= values >> _HALF
    return values * _MIX


@lru_cache(maxsize=1 << 18)
def _hash(unit: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )
