"""Row 7 of the fault schedule: a worker that hangs is found, named and started again; one that only pauses is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

from fault_table import Account
from runs import dealers, fingerprints, metrics, run, train_workers, write_recipe

from raypretrain.training.events import read_events
from raypretrain.training.goodput import account_of
from raypretrain.training.metrics import read_log
from raypretrain.training.status import status_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

STEPS = 60
TIMEOUT = 4.0
OVERRIDES = [f"compute.stall_timeout={TIMEOUT}", "training.checkpoint.every=10"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), corpus, STEPS)


@pytest.fixture(scope="module")
def undisturbed(cluster: str, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run(recipe, folder).status == "finished"
    return folder


class Disturbed:
    """A run to which ``fault`` is done once, after the step ``at``; it is given the workers."""

    def __init__(self, recipe: Path, folder: Path, fault: Any, *overrides: str, at: int = 13) -> None:
        self.said: list[str] = []
        self.at, self._step = 0.0, at
        self.outcome = run(recipe, folder, *OVERRIDES, *overrides, watch=lambda e: self._watch(e, fault))
        self.events = read_events(folder / "events.jsonl")

    def _watch(self, event: dict[str, Any], fault: Any) -> None:
        if "say" in event:
            self.said.append(event["say"])
        if not self.at and event.get("step", {}).get("step", 0) >= self._step:
            self.at = time.time()
            fault(train_workers())

    def named(self, event: str) -> list[dict[str, Any]]:
        return [row for row in self.events if row["event"] == event]


def same(folder: Path, undisturbed: Path) -> None:
    assert fingerprints(folder) == fingerprints(undisturbed)
    assert [row["loss"] for row in metrics(folder)] == [row["loss"] for row in metrics(undisturbed)]
    evaluations = [
        [(row["step"], row["held_out_loss"]) for row in read_log(run / "evaluations.jsonl")]
        for run in (folder, undisturbed)
    ]
    assert evaluations[0] == evaluations[1]


@pytest.mark.row(7, "a worker is frozen")
@pytest.mark.long
def test_a_frozen_worker_is_found_named_and_started_again_and_nothing_is_lost(
    undisturbed: Path, recipe: Path, account: Account
) -> None:
    folder = undisturbed.parent / "frozen"
    frozen: list[int] = []

    def freeze(workers: list[Any]) -> None:
        workers[1].send_signal(signal.SIGSTOP)
        frozen.append(workers[1].pid)

    found = Disturbed(recipe, folder, freeze)
    assert found.outcome.status == "finished"
    same(folder, undisturbed)

    [stall] = found.named("stall")
    assert (stall["kind"], stall["pid"]) == ("frozen", frozen[0])
    assert TIMEOUT <= stall["time"] - found.at < TIMEOUT + 4
    [line] = [line for line in found.said if "does not answer" in line]
    assert re.fullmatch(
        rf"worker \d \(node [\d.]+, pid {frozen[0]}\) does not answer for \d+ s; "
        r"last heard of in phase '\w+' of step \d+",
        line,
    )
    assert any(f"pid {frozen[0]}) was stopped by a signal" in line for line in found.said)
    [lost] = found.named("lost")
    assert f"pid {frozen[0]}: its process ended" in lost["reason"]
    before, after = (group["step"] for group in found.named("group"))
    assert before == 0
    assert after in (10, 20, 30)
    assert lost["time"] - stall["time"] < 10

    stacks = (folder / stall["stacks"]).read_text()
    assert f"pid {frozen[0]}" in stacks
    assert "no stack: it does not answer" in stacks
    assert re.search(r"loop\.py.*in train\n", stacks)  # of the other worker, which waits for it

    account(how="SIGSTOP to worker 1 of 2", exact=True)
    account(seconds=found.named("group")[1]["time"] - found.at)
    spent = account_of(folder, time.time())
    assert spent.lost > TIMEOUT
    assert spent.wall == pytest.approx(found.events[-1]["time"] - found.events[0]["time"], abs=1e-3)


@pytest.mark.row(7, "a worker pauses for less than the time-out")
@pytest.mark.long
def test_a_worker_that_pauses_for_less_than_the_time_out_is_left_alone(
    undisturbed: Path, recipe: Path
) -> None:
    folder = undisturbed.parent / "paused"

    looks: list[dict[str, Any]] = []

    def pause(workers: list[Any]) -> None:
        looks.append(status_of(folder))
        workers[0].send_signal(signal.SIGSTOP)
        threading.Timer(TIMEOUT / 2, lambda: workers[0].send_signal(signal.SIGCONT)).start()

    found = Disturbed(recipe, folder, pause)
    assert found.outcome.status == "finished"
    same(folder, undisturbed)
    assert looks[0]["state"] == "running"
    assert 13 <= looks[0]["step"] < looks[0]["steps"] == STEPS
    assert status_of(folder)["state"] == "finished"
    assert max(row["step_seconds"] for row in metrics(folder)) > TIMEOUT / 3  # it was felt
    assert [event["event"] for event in found.events if event["event"] != "save"] == [
        "start", "group", "finished",
    ]  # fmt: skip


@pytest.mark.row(7, "a worker is frozen, and no restart is left")
def test_a_hang_with_no_restart_left_ends_the_run_with_one_line(
    cluster: str, recipe: Path, tmp_path: Path
) -> None:
    from raypretrain.errors import RunError

    with pytest.raises(RunError, match=r"worker \d was lost, after 0 restarts"):
        Disturbed(
            recipe,
            tmp_path / "run",
            lambda workers: workers[0].send_signal(signal.SIGSTOP),
            "compute.max_failures=0",
        )
    assert [e["event"] for e in read_events(tmp_path / "run" / "events.jsonl")][-1] == "failed"


@pytest.mark.row(7, "the dealer is frozen")
@pytest.mark.long
def test_workers_that_all_wait_for_data_are_found_and_the_stream_is_started_again(
    undisturbed: Path, recipe: Path, account: Account
) -> None:
    folder = undisturbed.parent / "no-data"
    from_nothing = f"training.checkpoint.every={STEPS}"

    def freeze(workers: list[Any]) -> None:
        dealers()[-1].send_signal(signal.SIGSTOP)

    found = Disturbed(recipe, folder, freeze, from_nothing, at=5)
    assert found.outcome.status == "finished"
    same(folder, undisturbed)
    [stall] = found.named("stall")
    assert (stall["kind"], sorted(stall["ranks"]), stall["phase"]) == ("behind", [0, 1], "data")
    stacks = (folder / stall["stacks"]).read_text()
    assert len(re.findall(r"dealer\.py.*in __iter__\n", stacks)) == 2
    [lost] = found.named("lost")
    assert lost["time"] - stall["time"] < 10
    assert [group["step"] for group in found.named("group")] == [0, 0]
    account(how="SIGSTOP to the dealer", exact=True)
    account(seconds=found.named("group")[1]["time"] - found.at)


SLOWS = """
import os, signal, sys, time
pid = int(sys.argv[1])
while True:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.006)
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.002)
"""


@pytest.mark.row(7, "a worker is slow")
@pytest.mark.long
def test_a_slow_worker_is_named_and_nothing_is_restarted(cluster: str, recipe: Path, tmp_path: Path) -> None:
    slowing: list[subprocess.Popen[bytes]] = []
    slowed: list[int] = []

    def slow(workers: list[Any]) -> None:
        slowed.append(workers[1].pid)
        slowing.append(subprocess.Popen([sys.executable, "-c", SLOWS, str(slowed[0])]))

    overrides = ["training.steps=120", "training.global_batch=96", "compute.stall_timeout=60"]
    try:
        found = Disturbed(recipe, tmp_path / "run", slow, *overrides, at=3)
    finally:
        slowing[0].kill()
        slowing[0].wait()
        with suppress(ProcessLookupError):
            os.kill(slowed[0], signal.SIGCONT)
    [straggler] = found.named("straggler")
    assert straggler["pid"] == slowed[0]
    assert straggler["ratio"] > 1.5
    assert any("is a straggler: it computes" in line for line in found.said)
    assert len(found.named("group")) == 1
