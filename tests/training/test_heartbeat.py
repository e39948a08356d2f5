"""Heartbeats: what the training thread marks, and what the thread beside it tells of it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from raypretrain.training.heartbeat import (
    EVERY_SECONDS,
    Heartbeat,
    Progress,
    beat_seconds,
    born,
    stack_of,
    state_of,
)
from raypretrain.training.supervisor import end_process


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_steps_own_computing_is_what_is_neither_waited_nor_evaluated_nor_saved() -> None:
    clock = Clock()
    progress = Progress(clock)
    reduce = progress.collective(lambda: setattr(clock, "now", clock.now + 100))
    for step in (1, 2):
        for phase, seconds in [("data", 50.0), ("forward", 1.0), ("backward", 2.0)]:
            progress.mark(phase, step if phase == "data" else None)
            clock.now += seconds
        reduce()  # within backward
        assert progress.now[2] == "backward"
        clock.now += 4.0
        progress.mark("optimizer")
        clock.now += 8.0
        progress.mark("checkpoint")
        clock.now += 1000.0
    progress.mark("data", 3)
    assert list(progress.busy) == [(1, 15.0), (2, 15.0)]
    assert progress.steps == 2


def test_all_workers_that_do_the_same_have_as_many_marks() -> None:
    first, second = Progress(), Progress()
    for progress in (first, second):
        progress.mark("data", 1)
        progress.collective(lambda: None)()
    assert first.now[:3] == second.now[:3] == (3, 1, "data")


def test_a_collective_that_fails_is_left_all_the_same() -> None:
    progress = Progress()
    progress.mark("backward")
    with pytest.raises(ZeroDivisionError):
        progress.collective(lambda: 1 / 0)()
    assert progress.now[2] == "backward"


def test_a_mark_costs_next_to_nothing() -> None:
    progress = Progress()
    begun = time.perf_counter()
    for _ in range(10_000):
        progress.mark("forward")
    assert (time.perf_counter() - begun) / 10_000 < 2e-5


def test_a_hanging_thread_sends_its_stack_once_and_an_ending_one_says_so() -> None:
    posted: list[dict[str, Any]] = []
    release = threading.Event()

    def hangs_here() -> None:
        with Heartbeat(Progress(), posted.append, {"rank": 1, "world": 2}, stall_timeout=0.4):
            release.wait(10)

    thread = threading.Thread(target=hangs_here)
    thread.start()
    time.sleep(0.6)
    release.set()
    thread.join()
    stacks = [values["stack"] for values in posted if "stack" in values]
    assert len(stacks) == 1
    assert "hangs_here" in stacks[0]
    assert "release.wait(10)" in stacks[0]
    assert posted[-1]["phase"] == "ended"
    assert len(posted) > 4


def test_a_board_that_is_gone_stops_nobody() -> None:
    def post(values: dict[str, Any]) -> None:
        raise ConnectionError

    with Heartbeat(Progress(), post, {"world": 2}, stall_timeout=0.1):
        time.sleep(0.1)


def test_many_workers_beat_more_seldom() -> None:
    assert beat_seconds(1) == beat_seconds(64) == EVERY_SECONDS
    assert beat_seconds(4_096) > 4 * EVERY_SECONDS
    for workers in (1, 1_000, 4_096):
        assert workers / beat_seconds(workers) <= 1_000
    busy = Heartbeat(Progress(), print, {"world": 4_096}, stall_timeout=5.0)
    assert busy._every == 1.0  # five of them within the time-out all the same


def test_a_stack_in_torchs_collectives_is_seen_as_waiting() -> None:
    assert stack_of(threading.get_ident())[1] is False
    code = compile(
        "def all_reduce(call):\n    return call()\n", "site/torch/distributed/distributed_c10d.py", "exec"
    )
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["all_reduce"](lambda: stack_of(threading.get_ident()))[1] is True


def test_sigkill_ends_a_stopped_process_but_not_another_one_of_the_same_number() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        begun = born(process.pid)
        process.send_signal(19)  # SIGSTOP
        while state_of(process.pid) != "T":
            time.sleep(0.01)
        assert end_process(process.pid, (begun or 0) + 1) is None
        assert state_of(process.pid) == "T"
        assert end_process(process.pid, begun) == "T"
        assert process.wait(10) == -9
        assert end_process(process.pid, begun) is None
    finally:
        process.kill()
        process.wait()
