"""A Ray head on this machine that takes jobs: on free loopback ports, with a token, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

import raypretrain

_READY_WITHIN = 90.0
_STORE_BYTES = 200_000_000
_PACKAGE = Path(raypretrain.__file__).parent.parent


@dataclass(frozen=True)
class Head:
    """A head that runs.

    Args:
        address: of its dashboard, which takes jobs: ``http://127.0.0.1:PORT``.
        gcs: of the cluster itself, for a node that joins or a driver: ``127.0.0.1:PORT``.
        token: what it asks for; empty if it asks for none.
        folder: Ray's sessions and logs, and the file with the token.
        process: ``ray start --block``, whose children all others are.
    """

    address: str
    gcs: str
    token: str
    folder: Path
    process: psutil.Process

    @property
    def environment(self) -> dict[str, str]:
        """That of a client, or of another node: how it authenticates, and no address."""
        return _authentication(self.folder, self.token)

    def ask(self, path: str, token: str | None = None) -> tuple[int, str]:
        """The status and the body of a GET to the dashboard; status 0 if nothing answers.

        Args:
            token: by default the right one; an empty one is not sent.
        """
        sent = self.token if token is None else token
        headers = {"Authorization": f"Bearer {sent}"} if sent else {}
        request = urllib.request.Request(self.address + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return int(reply.status), reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def kill(self) -> None:
        """The machine of the head is gone: SIGKILL to all of its processes at once."""
        processes = [self.process, *_below(self.process)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes[1:], timeout=10)


@contextlib.contextmanager
def head(*options: str, cpus: int = 2, token: bool = True, **environment: str) -> Iterator[Head]:
    """Start a head with ``ray start``, and end its processes, and no others, when the context ends.

    It needs 3 to 10 s and 700 MB. What runs on it has this interpreter first in its path, and this package.

    Args:
        options: further ones of ``ray start``.
        token: whether it asks for one.
        environment: of the head, and so of the jobs on it.
    """
    # Sockets lie below it, so its path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="rph-"))
    secret = secrets.token_hex(32) if token else ""
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(secret)
    gcs, dashboard, agent, client = _free_ports(4)
    ports = {
        "--port": gcs,
        "--dashboard-port": dashboard,
        "--dashboard-agent-listen-port": agent,
        "--ray-client-server-port": client,
        "--min-worker-port": 0,
        "--max-worker-port": 0,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1", "--disable-usage-stats"]
    command += ["--temp-dir", str(folder), "--num-cpus", str(cpus)]
    command += ["--object-store-memory", str(_STORE_BYTES), *options]
    command += [str(part) for pair in ports.items() for part in pair]
    ours = _environment(_authentication(folder, secret) | environment)
    with (folder / "start.log").open("w") as log:
        started = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=ours)
    process = psutil.Process(started.pid)
    found = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", secret, folder, process)
    try:
        _wait_until_ready(found, started)
        yield found
    finally:
        # Asked to end, it would first wait up to 30 s for what runs on it.
        found.kill()
        started.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _authentication(folder: Path, token: str) -> dict[str, str]:
    if not token:
        return {"RAY_AUTH_MODE": "disabled"}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}


def without_ray() -> dict[str, str]:
    """This process's environment, without where a Ray of its own is, and the token of that."""
    others = (
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
    )
    return {name: value for name, value in os.environ.items() if name not in others}


def _environment(more: dict[str, str]) -> dict[str, str]:
    kept = without_ray()
    # Not resolved: a virtual environment's interpreter is a link to another's.
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, "PYTHONPATH": str(_PACKAGE), **more}


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in sockets]


def _wait_until_ready(found: Head, started: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    # The dashboard answers before it has heard of the node.
    while '"hostNameList": ["' not in found.ask("/nodes?view=hostNameList")[1]:
        log = (found.folder / "start.log").read_text()
        assert started.poll() is None, f"the head ended: {log}"
        assert time.monotonic() < deadline, f"the head does not answer: {log}"
        time.sleep(0.2)


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
