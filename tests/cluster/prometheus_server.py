"""A Prometheus of one's own, on a free loopback port, with the configuration that we ship."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OBSERVE = Path(__file__).parent.parent.parent / "cluster" / "observe"
DISCOVERY = "prom_metrics_service_discovery.json"

Query = Callable[[str], list[dict[str, Any]]]
"""PromQL → its result now: ``[{"metric": labels, "value": [time, text]}, …]``."""


def there() -> bool:
    """Whether Debian's package ``prometheus`` is installed, or another one of it."""
    return bool(shutil.which("prometheus") and shutil.which("promtool"))


@contextlib.contextmanager
def prometheus(folder: Path, discovery: Path, interval: str = "1s") -> Iterator[Query]:
    """Start it, and end it when the context ends.

    Args:
        folder: for its data and its configuration: ours, but for the two that follow.
        discovery: Ray's file with the nodes.
        interval: how often it scrapes.
    """
    text = (OBSERVE / "prometheus.yml").read_text().replace(f"/tmp/ray/{DISCOVERY}", str(discovery))
    (folder / "prometheus.yml").write_text(text.replace("15s", interval))
    shutil.copy(OBSERVE / "alerts.yml", folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={folder}/data", "--log.level=warn"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=dict(os.environ))
    try:
        _wait_until_ready(process, address, folder / "prometheus.log")
        yield lambda expression: _query(address, expression)
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).close()
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def _query(address: str, expression: str) -> list[dict[str, Any]]:
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{expression}: {error.read().decode()}") from None
    return found
