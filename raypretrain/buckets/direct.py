"""Reading ranges of an object by a signed URL, made once for the object, past most of botocore.

A request through botocore takes about 2 ms of CPU time to be validated, routed, signed and parsed; a task of the stream
makes several of them for a window. What is refused here is asked again through botocore, which knows how to say why.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import ssl
import time
from contextlib import suppress
from typing import Any

import aiohttp
import yarl
from botocore.exceptions import ClientError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from raypretrain.buckets.retries import CONNECT_SECONDS, READ_SECONDS

_SIGNED_SECONDS = 3600
_USED_SECONDS = 1800
_MOST_URLS = 4096
_BUFFER = 1 << 21
_NOT_TAKEN = {400, 401, 403}
_REFUSALS = 3  # one after the other, and the store does not take signed URLs


class SignedReads:
    """GET requests to signed URLs, on fsspec's event loop.

    Args:
        connections: at most so many at once.
    """

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[tuple[str, str], tuple[yarl.URL, float]] = {}
        self._refused = 0
        self._off = False

    async def get(
        self, client: Any, bucket: str, key: str, start: int, stop: int, tag: str | None
    ) -> bytes | None:
        """The bytes ``[start, stop)``; None where botocore has to ask.

        Args:
            client: of aiobotocore.
            tag: the ETag that the object must have.

        Raises:
            ClientError: the store says no, as botocore raises it.
            aiohttp.ClientError, TimeoutError: the connection broke.
        """
        url, until = self._urls.get((bucket, key), (None, 0.0))
        fresh = time.monotonic() >= until
        if fresh and not self._off:
            url = await self._signed(client, bucket, key)
        if self._off or url is None:
            return None
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        if tag:
            headers["If-Match"] = f'"{tag}"'
        with suppress(aiohttp.ClientSSLError):
            async with self._opened().get(url, headers=headers, allow_redirects=False) as answer:
                if answer.status >= 400 and answer.status not in _NOT_TAKEN:
                    raise _failure(answer.status, await answer.text(errors="replace"))
                if answer.status == 206 and (not tag or answer.headers.get("ETag", "").strip('"') == tag):
                    self._refused = 0
                    return await answer.read()
        self._urls.pop((bucket, key), None)
        self._refused += fresh  # an older one may have been signed with keys that have expired
        self._off = self._refused >= _REFUSALS
        return None

    async def _signed(self, client: Any, bucket: str, key: str) -> yarl.URL | None:
        target = {"Bucket": bucket, "Key": key}
        made = await client.generate_presigned_url("get_object", target, ExpiresIn=_SIGNED_SECONDS)
        if get_environ_proxies(made):  # botocore goes by them
            self._off = True
            return None
        if len(self._urls) >= _MOST_URLS:
            self._urls.clear()
        url = yarl.URL(made, encoded=True)  # quoted in another way it would not be what was signed
        self._urls[bucket, key] = url, time.monotonic() + _USED_SECONDS
        return url

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, ssl=_trust()),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_BUFFER,
            )
            atexit.register(_close, self._session, asyncio.get_running_loop())
        return self._session


def _trust() -> ssl.SSLContext:
    """The certificates that botocore goes by."""
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
    return ssl.create_default_context(cafile=bundle or get_cert_path(True))


def _failure(status: int, body: str) -> ClientError:
    """As botocore raises it."""
    said = {name: found[1] for name in ("Code", "Message") if (found := re.search(f"<{name}>([^<]*)<", body))}
    about = {"Error": {"Code": str(status), **said}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(about, "GetObject")


def _close(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """Or aiohttp complains as the process ends."""
    with suppress(Exception):
        asyncio.run_coroutine_threadsafe(session.close(), loop).result(timeout=1)
