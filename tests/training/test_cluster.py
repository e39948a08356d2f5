"""A cluster of our own is ours, whatever others have left on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray
from ray._private.utils import check_version_info

from raypretrain.errors import ClusterError
from raypretrain.training.cluster import connect

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


def test_of_versions_that_differ_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Ray's own words, which it says when a driver joins."""

    def join(**arguments: object) -> None:
        check_version_info({"ray_version": "2.59.0", "python_version": "3.10.2"}, "10.0.0.7")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", join)
    with pytest.raises(ClusterError) as error:
        connect("auto")
    for version in ("Ray: 2.59.0", "Python: 3.10.2", f"Ray: {ray.__version__}"):
        assert version in str(error.value)
