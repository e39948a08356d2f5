"""A remote file that fetches just what it is asked for, for formats that know what they need."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import Any

from raypretrain import storage


class PlacedFile(io.RawIOBase, ABC):
    """A file of ``size`` bytes that is read by place."""

    def __init__(self, size: int) -> None:
        self._size, self._at = size, 0

    @abstractmethod
    def between(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` to before ``stop``."""

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
        data = self.between(self._at, min(self._size, self._at + len(buffer)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class RangeFile(PlacedFile):
    """A remote file; each read is one request, without read-ahead."""

    def __init__(self, url: str, options: storage.Options | None, size: int, tag: str | None) -> None:
        super().__init__(size)
        self._url, self._options, self._tag = url, options, tag

    def between(self, start: int, stop: int) -> bytes:
        return storage.read_range(self._url, start, stop, self._options, self._tag)
