"""A second node of a head of the tests that is not as the head is: other packages, another clock."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import psutil
from head import Head, without_ray

_STORE_BYTES = 100_000_000
_READY_WITHIN = 60.0
_CLOCK = """
import time
_true = time.time
time.time = lambda: _true() + {seconds}
"""


def interpreter(folder: Path, *, torch: str, ahead: float) -> Path:
    """A Python that has all that this one has but raypretrain, and another version of torch, to go by its name.

    Args:
        ahead: seconds that its clock is ahead.
    """
    venv.create(folder, symlinks=True)
    packages = next((folder / "lib").glob("python*/site-packages"))
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        name = entry.name.lower()
        if "raypretrain" in name or (name.startswith("torch-") and name.endswith(".dist-info")):
            continue
        (packages / entry.name).symlink_to(entry)
    named = packages / f"torch-{torch}.dist-info"
    named.mkdir()
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n")
    (packages / "sitecustomize.py").write_text(_CLOCK.format(seconds=ahead))
    return folder / "bin" / "python"


@contextlib.contextmanager
def joined(head: Head, python: Path | str = sys.executable, cpus: int = 1) -> Iterator[psutil.Process]:
    """Have a node of ``cpus`` join; gives its raylet, and ends its processes when the context ends."""
    mark = secrets.token_hex(8)
    environment = without_ray()
    environment.pop("PYTHONPATH", None)
    folder = Path(tempfile.mkdtemp(prefix="rpn-"))
    command = [str(python), "-m", "ray.scripts.scripts", "start", "--block", "--address", head.gcs]
    command += ["--node-ip-address", "127.0.0.1", "--num-cpus", str(cpus), "--disable-usage-stats"]
    command += ["--object-store-memory", str(_STORE_BYTES), "--labels", f"doctor={mark}"]
    command += ["--min-worker-port", "0", "--max-worker-port", "0", "--dashboard-agent-listen-port", "0"]
    with (folder / "start.log").open("w") as log:
        started = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment | head.environment, cwd=folder
        )
    try:
        yield _raylet(started, folder / "start.log")
    finally:
        below = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()  # a stopped one would take no signal
        started.terminate()
        _, alive = psutil.wait_procs(below, timeout=10)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        started.kill()
        started.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _raylet(started: subprocess.Popen[bytes], log: Path) -> psutil.Process:
    """Its process, once the node has joined."""
    deadline = time.monotonic() + _READY_WITHIN
    while "Ray runtime started" not in log.read_text():
        assert started.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    return next(p for p in psutil.Process(started.pid).children(recursive=True) if p.name() == "raylet")
