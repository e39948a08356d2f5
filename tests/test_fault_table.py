"""The table of the fault schedule: what tests say of themselves, row by row."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from fault_table import FAULTS, SCHEDULE, draw, gather, ran_all


def report(row: tuple[Any, ...], **said: Any) -> SimpleNamespace:
    properties: list[tuple[str, Any]] = [("row", row)]
    return SimpleNamespace(user_properties=[*properties, ("account", said)] if said else properties)


def cells(stats: dict[str, list[Any]]) -> list[list[str]]:
    return [line.cells for line in gather(stats)[0]]


def test_tests_of_a_row_that_say_the_same_share_a_line() -> None:
    stats = {
        "passed": [
            report((9, "a bit"), how="flipped", lost="10 steps", seconds=3.0, exact=True),
            report((9, "a bit"), how="flipped", lost="10 steps", seconds=4.0, exact=True),
            report((9, "a bit")),
            report((1,), how="SIGKILL"),
        ]
    }
    assert cells(stats) == [
        ["1", SCHEDULE[1], "SIGKILL", "", "", "", "yes"],
        ["9", "a bit", "flipped", "10 steps", "4.0 s", "yes", "yes (3 of 3 tests)"],
    ]


def test_one_that_fails_or_is_not_exact_makes_the_line_say_so() -> None:
    stats = {
        "passed": [report((9, "a bit"), how="flipped", exact=True)],
        "failed": [report((9, "a bit"), how="flipped", exact=False)],
        "error": [report((4, "the driver"))],
        "skipped": [report((12, "a disk"))],
    }
    assert [(row, exact, passed) for row, *_, exact, passed in cells(stats)] == [
        ("4", "", "NO"),
        ("9", "NO", "NO (1 of 2 tests)"),
        ("12", "", "skipped"),
    ]


def test_notes_stand_below_and_rows_without_a_test_are_missing() -> None:
    lines, notes = gather({"passed": [report((6, "asked to end"), note="no job server"), SimpleNamespace()]})
    assert notes == [(6, "no job server")]
    assert "MISSING" in draw(lines, [7])
    assert "MISSING" not in draw(lines, [])


@pytest.mark.parametrize(
    ("args", "markexpr", "everything"),
    [
        ([str(FAULTS)], "", True),
        ([str(FAULTS.parent)], "", True),
        ([str(FAULTS)], "not long", False),
        ([str(FAULTS / "test_driver.py")], "", False),
        ([f"{FAULTS / 'test_driver.py'}::test_x"], "", False),
    ],
)
def test_rows_are_missing_only_where_all_was_asked_for(
    args: list[str], markexpr: str, everything: bool
) -> None:
    config: Any = SimpleNamespace(args=args, option=SimpleNamespace(markexpr=markexpr, keyword=""))
    assert ran_all(config) is everything


def test_every_row_of_the_schedule_has_a_test() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FAULTS.glob("test_*.py"))
    assert {int(number) for number in re.findall(r"mark\.row\((\d+)", text)} == set(SCHEDULE)
