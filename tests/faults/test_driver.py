"""Rows 4 and 6: the driver dies, or is asked to end; the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from clients import Client, wait_until
from fault_table import Account
from head import head
from runs import run
from striking import (
    Recovery,
    assert_exact,
    end_all,
    ended,
    last_step,
    offspring,
    start_command,
    wait_for_step,
)

from raypretrain.training.checkpoint import committed, problem_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]


@pytest.mark.row(4, "the driver dies; the cluster stays")
@pytest.mark.long
def test_the_same_command_goes_on_after_the_death_of_its_driver(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, cluster: str, account: Account
) -> None:
    folder = tmp_path / "run"
    process = start_command(tiny_recipe, folder, f"compute.address={cluster}")
    wait_for_step(process, folder, 13)
    process.kill()
    recovery = Recovery(folder)
    process.communicate()
    # At once, though the workers of the dead driver may still be there.
    assert run(tiny_recipe, folder).status == "finished"
    account(how=f"SIGKILL to the driver, after step {recovery.done}", lost=recovery.lost, exact=False)
    account(seconds=recovery.seconds)
    assert_exact(folder, undisturbed)
    account(exact=True)


@pytest.mark.row(6, "the driver is asked to end")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_run_that_is_asked_to_end_saves_and_the_same_command_goes_on(
    undisturbed: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    cluster: str,
    account: Account,
    number: signal.Signals,
) -> None:
    folder = tmp_path / "run"
    process = start_command(tiny_recipe, folder, f"compute.address={cluster}")
    wait_for_step(process, folder, 3)
    os.killpg(process.pid, number)
    asked = time.monotonic()
    out, error = process.communicate(timeout=100)
    took = time.monotonic() - asked
    assert process.returncode == 128 + number, error
    stopped = json.loads(out)
    assert stopped["status"] == "stopped"
    newest = committed(folder / "checkpoints")[0]
    assert newest.name == f"step-{stopped['step']:08d}"
    assert problem_of(newest) is None
    assert 3 <= stopped["step"] < 40
    account(
        how=f"{number.name} to the driver's group, in step {stopped['step']}",
        lost="0 steps done again",
        exact=False,
    )
    account(note=f"a clean end {took:.1f} s after {number.name}")
    assert run(tiny_recipe, folder).status == "finished"
    assert_exact(folder, undisturbed)
    account(exact=True)


@pytest.mark.row(6, "the driver is a job, and asked to end")
@pytest.mark.long
def test_ray_job_stop_loses_nothing_that_was_saved(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    folder = tmp_path / "run"
    with head() as found:
        client = Client(found, tmp_path)
        client.ray(
            "job", "submit", "--no-wait", "--submission-id", "one", "--working-dir", tiny_recipe.parent, "--",
            "raypretrain", "pretrain", tiny_recipe.name, "--set", f"run.folder={folder}",
        )  # fmt: skip
        wait_until(lambda: last_step(folder) >= 3)
        client.ray("job", "stop", "one")
        said = client.ray("job", "logs", "--follow", "one")
    # It sends SIGTERM, and SIGKILL 3 s later.
    how = "it ended by itself" if "stopped after step" in said else "it was killed before it had ended"
    account(how="`ray job stop`, without more time than Ray gives", exact=False, note=how)
    saved = committed(folder / "checkpoints")
    assert saved, "no checkpoint within the time that Ray gives"
    account(lost=f"a checkpoint of {saved[0].name} in time")
    assert run(tiny_recipe, folder).status == "finished"
    assert_exact(folder, undisturbed)
    account(exact=True)


@pytest.mark.row(4, "the driver dies, its own cluster with it")
@pytest.mark.long
def test_nothing_but_agents_is_left_of_a_cluster_whose_driver_died_and_the_same_command_goes_on(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    folder = tmp_path / "run"
    address = {"RAY_ADDRESS": ""}  # none: it starts a cluster of its own
    process = start_command(tiny_recipe, folder, **address)
    try:
        wait_for_step(process, folder, 13)
    finally:
        started = offspring(process)
        process.kill()
    recovery = Recovery(folder)
    process.communicate()
    left = end_all(started, within=20)
    again = start_command(tiny_recipe, folder, **address)
    try:
        assert ended(again)["status"] == "finished"
    finally:
        again.kill()
    account(how=f"SIGKILL to the driver, after step {recovery.done}", lost=recovery.lost, exact=False)
    account(seconds=recovery.seconds)
    assert_exact(folder, undisturbed)
    account(exact=True)
    assert len(started) > 4
    # They ask for their parent every two seconds, and then tell a GCS of it that is gone as well.
    account(note=f"still there 20 s after the driver's death, and ended by the test: {left or 'nothing'}")
    assert set(left) <= {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
