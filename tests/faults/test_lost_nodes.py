"""Rows 3 and 5: a node of the cluster dies, and a node is to be reclaimed at a time that is said before."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from fault_table import Account
from nodes import add, drain, nodes, that_trains, wait_until
from runs import fingerprints, metrics, run
from striking import assert_exact, last_step, start_command, wait_for_step

from raypretrain.training.checkpoint import committed, read_standing
from raypretrain.training.events import read_events

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.long]

# Workers of a whole CPU on nodes of one: never two on a node, and the stream needs half a CPU more.
SIZES = ("compute.cpus_per_worker=1", "compute.stream_cpus=0.5", "compute.max_failures=3")


LENGTH = ("training.steps=300", "training.checkpoint.every=20", "training.evaluation.every=150")


@pytest.fixture(scope="module")
def reference(cluster: str, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell, long enough for a node to go and another to come."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    assert run(tiny_recipe, folder, *LENGTH).status == "finished"
    return folder


def finish(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait for the command's end. Ray itself prints on stdout that a raylet is gone."""
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert (folder / "result.json").is_file()


def resizes(folder: Path) -> list[tuple[int, int]]:
    found = (e for e in read_events(folder / "events.jsonl") if e["event"] == "resize")
    return [(e["before"], e["workers"]) for e in found]


@pytest.mark.row(3, "a node is lost")
def test_with_a_least_and_a_most_the_run_goes_on_with_what_is_left_and_grows_back(
    reference: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    account(how="SIGKILL to the raylet of 1 of 3 nodes; workers: [1, 2]", exact=False)
    folder = tmp_path / "run"
    with nodes(2) as cluster:
        at = (f"compute.address={cluster.address}", "compute.workers=[1, 2]", *SIZES, *LENGTH)
        process = start_command(tiny_recipe, folder, *at)
        wait_for_step(process, folder, 45)
        struck, done = time.monotonic(), last_step(folder)
        cluster.remove_node(that_trains(cluster), allow_graceful=False)
        wait_until(lambda: resizes(folder) == [(2, 1)] and last_step(folder) > 41, 120, process)
        account(seconds=time.monotonic() - struck, lost=f"{done - done // 20 * 20} steps done again")
        add(cluster)
        wait_until(lambda: resizes(folder) == [(2, 1), (1, 2)], 120, process)
        finish(process, folder)
    assert fingerprints(folder) == fingerprints(reference)
    # Another number of workers adds up in another order: 1e-7 at first, which training itself multiplies step by step.
    apart = [abs(a["loss"] / b["loss"] - 1) for a, b in zip(metrics(folder), metrics(reference), strict=True)]
    first = next(step for step, difference in enumerate(apart) if difference)
    assert first >= 40  # the checkpoint from which it went on with one worker
    assert max(apart[first : first + 20]) < 1e-4
    assert max(apart) < 2e-2
    account(exact=True)


@pytest.mark.row(3, "a node is lost")
def test_with_a_fixed_number_the_run_waits_for_a_node_and_is_exact(
    reference: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    account(how="SIGKILL to the raylet of 1 of 3 nodes; workers: 2", exact=False)
    folder = tmp_path / "run"
    with nodes(2) as cluster:
        at = (f"compute.address={cluster.address}", *SIZES, *LENGTH)
        process = start_command(tiny_recipe, folder, *at)
        wait_for_step(process, folder, 45)
        cluster.remove_node(that_trains(cluster), allow_graceful=False)
        time.sleep(8)
        seen = []
        for _ in range(80):
            seen.append(last_step(folder))
            time.sleep(0.1)
        assert process.poll() is None
        # No step is done; but a group that waits for rows has let go of those that are later than its checkpoint.
        assert seen == sorted(seen, reverse=True)
        waiting = seen[0]
        begun = time.monotonic()
        add(cluster)
        wait_until(lambda: last_step(folder) > waiting, 120, process)
        account(seconds=time.monotonic() - begun, lost=f"{waiting - waiting // 20 * 20} steps done again")
        finish(process, folder)
    assert_exact(folder, reference)
    account(exact=True)


@pytest.mark.row(5, "a node is to be reclaimed")
def test_a_node_that_is_to_be_reclaimed_is_left_in_time_with_a_checkpoint(
    reference: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    account(how="ray drain-node with 8 s, then SIGKILL to the raylet", exact=False)
    folder = tmp_path / "run"
    with nodes(3) as cluster:  # one to spare
        never = ("compute.max_failures=0", "training.checkpoint.every=1K")
        at = (f"compute.address={cluster.address}", *SIZES, *LENGTH, *never)
        process = start_command(tiny_recipe, folder, *at)
        wait_for_step(process, folder, 6)
        node = that_trains(cluster)
        deadline = time.time() + 8
        drain(cluster, node, deadline)
        log = folder / "metrics.jsonl"
        file, done = log.stat().st_ino, 0
        while log.stat().st_ino == file:  # every start writes another one
            assert process.poll() is None, process.communicate()
            done = last_step(folder)
            time.sleep(0.02)
        saved = read_standing(committed(folder / "checkpoints")[0]).step
        while time.time() < deadline:
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)
        account(lost=f"{done - saved} steps done again")
        finish(process, folder)
    assert done - saved <= 1
    asked = [e["request"] for e in read_events(folder / "events.jsonl") if e["event"] == "preempted"]
    assert asked[-1] == "regroup"
    assert_exact(folder, reference)
    account(exact=True)
