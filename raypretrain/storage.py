"""One small seam over file systems: local paths, and the URLs of object stores (``s3://``, ``gs://``, ``az://``).

Both are listed, read and written here. The folder of a run is a local or a mounted path all the same. Whatever
goes wrong with a store (credentials, access, name, network) ends as one :class:`StorageError`, without secrets.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from raypretrain import local
from raypretrain.buckets import ahead
from raypretrain.buckets.listing import list_remote
from raypretrain.buckets.reading import Remote, RemoteFile
from raypretrain.buckets.refusals import Options
from raypretrain.buckets.retries import Counts, counters, take_counts
from raypretrain.local import check_writable, sha256_file, write_atomic

__all__ = [
    "Counts", "FileInfo", "Options", "check_writable", "counters", "download", "exists", "is_remote", "list_files",
    "open_read", "read_ahead", "read_range", "remove", "sha256_file", "take_counts", "upload", "upload_folder", "write",
    "write_atomic",
]  # fmt: skip

T = TypeVar("T")

_BUFFER = 1 << 16
_AHEAD = 4


@dataclass(frozen=True)
class FileInfo:
    """A file, its size in bytes, and a tag that changes with its content (ETag; local: mtime in ns)."""

    url: str
    size: int
    tag: str


def is_remote(url: str) -> bool:
    """Whether ``url`` names an object in a store and not a local file."""
    return "://" in url and not url.startswith("file://")


def list_files(pattern: str, options: Options | None = None) -> list[FileInfo]:
    """The files that ``pattern`` names (a file, a folder with all below it, or a glob), sorted by URL.

    What begins with ``.`` or ``_`` below a folder (markers, temporary files) is left out, and a wildcard
    matches no leading dot. Nothing there is an empty list. A bucket's prefix is listed once.

    Raises:
        StorageError: the bucket or the folder cannot be listed.
    """
    found = list_remote(pattern, options) if is_remote(pattern) else local.list_local(_path(pattern))
    return sorted((FileInfo(*entry) for entry in found), key=lambda info: info.url)


def exists(url: str, options: Options | None = None) -> bool:
    """Whether there is a file (not a folder) at ``url``.

    Raises:
        StorageError: it cannot be known.
    """
    if not is_remote(url):
        return Path(_path(url)).is_file()
    return Remote(url, options).call(lambda store, path: store.exists(path))


def open_read(
    url: str, options: Options | None = None, size: int | None = None, tag: str | None = None
) -> BinaryIO:
    """``url`` opened for reading bytes, seekable. What is read from a store in one go is fetched ahead of need.

    Args:
        size: its bytes; where they are not known, the store is asked.
        tag: the tag that it was listed with; a file that has changed since is refused, now or when it is read.

    Raises:
        StorageError: it cannot be read, or is not the one that was listed.
    """
    if not is_remote(url):
        return local.open_local(_path(url), size, tag)
    remote = Remote(url, options)
    if size is None:
        size = remote.call(lambda store, path: store.info(path))[1]
    return io.BufferedReader(RemoteFile(remote, size, tag), _BUFFER)


def read_range(
    url: str, start: int, stop: int, options: Options | None = None, tag: str | None = None
) -> bytes:
    """The bytes ``[start, stop)`` of ``url``, fewer where the local file ends before.

    Raises:
        StorageError: it cannot be read, is not the one that was listed with ``tag``, or the object is shorter
            than ``stop``.
    """
    if stop <= start:
        return b""
    if is_remote(url):
        return Remote(url, options).call(lambda store, path: store.read(path, start, stop, tag))
    with local.open_local(_path(url), None, tag) as file:
        file.seek(start)
        return file.read(stop - start)


def read_ahead(iterables: Iterable[Iterable[T]], depth: int = _AHEAD) -> Iterator[Iterator[T]]:
    """Each of ``iterables`` as an iterator, in order; the ``depth`` after it have been begun in threads.

    For what reads from a store when its first item is asked for, so that it does not wait for each in turn.
    """
    return ahead.read_ahead(iterables, depth)


def write(url: str, data: bytes, options: Options | None = None) -> None:
    """Write a small file whole or not at all, here or in a store.

    Raises:
        StorageError: it cannot be written.
    """
    if not is_remote(url):
        write_atomic(_path(url), data)
        return
    Remote(url, options).call(lambda store, path: store.write(path, data))


def upload_folder(
    folder: str | Path, url: str, options: Options | None = None, last: str | None = None
) -> list[str]:
    """Copy all files of a local folder, and of those within, to below ``url``; returns what they are called there.

    Large files go up in parts; those of one that fails are thrown away.

    Args:
        last: the file, by its path in the folder, without which the rest is worth nothing. One that is there
            already is removed first, and the new one comes last, so that half a copy is as good as none.

    Raises:
        StorageError: something cannot be read or written.
    """
    folder, url = Path(folder), url.rstrip("/")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    if last is not None:
        names.remove(last)
        names.append(last)
        remove(f"{url}/{last}", options)
    for name in names:
        upload(folder / name, f"{url}/{name}", options)
    return [f"{url}/{name}" for name in names]


def upload(file: str | Path, url: str, options: Options | None = None) -> None:
    """Copy a local file to ``url``, whole or not at all; large ones in parts.

    Raises:
        StorageError: it cannot be read or written.
    """
    if not is_remote(url):
        with local.open_local(str(file)) as source:
            local.copy_atomic(source, _path(url))
        return
    Remote(url, options).call(lambda store, path: store.upload(path, str(file)))


def download(file: FileInfo, to: str | Path, options: Options | None = None) -> None:
    """Copy a file that was listed to a local one, whole or not at all.

    Raises:
        StorageError: it cannot be read or written, or is not the one that was listed.
    """
    with open_read(file.url, options, file.size, file.tag) as source:
        local.copy_atomic(source, to)


def remove(url: str, options: Options | None = None) -> None:
    """Take the file away, if it is there.

    Raises:
        StorageError: it cannot be removed.
    """
    if not is_remote(url):
        local.remove(_path(url))
    elif exists(url, options):
        Remote(url, options).call(lambda store, path: store.remove(path))


def _path(url: str) -> str:
    return url.removeprefix("file://")
