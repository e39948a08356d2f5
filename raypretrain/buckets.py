"""Buckets: listing and reading ``s3://`` URLs, with retries, and one clear line for whatever goes wrong."""

from __future__ import annotations

import fnmatch
import io
import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from raypretrain.errors import StorageError

Options = dict[str, Any]
"""How to reach a bucket: ``endpoint_url``, ``key``, ``secret``; the rest is the AWS environment's."""

T = TypeVar("T")

MAGIC = re.compile(r"[*?\[]")
_ATTEMPTS = 4
_FILE_SYSTEMS: dict[tuple[Any, ...], Any] = {}


def size_of(url: str, options: Options | None) -> int:
    """The size of an object, in bytes."""
    return int(remote(url, options, lambda fs: fs.info(url))["size"])


def read_remote(url: str, start: int, stop: int, options: Options | None) -> bytes:
    """Exactly the bytes ``[start, stop)`` of an object; a body that was cut short is asked for again."""

    if stop <= start:
        return b""

    def fetch(fs: Any) -> bytes:
        data = cast(bytes, fs.cat_file(url, start=start, end=stop))
        if len(data) != stop - start:
            raise OSError(f"{len(data)} bytes came instead of {stop - start}")
        return data

    return remote(url, options, fetch)


class RemoteFile(io.RawIOBase):
    """An object of known size as a seekable file; each read is one ranged request, retried by itself."""

    def __init__(self, url: str, options: Options | None, size: int) -> None:
        super().__init__()
        self._url, self._options, self._size, self._position = url, options, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._size, self._position + len(buffer))
        data = read_remote(self._url, self._position, stop, self._options)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def list_remote(pattern: str, options: Options | None) -> list[tuple[str, int, str]]:
    """``(url, size, ETag)`` of the objects that ``pattern`` names."""
    scheme, _, path = pattern.partition("://")
    magic = MAGIC.search(path)
    # The longest prefix without a wildcard: its keys are listed once, and matched here.
    root = path[: magic.start()].rpartition("/")[0] if magic else path.rstrip("/")
    if not root.partition("/")[0]:
        raise StorageError("no bucket is named", where=pattern, fix=f"write {scheme}://BUCKET/PATH")
    found = remote(pattern, options, lambda fs: fs.find(root, detail=True))
    accept = _glob_filter(path) if magic else _below(root)
    return [
        (f"{scheme}://{key}", int(info["size"]), str(info.get("ETag", "")).strip('"'))
        for key, info in found.items()
        if info.get("type", "file") == "file" and accept(key)
    ]


def _below(root: str) -> Callable[[str], bool]:
    def accept(key: str) -> bool:
        below = key.removeprefix(root).strip("/")
        return not any(part.startswith((".", "_")) for part in below.split("/"))

    return accept


def _glob_filter(pattern: str) -> Callable[[str], bool]:
    """As in :func:`glob.glob`: ``*`` stays within a folder, ``**`` crosses folders, no leading dot."""
    parts = pattern.split("/")

    def matches(names: list[str], wanted: list[str]) -> bool:
        if not wanted:
            return not names
        if wanted[0] == "**":
            skip = bool(names) and not names[0].startswith(".") and matches(names[1:], wanted)
            return matches(names, wanted[1:]) or skip
        if not names or (names[0].startswith(".") and not wanted[0].startswith(".")):
            return False
        return fnmatch.fnmatchcase(names[0], wanted[0]) and matches(names[1:], wanted[1:])

    return lambda key: matches(key.split("/"), parts)


def _file_system(url: str, options: Options | None) -> Any:
    scheme = url.partition("://")[0]
    if scheme != "s3":
        raise StorageError(
            f"'{scheme}://' is not understood", where=url, fix="use a local path or an s3:// URL"
        )
    try:
        import s3fs
    except ImportError:
        raise StorageError(
            "s3:// needs the package s3fs", where=url, fix="pip install 'raypretrain[s3]'"
        ) from None
    # s3fs retries by itself: botocore's own attempts inside each of them would make seconds into minutes.
    config = {"connect_timeout": 4, "read_timeout": 30, "retries": {"total_max_attempts": 1}}
    given = {key: value for key, value in (options or {}).items() if value is not None}
    # Kept by us: the cache of fsspec does not see that the keys in the environment have changed.
    keys = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    known = (os.getpid(), tuple(sorted(given.items())), keys)
    if known not in _FILE_SYSTEMS:
        _FILE_SYSTEMS[known] = s3fs.S3FileSystem(
            use_listings_cache=False, skip_instance_cache=True, config_kwargs=config, **given
        )
    return _FILE_SYSTEMS[known]


def remote(url: str, options: Options | None, action: Callable[[Any], T]) -> T:
    """``action(file system)``, repeated after a dropped connection or a short body, never after a refusal."""
    last: Exception | None = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(0.2 * 2**attempt)
        try:
            return action(_file_system(url, options))
        except StorageError:
            raise
        except Exception as error:  # aiohttp and botocore share no base class below Exception
            last = error
            if not _passing(error):
                break
    assert last is not None
    raise _remote_error(url, options, last) from last


def _passing(error: Exception) -> bool:
    """Whether trying again may help. What s3fs has itself tried five times already is not tried again."""
    name = type(error).__name__
    return name in ("ClientPayloadError", "ResponseStreamingError", "IncompleteReadError") or (
        type(error) is OSError and "bytes came instead" in str(error)
    )


_REFUSALS = {
    "InvalidAccessKeyId": "the access key is unknown there",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "AccessDenied": "access denied",
    "403": "access denied",
    "ExpiredToken": "the credentials have expired",
    "InvalidToken": "the session token is not valid",
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "404": "there is no such bucket or object",
    "InvalidRange": "the object has become shorter",
    "PermanentRedirect": "the bucket is in another region",
}
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "CredentialRetrievalError",
)
_FIXES = {
    "NoSuchBucket": "check the name",
    "NoSuchKey": "check the name",
    "404": "check the name",
    "InvalidRange": "start a new run on the changed corpus",
    "PermanentRedirect": "set AWS_DEFAULT_REGION to its region",
}


def _remote_error(url: str, options: Options | None, error: Exception) -> StorageError:
    code, name = _code(error), type(error).__name__
    keys = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"
    if what := _REFUSALS.get(code):
        return StorageError(what, where=url, fix=_FIXES.get(code, keys))
    if name in _NO_CREDENTIALS:
        return StorageError("there are no credentials for it", where=url, fix=keys)
    if isinstance(error, PermissionError):
        return StorageError(f"access denied ({error})", where=url, fix=keys)
    if isinstance(error, FileNotFoundError):
        return StorageError("there is no such bucket or object", where=url, fix="check the name")
    endpoint = (options or {}).get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL")
    at = f" at {endpoint}" if endpoint else ""
    if "Connect" in name or "Timeout" in name or isinstance(error, ConnectionError | TimeoutError):
        fix = "check endpoint_url and the network"
        return StorageError(f"the object store{at} cannot be reached ({name})", where=url, fix=fix)
    return StorageError(f"the object store{at} failed ({name}: {error})", where=url)


def _code(error: BaseException | None) -> str:
    """The error code that the object store gave, somewhere in the chain of causes; or nothing."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return str(response["Error"].get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""
