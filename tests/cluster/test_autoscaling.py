"""Runs on a cluster that grows by itself: nodes come when they are needed, come back when lost, and go at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from growing import Growing, children, growing, wait_for
from runs import fingerprints, metrics, run
from striking import assert_exact, last_step

from raypretrain.training.events import read_events

pytestmark = pytest.mark.cluster_test

# Workers of a whole CPU on nodes of one: never two on a node, and the stream's half is on the head.
SIZES = ("compute.cpus_per_worker=1", "compute.stream_cpus=0.5")
LENGTH = ("training.steps=300", "training.checkpoint.every=20", "training.evaluation.every=150")

Start = Callable[..., "Command"]


class Command:
    """``raypretrain pretrain`` on the growing cluster; what it says goes to a file."""

    def __init__(self, cluster: Growing, recipe: Path, folder: Path, *overrides: str) -> None:
        self.cluster, self.folder, self._said = cluster, folder, folder.with_suffix(".err")
        command = [sys.executable, "-m", "raypretrain.cli", "pretrain", str(recipe)]
        for override in (f"run.folder={folder}", f"compute.address={cluster.address}", *overrides):
            command += ["--set", override]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=self._said.open("w"),
            env=os.environ | cluster.environment,
            start_new_session=True,
        )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def until(self, true: Callable[[], object], seconds: float) -> None:
        """Wait for it; the command has to go on meanwhile."""

        def look() -> object:
            assert self.process.poll() is None, self.said
            return true()

        wait_for(look, seconds, lambda: self.said + self.cluster.log())

    def ends(self, seconds: float) -> int:
        """Wait for its end, and return its status."""
        wait_for(lambda: self.process.poll() is not None, seconds, lambda: self.said + self.cluster.log())
        return self.process.wait()


@pytest.fixture(scope="module")
def reference(cluster: str, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell, on the session's own cluster."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    assert run(tiny_recipe, folder, *LENGTH).status == "finished"
    return folder


@pytest.fixture(scope="module")
def grown() -> Iterator[Growing]:
    with growing({"worker": {"resources": {"CPU": 1}, "max_workers": 3}}) as cluster:
        yield cluster


@pytest.fixture
def start(grown: Growing, tiny_recipe: Path, tmp_path: Path) -> Iterator[Start]:
    """Begins a run on the growing cluster, which is ended at the end of the test if it has not."""
    commands = []

    def begin(*overrides: str) -> Command:
        commands.append(Command(grown, tiny_recipe, tmp_path / "run", *SIZES, *LENGTH, *overrides))
        return commands[-1]

    yield begin
    for command in commands:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()


def assert_nodes_go(cluster: Growing) -> None:
    """Within the idle time-out, and what it takes to see it: nothing of a run keeps them."""
    wait_for(lambda: not cluster.raylets(), 60, cluster.log)


def trains(raylet: psutil.Process) -> bool:
    return any(process.name().startswith("ray::RayTrainW") for process in children(raylet))


def test_gpus_that_no_node_type_has_are_refused_at_once(start: Start, grown: Growing) -> None:
    command = start("compute.device=cuda")
    assert command.ends(60) == 2
    last = command.said.splitlines()[-1]
    assert last.startswith("raypretrain: compute.workers: 2 workers need as many GPUs, the cluster has 0 at")
    assert "it can have worker (1 CPU, up to 3)" in last
    assert "waiting for" not in command.said
    assert "Traceback" not in command.said
    assert not grown.raylets()


def test_nodes_come_for_a_run_and_go_when_it_has_ended(start: Start, grown: Growing, reference: Path) -> None:
    assert not grown.raylets()
    command = start()
    command.until(lambda: last_step(command.folder) > 1, 120)
    assert len(grown.raylets()) == 2  # as many as are needed, of three
    assert command.ends(120) == 0, command.said
    assert "waiting for 1.5 CPUs since " in command.said
    assert "there is room for 2 workers, after " in command.said
    assert_exact(command.folder, reference)
    assert_nodes_go(grown)


def test_a_node_that_is_lost_comes_back_and_the_run_is_exact(
    start: Start, grown: Growing, reference: Path
) -> None:
    command = start()
    command.until(lambda: last_step(command.folder) > 45, 120)
    lost = next(raylet for raylet in grown.raylets() if trains(raylet))
    for process in [lost, *children(lost)]:
        process.kill()
    assert command.ends(200) == 0, command.said
    assert "lost" in [event["event"] for event in read_events(command.folder / "events.jsonl")]
    assert_exact(command.folder, reference)


def test_a_run_begins_with_the_least_and_grows(start: Start, grown: Growing, reference: Path) -> None:
    assert_nodes_go(grown)
    command = start("compute.workers=[1, 2]", "training.steps=800")
    events = command.folder / "events.jsonl"
    command.until(lambda: any(event["event"] == "resize" for event in read_events(events)), 120)
    assert next(e["world"] for e in read_events(events) if e["event"] == "group") == 1
    assert command.ends(120) == 0, command.said
    assert metrics(command.folder)[-1]["step"] == 800
    done = fingerprints(command.folder)
    assert {step: done[step] for step in fingerprints(reference)} == fingerprints(reference)


def test_ctrl_c_ends_the_waiting_and_nothing_is_left(start: Start, grown: Growing) -> None:
    assert_nodes_go(grown)
    command = start()
    command.until(lambda: "waiting for" in command.said, 60)
    command.process.send_signal(signal.SIGINT)
    assert command.ends(30) == 130
    assert command.said.splitlines()[-1] == "raypretrain: interrupted"
    assert_nodes_go(grown)
