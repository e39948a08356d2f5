"""A cluster that grows by itself, on this machine: Ray's fake nodes, raylets that its autoscaler starts and ends."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

# What Ray's own tests call the head; its provider knows no other name.
_HEAD = "ray.head.default"
_HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_EMPTY = (
    "setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
    "rsync_filter",
)  # fmt: skip
_STORE_BYTES = 100 * 2**20


class Growing:
    """A head of one CPU, beside which its autoscaler starts other nodes when they are needed.

    Args:
        folder: of Ray's own, with a short path.
        types: name → resources and ``max_workers``, as in an autoscaling configuration.
        idle_minutes: until a node goes that nobody needs.
    """

    def __init__(self, folder: Path, types: dict[str, dict[str, Any]], idle_minutes: float) -> None:
        self._folder = folder
        self._ports = free_ports(5)
        self.address = f"127.0.0.1:{self._ports[0]}"
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or Ray takes this machine's address for the loopback's
        }
        self._config = folder / "autoscaling.json"
        self._config.write_text(json.dumps(self.configuration(types, idle_minutes)))

    def start(self) -> None:
        """As on a machine of its own, by ``ray start``."""
        port, client, agent, metrics, autoscaler = self._ports
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address=127.0.0.1",
            f"--port={port}", f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}", f"--temp-dir={self._folder}",
            f"--autoscaling-config={self._config}", "--num-cpus=1", f"--object-store-memory={_STORE_BYTES}",
            "--include-dashboard=false", "--disable-usage-stats",
        ]  # fmt: skip
        of_the_head = {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "AUTOSCALER_METRIC_PORT": str(autoscaler),
        }
        done = subprocess.run(
            command,
            env=os.environ | self.environment | of_the_head,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout

    def configuration(self, types: dict[str, dict[str, Any]], idle_minutes: float) -> dict[str, Any]:
        """For its autoscaler."""
        store = {"object_store_memory": _STORE_BYTES}
        workers = {
            name: {**kind, "resources": {**kind["resources"], **store}, "min_workers": 0, "node_config": {}}
            for name, kind in types.items()
        }
        head = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
        provider = {
            "type": "external",
            "module": _PROVIDER,
            "launch_multiple": True,
            "disable_node_updaters": True,
        }
        return {
            "cluster_name": "growing",
            "max_workers": sum(kind["max_workers"] for kind in types.values()),
            "idle_timeout_minutes": idle_minutes,
            "provider": {**provider, "head_node_id": _HEAD_ID, "gcs_address": self.address},
            "auth": {},
            "head_node_type": _HEAD,
            "available_node_types": {_HEAD: head, **workers},
            **{key: [] for key in _EMPTY},
            "file_mounts": {},
        }

    def raylets(self) -> list[psutil.Process]:
        """Of the nodes beside the head; the oldest first."""
        found = [
            process for process in self._processes("/raylet/raylet") if _HEAD_ID not in environment(process)
        ]
        return sorted(found, key=lambda process: process.create_time())

    def _processes(self, program: str = "") -> list[psutil.Process]:
        """All that were told of this cluster in their command, and run ``program``."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            told = any(self.address in word or str(self._folder) in word for word in command)
            if told and any(word.endswith(program) for word in command[:3]):
                found.append(process)
        return found

    def log(self) -> str:
        """The end of the autoscaler's."""
        files = sorted(self._folder.glob("session_*/logs/monitor.*"))
        lines = [line for file in files for line in file.read_text(errors="replace").splitlines()]
        return "\n".join([line for line in lines if "legacy field" not in line][-60:])

    def stop(self) -> None:
        """End every process of it: first the one that would start others in their place."""
        for program in ("/monitor.py", ""):
            processes = self._processes(program)
            processes += [child for process in processes for child in children(process)]
            for process in processes:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(processes, timeout=20)


def children(process: psutil.Process) -> list[psutil.Process]:
    """All that descend from it."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def environment(process: psutil.Process) -> str:
    """Of a process, as one text."""
    try:
        return " ".join(process.environ().values())
    except psutil.Error:
        return ""


@contextmanager
def growing(types: dict[str, dict[str, Any]], idle_minutes: float = 0.3) -> Iterator[Growing]:
    """A cluster that can have nodes of these ``types``; nothing of it is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="grow-", dir="/tmp"))  # a socket's path is at most 107 bytes
    cluster = Growing(folder, types, idle_minutes)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(number: int) -> list[int]:
    """Ports of the loopback address that nobody listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(true: Callable[[], Any], seconds: float, otherwise: Callable[[], str]) -> None:
    """Until ``true()``; fails with what ``otherwise()`` says if it takes longer."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.2)
