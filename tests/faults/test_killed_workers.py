"""Rows 1 and 26: a worker under SIGKILL, once and again and again."""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import runs
import striking
from fault_table import Account
from runs import dealers, metrics, run, train_workers
from striking import Strike, assert_exact, carried_out_by

from raypretrain.config import load_recipe
from raypretrain.training import standby
from raypretrain.training import worker as product
from raypretrain.training.cadence import FIRST
from raypretrain.training.events import read_events
from raypretrain.training.job import Job
from raypretrain.training.metrics import read_log
from raypretrain.training.pretrain import pretrain
from raypretrain.training.recipe import PretrainRecipe

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

for module in (sys.modules[__name__], runs, striking):  # Ray's workers cannot import the tests
    ray.cloudpickle.register_pickle_by_value(module)

KILLS, EVERY_SECONDS = 10, 20.0
TRAINING_SHARE = 0.95
"""Less than so much of the time between two kills is training: then the run is not over before the last kill."""


@pytest.mark.row(1, "a worker is killed in mid-step")
@pytest.mark.parametrize("which", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_worker_killed_in_mid_step_changes_no_batch_and_no_loss(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account, which: int
) -> None:
    folder = tmp_path / "run"

    def kill() -> None:
        workers = train_workers()
        assert len(workers) == 2
        workers[which].send_signal(signal.SIGKILL)

    strike = Strike(folder, 13, kill)
    assert run(tiny_recipe, folder, watch=strike).status == "finished"
    assert strike.recovery
    account(how=f"SIGKILL to worker {which} of 2, after step {strike.recovery.done}", exact=False)
    account(lost=strike.recovery.lost, seconds=strike.recovery.seconds)
    assert strike.recovery.seconds, "nothing was restarted"
    assert_exact(folder, undisturbed)
    account(exact=True)


KILLS_DEALER_AT = 9
"""No worker has asked for the last steps by then: that they do from step 16 on."""


class KillsDealer(product.Worker):
    """A worker that kills the dealer; a driver might do it when all has been dealt."""

    def log_step(self, row: dict[str, Any], data: Any) -> None:
        super().log_step(row, data)
        if row["step"] == KILLS_DEALER_AT and self.incarnation == 1 and self.rank == 0:
            dealers(psutil.Process().parent())[-1].send_signal(signal.SIGKILL)


@pytest.mark.row(1, "the dealer is killed in mid-step")
def test_a_dealer_that_is_killed_is_started_again_and_changes_no_batch_and_no_loss(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    folder = tmp_path / "run"
    strike = Strike(folder, KILLS_DEALER_AT, lambda: None)  # a worker does it
    recipe = load_recipe(tiny_recipe, PretrainRecipe, [f"run.folder={folder}"])
    assert pretrain(recipe, strike, function=carried_out_by(KillsDealer)).status == "finished"
    assert strike.recovery
    assert strike.recovery.seconds, "nothing was restarted"
    account(how=f"SIGKILL to the dealer, in step {KILLS_DEALER_AT + 1}", exact=False)
    account(lost=strike.recovery.lost, seconds=strike.recovery.seconds)
    assert_exact(folder, undisturbed)
    account(exact=True)


class KilledWhenOthersStandBy(product.Worker):
    """The first worker waits until there are processes for the next group, and ends; what that has is written down."""

    def __init__(self, job: Job) -> None:
        standby._LATER_SECONDS = 0.0
        super().__init__(job)

    def log_step(self, row: dict[str, Any], data: Any) -> None:
        super().log_step(row, data)
        if row["step"] == KILLED_AFTER and self.incarnation == 1 and self.rank == 0:
            while len(waiting := standing_by()) < self.world:
                time.sleep(0.1)
            (self.folder.path / "waiting").write_text(json.dumps(waiting))
            os.kill(os.getpid(), signal.SIGKILL)
        if self.incarnation == 2:
            (self.folder.path / f"worker-{self.rank}").write_text(str(os.getpid()))


KILLED_AFTER = 12


def standing_by() -> list[int]:
    """Processes of this node that wait for a worker to be given them."""
    found = []
    for process in psutil.Process().parent().children():
        with suppress(psutil.Error):
            if (
                process.cmdline()[0] == "ray::IDLE"
                and standby.environment().items() <= process.environ().items()
            ):
                found.append(process.pid)
    return found


@pytest.mark.row(1, "a worker is killed, and processes stand by")
def test_the_workers_that_follow_are_given_processes_that_stand_by(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny_recipe, PretrainRecipe, [f"run.folder={tmp_path}"])
    outcome = pretrain(recipe, lambda event: None, function=carried_out_by(KilledWhenOthersStandBy))
    assert outcome.status == "finished"
    waiting = json.loads((tmp_path / "waiting").read_text())
    workers = [int((tmp_path / f"worker-{rank}").read_text()) for rank in range(2)]
    assert len(set(workers)) == 2
    assert set(workers) <= set(waiting)


class KillsEvery(threading.Thread):
    """Kills a worker every so many seconds, whatever the run is doing then: training, saving, starting."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.killed = 0
        self.over = threading.Event()
        self._folder = folder

    def run(self) -> None:
        while not read_log(self._folder / "metrics.jsonl"):
            time.sleep(0.1)
        while self.killed < KILLS and not self.over.wait(EVERY_SECONDS):
            workers = train_workers()
            if workers:
                workers[self.killed % len(workers)].send_signal(signal.SIGKILL)
                self.killed += 1


@pytest.mark.row(26, "a worker is killed every 20 s, ten times")
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_run_whose_workers_are_killed_every_20_seconds_comes_to_its_end_exactly(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    step = statistics.median(row["step_seconds"] for row in metrics(undisturbed))
    steps = int(TRAINING_SHARE * KILLS * EVERY_SECONDS / step)
    overrides = [
        f"training.steps={steps}",
        "training.evaluation.every=1000",
        f"compute.max_failures={2 * KILLS}",
        "training.checkpoint.every=auto",
        f"training.checkpoint.mean_time_between_failures={EVERY_SECONDS}",
    ]
    alone, folder = tmp_path / "alone", tmp_path / "run"
    begun = time.monotonic()
    assert run(tiny_recipe, alone, *overrides).status == "finished"
    without = time.monotonic() - begun
    killer = KillsEvery(folder)
    killer.start()
    begun = time.monotonic()
    try:
        assert run(tiny_recipe, folder, *overrides).status == "finished"
    finally:
        killer.over.set()
    took = time.monotonic() - begun
    assert killer.killed == KILLS
    saves = [event["step"] for event in read_events(folder / "events.jsonl") if event["event"] == "save"]
    assert {after - before for before, after in pairwise(saves)} - {FIRST}, "the cadence was never found"
    account(how=f"SIGKILL every {EVERY_SECONDS:g} s, {KILLS} times", exact=False)
    account(lost=f"{took:.0f} s instead of {without:.0f} s", seconds=(took - without) / KILLS)
    account(
        note=f"goodput under a kill every {EVERY_SECONDS:g} s, also while it starts: {without / took:.0%}"
    )
    assert_exact(folder, alone)
    account(exact=True)
