"""The head dies with its jobs; on a new one the same command goes on from the run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from clients import Client, last_step, wait_until
from head import head
from runs import fingerprints, metrics, run, write_recipe

pytestmark = pytest.mark.cluster_test

STEPS = 100


def test_a_run_goes_on_under_a_new_head(corpus: Path, tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path / "recipe", corpus, STEPS), tmp_path / "tiny"
    again = ("submit", recipe, "--set", f"run.folder={folder}")
    with head() as first:
        client = Client(first, tmp_path)
        assert client.says(*again)["job"] == "tiny-1"
        follower = client.start("follow", "tiny")
        wait_until(lambda: last_step(folder) >= 13)
        first.kill()
        reached = last_step(folder)
    assert 13 <= reached < STEPS
    with head() as second:
        out, error = follower.communicate(timeout=60)
        assert follower.returncode == 2
        assert error.splitlines()[-1].startswith(f"raypretrain: {first.address}: the cluster does not answer")
        assert "submit it again when there is a cluster" in error
        client = Client(second, tmp_path)
        # The new head knows of no job.
        assert client.says("jobs") == []
        status, out, error = client.run(*again, "--follow")
        assert status == 0, out + error
        assert out.startswith("tiny-1: submitted to ")
        assert "going on with" in out
    undisturbed = tmp_path / "undisturbed"
    assert run(recipe, undisturbed).status == "finished"
    assert fingerprints(folder) == fingerprints(undisturbed)
    assert [row["loss"] for row in metrics(folder)] == [row["loss"] for row in metrics(undisturbed)]
