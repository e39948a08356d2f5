"""Nothing is sent to a cluster that lets everybody in, at an address that others can reach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from runs import write_recipe

pytestmark = pytest.mark.cluster_test

HERE = Path(__file__).parent
IN_A_NAMESPACE = ["unshare", "--net"]


def test_a_cluster_without_a_token_is_refused_unless_told_or_on_loopback(
    corpus: Path, tmp_path: Path
) -> None:
    if subprocess.run([*IN_A_NAMESPACE, "ip", "link"], capture_output=True, check=False).returncode:
        pytest.skip("this user may make no network namespace")
    recipe = write_recipe(tmp_path, corpus)
    done = subprocess.run(
        [*IN_A_NAMESPACE, sys.executable, str(HERE / "open_head.py"), str(recipe)],
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    refused, insecure, loopback, grows = done.stdout.splitlines()
    assert refused.startswith("refused: http://192.0.2.7:")
    assert "asks for no token: whoever reaches it can run anything there" in refused
    assert insecure.startswith("insecure: 0 tiny-1: would be submitted to http://192.0.2.7:")
    assert loopback.startswith("loopback: 0 tiny-1: would be submitted to http://127.0.0.1:")
    # Its nodes are of node types: those with GPUs may come.
    assert grows.startswith("of a node type: 0 tiny-1: would be submitted")
