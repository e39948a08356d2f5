"""cluster/with-ray.sh over two hosts: one is reclaimed (cluster/leave.sh), the run saves and goes on without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, Network, network, why_not
from runs import fingerprints, write_recipe
from waiting import wait_for_steps

CLUSTER = Path(__file__).parents[2] / "cluster"
STEPS = 1000

reason = why_not()
pytestmark = [pytest.mark.cluster_test, pytest.mark.skipif(bool(reason), reason=reason)]


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def two_hosts(net: Network) -> tuple[Host, Host]:
    """With the command ``ray`` in their path, and their own folders for Ray's sessions."""
    for host in (net.add("one"), net.add("two")):
        host.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        host.environment["RAY_TMPDIR"] = str(host.folder)
        (host.folder / "ray").mkdir()
    return net.hosts[0], net.hosts[1]


def with_ray(host: Host, rank: int, head: Host, *command: str) -> subprocess.Popen[str]:
    return host.start("bash", f"{CLUSTER}/with-ray.sh", str(rank), "2", head.address, "6379", *command)


def node_of(host: Host, head: Host) -> str:
    """The id of its node. By itself Ray would find the head's here, whose processes these hosts see as well."""
    look = (
        "import ray; ray.init(logging_level='ERROR', log_to_driver=False); "
        f"print(*[n['NodeID'] for n in ray.nodes() if n['NodeManagerAddress'] == '{host.address}'])"
    )
    out, error = host.start(sys.executable, "-c", look, RAY_ADDRESS=head.ray_address).communicate(timeout=60)
    assert len(out.split()) == 1, out + error
    return out.strip()


def test_the_command_finds_both_and_its_end_is_the_others(two_hosts: tuple[Host, Host]) -> None:
    one, two = two_hosts
    count = "import ray; ray.init(logging_level='ERROR'); print(len(ray.nodes())); raise SystemExit(3)"
    second = with_ray(two, 1, one)
    first = with_ray(one, 0, one, sys.executable, "-c", count)
    out, error = first.communicate(timeout=90)
    assert first.returncode == 3, error
    assert out.splitlines()[-1] == "2"
    assert second.wait(40) == 0
    assert "waiting for 2 machines" in error


def test_without_a_token_nothing_starts(two_hosts: tuple[Host, Host]) -> None:
    one, _ = two_hosts
    del one.environment["RAY_AUTH_TOKEN"]
    process = one.start(
        "bash", f"{CLUSTER}/with-ray.sh", "0", "1", one.address, "6379", "true", HOME=str(one.folder)
    )
    _, error = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "there is no token for Ray; make one" in error


def test_a_reclaimed_host_is_left_and_the_run_goes_on(
    two_hosts: tuple[Host, Host], corpus: Path, tmp_path: Path
) -> None:
    one, two = two_hosts
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path, corpus, STEPS)
    # Two workers do not fit on a host of two CPUs.
    settings = [
        f"--set=run.folder={run}",
        "--set=compute.workers=[1, 2]",
        "--set=compute.cpus_per_worker=1.5",
    ]
    second = with_ray(two, 1, one)
    first = with_ray(one, 0, one, "raypretrain", "pretrain", str(recipe), *settings)
    wait_for_steps(run, 20, lambda: first.poll() is None)
    left = two.start("bash", f"{CLUSTER}/leave.sh", "20", node_of(two, one), RAY_ADDRESS=one.ray_address)
    out, error = first.communicate(timeout=150)
    assert first.returncode == 0, out + error
    assert left.wait(30) == 0
    assert second.wait(40) == 0
    assert len(fingerprints(run)) == STEPS
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert "preempted" in {event["event"] for event in events}
