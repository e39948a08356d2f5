"""Processes that stand by: what is said where Ray cannot be asked for them."""

from __future__ import annotations

import pytest

from raypretrain.training import standby
from raypretrain.training.standby import Standby


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "_LATER_SECONDS", 0.01)


def said_by(
    monkeypatch: pytest.MonkeyPatch, count: int, *, cancelled: bool = False
) -> tuple[list[int], list[str]]:
    asked, said = [], []

    def ask(number: int) -> None:
        asked.append(number)
        raise ConnectionError("the raylet does not answer\nand more")

    monkeypatch.setattr(standby, "_ask_raylet", ask)
    made = Standby(count, said.append)
    made.start()
    if cancelled:
        made.cancel()
    if count:
        made._timer.join(30)
    return asked, said


def test_a_raylet_that_cannot_be_asked_costs_a_line_and_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, said = said_by(monkeypatch, 3)
    assert asked == [3]
    [line] = said
    assert line == (
        "no processes stand by, so that a restart will take some seconds more (the raylet does not answer)"
    )


def test_nothing_is_asked_for_where_nothing_is_to_stand_by(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said_by(monkeypatch, 0) == ([], [])


def test_a_group_that_is_gone_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "_LATER_SECONDS", 0.05)
    assert said_by(monkeypatch, 2, cancelled=True) == ([], [])
