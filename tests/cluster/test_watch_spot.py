"""cluster/watch-spot.sh: hears a cloud that wants its machine back, and has Ray leave it in the time that there is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CLUSTER = Path(__file__).parents[2] / "cluster"


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[str]:
    """The address of a metadata service, which says that the machine is reclaimed once tmp_path/reclaimed is there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("metadata_server.py")
    process = subprocess.Popen([sys.executable, script, str(port), tmp_path / "reclaimed"])
    until = time.monotonic() + 20
    while True:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert time.monotonic() < until
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def watch(metadata: str, tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Starts the script, with a ``ray`` that prints what it is told and no raylet to wait for."""
    for name, line in (("ray", 'echo "$@"'), ("pgrep", "exit 1"), ("sleep", "exec /bin/sleep 0.1")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    environment = {**os.environ, "METADATA": metadata, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return lambda cloud: subprocess.Popen(
        ["bash", CLUSTER / "watch-spot.sh", cloud], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("cloud", "seconds"), [("aws", 110), ("gcp", 25), ("azure", 25)])
def test_ray_leaves_when_the_cloud_says_so(
    cloud: str, seconds: int, watch: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = watch(cloud)
    with pytest.raises(subprocess.TimeoutExpired):  # nobody wants it back
        process.wait(1.5)
    (tmp_path / "reclaimed").touch()
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert said.startswith("drain-node --reason DRAIN_NODE_REASON_PREEMPTION ")
    assert said.split()[-2:] == ["--deadline-remaining-seconds", str(seconds)]


def test_no_cloud_is_told() -> None:
    done = subprocess.run(["bash", CLUSTER / "watch-spot.sh"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "which cloud: aws, gcp or azure" in done.stderr
