"""Records (lines, blocks) out of bytes: from a range of a file, or from a stream of chunks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_AHEAD = 1 << 14
_MOST_AHEAD = 1 << 23
_LARGE = 1 << 23  # a record that may be so large is given by itself, so that it is not copied once more


@dataclass(frozen=True)
class Separator:
    """What stands between two records: a record begins where a match of ``pattern`` ends, and at 0.

    Where it begins must be decided by the few bytes around that place alone, so that two neighbouring ranges
    agree on it.

    Args:
        pattern: of what ends a record.
        lines: whether it is nothing but ``\\n``, which is the fast case.
        around: how many bytes before and after the end of a match it depends on, at most.
    """

    pattern: re.Pattern[bytes]
    lines: bool = False
    around: int = 64

    def first(self, data: bytes, at_least: int) -> int | None:
        """The first place in ``data``, from ``at_least`` on, where a record begins."""
        if self.lines:
            return data.find(b"\n", max(0, at_least - 1)) + 1 or None
        for match in self.pattern.finditer(data, max(0, at_least - self.around)):
            if match.end() >= at_least:
                return match.end()
        return None

    def last(self, data: bytes) -> int:
        """The last place in ``data`` where a record begins, whatever follows; 0 if there is none."""
        if self.lines:
            return data.rfind(b"\n") + 1
        sure = len(data) - self.around
        return max((m.end() for m in self.pattern.finditer(data) if m.end() <= sure), default=0)

    def split(self, data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
        """``(offset, record)`` of every record of ``data``, which begins at ``offset``."""
        if self.lines:
            if b"\n" not in data:  # a large one is not copied
                yield offset, data
                return
            for line in data.split(b"\n"):
                yield offset, line
                offset += len(line) + 1
            return
        begin = 0
        for match in self.pattern.finditer(data):
            yield self._trimmed(data, begin, match.start(), offset)
            begin = match.end()
        yield self._trimmed(data, begin, len(data), offset)

    def cut(self, data: bytes, begin: int, end: int) -> bytes:
        """The whole records ``data[begin:end]``, without the last one's end of line."""
        return data[begin : end - 1 if self.lines and data.endswith(b"\n", begin, end) else end]

    def _trimmed(self, data: bytes, begin: int, end: int, offset: int) -> tuple[int, bytes]:
        """``data[begin:end]`` without empty lines around it, and where it begins."""
        record = data[begin:end].rstrip(b"\r\n")
        text = record.lstrip(b"\r\n")
        return offset + begin + len(record) - len(text), text


LINES = Separator(re.compile(rb"\n"), lines=True, around=1)
BLOCKS = Separator(re.compile(rb"\n\r?\n(?!\r?\n)"), around=3)
FASTA = Separator(re.compile(rb"\n(?=>)"), around=2)


def in_range(
    read: Callable[[int, int], bytes], start: int, stop: int, size: int, separator: Separator
) -> Iterator[tuple[int, bytes]]:
    """``(offset, data)`` of the whole records that begin in ``[start, stop)`` of a file.

    The file has ``size`` bytes; ``read(start, stop)`` gives some, until the end of the last record is there.
    """
    around = separator.around
    base = max(0, start - around)
    upto = min(size, stop + _AHEAD)
    data = read(base, upto)
    begin = 0 if start == 0 else separator.first(data, start - base)
    if begin is None or base + begin >= stop:
        return
    end = separator.first(data, stop - base)
    if upto < size and (end is None or end > len(data) - around):
        data = _read_on(read, data, stop - base, upto, size, separator)
        end = separator.first(data, stop - base)
    end = len(data) if end is None else end
    if end - begin <= _LARGE:  # `data` stays: freed alone, its memory would go back to the system each time
        yield base + begin, separator.cut(data, begin, end)
        return
    last = separator.last(data[: stop - base])
    if begin < last < end:
        yield base + begin, separator.cut(data, begin, last)
        begin = last
    data = separator.cut(data, begin, end)
    yield base + begin, data


def _read_on(
    read: Callable[[int, int], bytes], data: bytes, scan: int, upto: int, size: int, separator: Separator
) -> bytes:
    """``data`` and what follows at byte ``upto`` of the file, until a record surely ends after ``scan``."""
    around = separator.around
    parts, length, ahead = [data], len(data), _AHEAD
    while upto < size:
        # The end of a record that was in doubt, or begins in the old data, is found again in their last bytes.
        keep = min(2 * around, length)
        ahead = min(2 * ahead, _MOST_AHEAD)
        more = read(upto, min(size, upto + ahead))
        upto, length = upto + len(more), length + len(more)
        tail = b"".join([_last_bytes(parts, keep), more])
        parts.append(more)
        sure = around if keep < length - len(more) else 0  # what is before has been looked at
        end = separator.first(tail, max(sure, scan - (length - len(tail))))
        if end is not None and end <= len(tail) - around:
            break
    return b"".join(parts)


def in_stream(chunks: Iterator[bytes], separator: Separator) -> Iterator[tuple[int, bytes]]:
    """``(offset, data)`` of whole records, for all of a stream of chunks of bytes.

    What ``chunks`` raises goes on to the caller; the records that were whole by then have been given.
    """
    pending: list[bytes] = []
    size, offset = 0, 0
    for chunk in chunks:
        end = _last_end(pending, size, chunk, separator)
        pending.append(chunk)
        size += len(chunk)
        if end:
            data = b"".join(pending)
            pending, size = [data[end:]], size - end
            first = separator.first(data, 1) if end > _LARGE else None
            begin = first if first and first < end else 0
            rest = separator.cut(data, begin, end)
            if begin:
                data = separator.cut(data, 0, begin)
                yield offset, data
            data = rest
            yield offset + begin, data
            offset += end
    data = b"".join(pending)
    pending = []
    if data:
        yield offset, separator.cut(data, 0, len(data))


def _last_end(pending: list[bytes], size: int, chunk: bytes, separator: Separator) -> int:
    """Where in ``pending`` and ``chunk`` the last record ends that surely does; 0 where there is none.

    A record of many chunks is searched once, not with each of them again.
    """
    if separator.lines:
        end = separator.last(chunk)
        return size + end if end else 0
    tail = _last_bytes(pending, 2 * separator.around)
    end = separator.last(tail + chunk)
    seen = separator.around if len(tail) < size else 0  # what is before has been looked at
    return size - len(tail) + end if end > seen else 0


def _last_bytes(parts: list[bytes], count: int) -> bytes:
    """The last ``count`` bytes of ``parts`` laid end to end."""
    found = b""
    for part in reversed(parts):
        found = part[-(count - len(found)) :] + found
        if len(found) >= count:
            break
    return found
