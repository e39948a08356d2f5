"""Checkpoints in object storage: a run whose folder is lost comes back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fault_proxy import Rules, fault_proxy
from fault_table import Account
from runs import metrics, run
from s3_server import S3Server
from striking import assert_exact

from raypretrain import storage
from raypretrain.training.checkpoint import committed, problem_of
from raypretrain.training.events import read_events
from raypretrain.training.listing import list_checkpoints
from raypretrain.training.runfolder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]


@pytest.mark.row(13, "checkpoints go to object storage that fails; the run's folder is lost")
@pytest.mark.long
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
