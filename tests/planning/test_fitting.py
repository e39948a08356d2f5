"""A law is found again from small runs that follow one, its interval holds the large run, and too few are refused."""

from __future__ import annotations

import random

import pytest

from raypretrain.errors import InputError
from raypretrain.planning.fitting import SmallRun, best_of_rates, fit_law, rate_for
from raypretrain.planning.law import Law

TRUE = Law(floor=2.1, a=180.0, alpha=0.31, b=900.0, beta=0.34, source="")
SIZES, LENGTHS = (1e6, 3e6, 1e7, 3e7), (2e7, 1e8, 5e8)


def runs(noise: float, seed: int = 0) -> list[SmallRun]:
    draw = random.Random(seed)
    return [
        SmallRun(f"{n:g}-{d:g}", n, d, TRUE.loss(n, d) * (1 + draw.gauss(0, noise)), 1e-3)
        for n in SIZES
        for d in LENGTHS
    ]


def test_a_law_without_noise_is_found_again() -> None:
    found = fit_law(runs(0.0))
    assert found.error < 0.005
    assert found.law.loss(3e8, 6e9) == pytest.approx(TRUE.loss(3e8, 6e9), rel=0.02)


def test_the_interval_holds_the_truth_nine_times_of_ten() -> None:
    held = 0
    for seed in range(8):
        found = fit_law(runs(0.01, seed)).predict(3e8, 6e9)
        assert found["low"] < found["loss"] < found["high"]
        assert found["high"] - found["low"] < 0.5 * found["loss"]
        held += found["low"] <= TRUE.loss(3e8, 6e9) <= found["high"]
    assert held >= 7


def test_farther_away_the_interval_is_wider() -> None:
    fitted = fit_law(runs(0.01))
    widths = [(p := fitted.predict(n, 20 * n))["high"] - p["low"] for n in (1e7, 1e10)]
    assert widths[1] > widths[0]


def test_of_several_rates_the_best_counts_and_the_best_ones_follow_the_size() -> None:
    some = [
        SmallRun("", n, 1e8, 3.0 + abs(i - j), rate)
        for j, n in enumerate((1e6, 1e7))
        for i, rate in enumerate((4e-3, 2e-3))
    ]
    assert [run.rate for run in best_of_rates(some)] == [4e-3, 2e-3]
    assert rate_for(some, 1e8) == pytest.approx(1e-3)
    assert rate_for(runs(0.0), 1e8) is None


@pytest.mark.parametrize(
    "some", [runs(0.0)[:4], runs(0.0)[:3], [run for run in runs(0.0) if run.parameters < 5e6], []]
)
def test_too_few_runs_are_refused(some: list[SmallRun]) -> None:
    with pytest.raises(InputError, match="are too few to fit a law to; give at least 5"):
        fit_law(some)
