"""A Slurm of the tests' own: two machines that are both this one, with its own key, ports and folders."""

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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
"""The programs, of Debian's packages slurm-wlm and munge."""

_ANSWER_SECONDS = 30.0
_CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={one} CPUs=1
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={two} CPUs=1
PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm.

    Args:
        folder: of its configuration and logs.
        environment: of what is submitted: nothing of a Ray that runs already, and a home of its own.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """One of Slurm's commands; what it prints."""
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """E.g. PENDING, RUNNING, COMPLETED."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(field.partition("=")[::2] for field in shown.split() if "=" in field)["JobState"]


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[Slurm]:
    """Start one, in ``folder``, and end it with all its jobs."""
    home = folder / "home"
    for path in (home, folder / "state", folder / "one", folder / "two"):
        path.mkdir()
    host = socket.gethostname().split(".")[0]
    port, one, two = _free_ports(3)
    config = folder / "slurm.conf"
    config.write_text(_CONFIG.format(host=host, folder=folder, port=port, one=one, two=two))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "SLURM_CONF": str(config),
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    slurm = Slurm(folder, environment)
    with contextlib.ExitStack() as stack:
        # Not where other sessions of Ray are; and short, for its sockets.
        short = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        (Path(short) / "ray").mkdir()
        environment["RAY_TMPDIR"] = short
        stack.enter_context(_munge(folder))
        stack.enter_context(_daemon(slurm, "slurmctld", "-D", "-i"))
        for name in ("one", "two"):
            stack.enter_context(_daemon(slurm, "slurmd", "-D", "-N", name))
        _wait_for_machines(slurm)
        yield slurm
        slurm.run("scancel", "--user", "root")


def _wait_for_machines(slurm: Slurm) -> None:
    until = time.monotonic() + _ANSWER_SECONDS
    while slurm.run("sinfo", "--noheader", "--format=%T %D") != "idle 2":
        assert time.monotonic() < until, slurm.run("sinfo", "--Node", "--long")
        time.sleep(0.5)


@contextlib.contextmanager
def _munge(folder: Path) -> Iterator[None]:
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    files = {
        name: f"{folder}/munge.{name.split('-')[0]}"
        for name in ("socket", "pid-file", "log-file", "seed-file")
    }
    options = [f"--{name}={path}" for name, path in files.items()]
    command = [shutil.which("munged") or "munged", "--foreground", "--force", f"--key-file={key}", *options]
    with _ended(subprocess.Popen(command, stderr=subprocess.DEVNULL)):
        until = time.monotonic() + _ANSWER_SECONDS
        while not Path(files["socket"]).exists():
            assert time.monotonic() < until, Path(files["log-file"]).read_text()
            time.sleep(0.1)
        yield


@contextlib.contextmanager
def _daemon(slurm: Slurm, *command: str) -> Iterator[None]:
    log = (slurm.folder / f"{command[0]}-{command[-1].strip('-')}.log").open("w")
    with log, _ended(subprocess.Popen(command, env=slurm.environment, stdout=log, stderr=log)):
        yield


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
