"""A cluster of our own is ours, whatever others have left on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

OWN = """
from raypretrain.training.cluster import connect
connect(None, cpus=1)
import ray
print(ray.cluster_resources()["CPU"], ray.get_runtime_context().gcs_address)
"""


@pytest.mark.slow
def test_without_an_address_what_a_dead_cluster_has_left_is_not_joined() -> None:
    """``ray start`` writes its address to a file, which stays when the machine, or the cluster, is killed."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is too long for Ray's sockets
        left = Path(folder) / "ray" / "ray_current_cluster"
        left.parent.mkdir()
        left.write_text("127.0.0.1:9")
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-c", OWN],
            env=environment | {"RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    cpus, address = done.stdout.split()
    assert (cpus, address != "127.0.0.1:9") == ("1.0", True)
