"""A remote file that fetches just what it is asked for, for formats that know what they need."""

from __future__ import annotations

import io
from typing import Any

from raypretrain import storage


class RangeFile(io.RawIOBase):
    """A file of ``size`` bytes; each read is one request, without read-ahead."""

    def __init__(self, url: str, options: storage.Options | None, size: int, tag: str | None) -> None:
        self._url, self._options, self._size, self._tag = url, options, size, tag
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._size, self._at + len(buffer))
        data = storage.read_range(self._url, self._at, stop, self._options, self._tag)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
