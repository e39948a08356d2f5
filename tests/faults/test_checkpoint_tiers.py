"""The tiers of checkpoints: a lost worker costs the steps since the fast one; a lost folder comes back."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import Rules, fault_proxy
from fault_table import Account
from runs import metrics, run, train_workers
from s3_server import S3Server
from striking import Strike, assert_exact

from raypretrain import storage
from raypretrain.training.checkpoint import committed, problem_of
from raypretrain.training.events import read_events
from raypretrain.training.listing import list_checkpoints
from raypretrain.training.runfolder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]


@pytest.mark.row(1, "a worker is killed; there is a fast tier")
def test_a_killed_worker_costs_no_more_than_the_steps_since_the_fast_checkpoint(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    folder, node = tmp_path / "run", tmp_path / "node"
    tiers = ("training.checkpoint.fast.every=4", f"training.checkpoint.fast.folder={node}")
    phases: list[str] = []
    listed: list[dict[str, Any]] = []

    def kill() -> None:
        listed.extend(list_checkpoints(RunFolder(folder)))
        train_workers()[1].send_signal(signal.SIGKILL)

    # The save of step 30 is over by then: while one is written, no fast one is begun.
    strike = Strike(folder, 38, kill)

    def watch(event: dict[str, Any]) -> None:
        if event.get("phase") and event["phase"] not in phases[-1:]:
            phases.append(event["phase"])
        strike(event)

    account(how="SIGKILL to worker 1 of 2", exact=False)
    assert run(tiny_recipe, folder, *tiers, watch=watch).status == "finished"
    assert strike.recovery
    # Step 36, or 32 where the machine was busy: newer than step 30 of the run's folder in any case.
    assert {"restoring step 36", "restoring step 32"} & set(phases), phases
    assert {"fast", "run"} == {row["tier"] for row in listed}
    account(seconds=strike.recovery.seconds, lost="at most 7 steps done again")
    assert_exact(folder, undisturbed)
    account(exact=True)
    assert not list(node.iterdir()), "it is of no use after the end"


@pytest.mark.row(13, "checkpoints go to object storage that fails; the run's folder is lost")
def test_a_run_whose_folder_is_lost_goes_on_from_a_bucket_behind_a_line_that_fails(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, s3: S3Server, account: Account
) -> None:
    folder, url = tmp_path / "run", f"s3://{s3.bucket}/checkpoints/{os.getpid()}"
    with fault_proxy(s3.endpoint_url, Rules(latency=0.01, busy=0.3, reset=0.03, seed=3)) as proxy:
        tiers = (
            f"training.checkpoint.copy_to={url}",
            f"training.checkpoint.endpoint_url={proxy.endpoint_url}",
        )
        account(how="503 for 30 % of the requests, resets; the folder removed", exact=False)
        assert run(tiny_recipe, folder, *tiers).status == "finished"
        assert proxy.seen["busy"] > 5
        options = {"endpoint_url": s3.endpoint_url}
        names = {info.url.removeprefix(url) for info in storage.list_files(url, options)}
        assert {name.split("/")[1] for name in names} == {"logs", "step-00000030", "step-00000040"}
        assert [row["event"] for row in read_events(folder / "events.jsonl")].count("copy") == 4
        rows = list_checkpoints(RunFolder(folder), verify=True)
        assert {(row["tier"], row["step"], row["state"]) for row in rows} == {
            (tier, step, "whole") for tier in ("run", "copy") for step in (30, 40)
        }
        # The cluster is lost with its folder, and with what was to be copied last.
        shutil.rmtree(folder)
        storage.remove(f"{url}/step-00000040/MANIFEST.json", options)
        said: list[str] = []
        again = run(tiny_recipe, folder, *tiers, watch=lambda event: said.append(event.get("say", "")))
    assert again.status == "finished"
    assert any(line.startswith("fetching the checkpoint of step 30 from s3://") for line in said)
    assert [row["step"] for row in metrics(folder)] == list(range(1, 41))
    assert_exact(folder, undisturbed)
    account(exact=True, lost="10 steps done again")
    found = committed(folder / "checkpoints")
    assert [problem_of(path) for path in found] == [None, None]
