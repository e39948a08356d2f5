"""One small seam over file systems: local paths and ``s3://`` URLs, atomic writes, hashes, retries.

Reading understands both; writing is local (a run's folder is a local or a mounted path). Whatever goes
wrong with a bucket (credentials, access, name, network) ends as one :class:`StorageError` after seconds,
not minutes.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from raypretrain import buckets
from raypretrain.buckets import Options
from raypretrain.errors import StorageError

_READ_AHEAD = 4 << 20


@dataclass(frozen=True)
class FileInfo:
    """A file, its size in bytes, and a tag that changes with its content (ETag; local: mtime in ns)."""

    url: str
    size: int
    tag: str


def is_remote(url: str) -> bool:
    """Whether ``url`` names an object in a bucket and not a local file."""
    return "://" in url and not url.startswith("file://")


def list_files(pattern: str, options: Options | None = None) -> list[FileInfo]:
    """The files that ``pattern`` names (a file, a folder with all below it, or a glob), sorted by URL.

    What begins with ``.`` or ``_`` below a folder (markers, temporary files) is left out, and a wildcard
    matches no leading dot. Nothing there is an empty list. A bucket's prefix is listed once.

    Raises:
        StorageError: the bucket or the folder cannot be listed.
    """
    if is_remote(pattern):
        found = [FileInfo(*entry) for entry in buckets.list_remote(pattern, options)]
    else:
        found = _list_local(_local(pattern))
    return sorted(found, key=lambda info: info.url)


def open_read(url: str, options: Options | None = None, size: int | None = None) -> BinaryIO:
    """``url`` opened for reading bytes, seekable. A known ``size`` saves asking the bucket for it."""
    if not is_remote(url):
        try:
            return open(_local(url), "rb")
        except OSError as error:
            raise _local_error(url, error) from None
    if size is None:
        size = buckets.size_of(url, options)
    return io.BufferedReader(buckets.RemoteFile(url, options, size), _READ_AHEAD)


def read_range(url: str, start: int, stop: int, options: Options | None = None) -> bytes:
    """The bytes ``[start, stop)`` of ``url``, fewer where the local file ends before.

    Raises:
        StorageError: it cannot be read, or the object is shorter than ``stop``.
    """
    if stop <= start:
        return b""
    if not is_remote(url):
        with open_read(url) as file:
            file.seek(start)
            return file.read(stop - start)
    return buckets.read_remote(url, start, stop, options)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write the file at ``path`` whole or not at all: a temporary file beside it, synced, then renamed."""
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _local_error(str(path), error) from None
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a local file, in hex."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _local_error(str(path), error) from None


def check_writable(folder: str | Path, need_bytes: int = 0) -> None:
    """See that ``folder`` (or, where it does not exist yet, the folder above) takes files and has the space.

    Leaves nothing behind and creates no folder.

    Raises:
        StorageError: no permission, not a folder, or less than ``need_bytes`` free.
    """
    folder = Path(folder).absolute()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir():
        raise StorageError("is a file, not a folder", where=str(existing), fix="give another folder")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise _local_error(str(folder), error) from None
    if free < need_bytes:
        raise StorageError(
            f"not enough space: {_size(free)} free, {_size(need_bytes)} needed",
            where=str(folder),
            fix="free some, or give another folder",
        )


# ---------------------------------------------------------------------------------------------- local files


def _local(path: str) -> str:
    return path.removeprefix("file://")


def _list_local(pattern: str) -> list[FileInfo]:
    if os.path.isfile(pattern):
        return [_local_info(pattern)]
    if os.path.isdir(pattern):
        return [_local_info(path) for path in _walk(pattern)]
    if not buckets.MAGIC.search(pattern):
        return []
    hits = glob.glob(pattern, recursive=True)
    return [_local_info(hit) for hit in hits if os.path.isfile(hit)]


def _walk(folder: str) -> list[str]:
    def fail(error: OSError) -> None:
        raise _local_error(str(error.filename or folder), error) from None

    paths: list[str] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        paths += [os.path.join(root, name) for name in names if not name.startswith((".", "_"))]
    return paths


def _local_info(path: str) -> FileInfo:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _local_error(path, error) from None
    return FileInfo(path, status.st_size, str(status.st_mtime_ns))


def _local_error(where: str, error: OSError) -> StorageError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return StorageError("no permission", where=where, fix="change its permissions, or give another path")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError("no space left", where=where, fix="free some, or give another folder")
    return StorageError(error.strerror or str(error), where=where)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut; a file system without it is left alone."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)


def _size(count: int) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count = count / 1000  # type: ignore[assignment]
    return f"{count:.3g} TB"
