"""Texts to ids by words: cut where no token spans the place, each different word of a batch encoded once.

Where a place lies between two words depends on the characters beside it alone, so that a batch of texts is cut by a
few passes of NumPy over its bytes; Arrow finds the different words, and those that were met before are looked up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise, product

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

PIECE = 1 << 18
"""Characters of a text that are encoded in one go, at most: at most 1 MiB."""

KINDS = "éa5.'\0 \t\n\r\v—\xa0"
"""The kinds of characters that :class:`Cut` tells apart, an example of each.

Letters and digits of other scripts, ASCII letters, digits, signs but for the apostrophe, control characters, each
white space, ``\\v`` with ``\\f``; marks, signs and the rest of other scripts; their white space.
"""

_BATCH = 1 << 22  # characters: many words come again in them, and what is made of them is small
_NONE = np.empty(0, np.int32)
_LONGEST_WORD = 64  # bytes
_MOST_WORDS = 1 << 19  # about 100 MB

# A cut here is one for every :class:`Cut` of ours.
_BEFORE_SPACE = re.compile(r"(?<=[\w!-~])(?= [\w!-~])")
_NEAR = 4096


def _kind(character: str) -> int:
    """The place in :data:`KINDS` of a character's kind."""
    if character in "' \t\n\r":
        return KINDS.index(character)
    if character.isascii():
        examples = {"a": character.isalpha(), "5": character.isdigit(), "\v": character in "\v\f"}
        rest = "." if character.isprintable() else "\0"
        return KINDS.index(next((example for example, so in examples.items() if so), rest))
    return KINDS.index("é" if character.isalnum() else "\xa0" if character.isspace() else "—")


_ASCII = bytes(map(_kind, map(chr, range(128)))) + bytes(128)
_UNKNOWN = 255
_kinds = np.full(0x110000, _UNKNOWN, np.uint8)  # of every character, filled as they are met


class Cut:
    """Which places of a text are between two words."""

    def __init__(self, *rules: tuple[str, str]) -> None:
        """Args: pairs of :data:`KINDS`; a place is cut if what is before and after it is in one of the pairs.

        After a place whatever is not ASCII counts as ``é``.
        """
        table = np.zeros((16, 16), bool)
        for before, after in rules:
            for one, other in product(before, after):
                # Or characters of several bytes would be cut in themselves.
                assert other.isascii() or (one.isascii() and other == "é")
                table[KINDS.index(one), KINDS.index(other)] = True
        self._table = table.tobytes()
        self._scripts = len({table[KINDS.index(kind)].tobytes() for kind in "é—\xa0"}) > 1

    def places(
        self, texts: Sequence[str], whole: re.Pattern[bytes] | None = None
    ) -> tuple[bytes, NDArray[np.int32], NDArray[np.int64]]:
        """Where the words of the texts begin.

        Args:
            whole: what is a word by itself wherever it is found, looked for in UTF-8.

        Returns:
            The texts in UTF-8, end to end; where each word begins in it, and the end, int32 [words + 1]; the first
            word of each text, and the number of all, int64 [texts + 1].
        """
        encoded = [text.encode() for text in texts]
        data = b"".join(encoded)
        starts = np.cumsum([0, *map(len, encoded)])
        kinds = self._kinds_of(data)
        pairs = kinds[:-1] << 4
        pairs |= kinds[1:]
        cut = np.ones(len(data) + 1, bool)
        cut[1:-1] = np.frombuffer(pairs.tobytes().translate(self._table), bool)
        cut[starts] = True
        if whole is not None:
            for start, text in zip(starts.tolist(), encoded, strict=False):
                for begin, end in (found.span() for found in whole.finditer(text)):
                    cut[start + begin : start + end] = False
                    cut[[start + begin, start + end]] = True
        places = np.flatnonzero(cut)
        return data, places.astype(np.int32), np.searchsorted(places, starts)

    def words(self, text: str, whole: re.Pattern[bytes] | None = None) -> list[str]:
        """The words of a text; ``whole`` as of :meth:`places`."""
        data, places, _ = self.places([text], whole)
        return [data[a:b].decode() for a, b in pairwise(places.tolist())]

    def _kinds_of(self, data: bytes) -> NDArray[np.uint8]:
        """The kind of each byte: that of its character where it is the last one of it."""
        kinds = np.frombuffer(data.translate(_ASCII), np.uint8)
        if not self._scripts or data.isascii():
            return kinds
        points = np.frombuffer(data.decode().encode("utf-32-le"), np.uint32)
        points = points[points >= 0x80]
        found = _kinds[points]
        if (unknown := points[found == _UNKNOWN]).size:
            for point in set(unknown.tolist()):
                _kinds[point] = _kind(chr(point))
            found = _kinds[points]
        first = np.flatnonzero(np.frombuffer(data, np.uint8) >= 0xC0)
        kinds = kinds.copy()
        kinds[first + 1 + (points >= 0x800) + (points >= 0x10000)] = found
        return kinds


class Words(dict[bytes, bytes]):
    """Word in UTF-8 → its ids as int32 bytes, of those that were met before; no more than memory allows."""

    def __init__(
        self, cut: Cut, encode: Callable[[list[str]], list[bytes]], whole: re.Pattern[bytes] | None = None
    ) -> None:
        """Args: how texts are cut, what encodes words, and what is always a word by itself."""
        super().__init__()
        self._cut, self._encode, self._whole = cut, encode, whole

    def ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The ids of each text: int32 [tokens]."""
        found: list[NDArray[np.int32]] = []
        start = size = 0
        for stop, text in enumerate(texts):
            if size + len(text) > _BATCH:
                found += self._ids(texts[start:stop])
                start, size = stop, 0
            size += len(text)
        return found + self._ids(texts[start:]) if start < len(texts) else found

    def _ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        data, places, firsts = self._cut.places(texts, self._whole)
        buffers = [None, pa.py_buffer(places), pa.py_buffer(data)]
        words = pa.Array.from_buffers(pa.binary(), len(places) - 1, buffers).dictionary_encode()
        known = pa.array(self._look_up(words.dictionary.to_pylist()), pa.binary())
        _, ends, ids = known.take(words.indices).buffers()
        bounds = np.frombuffer(ends, np.int32)[firsts].tolist()
        return [
            np.frombuffer(ids, np.int32, (b - a) // 4, a) if b > a else _NONE for a, b in pairwise(bounds)
        ]

    def _look_up(self, words: list[bytes]) -> list[bytes]:
        if len(self) > _MOST_WORDS:
            self.clear()
        known = list(map(self.get, words))
        new = [word for word, ids in zip(words, known, strict=True) if ids is None]
        if not new:
            return known  # type: ignore[return-value]
        fresh = dict(zip(new, self._encode([word.decode() for word in new]), strict=True))
        self.update((word, ids) for word, ids in fresh.items() if len(word) <= _LONGEST_WORD)
        return [fresh[word] if ids is None else ids for word, ids in zip(words, known, strict=True)]


def pieces(text: str, words: Callable[[str], list[str]], longest: int = 1) -> Iterator[str]:
    """``text`` in parts of at most :data:`PIECE` characters, cut between words.

    A single word that is longer is cut as well: unbroken data of that size has no better place.

    Args:
        words: cuts a text into words, without rest.
        longest: characters of the longest symbol that belongs together whatever the words.
    """
    start = 0
    while len(text) - start > PIECE:
        stop = start + PIECE
        cuts = [found.start() for found in _BEFORE_SPACE.finditer(text, stop - _NEAR, stop + 2)]
        if not cuts:
            ends = accumulate(map(len, words(text[start:stop])), initial=start)
            cuts = [
                end for end in ends if start < end <= stop - longest
            ]  # the last may go on after the window
        cut = cuts[-1] if cuts else stop
        yield text[start:cut]
        start = cut
    yield text[start:]
