"""What heartbeats mean, without Ray and without waiting: the clock is a number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raypretrain.training.watching import SLOW_SECONDS, SLOW_STEPS, Beat, Stall, Straggler, Watcher, stalled

TIMEOUT = 30.0


def beat(
    rank: int, phase: str = "forward", since: float = 0.0, arrived: float = 1000.0, **more: object
) -> Beat:
    values = {
        "world": 4, "incarnation": 1, "node": f"node-{rank}", "node_id": "", "pid": 100 + rank, "born": 1,
        "marks": 50, "step": 7, "steps": 6,
    }  # fmt: skip
    return Beat(rank=rank, phase=phase, since=since, arrived=arrived, **{**values, **more})  # type: ignore[arg-type]


def group(*beats: Beat) -> list[Beat]:
    return [replace(each, world=len(beats)) for each in beats]


def ranks(stall: Stall | None) -> list[int]:
    assert stall is not None
    return [each.rank for each in stall.at_fault]


# ---------------------------------------------------------------------------------------------------- who stalls


def test_as_long_as_one_worker_gets_on_there_is_no_stall() -> None:
    beats = group(beat(0, "collective", 500), beat(1, "collective", 500), beat(2, "backward", 29))
    assert stalled(beats, 1000.0, TIMEOUT) is None


def test_who_does_not_answer_is_at_fault_even_if_another_is_behind() -> None:
    beats = group(
        beat(0, "collective", 40, marks=51),
        beat(1, "forward", 1, arrived=1000.0 - 40),
        beat(2, "data", 40, marks=40),
    )
    found = stalled(beats, 1000.0, TIMEOUT)
    assert found is not None
    assert (found.kind, ranks(found)) == ("frozen", [1])
    assert found.line() == (
        "worker 1 (node node-1, pid 101) does not answer for 40 s; last heard of in phase 'forward' of step 7"
    )


def test_a_worker_that_is_behind_the_others_is_at_fault() -> None:
    beats = group(
        beat(0, "collective", 40, marks=51),
        beat(1, "collective", 41, marks=51),
        beat(2, "data", 60, marks=48),
    )
    found = stalled(beats, 1000.0, TIMEOUT)
    assert found is not None
    assert (found.kind, ranks(found)) == ("behind", [2])
    assert found.line() == (
        "worker 2 (node node-2, pid 102) does not get on for 40 s: it is in phase 'data' of step 7, the others wait"
    )


def test_where_all_are_equally_far_whoever_waits_in_no_collective_is_at_fault() -> None:
    beats = group(
        beat(0, "checkpoint", 700, waits=True),
        beat(1, "checkpoint", 700),
        beat(2, "checkpoint", 700, waits=True),
    )
    assert ranks(stalled(beats, 1000.0, TIMEOUT)) == [1]
    beats = group(beat(0, "collective", 40), beat(1, "backward", 40), beat(2, "backward", 40, waits=True))
    assert ranks(stalled(beats, 1000.0, TIMEOUT)) == [1]


def test_where_all_wait_in_the_same_collective_it_says_so() -> None:
    found = stalled(group(beat(0, "collective", 40), beat(1, "collective", 45)), 1000.0, TIMEOUT)
    assert found is not None
    assert found.kind == "together"
    assert found.line().startswith(
        "no worker got on for 40 s: all wait in a collective, worker 0 (node node-0"
    )


@pytest.mark.parametrize("phase", ["engine", "restore", "first batch", "checkpoint"])
def test_a_slow_phase_may_take_longer_than_a_step(phase: str) -> None:
    beats = group(beat(0, phase, 100), beat(1, phase, 100))
    assert stalled(beats, 1000.0, TIMEOUT) is None
    beats = group(beat(0, phase, SLOW_SECONDS + 1), beat(1, phase, SLOW_SECONDS + 1))
    assert stalled(beats, 1000.0, TIMEOUT) is not None
    assert stalled(beats, 1000.0, 2 * SLOW_SECONDS) is None


def test_the_first_step_of_a_group_may_take_longer_but_not_for_a_frozen_process() -> None:
    beats = group(beat(0, "backward", 100, steps=0), beat(1, "backward", 100, steps=0))
    assert stalled(beats, 1000.0, TIMEOUT) is None
    beats[1] = replace(beats[1], arrived=1000.0 - 35, since=65.0)
    assert ranks(stalled(beats, 1000.0, TIMEOUT)) == [1]


# ---------------------------------------------------------------------------------------- again and again: Watcher


class Looks:
    """A watcher that looks once a second."""

    def __init__(self) -> None:
        self.watcher, self.now = Watcher(TIMEOUT, 1.5), 1000.0

    def __call__(self, beats: list[Beat], seconds: int = 1) -> list[Stall | Straggler]:
        """Look for so many seconds at workers that answer, but stay where they are."""
        found = []
        for _ in range(seconds):
            self.now += 1
            aged = [replace(b, arrived=self.now, since=b.since + self.now - b.arrived) for b in beats]
            found += self.watcher.look(aged, self.now)
        return found


def test_a_stall_is_said_once_and_then_all_others_are_ended_if_that_did_not_help() -> None:
    look = Looks()
    beats = group(beat(0, "collective", marks=51), beat(1, "data"), beat(2, "collective", marks=51))
    assert look(beats, 30) == []
    [first] = look(beats, 5)
    assert isinstance(first, Stall)
    assert ranks(first) == [1]
    [second] = look(beats, 60)
    assert isinstance(second, Stall)
    assert ranks(second) == [0, 2]
    assert look(beats, 600) == []


def test_one_look_is_no_proof_heartbeats_look_old_after_a_pause_of_the_driver() -> None:
    look = Looks()
    look(group(beat(0), beat(1)))
    look.now += 500
    assert look.watcher.look(group(beat(0), beat(1)), look.now) == []
    assert look(group(beat(0, arrived=look.now), beat(1, arrived=look.now)), 20) == []


def test_a_group_that_ray_has_given_up_stalls_nobody_nor_does_an_older_one() -> None:
    look = Looks()
    old = group(beat(0), beat(1))
    look(old)
    look.watcher.lost()
    assert look(old, 100) == []
    new = [replace(each, incarnation=2, arrived=look.now) for each in old]
    assert look(new) == []
    fresh = [replace(each, arrived=look.now + 60) for each in new]
    look.now += 60
    assert look([*old, *fresh], 5) == []
    assert look([*old, *fresh], 40) != []  # the new one does


def test_workers_that_have_ended_are_not_waited_for() -> None:
    look = Looks()
    assert look(group(beat(0, "ended"), beat(1, "ended")), 100) == []
    [found] = look(group(beat(0, "ended"), beat(1, "checkpoint")), 700)
    assert isinstance(found, Stall)
    assert ranks(found) == [1]


# ------------------------------------------------------------------------------------------------------ stragglers


def busy(look: Looks, step: int, *seconds: float) -> list[Stall | Straggler]:
    look.now += 1
    beats = [beat(r, arrived=look.now, busy=((step, s),)) for r, s in enumerate(seconds)]
    return look.watcher.look(group(*beats), look.now)


def test_a_worker_that_computes_longer_than_the_median_for_long_enough_is_named_once() -> None:
    look = Looks()
    for step in range(1, SLOW_STEPS):
        assert busy(look, step, 1.0, 1.1, 1.0, 1.7) == []
    [found] = busy(look, SLOW_STEPS, 1.0, 1.1, 1.0, 1.7)
    assert isinstance(found, Straggler)
    assert (found.beat.rank, found.beat.node, found.step) == (3, "node-3", SLOW_STEPS)
    assert found.ratio == pytest.approx(1.7)
    assert "worker 3 (node node-3, pid 103) is a straggler: it computes 1.70 times" in found.line()
    for step in range(SLOW_STEPS + 1, 4 * SLOW_STEPS):
        assert busy(look, step, 1.0, 1.1, 1.0, 1.7) == []


def test_of_two_workers_the_slow_one_is_compared_with_the_other() -> None:
    look = Looks()
    found = [row for step in range(1, SLOW_STEPS + 1) for row in busy(look, step, 1.6, 1.0)]
    assert [row.beat.rank for row in found if isinstance(row, Straggler)] == [0]


def test_one_good_step_in_between_makes_it_no_straggler() -> None:
    look = Looks()
    for step in range(1, 5 * SLOW_STEPS):
        slow = 1.0 if step % SLOW_STEPS == 0 else 2.0
        assert busy(look, step, 1.0, 1.0, slow) == []


def test_steps_count_once_all_workers_have_told_of_them() -> None:
    look = Looks()
    steps = tuple((step, 2.0) for step in range(1, SLOW_STEPS + 1))
    ahead = [beat(0, busy=steps), beat(1)]
    assert look.watcher.look(group(*ahead), 1000.0) == []
    behind = [beat(0), beat(1, busy=tuple((step, 1.0) for step, _ in steps))]
    [found] = look.watcher.look(group(*behind), 1001.0)
    assert isinstance(found, Straggler)
    assert found.beat.rank == 0
