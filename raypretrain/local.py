"""Local files: listing, atomic writing, hashes, and the checks before a run."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from raypretrain.buckets.listing import MAGIC
from raypretrain.buckets.refusals import changed
from raypretrain.errors import StorageError

_COPY = 1 << 20


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write the file at ``path`` whole or not at all: a temporary file beside it, synced, then renamed."""
    content = data.encode("utf-8") if isinstance(data, str) else data
    with _whole_or_not(Path(path)) as file:
        file.write(content)


def copy_atomic(source: BinaryIO, path: str | Path) -> None:
    """Copy what is open to ``path``, whole or not at all."""
    with _whole_or_not(Path(path)) as file:
        shutil.copyfileobj(source, file, _COPY)


def remove(path: str | Path) -> None:
    """Take a file away, if it is there."""
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise _local_error(str(path), error) from None


@contextmanager
def _whole_or_not(path: Path) -> Iterator[BinaryIO]:
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _local_error(str(path), error) from None
    finally:
        with suppress(OSError):  # where its folder cannot be, it is not
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


def open_local(path: str, size: int | None = None, tag: str | None = None) -> BinaryIO:
    """The file opened for reading; with a ``tag``, only while its time (ns) and its size are as they were."""
    try:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
        status = os.fstat(file.fileno())
    except OSError as error:
        raise _local_error(path, error) from None
    if tag and (tag != str(status.st_mtime_ns) or size not in (None, status.st_size)):
        file.close()
        raise changed(path)
    return file


def list_local(pattern: str) -> list[tuple[str, int, str]]:
    """``(path, size, time in ns)`` of the files that a file, a folder or a glob names."""
    if os.path.isfile(pattern):
        return [_local_info(pattern)]
    if os.path.isdir(pattern):
        return [_local_info(path) for path in _walk(pattern)]
    if not MAGIC.search(pattern):
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


def _local_info(path: str) -> tuple[str, int, str]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _local_error(path, error) from None
    return path, status.st_size, str(status.st_mtime_ns)


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
