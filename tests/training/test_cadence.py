"""How often to save: the published estimates, and that the cadence found is where the goodput is highest."""

from __future__ import annotations

import math

import pytest

from raypretrain.planning.failures import best_interval, best_steps, goodput, mean_time_between_failures
from raypretrain.training.cadence import FIRST, Cadence

HOUR = 3600.0


def test_failures_come_at_the_rate_that_was_published() -> None:
    # 419 in 54 days on 16,384 GPUs: one in about three hours; with half of the GPUs half as often.
    assert mean_time_between_failures(16_384) == pytest.approx(3.09 * HOUR, rel=0.01)
    assert mean_time_between_failures(8_192) == 2 * mean_time_between_failures(16_384)
    assert mean_time_between_failures(0) == mean_time_between_failures(1)


def test_a_cheap_save_comes_as_young_says() -> None:
    assert best_interval(1.0, 10_000 * HOUR) == pytest.approx(math.sqrt(2 * 10_000 * HOUR), rel=1e-3)


def test_what_costs_more_than_the_time_between_failures_comes_once_in_that_time() -> None:
    assert best_interval(10 * HOUR, HOUR) == HOUR
    assert best_interval(0.0, HOUR) == 0.0


@pytest.mark.parametrize("cost", [0.1, 5.0, 60.0, 600.0])
@pytest.mark.parametrize("gpus", [8, 1_000, 16_384])
def test_no_other_interval_has_a_higher_goodput(cost: float, gpus: int) -> None:
    failures = mean_time_between_failures(gpus)
    best = goodput(cost, best_interval(cost, failures), failures, restart=60)
    others = [
        goodput(cost, factor * best_interval(cost, failures), failures, restart=60)
        for factor in (0.25, 0.5, 0.8, 1.25, 2, 4)
    ]
    assert max(others) <= best * (1 + 1e-6)
    assert 0 < best < 1


def test_the_goodput_falls_with_the_cost_the_failures_and_the_restart() -> None:
    at_best = goodput(10, 500, 3 * HOUR, 60)
    assert goodput(20, 500, 3 * HOUR, 60) < at_best
    assert goodput(10, 500, 1 * HOUR, 60) < at_best
    assert goodput(10, 500, 3 * HOUR, 600) < at_best
    assert goodput(10, 1e9, 1.0, 60) == 0.0


def test_steps_are_at_least_one_and_no_fewer_than_a_save_takes() -> None:
    assert best_steps(0.0, HOUR, step_seconds=5.0, save_seconds=0.0) == 1
    assert best_steps(0.001, HOUR, step_seconds=1.0, save_seconds=30.0) == 30
    assert best_steps(2.0, 3 * HOUR, 1.0, 1.0) == math.ceil(best_interval(2.0, 3 * HOUR))


def test_a_given_cadence_saves_at_its_multiples_wherever_a_run_begins() -> None:
    cadence = Cadence(10, start=14, failures=HOUR)
    cadence.learn(cost=5.0, step_seconds=1.0, save_seconds=9.0)
    assert [step for step in range(15, 45) if cadence.due(step)] == [20, 30, 40]


def test_one_that_is_found_begins_soon_and_then_follows_what_a_save_costs() -> None:
    cadence = Cadence(0, start=100, failures=HOUR)
    assert not cadence.due(100 + FIRST - 1)
    assert cadence.due(100 + FIRST)
    cadence.saved(110)
    cadence.learn(cost=0.5, step_seconds=2.0, save_seconds=3.0)  # √(2 · 0.5 · 3600) = 60 s, 30 steps
    assert next(step for step in range(111, 160) if cadence.due(step)) == 140
    cadence.saved(140)
    assert not cadence.due(141)
    assert cadence.due(170)
