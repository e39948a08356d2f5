"""Rows 1, 2, 9, 10 and 11: kills with a fast tier and in mid-save; files that are damaged before they are needed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_table import Account
from runs import run, train_workers
from striking import Strike, assert_exact

from raypretrain.training.checkpoint import MANIFEST, committed, problem_of
from raypretrain.training.events import read_events
from raypretrain.training.listing import list_checkpoints
from raypretrain.training.runfolder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

LARGER = ("model.width=256", "model.layers=4", "model.feed_forward=704", "compute.max_failures=8")
"""A checkpoint of some 60 MB takes long enough to be caught."""


LONGER = ("training.steps=200", "training.checkpoint.every=20", "training.evaluation.every=100")
"""Steps of the tests' model take some 25 ms, and a run is looked at every 200 ms."""


@pytest.fixture(scope="module")
def alone(cluster: str, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A longer run which nothing befell."""
    folder = tmp_path_factory.mktemp("longer") / "alone"
    assert run(tiny_recipe, folder, *LONGER).status == "finished"
    return folder


class KillsWhileWriting(threading.Thread):
    """Kills a worker as soon as a checkpoint of step 20 or later is begun and not committed, until it was in time."""

    def __init__(self, checkpoints: Path) -> None:
        super().__init__(daemon=True)
        self.torn: list[str] = []
        self.over = threading.Event()
        self._checkpoints = checkpoints

    def run(self) -> None:
        while not self.torn and not self.over.wait(0.001):
            begun = [p for p in self._checkpoints.glob("step-*") if self._written_at(p)]
            workers = train_workers() if begun else []
            if len(workers) == 2:
                workers[1].send_signal(signal.SIGKILL)
                time.sleep(1.0)  # were it committed all the same, it would be now
                self.torn = [p.name for p in begun if p.is_dir() and not (p / MANIFEST).is_file()]

    def _written_at(self, folder: Path) -> bool:
        return (
            folder.name >= "step-00000020"
            and not (folder / MANIFEST).is_file()
            and any(folder.glob("engine/*.pt"))
        )


@pytest.mark.long
@pytest.mark.row(2, "a worker is killed while a checkpoint is written")
def test_a_worker_killed_while_a_checkpoint_is_written_leaves_none_that_counts(
    tiny_recipe: Path, cluster: str, tmp_path: Path, account: Account
) -> None:
    larger, folder = tmp_path / "alone", tmp_path / "run"
    assert run(tiny_recipe, larger, *LARGER).status == "finished"
    killer = KillsWhileWriting(folder / "checkpoints")
    killer.start()
    account(how="SIGKILL to worker 1 of 2", exact=False)
    assert run(tiny_recipe, folder, *LARGER).status == "finished"
    killer.over.set()
    killer.join()
    assert killer.torn, "it was never in time"
    account(lost=f"the checkpoint {killer.torn[0]}")
    assert_exact(folder, larger)
    account(exact=True)
    found = committed(folder / "checkpoints")
    assert sorted((folder / "checkpoints").iterdir()) == sorted(found)
    assert [problem_of(path) for path in found] == [None, None]


def flip(folder: Path) -> str:
    """One bit of the optimizer's state of worker 1."""
    path = next(folder.glob("engine/*rank_1*optim*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    return f"{path.relative_to(folder)} is damaged (its SHA-256 differs)"


def cut(folder: Path) -> str:
    path = next(folder.glob("engine/*rank_0*optim*"))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)
    return f"{path.relative_to(folder)} has {size // 2} bytes instead of {size}"


def take_away(folder: Path) -> str:
    path = folder / "engine" / "mp_rank_00_model_states.pt"
    path.unlink()
    return f"{path.relative_to(folder)} is missing"


@pytest.mark.long
@pytest.mark.parametrize(
    ("damage", "how"),
    [
        pytest.param(flip, "one bit of a file flipped", marks=pytest.mark.row(9, "a flipped bit")),
        pytest.param(cut, "a file cut to half", marks=pytest.mark.row(10, "a file cut short")),
        pytest.param(
            take_away,
            "a file removed",
            marks=[pytest.mark.row(10, "a file is missing"), pytest.mark.long],
        ),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    alone: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    account: Account,
    damage: Callable[[Path], str],
    how: str,
) -> None:
    folder, said, damaged = tmp_path / "run", [], []

    def damage_and_kill() -> None:
        checkpoints = folder / "checkpoints"
        before = committed(checkpoints)[0]
        deadline = time.monotonic() + 20
        while (newest := committed(checkpoints)[0]) == before:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        damaged.append((newest.name, damage(newest)))
        train_workers()[1].send_signal(signal.SIGKILL)

    strike = Strike(folder, 50, damage_and_kill)

    def watch(event: dict[str, Any]) -> None:
        said.append(event.get("say", ""))
        strike(event)

    account(how=how, exact=False)
    assert run(tiny_recipe, folder, *LONGER, watch=watch).status == "finished"
    assert strike.recovery
    name, problem = damaged[0]
    assert f"checkpoint {name} is not used: {problem}" in said
    account(seconds=strike.recovery.seconds, lost="21 to 40 steps done again")
    assert_exact(folder, alone)
    account(exact=True)


@pytest.mark.row(1, "a worker is killed; there is a fast tier")
@pytest.mark.long
def test_a_killed_worker_costs_no_more_than_the_steps_since_the_fast_checkpoint(
    alone: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    folder, node = tmp_path / "run", tmp_path / "node"
    tiers = ("training.checkpoint.fast.every=4", f"training.checkpoint.fast.folder={node}")
    tiers_listed: set[str] = set()

    def kill() -> None:
        tiers_listed.update(row["tier"] for row in list_checkpoints(RunFolder(folder)))
        train_workers()[1].send_signal(signal.SIGKILL)

    strike = Strike(folder, 110, kill)

    account(how="SIGKILL to worker 1 of 2", exact=False)
    rare = ("training.checkpoint.every=100",)
    assert run(tiny_recipe, folder, *LONGER, *rare, *tiers, watch=strike).status == "finished"
    assert strike.recovery
    assert tiers_listed == {"fast", "run"}
    groups = [event["step"] for event in read_events(folder / "events.jsonl") if event["event"] == "group"]
    restored = groups[1:]
    # At most two that were due are lost: the one being written, and the one that waited for it.
    assert strike.recovery.done - 12 <= restored[0] <= strike.recovery.done
    assert restored[0] % 4 == 0
    assert restored[0] > 100
    account(seconds=strike.recovery.seconds, lost=f"{strike.recovery.done - restored[0]} steps done again")
    assert_exact(folder, alone)
    account(exact=True)
    assert not list(node.iterdir()), "it is of no use after the end"


@pytest.mark.row(11, "Ray's own snapshot is torn")
@pytest.mark.long
def test_what_ray_remembers_may_be_torn_for_the_run_s_folder_decides(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account
) -> None:
    folder = tmp_path / "run"

    def tear_and_kill() -> None:
        (start,) = (folder / "ray").iterdir()
        for path in folder.joinpath("ray").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        (start / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_results": [{"check')
        (start / "checkpoint_000000").mkdir(exist_ok=True)
        train_workers()[0].send_signal(signal.SIGKILL)

    strike = Strike(folder, 13, tear_and_kill)
    account(how="every file under RUN/ray cut to half, SIGKILL to worker 0 of 2", exact=False)
    assert run(tiny_recipe, folder, watch=strike).status == "finished"
    assert strike.recovery
    account(lost=strike.recovery.lost, seconds=strike.recovery.seconds)
    assert_exact(folder, undisturbed)
    account(exact=True)
