"""A headless Chromium, driven over the DevTools protocol through a pipe: no port, no driver, no library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_SECONDS = 60.0


def chromium() -> str | None:
    """The path of a Chromium, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of a browser.

    Args:
        read, write: descriptors of the pipes from and to it; messages are JSON that end in a zero byte.
    """

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._left, self._id, self._session = b"", 0, ""
        self.messages: list[str] = []
        """What a person would see in the console, errors and warnings of the browser's own included."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """Call a method of the protocol; its result. AssertionError: the browser refused it."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._id:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path, width: int = 1200, dark: bool = False) -> None:
        """Load a file and wait until it is there; below a width of 600 as a phone does."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        url, until = page.resolve().as_uri(), time.monotonic() + _SECONDS
        self.call("Page.navigate", url=url)
        while self.value("location.href + document.readyState") != f"{url}complete":
            assert time.monotonic() < until, f"{url} did not load"
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to, as JSON."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + _SECONDS
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._read], [], [], max(until - time.monotonic(), 0))
            assert ready, f"the browser said nothing for {_SECONDS:g} s"
            data = os.read(self._read, 1 << 16)
            assert data, "the browser ended"
            self._left += data
        message, _, self._left = self._left.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def _note(self, event: dict[str, Any]) -> None:
        said = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        if event.get("method") in said:
            self.messages.append(json.dumps(event["params"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with its own empty profile; it ends with the block."""
    program = chromium()
    assert program is not None
    theirs_read, write = os.pipe()
    read, theirs_write = os.pipe()
    # The shell puts the pipes where the browser looks for them: it reads from 3 and writes to 4.
    flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"
    pipes = f"--remote-debugging-pipe 3<&{theirs_read} 4>&{theirs_write}"
    line = f'exec "$0" {flags} --user-data-dir={profile} {pipes}'
    process = subprocess.Popen(
        ["bash", "-c", line, program],
        pass_fds=(theirs_read, theirs_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_read)
    os.close(theirs_write)
    try:
        yield Browser(read, write)
    finally:
        os.close(write)  # it ends when its pipe does
        os.close(read)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
