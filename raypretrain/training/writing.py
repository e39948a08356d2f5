"""Writing a worker's part of a checkpoint: hashed while it is written, synced, and nothing of it left if it fails."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import torch

Files = dict[str, dict[str, Any]]
"""What a manifest says of its files: path in the checkpoint's folder → ``{"bytes": …, "sha256": …}``."""

State = list[tuple[str, Any]]
"""A worker's part of a checkpoint: paths in its folder, and what is written there."""

Snapshot = tuple[State, Callable[[], None]]
"""A copy of that which is still being made, and what waits for it, in any thread."""

_SMALL = 1 << 16
_NICER = 10


def give_way() -> None:
    """Let this thread, which saves, come after those that train where they share a CPU (Linux: each has its own)."""
    with suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)


class HashedFile:
    """A file to write to whose SHA-256 is taken meanwhile, by a thread of its own.

    An error of the disk does not come out of :meth:`write`, which torch's writer would not survive, but at the end.
    """

    def __init__(self, path: Path, sync: bool = True) -> None:
        self._sync = sync
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._hash = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1, "hash", initializer=give_way)
        self._error: OSError | None = None
        self.bytes = 0

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        try:
            if self._sync and self._error is None and error is None:
                os.fsync(self._handle)
        finally:
            os.close(self._handle)
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write all of ``data``; after an error nothing more."""
        view = memoryview(data).cast("B")
        if self._error is None:
            hashing: Future[None] | None = None
            if len(view) > _SMALL:
                hashing = self._pool.submit(self._hash.update, view)
            else:
                self._hash.update(view)
            try:
                self._write(view)
            except OSError as error:
                self._error = error
            if hashing:
                hashing.result()  # the memory is the caller's again after this
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    @property
    def about(self) -> dict[str, Any]:
        """What a manifest says of this file."""
        return {"bytes": self.bytes, "sha256": self._hash.hexdigest()}

    def _write(self, view: memoryview) -> None:
        while len(view):
            done = os.write(self._handle, view[: 1 << 30])
            self.bytes += done
            view = view[done:]


def write_part(folder: Path, state: State) -> Files:
    """Write a worker's part below ``folder``; returns the sizes and hashes of its files.

    Raises:
        OSError: a file cannot be written; none of them stays.
    """
    files: Files = {}
    begun: list[Path] = []
    try:
        for name, value in state:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            begun.append(path)
            with HashedFile(path) as file, _no_checksums():
                torch.save(value, cast(IO[bytes], file))
            files[name] = file.about
        for parent in {path.parent for path in begun}:
            _sync(parent)
    except BaseException:
        for path in begun:
            path.unlink(missing_ok=True)
        raise
    return files


@contextmanager
def _no_checksums() -> Iterator[None]:
    """Without torch's own CRC-32 of each tensor: it takes twice as long as the rest, and the manifest has hashes."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
