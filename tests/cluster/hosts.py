"""Hosts of their own on this machine: network namespaces, each with an address, a name and a cable to one switch.

The switch is a bridge in a namespace too, so that the machine's own network stays as it is. All hosts see the same
files, as with storage that is shared.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

_NETWORK, _BRIDGE = "10.77.0", "bridge0"
_STORE_BYTES = 150 * 2**20
_PORT = 6379

QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "2000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
}
"""A host that does not answer is given up after 6 to 8 s; by default it takes Ray a minute."""


def why_not() -> str:
    """Why no hosts can be made here; empty if they can."""
    if os.geteuid():
        return "network namespaces need root"
    for tool in ("ip", "unshare", "mount", "hostname"):
        if not shutil.which(tool):
            return f"network namespaces need the command {tool}"
    name = f"rp-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    tried = ["ip", "-n", name, "link", "add", "name", "one", "type", "veth", "peer", "name", "two"]
    linked = subprocess.run(tried, capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return f"no virtual cables here: {linked.stderr.strip()}" if linked.returncode else ""


@dataclass
class Host:
    """One of them.

    Args:
        name: of its namespace, and its host name.
        folder: what Ray writes there; the others have folders of their own.
        environment: of its processes.
    """

    name: str
    address: str
    folder: Path
    environment: dict[str, str] = field(repr=False)  # the token is in it
    _switch: str
    _cable: str

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """A process on it, with pipes."""
        # As Debian installs it: the host's own name leads to its loopback.
        names = self.folder / "hosts"
        names.write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n", encoding="utf-8")
        script = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'
        inside = ["unshare", "--uts", "--mount", "sh", "-c", script, self.name, str(names), *words]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *inside],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**self.environment, **environment},
        )

    def start_ray(self, head: Host | None = None, cpus: int = 2, **environment: str) -> None:
        """Ray, as a cluster's head or as a host that joins it; fails with what Ray says."""
        where = ["--head", f"--port={_PORT}", "--include-dashboard=false"]
        if head:
            where = [f"--address={head.ray_address}"]
        own = [f"--node-ip-address={self.address}", f"--temp-dir={self.folder}", f"--num-cpus={cpus}"]
        own += [f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats"]
        process = self.start(
            sys.executable, "-m", "ray.scripts.scripts", "start", *where, *own, **environment
        )
        said, error = process.communicate(timeout=90)
        assert process.returncode == 0, said + error

    @property
    def ray_address(self) -> str:
        """Of the cluster that it is the head of."""
        return f"{self.address}:{_PORT}"

    def processes(self) -> list[psutil.Process]:
        """All of them: what is in its namespace was started there by us."""
        found = []
        for number in _ip("netns", "pids", self.name).split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(number)))
        return found

    def trains(self) -> bool:
        """Whether one of Ray Train's workers is on it."""
        return any(_name(process).startswith("ray::RayTrainW") for process in self.processes())

    def received(self) -> int:
        """Bytes that have come to it over its cable."""
        (found,) = json.loads(_ip("-n", self.name, "-statistics", "-json", "link", "show", "dev", "eth0"))
        return int(found["stats64"]["rx"]["bytes"])

    def cut(self) -> None:
        """Pull its cable: nothing is refused, nothing arrives."""
        _ip("-n", self._switch, "link", "set", "dev", self._cable, "down")

    def mend(self) -> None:
        """Put its cable back."""
        _ip("-n", self._switch, "link", "set", "dev", self._cable, "up")

    def end(self) -> None:
        """As if its power were cut: all that runs on it ends, and what that has started meanwhile."""
        while alive := self.processes():
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(alive, timeout=5)


@dataclass
class Network:
    """Hosts on one switch, whose Ray asks for one token."""

    folder: Path
    switch: str
    token: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    hosts: list[Host] = field(default_factory=list)

    def add(self, name: str) -> Host:
        """Another host; nothing runs on it yet."""
        number = len(self.hosts) + 1
        host, cable, folder = f"{self.switch}-{name}", f"to-{name}", self.folder / name
        folder.mkdir()
        environment = {
            **os.environ,
            **QUICK_TO_NOTICE,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }
        environment.pop("RAY_ADDRESS", None)
        made = Host(host, f"{_NETWORK}.{number}", folder, environment, self.switch, cable)
        _ip("netns", "add", host)
        self.hosts.append(made)
        _ip("-n", host, "link", "set", "dev", "lo", "up")
        _ip(
            "-n",
            host,
            "link",
            "add",
            "name",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            cable,
            "netns",
            self.switch,
        )
        _ip("-n", self.switch, "link", "set", "dev", cable, "master", _BRIDGE, "up")
        _ip("-n", host, "address", "add", f"{made.address}/24", "dev", "eth0")
        _ip("-n", host, "link", "set", "dev", "eth0", "up")
        return made

    def end(self) -> None:
        """End what runs, and take it all down."""
        for host in self.hosts:
            host.end()
        for name in [*(host.name for host in self.hosts), self.switch]:
            subprocess.run(["ip", "netns", "delete", name], check=False)


@contextmanager
def network() -> Iterator[Network]:
    """A switch without hosts."""
    folder = Path(tempfile.mkdtemp(prefix="hosts-"))  # short: Ray's sockets lie in it
    made = Network(folder, f"rp-{os.getpid()}")
    try:
        _ip("netns", "add", made.switch)
        _ip("-n", made.switch, "link", "add", "name", _BRIDGE, "type", "bridge")
        _ip("-n", made.switch, "link", "set", "dev", _BRIDGE, "up")
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def outcome(process: subprocess.Popen[str], seconds: float) -> Any:
    """What a command with ``--json`` that ends well says."""
    out, error = process.communicate(timeout=seconds)
    assert process.returncode == 0, error
    return json.loads(out)
