"""From bytes to lines and back: only ``\\n`` ends a line, and lines count from 1."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from raypretrain import storage
from raypretrain.corpus.compression import Damaged

_CHUNK = 8 << 20
_FILES = 256
_MOST_INDEXED = 1 << 22  # newlines, unless it is one file

# What has been counted, for plain files: {(url, tag): [(byte, newlines before it), …]}, rising.
_known: OrderedDict[tuple[str, str], list[tuple[int, int]]] = OrderedDict()
# The bytes of the newlines of compressed files, int64, rising.
_indexed: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()


class Counter:
    """The lines of a piece of text, asked for at bytes that never fall.

    Args:
        data: the piece.
        offset: the byte of the text at which it begins.
        before: gives the number of newlines before the piece; called at the first question.
    """

    def __init__(self, data: bytes, offset: int, before: Callable[[], int]) -> None:
        self._data, self._offset, self._before = data, offset, before
        self._at = 0
        self._newlines: int | None = None

    def line(self, offset: int) -> int:
        """The line that the byte ``offset`` of the text is part of."""
        if self._newlines is None:
            self._newlines = self._before()
        self._newlines += self._data.count(b"\n", self._at, offset - self._offset)
        self._at = max(self._at, offset - self._offset)
        return self._newlines + 1


def newlines_before(offset: int, url: str, tag: str, options: storage.Options | None) -> int:
    """Newlines in the first ``offset`` bytes of a plain file; reads from the nearest byte that is known."""
    known = _known.setdefault((url, tag), [(0, 0)])
    _known.move_to_end((url, tag))
    while len(_known) > _FILES:
        _known.popitem(last=False)
    at, count = known[bisect_right(known, (offset, 1 << 62)) - 1]
    if at == offset:
        return count
    while at < offset:
        data = storage.read_range(url, at, min(offset, at + _CHUNK), options, tag or None)
        if not data:
            break
        count += data.count(b"\n")
        at += len(data)
    insort(known, (at, count))
    return count


def newlines_before_in_stream(offset: int, url: str, tag: str, chunks: Iterable[bytes]) -> int:
    """Newlines in the first ``offset`` bytes of a compressed file's text, all of it in ``chunks``.

    Where they are is kept for the next question about the file, since it could only be read from its start.
    """
    if (url, tag) not in _indexed:
        found = [np.flatnonzero(np.frombuffer(c, np.uint8) == 10) + o for o, c in _numbered(chunks)]
        _indexed[url, tag] = np.concatenate(found) if found else np.zeros(0, np.int64)
        while sum(map(len, _indexed.values())) > _MOST_INDEXED and len(_indexed) > 1:
            _indexed.popitem(last=False)
    _indexed.move_to_end((url, tag))
    return int(np.searchsorted(_indexed[url, tag], offset))


def _numbered(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Each chunk with the byte at which it begins; ends where the file is damaged."""
    offset = 0
    try:
        for chunk in chunks:
            yield offset, chunk
            offset += len(chunk)
    except Damaged:
        return


def byte_of_line(chunks: Iterable[bytes], line: int) -> int | None:
    """The byte at which line ``line`` of ``chunks`` begins; None where there are fewer."""
    missing, seen = line - 1, 0
    for chunk in chunks:
        here = chunk.count(b"\n") if missing else 0
        if here >= missing and chunk:
            at = 0
            for _ in range(missing):
                at = chunk.index(b"\n", at) + 1
            if at < len(chunk):
                return seen + at
        missing, seen = missing - min(here, missing), seen + len(chunk)
    return None
