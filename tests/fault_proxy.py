"""An HTTP proxy in front of a real object store that is slow, refuses, resets, cuts bodies short and hangs, by rule.

What happens to request number *n* hangs on the seed and on *n* alone. Everything is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_PIECE = 1 << 16
_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Rules:
    """What goes wrong. Shares are of the requests; a request has one fault at most."""

    latency: float = 0.0
    """Seconds before each answer."""
    bandwidth: float | None = None
    """Bytes a second of each answer's body, and of each request's."""
    busy: float = 0.0
    """503 SlowDown."""
    reset: float = 0.0
    """The connection is reset instead of an answer."""
    cut: float = 0.0
    """The connection ends in the middle of the answer's body."""
    hang: float = 0.0
    """The answer comes ``hang_seconds`` later."""
    hang_seconds: float = 10.0
    seed: int = 0
    only: str = ""
    """Faults only for requests whose first line holds this text."""


@dataclass
class FaultProxy:
    """A proxy that runs. ``rules`` may be changed at any time; ``seen`` counts requests and faults.

    ``lines`` are the requests' first lines, ``most_at_once`` how many were being answered at the same time.
    """

    endpoint_url: str
    rules: Rules
    seen: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    def fault(self, line: str) -> str:
        """What happens to the next request."""
        draw = random.Random(f"{self.rules.seed}-{self.seen['requests']}").random()
        self.seen["requests"] += 1
        self.lines.append(line)
        if self.rules.only not in line:
            return ""
        for name in ("busy", "reset", "cut", "hang"):
            share = getattr(self.rules, name)
            if draw < share:
                self.seen[name] += 1
                return name
            draw -= share
        return ""


@contextlib.contextmanager
def fault_proxy(target: str, rules: Rules | None = None) -> Iterator[FaultProxy]:
    """A proxy in front of ``target`` (``http://HOST:PORT``), on a free loopback port, in a thread."""
    host, port = urlsplit(target).hostname, urlsplit(target).port
    proxy = FaultProxy("", rules or Rules())
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await _one(proxy, reader, writer, str(host), int(port or 80)):
                pass
        writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20))
    proxy.endpoint_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _one(
    proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int
) -> bool:
    """Pass one request and its answer on; returns whether the connection can be used again."""
    head = await reader.readuntil(b"\r\n\r\n")
    proxy.at_once += 1
    proxy.most_at_once = max(proxy.most_at_once, proxy.at_once)
    try:
        return await _answer(proxy, head, reader, writer, host, port)
    finally:
        proxy.at_once -= 1


async def _answer(
    proxy: FaultProxy,
    head: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    host: str,
    port: int,
) -> bool:
    begin = time.monotonic()
    line, headers = _parse(head)
    fault, rules = proxy.fault(line), proxy.rules
    if "expect" in headers:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    speed = rules.bandwidth
    await asyncio.sleep(rules.latency + (len(body) / speed if speed else 0) + begin - time.monotonic())
    if fault == "hang":
        await asyncio.sleep(rules.hang_seconds)
    if fault == "reset":
        writer.transport.abort()
        return False
    if fault == "busy":
        writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n%b" % (len(_BUSY), _BUSY))
        return True
    upstream, out = await asyncio.open_connection(host, port, limit=1 << 20)
    try:
        out.write(_without(head, b"expect", b"connection") + b"Connection: close\r\n\r\n" + body)
        answer = await upstream.readuntil(b"\r\n\r\n")
        status, headers = _parse(answer)
        writer.write(_without(answer, b"connection") + b"\r\n")
        if line.startswith("HEAD") or status.split()[1] in ("204", "304"):
            return True
        size = int(headers["content-length"]) if "content-length" in headers else None
        await _pass(upstream, writer, speed, size // 2 if fault == "cut" and size else size)
        return fault != "cut" and (size is not None or "transfer-encoding" in headers)
    finally:
        out.close()


async def _pass(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, speed: float | None, count: int | None
) -> None:
    """Pass ``count`` bytes on, or all there are, at most ``speed`` of them a second."""
    begin, sent = time.monotonic(), 0
    while count is None or sent < count:
        piece = await source.read(_PIECE if count is None else min(_PIECE, count - sent))
        if not piece:
            return
        sent += len(piece)
        if speed:
            await asyncio.sleep(begin + sent / speed - time.monotonic())
        sink.write(piece)
        await sink.drain()


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in rest if line)
    return first, {name.lower(): value.strip() for name, _, value in pairs}


def _without(head: bytes, *names: bytes) -> bytes:
    """The head with its first line and without its last, empty one, less some headers."""
    first, *rest = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in rest if line.partition(b":")[0].lower() not in names]
    return b"\r\n".join([first, *kept]) + b"\r\n"
