"""From plain code to the stores: listing, reading ahead, writing; whatever fails is one :class:`StorageError`."""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from fsspec.asyn import get_loop

from raypretrain.buckets.refusals import Options, refusal
from raypretrain.buckets.stores import Store, store_of
from raypretrain.errors import StorageError

T = TypeVar("T")

_FIRST = 1 << 20  # what comes first is small, so that it comes soon
_BLOCK = 4 << 20
_AHEAD = 2  # blocks of 4 MB: at 50 ms and 50 MB/s a connection, twice as many bytes a second as one at a time


@dataclass(frozen=True)
class Remote:
    """An object, or a prefix, and how to reach it."""

    url: str
    options: Options | None = None

    def call(self, action: Callable[[Store, str], Coroutine[Any, Any, T]]) -> T:
        """What ``action(store, path)`` comes to.

        Raises:
            StorageError: one line, without secrets.
        """
        return self.result(self.start(action))

    def start(self, action: Callable[[Store, str], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begin ``action(store, path)``; it goes on by itself."""
        store = store_of(self.url, self.options)
        return asyncio.run_coroutine_threadsafe(action(store, store.path(self.url)), get_loop())

    def result(self, future: Future[T]) -> T:
        """Wait for what was started."""
        try:
            return future.result()
        except StorageError:
            raise
        except Exception as error:
            raise refusal(self.url, self.options, error) from None
        finally:
            future.cancel()


class RemoteFile(io.RawIOBase):
    """An object of known size as a seekable file.

    As long as it is read on from where the last read ended, what comes next is fetched meanwhile: at first as
    much as was read in one go, at most ``_AHEAD`` blocks.
    """

    def __init__(self, remote: Remote, size: int, tag: str | None) -> None:
        super().__init__()
        self._remote, self._size, self._tag = remote, size, tag
        self._position = 0
        self._blocks: deque[tuple[int, int, Future[bytes]]] = deque()  # one after the other, without a gap
        self._run = _BLOCK  # bytes read in one go; who begins at the beginning will read it all

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        want = min(len(buffer), self._size - self._position)
        if want <= 0:
            return 0
        self._prepare(want)
        start, _, future = self._blocks[0]
        data = memoryview(self._remote.result(future))
        data = data[self._position - start :][:want]
        buffer[: len(data)] = data
        self._position += len(data)
        self._run += len(data)
        return len(data)

    def close(self) -> None:
        self._forget()
        super().close()

    def _prepare(self, want: int) -> None:
        """Have the block with the present position first, and those after it on their way."""
        end = self._blocks[-1][1] if self._blocks else 0
        goes_on = self._position == end or any(
            start <= self._position < stop for start, stop, _ in self._blocks
        )
        if not goes_on:
            self._forget()
            self._run = 0
            self._fetch(self._position, max(want, 0))
            return
        while self._blocks and self._blocks[0][1] <= self._position:
            self._blocks.popleft()
        if not self._blocks:
            self._fetch(self._position, max(want, min(_FIRST, self._run)))
        while len(self._blocks) <= _AHEAD and (end := self._blocks[-1][1]) < self._size:
            if end - self._position > self._run:  # no more than was read already
                break
            self._fetch(end, min(_BLOCK, max(_FIRST, self._run)))

    def _fetch(self, start: int, count: int) -> None:
        stop = min(self._size, start + count)
        tag = self._tag
        future = self._remote.start(lambda store, path: store.read(path, start, stop, tag))
        self._blocks.append((start, stop, future))

    def _forget(self) -> None:
        while self._blocks:
            self._blocks.pop()[2].cancel()
