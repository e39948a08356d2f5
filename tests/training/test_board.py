"""The board, as the plain class that it is: what it keeps of the heartbeats."""

from __future__ import annotations

import time
from typing import Any

from raypretrain.training.board import Board


def beat(rank: int, incarnation: int, **values: Any) -> dict[str, Any]:
    return {"rank": rank, "incarnation": incarnation, "marks": 1, "busy": [], **values}


def beats(board: Board) -> dict[int, dict[str, Any]]:
    return {values["rank"]: values for values, _ in board.health()[0]}


def test_heartbeats_of_an_older_group_are_forgotten_and_those_that_come_late_are_left_out() -> None:
    board = Board()
    first = board.enter()
    board.beat(beat(0, first))
    board.beat(beat(1, first))
    second = board.enter()
    assert beats(board) == {}
    board.beat(beat(1, first))
    board.beat(beat(0, second))
    assert second > first
    assert {rank: values["incarnation"] for rank, values in beats(board).items()} == {0: second}


def test_what_each_step_took_is_kept_until_it_was_read() -> None:
    board = Board()
    group = board.enter()
    board.beat(beat(0, group, busy=[(1, 0.1)]))
    board.beat(beat(0, group, busy=[(2, 0.2)]))
    assert beats(board)[0]["busy"] == [(1, 0.1), (2, 0.2)]
    assert beats(board)[0]["busy"] == []
    board.beat(beat(0, group, busy=[(3, 0.3)]))
    assert beats(board)[0]["busy"] == [(3, 0.3)]


def test_a_stack_is_kept_until_the_worker_gets_on() -> None:
    board = Board()
    group = board.enter()
    board.beat(beat(0, group, stack="here", waits=True))
    board.beat(beat(0, group))
    assert beats(board)[0]["stack"] == "here"
    board.beat(beat(0, group, marks=2))
    assert "stack" not in beats(board)[0]


def test_the_age_of_a_heartbeat_is_counted_from_its_arrival() -> None:
    board = Board()
    board.beat(beat(0, board.enter()))
    time.sleep(0.05)
    [(_, age)] = board.health()[0]
    assert 0.05 <= age < 1


def test_a_loss_is_told_once() -> None:
    board = Board()
    board.lost({1: ("lost", "its process ended")})
    assert board.health()[1] == [{1: ("lost", "its process ended")}]
    assert board.health()[1] == []
