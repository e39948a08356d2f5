"""Stores that fsspec reaches. Their methods are coroutines for fsspec's event loop, and are patient by themselves."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
from datetime import datetime
from typing import Any

import fsspec
import fsspec.core

from raypretrain.buckets.refusals import ChangedError, Options, ShorterError, refusal
from raypretrain.buckets.retries import Link, request
from raypretrain.errors import StorageError

Entry = tuple[str, int, str]
"""The path of an object without its scheme, its size in bytes, and its tag."""

EXTRAS = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "gcs": ("gcsfs", "gs"),
    "az": ("adlfs", "az"),
    "abfs": ("adlfs", "az"),
    "abfss": ("adlfs", "az"),
}
"""The package that a scheme needs, and the extra that brings it."""

_TAGS = ("ETag", "generation", "etag", "md5Hash", "md5", "mtime", "updated", "last_modified", "created")


class Store:
    """Any store of fsspec's. Paths are written as fsspec does, ``BUCKET/KEY``.

    Every method raises what the library of the store raises, once asking again does not help any more.
    """

    def __init__(self, fs: Any, link: Link | None = None) -> None:
        self.fs = fs
        self.link = link or Link(at_first=1)  # the libraries of other stores ask several times by themselves
        self._alone = asyncio.Lock()

    def path(self, url: str) -> str:
        """What the store calls the object."""
        return str(self.fs._strip_protocol(url))

    async def find(self, root: str, begin: str = "") -> list[Entry]:
        """All objects below ``root`` that ``begin`` so, and perhaps others; or the object ``root`` itself."""
        found = await request(self.link, lambda: self._do("find", root, detail=True))
        return [
            (info["name"].lstrip("/"), int(info["size"]), _tag(info))
            for info in found.values()
            if info.get("type", "file") == "file"
        ]

    async def info(self, path: str) -> Entry:
        """What there is to say of an object."""
        found = await request(self.link, lambda: self._do("info", path))
        if found.get("type", "file") != "file":
            raise FileNotFoundError(path)
        return path, int(found["size"]), _tag(found)

    async def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        try:
            await self.info(path)
        except FileNotFoundError:
            return False
        return True

    async def read(self, path: str, start: int, stop: int, tag: str | None) -> bytes:
        """Exactly the bytes ``[start, stop)``, of the object with ``tag`` where one is given.

        Raises:
            ChangedError: it has another tag.
            ShorterError: it ends before.
        """

        async def get() -> bytes:
            data = await self._get(path, start, stop, tag)
            if len(data) != stop - start:
                raise ShorterError(path)
            return data

        return await request(self.link, get, stop - start, hedge=True)

    async def write(self, path: str, data: bytes) -> None:
        """Put a small object there, whole or not at all."""
        await request(self.link, lambda: self._do("pipe_file", path, data), len(data))

    async def upload(self, path: str, file: str) -> None:
        """Put the local ``file`` there, whole or not at all."""
        await request(self.link, lambda: self._do("put_file", file, path), os.path.getsize(file))

    async def remove(self, path: str) -> None:
        """Take the object away."""
        await request(self.link, lambda: self._do("rm_file", path))

    async def _get(self, path: str, start: int, stop: int, tag: str | None) -> bytes:
        if not tag:
            data: bytes = await self._do("cat_file", path, start=start, end=stop)
            return data
        # Both at the same time: fsspec does not give the tag with the bytes.
        both = await asyncio.gather(self._do("cat_file", path, start=start, end=stop), self._do("info", path))
        if _tag(both[1]) != tag:
            raise ChangedError(path)
        return bytes(both[0])

    async def _do(self, name: str, *args: Any, **options: Any) -> Any:
        """A method of the file system, whichever kind it is."""
        if self.fs.async_impl:
            return await getattr(self.fs, f"_{name}")(*args, **options)
        async with self._alone:
            return await asyncio.to_thread(getattr(self.fs, name), *args, **options)


def _tag(info: dict[str, Any]) -> str:
    """What changes when the object is replaced; nothing where the store tells nothing of the kind."""
    found = next((info[name] for name in _TAGS if info.get(name)), "")
    return str(found.timestamp() if isinstance(found, datetime) else found).strip('"')


_stores: dict[tuple[Any, ...], Store] = {}
_opening = threading.Lock()


def store_of(url: str, options: Options | None) -> Store:
    """The store that ``url`` is in; opened once for each process, place and set of keys.

    Raises:
        StorageError: the scheme is not understood, or its package is not installed.
    """
    scheme, _, path = url.partition("://")
    given = {key: value for key, value in (options or {}).items() if value is not None}
    # fsspec's own cache does not see that the keys in the environment have changed.
    keys = tuple(
        sorted(pair for pair in os.environ.items() if pair[0].startswith(("AWS_", "AZURE_", "GOOGLE_")))
    )
    known = (os.getpid(), scheme, path.partition("/")[0], tuple(sorted(given.items())), keys)
    with _opening:
        if known not in _stores:
            _require(scheme, url)
            _stores[known] = _open(url, scheme, given)
        return _stores[known]


def _require(scheme: str, url: str) -> None:
    """See that what the scheme needs is installed."""
    package, extra = EXTRAS.get(scheme, ("", ""))
    if not package:
        if scheme in fsspec.available_protocols():
            return
        fix = "use a local path, or an s3://, gs:// or az:// URL"
        raise StorageError(f"'{scheme}://' is not understood", where=url, fix=fix)
    try:
        importlib.import_module(package)
    except ImportError:
        what = f"{scheme}:// needs the package {package}"
        raise StorageError(what, where=url, fix=f"pip install 'raypretrain[{extra}]'") from None


def _open(url: str, scheme: str, given: Options) -> Store:
    if scheme == "s3":
        from raypretrain.buckets.s3 import S3Store, open_s3

        return S3Store(open_s3(given), Link())
    if "endpoint_url" in given and EXTRAS.get(scheme, ("", ""))[1] == "az":
        raise StorageError("az:// has no endpoint_url", where=url, fix="set AZURE_STORAGE_CONNECTION_STRING")
    try:
        fs, _ = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False, **given)
    except Exception as error:
        raise refusal(url, given, error) from None
    return Store(fs)
