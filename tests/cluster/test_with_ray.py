"""cluster/with-ray.sh over two hosts: one is reclaimed (cluster/leave.sh), the run saves and goes on without it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Network, network, why_not
from runs import fingerprints, write_recipe
from waiting import wait_for_steps

CLUSTER = Path(__file__).parents[2] / "cluster"
STEPS = 400

reason = why_not()
pytestmark = [pytest.mark.cluster_test, pytest.mark.skipif(bool(reason), reason=reason)]


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


def test_a_reclaimed_host_is_left_and_the_run_goes_on(net: Network, corpus: Path, tmp_path: Path) -> None:
    one, two = net.add("one"), net.add("two")
    for host in (one, two):
        host.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        host.environment["RAY_TMPDIR"] = str(host.folder)
        (host.folder / "ray").mkdir()
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path, corpus, STEPS)
    settings = [f"--set=run.folder={run}", "--set=compute.workers=[1, 2]", "--set=compute.cpus_per_worker=1"]
    script, where = str(CLUSTER / "with-ray.sh"), ("2", one.address, "6379")
    second = two.start("bash", script, "1", *where)
    first = one.start("bash", script, "0", *where, "raypretrain", "pretrain", str(recipe), *settings)
    wait_for_steps(run, 20, lambda: first.poll() is None)
    left = two.start("bash", str(CLUSTER / "leave.sh"), "20", RAY_ADDRESS=one.ray_address)
    out, error = first.communicate(timeout=150)
    assert first.returncode == 0, out + error
    assert left.wait(30) == 0
    assert len(fingerprints(run)) == STEPS
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert "preempted" in {event["event"] for event in events}
    assert second.wait(30) != 0  # its Ray is gone, and with it the cluster
