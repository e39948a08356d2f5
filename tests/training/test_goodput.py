"""The account of the wall time, with made-up ledgers: every second goes to one place, and they sum to the wall time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from raypretrain.training.goodput import Account, account, repeated

Row = dict[str, Any]


def event(time: float, name: str, **values: Any) -> Row:
    return {"time": time, "event": name, **values}


def group(time: float, step: int, verify: float = 0.0, restore: float = 0.0, **values: Any) -> Row:
    spans = {"workers": 5.0, "verify": verify, "engine": 2.0, "restore": restore}
    return event(time, "group", step=step, spans=spans, **values)


def steps(first: int, last: int, begun: float, seconds: float = 2.0, wait: float = 0.5) -> list[Row]:
    """Steps that follow one another without a gap."""
    return [
        {
            "step": s,
            "step_seconds": seconds,
            "data_wait_seconds": wait,
            "time": begun + (s - first + 1) * seconds,
        }
        for s in range(first, last + 1)
    ]


def checked(account: Account, wall: float, **expected: float) -> None:
    found = {name: seconds for name, seconds in asdict(account).items() if seconds}
    assert found == pytest.approx(expected)
    assert account.wall == pytest.approx(wall)
    assert account.goodput == pytest.approx(expected.get("productive", 0.0) / wall)


def test_a_run_without_a_loss() -> None:
    events = [
        event(100, "start"),
        group(110, 0),
        event(131, "save", step=10, stall_seconds=1.0),
        event(140, "finished", step=10),
    ]
    evaluations = [{"step": 10, "seconds": 3.0}]
    found = account(events, steps(1, 10, 110.0), evaluations, None)
    # The first batch's wait of 0.5 s belongs to the start.
    checked(found, 40, start=10.5, productive=15.0, data=4.5, evaluation=3.0, checkpoint=1.0, other=6.0)


def test_steps_that_were_done_twice_and_the_time_until_the_loss_was_noticed_are_lost() -> None:
    events = [
        event(0, "start"),
        group(10, 0),
        event(20, "save", step=5, stall_seconds=0.0),
        # Steps 1 to 8 until 26, then nothing for 9 s.
        event(35, "lost", step=8, reason="worker 1 was lost"),
        group(
            45, 5, verify=1.0, restore=2.0, repeated={"steps": 3, "last": 8, "seconds": 6.0, "until": 26.0}
        ),
        event(55, "finished", step=10),
    ]
    metrics = [*steps(1, 5, 10.0), *steps(6, 10, 45.0)]
    found = account(events, metrics, [], None)
    checked(found, 55, start=10.5 + 7.5, restore=3.0, productive=15.0, data=4.0, lost=6.0 + 9.0)


def test_a_group_that_is_lost_before_it_trains_is_a_long_start() -> None:
    events = [
        event(0, "start"),
        group(10, 0),
        event(12, "lost", step=0, reason="…"),
        event(17, "lost", step=0, reason="…"),
        group(22, 0),
        event(26, "stopped", step=2),
    ]
    found = account(events, steps(1, 2, 22.0), [], None)
    checked(found, 26, start=10.5 + 10.0, lost=2.0, productive=3.0, data=0.5)


def test_between_a_stop_and_the_next_start_it_is_idle() -> None:
    events = [
        event(0, "start"),
        group(10, 0),
        event(14, "stopped", step=2),
        event(1014, "start"),
        group(1020, 2, restore=1.0),
        event(1024, "finished", step=4),
    ]
    found = account(events, [*steps(1, 2, 10.0), *steps(3, 4, 1020.0)], [], None)
    checked(found, 1024, start=10.5 + 5.5, restore=1.0, idle=1000.0, productive=6.0, data=1.0)


def test_a_driver_that_was_killed_ended_with_the_last_step_that_is_known() -> None:
    events = [
        event(0, "start"),
        group(10, 0),
        event(14, "save", step=2, stall_seconds=0.0),
        event(100, "start"),
        group(106, 2, repeated={"steps": 2, "last": 4, "seconds": 4.0, "until": 18.0}),
        event(110, "finished", step=4),
    ]
    found = account(events, [*steps(1, 2, 10.0), *steps(3, 4, 106.0)], [], None)
    checked(found, 110, start=10.5 + 6.5, lost=4.0, idle=82.0, productive=6.0, data=1.0)


def test_a_run_under_way_is_counted_to_this_moment() -> None:
    events = [event(0, "start"), group(10, 0)]
    checked(account(events, steps(1, 2, 10.0), [], 15.0), 15, start=10.5, productive=3.0, data=0.5, other=1.0)
    checked(account(events[:1], [], [], 4.0), 4, start=4.0)
    # Killed, it ended with its last step.
    checked(account(events, steps(1, 2, 10.0), [], None), 14, start=10.5, productive=3.0, data=0.5)


def test_a_run_that_failed_has_lost_what_it_did_since_its_last_step() -> None:
    events = [event(0, "start"), group(10, 0), event(20, "failed", reason="…")]
    checked(account(events, steps(1, 2, 10.0), [], None), 20, start=10.5, productive=3.0, data=0.5, lost=6.0)


def test_a_clock_that_was_set_back_breaks_no_sum() -> None:
    events = [event(0, "start"), group(10, 0), event(13, "finished", step=4)]
    found = account(events, steps(1, 4, 10.0), [], None)
    assert found.wall == pytest.approx(13)
    assert min(asdict(found).values()) >= 0


def test_before_the_first_start_there_is_nothing() -> None:
    assert asdict(account([], [], [], 5.0)) == asdict(Account())
    assert Account().goodput == 0.0


def test_what_will_be_done_again_is_counted_before_it_is_cut(tmp_path: Path) -> None:
    rows = steps(1, 8, 10.0)
    metrics, evaluations = tmp_path / "metrics.jsonl", tmp_path / "evaluations.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "st')
    evaluations.write_text('{"step": 4, "seconds": 1.5}\n{"step": 8, "seconds": 2.5}\n')
    assert repeated(metrics, evaluations, 5) == {"steps": 3, "last": 8, "seconds": 8.5, "until": 26.0}
    assert repeated(metrics, evaluations, 8) is None
    assert repeated(tmp_path / "none", tmp_path / "none", 0) is None
