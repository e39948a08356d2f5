"""Records (lines, blocks) out of bytes: from a range of a file, or from a stream of chunks."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_AHEAD = 1 << 14
_CONTEXT = 3  # bytes before a record that say that it begins there: "\n\r\n" at most
_DOUBT = 2  # bytes after the end of a match that may still undo it: "\r\n"


@dataclass(frozen=True)
class Separator:
    """What stands between two records: a record begins where a match of ``pattern`` ends, and at 0.

    Where it begins is decided by the few bytes around that place alone, so two neighbouring ranges agree on
    it.
    """

    pattern: re.Pattern[bytes]
    blocks: bool

    def first(self, data: bytes, at_least: int) -> int | None:
        """The first place in ``data``, from ``at_least`` on, where a record begins."""
        for match in self.pattern.finditer(data, max(0, at_least - _CONTEXT)):
            if match.end() >= at_least:
                return match.end()
        return None

    def last(self, data: bytes) -> int:
        """The last place in ``data`` where a record begins, whatever follows; 0 if there is none."""
        if not self.blocks:
            return data.rfind(b"\n") + 1
        sure = len(data) - _DOUBT
        return max((m.end() for m in self.pattern.finditer(data) if m.end() <= sure), default=0)

    def split(self, data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
        """``(offset, record)`` of every record of ``data``, which begins at ``offset``."""
        if not self.blocks:
            for line in data.split(b"\n"):
                yield offset, line
                offset += len(line) + 1
            return
        edges = [0, *(match.end() for match in self.pattern.finditer(data)), len(data)]
        for begin, end in itertools.pairwise(edges):
            yield offset + begin, data[begin:end].strip(b"\r\n")


LINES = Separator(re.compile(rb"\n"), blocks=False)
BLOCKS = Separator(re.compile(rb"\n\r?\n(?!\r?\n)"), blocks=True)


def in_range(
    read: Callable[[int, int], bytes], start: int, stop: int, size: int, separator: Separator
) -> Iterator[tuple[int, bytes]]:
    """At most one ``(offset, data)``: the whole records that begin in ``[start, stop)`` of a file.

    The file has ``size`` bytes; ``read(start, stop)`` gives some, until the end of the last record is there.
    """
    base = max(0, start - _CONTEXT)
    upto = min(size, stop + _AHEAD)
    data = read(base, upto)
    begin = 0 if start == 0 else separator.first(data, start - base)
    if begin is None or base + begin >= stop:
        return
    scan, ahead = stop - base, _AHEAD
    while (end := separator.first(data, scan)) is None or end > len(data) - _DOUBT:
        if upto == size:
            end = len(data) if end is None else end
            break
        scan = max(scan, len(data) - _CONTEXT)
        ahead *= 2
        reached = min(size, upto + ahead)
        data, upto = data + read(upto, reached), reached
    yield base + begin, data[begin:end]


def in_stream(chunks: Iterator[bytes], separator: Separator) -> Iterator[tuple[int, bytes]]:
    """``(offset, data)`` of whole records, for all of a stream of chunks of bytes."""
    pending, offset = b"", 0
    for chunk in chunks:
        data = pending + chunk
        cut = separator.last(data)
        if cut:
            yield offset, data[:cut]
        pending, offset = data[cut:], offset + cut
    if pending:
        yield offset, pending
