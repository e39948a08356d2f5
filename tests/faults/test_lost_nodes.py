"""Rows 3 and 5: a node of the cluster dies, and a node is to be reclaimed at a time that is said before."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from fault_table import Account
from nodes import add, drain, nodes, that_trains, wait_until
from runs import fingerprints, metrics
from striking import assert_exact, ended, last_step, start_command, wait_for_step

from raypretrain.training.checkpoint import committed, read_standing
from raypretrain.training.events import read_events

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.long]

# Workers of a whole CPU on nodes of one: never two on a node, and the stream needs half a CPU more.
SIZES = ("compute.cpus_per_worker=1", "compute.stream_cpus=0.5", "compute.max_failures=3")


def resizes(folder: Path) -> list[tuple[int, int]]:
    return [
        (e["before"], e["workers"]) for e in read_events(folder / "events.jsonl") if e["event"] == "resize"
    ]


@pytest.mark.row(3, "a node is lost")
def test_with_a_least_and_a_most_the_run_goes_on_with_what_is_left_and_grows_back(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    account(how="SIGKILL to the raylet of 1 of 3 nodes; workers: [1, 2]", exact=False)
    folder = tmp_path / "run"
    with nodes(2) as cluster:
        at = (f"compute.address={cluster.address}", "compute.workers=[1, 2]", *SIZES)
        process = start_command(tiny_recipe, folder, *at, "training.checkpoint.every=5")
        wait_for_step(process, folder, 8)
        struck, done = time.monotonic(), last_step(folder)
        cluster.remove_node(that_trains(cluster), allow_graceful=False)
        wait_until(lambda: resizes(folder) == [(2, 1)], 120, process)
        wait_until(lambda: last_step(folder) > done, 120, process)
        account(seconds=time.monotonic() - struck)
        add(cluster)
        wait_until(lambda: resizes(folder) == [(2, 1), (1, 2)], 120, process)
        assert ended(process)["status"] == "finished"
    assert fingerprints(folder) == fingerprints(undisturbed)
    pairs = list(zip(metrics(folder), metrics(undisturbed), strict=True))
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-4) for a, b in pairs)
    account(exact=True, lost=f"up to {done - done // 5 * 5} steps done again")


@pytest.mark.row(3, "a node is lost")
def test_with_a_fixed_number_the_run_waits_for_a_node_and_is_exact(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    account(how="SIGKILL to the raylet of 1 of 3 nodes; workers: 2", exact=False)
    folder = tmp_path / "run"
    with nodes(2) as cluster:
        process = start_command(tiny_recipe, folder, f"compute.address={cluster.address}", *SIZES)
        wait_for_step(process, folder, 13)
        cluster.remove_node(that_trains(cluster), allow_graceful=False)
        time.sleep(8)
        waiting = last_step(folder)
        time.sleep(8)
        assert process.poll() is None
        assert last_step(folder) == waiting
        begun = time.monotonic()
        add(cluster)
        assert ended(process)["status"] == "finished"
        account(seconds=time.monotonic() - begun)
    assert_exact(folder, undisturbed)
    account(exact=True)


@pytest.mark.row(5, "a node is to be reclaimed")
def test_a_node_that_is_to_be_reclaimed_is_left_in_time_with_a_checkpoint(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    account(how="ray drain-node with 12 s, then SIGKILL to the raylet", exact=False)
    folder = tmp_path / "run"
    with nodes(3) as cluster:  # one to spare
        at = (f"compute.address={cluster.address}", *SIZES, "compute.max_failures=0")
        process = start_command(tiny_recipe, folder, *at, "training.checkpoint.every=1K")
        wait_for_step(process, folder, 6)
        node = that_trains(cluster)
        drain(cluster, node, 12)
        deadline = time.time() + 12
        most = 0
        while not (starts := [e for e in read_events(folder / "events.jsonl") if e["event"] == "preempted"]):
            most = max(most, last_step(folder))
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        while time.time() < deadline:
            most = max(most, last_step(folder))
            time.sleep(0.02)
        saved = read_standing(committed(folder / "checkpoints")[0]).step
        cluster.remove_node(node, allow_graceful=False)
        said = ended(process)
    assert said["status"] == "finished"
    assert starts
    assert_exact(folder, undisturbed)
    assert json.loads((folder / "result.json").read_text())["steps"] == 40
    account(exact=True, lost=f"{most - saved} steps done again")
    assert most - saved <= 1
