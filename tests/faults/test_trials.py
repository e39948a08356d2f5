"""Row 25: a trial of a search dies, another diverges; the others go on, and the search resumes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_table import Account

from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.search import search

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults, pytest.mark.usefixtures("cluster")]


def trials() -> list[psutil.Process]:
    """The processes of this session in which Ray Tune runs a trial."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ImplicitFunc" in process.name() or "_trial" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


class KillsOne:
    """Kills the first trial that says something of itself; the others are none of its business."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.killed: list[int] = []
        self.when = 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["event"] == "epoch" and not self.killed:
            process = trials()[0]
            self.killed.append(process.pid)
            process.send_signal(signal.SIGKILL)
            self.when = time.monotonic()


@pytest.mark.row(25, "one trial dies, one diverges")
def test_a_trial_that_is_killed_and_one_that_diverges_end_no_other_and_the_search_resumes(
    finetuning_recipe: Callable[..., FinetuneRecipe], tmp_path: Path, account: Account
) -> None:
    space = {"learning_rate": {"grid": [3e-3, 2e-3, 1e-3, 1e30]}}
    wanted = finetuning_recipe(search={"space": space, "concurrency": 2}, adapt={"clip": 1e30, "epochs": 4})
    watch = KillsOne()
    found = search(wanted, watch)
    account(how="SIGKILL to a trial; a learning rate of 1e30", lost="two trials of four")
    assert watch.killed
    by_error = {row.get("error", "").split(" at step")[0]: row for row in found.rows}
    assert sorted(row["status"] for row in found.rows) == ["failed", "failed", "finished", "finished"]
    died = [row for row in found.rows if "the trial's process died" in row.get("error", "")]
    diverged = [row for row in found.rows if "the loss is" in row.get("error", "")]
    assert (len(died), len(diverged)) == (1, 1), by_error
    assert diverged[0]["adapt.learning_rate"] == 1e30
    assert Path(found.best["mood"]["model"]).is_dir()

    kept = {row["trial"]: row["test_loss"] for row in found.rows if row["status"] == "finished"}
    events: list[dict[str, Any]] = []
    begun = time.monotonic()
    again = search(wanted, events.append)
    account(seconds=time.monotonic() - begun)
    assert events[0] == {"event": "plan", "trials": 4, "done": 2}
    status = {row["trial"]: row["status"] for row in again.rows}
    assert status[died[0]["trial"]] == "finished"
    assert status[diverged[0]["trial"]] == "failed"
    assert {row["trial"]: row["test_loss"] for row in again.rows if row["trial"] in kept} == kept
