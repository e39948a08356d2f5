"""S3 and what speaks its language, by way of s3fs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable
from typing import Any

import s3fs

from raypretrain.buckets.direct import SignedReads
from raypretrain.buckets.refusals import ChangedError, Options
from raypretrain.buckets.retries import CONNECT_SECONDS, READ_SECONDS, Link, request
from raypretrain.buckets.stores import Entry, Store

_CONNECTIONS = 32
_PAGE = 1000
_PART = 16 << 20
_MOST_PARTS = 9_000  # S3 takes 10,000
_PARTS_AT_ONCE = 4


def open_s3(options: Options) -> Any:
    """The file system; it asks once and no more, for it is we who ask again, and count."""
    config = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": _CONNECTIONS,
        "retries": {"total_max_attempts": 1},
        "signature_version": "s3v4",  # of signed URLs too
    }
    fs = s3fs.S3FileSystem(
        use_listings_cache=False, skip_instance_cache=True, config_kwargs=config, **options
    )
    fs.retries = 1
    return fs


class S3Store(Store):
    """As every store, but: lists by pages, reads by signed URLs, compares the ETag itself, uploads in parts."""

    def __init__(self, fs: Any, link: Link) -> None:
        super().__init__(fs, link)
        self._signed = SignedReads(_CONNECTIONS)

    async def find(self, root: str, begin: str = "") -> list[Entry]:
        bucket, key = self._split(root)
        prefix = f"{key}/{begin}" if key else begin
        found: list[Entry] = []
        more: dict[str, Any] = {}
        while True:
            page = await self._ask("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=_PAGE, **more)
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):  # a folder's marker
                    found.append((f"{bucket}/{entry['Key']}", int(entry["Size"]), _bare(entry.get("ETag"))))
            if not page.get("IsTruncated"):
                break
            more = {"ContinuationToken": page["NextContinuationToken"]}
        if not found and key and not begin:
            try:
                return [await self.info(root)]
            except FileNotFoundError:
                return []
        return found

    async def info(self, path: str) -> Entry:
        bucket, key = self._split(path)
        head = await self._ask("head_object", Bucket=bucket, Key=key)
        return path, int(head["ContentLength"]), _bare(head.get("ETag"))

    async def write(self, path: str, data: bytes) -> None:
        bucket, key = self._split(path)
        await self._ask("put_object", len(data), Bucket=bucket, Key=key, Body=data)

    async def remove(self, path: str) -> None:
        bucket, key = self._split(path)
        await self._ask("delete_object", Bucket=bucket, Key=key)

    async def upload(self, path: str, file: str) -> None:
        """In parts where it is large; on a failure the parts are thrown away."""
        size = await asyncio.to_thread(os.path.getsize, file)
        part = max(_PART, -(-size // _MOST_PARTS))
        if size <= part:
            await self.write(path, await asyncio.to_thread(_piece, file, 0, size))
            return
        bucket, key = self._split(path)
        made = await self._ask("create_multipart_upload", Bucket=bucket, Key=key)
        target = {"Bucket": bucket, "Key": key, "UploadId": made["UploadId"]}
        try:
            await self._parts(target, file, size, part)
        except BaseException:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._ask("abort_multipart_upload", **target))
            raise
        if (await self.info(path))[1] != size:
            raise OSError(f"{path} is not as large as what was uploaded")

    async def _parts(self, target: dict[str, str], file: str, size: int, part: int) -> None:
        slots = asyncio.Semaphore(_PARTS_AT_ONCE)
        sending = [
            asyncio.ensure_future(self._part(target, number, file, start, part, slots))
            for number, start in enumerate(range(0, size, part), 1)
        ]
        try:
            tags = await asyncio.gather(*sending)
        finally:
            for task in sending:
                task.cancel()
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        try:
            await self._ask("complete_multipart_upload", **target, MultipartUpload={"Parts": parts})
        except FileNotFoundError:  # its first answer was lost, and there is nothing left to complete
            await self.info("/".join([target["Bucket"], target["Key"]]))

    async def _part(
        self, target: dict[str, str], number: int, file: str, start: int, size: int, slots: asyncio.Semaphore
    ) -> str:
        """Upload one part; returns its ETag."""
        async with slots:
            data = await asyncio.to_thread(_piece, file, start, size)
            sent = await self._ask("upload_part", len(data), **target, PartNumber=number, Body=data)
        return str(sent["ETag"])

    async def _get(self, path: str, start: int, stop: int, tag: str | None) -> bytes:
        bucket, key = self._split(path)
        await self.fs.set_session()
        direct = await self._signed.get(await self.fs.get_s3(bucket), bucket, key, start, stop, tag)
        if direct is not None:
            return direct
        wanted = {"IfMatch": f'"{tag}"'} if tag else {}
        response = await self._call(
            "get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **wanted
        )
        try:
            if tag and _bare(response.get("ETag")) != tag:  # a store that does not know If-Match
                raise ChangedError(path)
            data: bytes = await response["Body"].read()
            return data
        finally:
            response["Body"].close()

    async def _ask(self, method: str, size: int = 0, /, **arguments: Any) -> dict[str, Any]:
        return await request(self.link, lambda: self._call(method, **arguments), size)

    def _call(self, method: str, **arguments: Any) -> Awaitable[dict[str, Any]]:
        call: Awaitable[dict[str, Any]] = self.fs._call_s3(method, **arguments)
        return call

    def _split(self, path: str) -> tuple[str, str]:
        bucket, key, _ = self.fs.split_path(path)
        return bucket, key


def _piece(file: str, start: int, size: int) -> bytes:
    with open(file, "rb") as source:
        source.seek(start)
        return source.read(size)


def _bare(tag: str | None) -> str:
    return (tag or "").strip('"')
