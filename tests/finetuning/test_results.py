"""The table of a search: the best, and the comparison over seeds."""

from __future__ import annotations

from typing import Any

import pytest

from raypretrain.finetuning.results import Goal, best_of, compare

GOALS = dict.fromkeys("ab", Goal("accuracy", larger_is_better=True))


def _row(
    trial: str, init: str, rate: float, seed: int, validation: float, test: float, **more: Any
) -> dict[str, Any]:
    row = {"trial": trial, "task": "a", "status": "finished", "adapt.way": "full", "adapt.init": init}
    row |= {"adapt.learning_rate": rate, "adapt.seed": seed, "validation_accuracy": validation}
    return row | {"test_accuracy": test, "validation_loss": 1.0, "seconds": 2.0} | more


ROWS = [
    _row("1", "base", 0.1, 0, 0.70, 0.60),
    _row("2", "base", 0.1, 1, 0.72, 0.64),
    _row("3", "base", 0.2, 0, 0.60, 0.90),
    _row("4", "base", 0.2, 1, 0.73, 0.90),
    _row("5", "scratch", 0.1, 0, 0.55, 0.50),
    _row("6", "scratch", 0.1, 1, 0.99, 0.99, status="failed"),
]


def test_the_best_has_the_best_validation_metric_and_is_finished():
    assert best_of(ROWS, GOALS)["a"]["trial"] == "4"
    tie = [*ROWS, _row("7", "base", 0.3, 0, 0.73, 0.1, validation_loss=0.5)]
    assert best_of(tie, GOALS)["a"]["trial"] == "7"
    by_loss = {"a": Goal("loss", larger_is_better=False)}
    assert best_of(tie, by_loss)["a"]["trial"] == "7"
    other = [*ROWS, _row("8", "base", 0.1, 0, 0.2, 0.2, task="b")]
    assert {name: row["trial"] for name, row in best_of(other, GOALS).items()} == {"a": "4", "b": "8"}


def test_the_comparison_takes_the_settings_with_the_best_validation_mean_not_the_best_test():
    base, scratch = compare(ROWS, GOALS)
    assert (base["init"], scratch["init"]) == ("base", "scratch")
    assert base["settings"]["learning_rate"] == 0.1
    assert base["score"] == pytest.approx(0.62)
    assert base["spread"] == pytest.approx(0.0282843, abs=1e-6)
    assert base["seeds"] == 2
    assert (scratch["score"], scratch["spread"], scratch["seeds"]) == (0.5, None, 1)


def test_settings_of_which_seeds_were_stopped_do_not_win_by_those_that_are_left():
    rows = [
        *ROWS[:4],
        _row("9", "base", 0.3, 0, 0.99, 0.99),
        _row("10", "base", 0.3, 1, 0, 0, status="stopped"),
    ]
    (base,) = compare(rows, GOALS)
    assert base["settings"]["learning_rate"] == 0.1
