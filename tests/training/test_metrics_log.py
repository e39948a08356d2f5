"""metrics.jsonl: after any interruption every step is there once."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from raypretrain.training.metrics import StepLog, read_log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def write(path: Path, first: int, last: int, mark: str, after: int = 0) -> None:
    log = StepLog(path, after)
    for step in range(first, last + 1):
        log.append({"step": step, "mark": mark})
    log.close()


def test_a_row_can_be_read_as_soon_as_it_is_appended(path: Path) -> None:
    log = StepLog(path, 0)
    assert read_log(path) == []
    log.append({"step": 1, "loss": 2.5})
    assert read_log(path) == [{"step": 1, "loss": 2.5}]
    assert path.read_text() == '{"step": 1, "loss": 2.5}\n'
    log.close()


def test_what_is_done_again_is_there_once_and_as_it_was_done_last(path: Path) -> None:
    write(path, 1, 8, "first")
    write(path, 6, 10, "second", after=5)
    assert [(row["step"], row["mark"]) for row in read_log(path)] == [
        *((step, "first") for step in range(1, 6)),
        *((step, "second") for step in range(6, 11)),
    ]


def test_starting_over_leaves_no_row(path: Path) -> None:
    write(path, 1, 8, "first")
    write(path, 1, 2, "second", after=0)
    assert [row["mark"] for row in read_log(path)] == ["second", "second"]


def test_the_evaluation_before_the_first_step_stays(path: Path) -> None:
    write(path, 0, 0, "untrained")
    write(path, 20, 20, "later", after=10)
    assert [row["step"] for row in read_log(path)] == [0, 20]


@pytest.mark.parametrize("lost", range(1, 24))
def test_a_last_line_torn_anywhere_is_no_row_and_does_not_spoil_the_next(path: Path, lost: int) -> None:
    write(path, 1, 3, "first")
    path.write_bytes(path.read_bytes()[:-lost])
    assert [row["step"] for row in read_log(path)] == [1, 2]
    write(path, 3, 4, "again", after=3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_line_of_zeros_after_a_power_cut_is_no_row(path: Path) -> None:
    write(path, 1, 3, "first")
    path.write_bytes(path.read_bytes() + b"\0" * 40 + b"\n")
    assert [row["step"] for row in read_log(path)] == [1, 2, 3]


def test_there_may_be_no_log_yet(path: Path) -> None:
    assert read_log(path) == []
    StepLog(path, 7).close()
    assert path.read_text() == ""


def test_a_number_that_json_does_not_have_is_null(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "log.jsonl", after=0)
    log.append({"step": 1, "loss": math.nan, "losses": [1.5, math.inf], "name": "nan"})
    text = (tmp_path / "log.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == {"step": 1, "loss": None, "losses": [1.5, None], "name": "nan"}
