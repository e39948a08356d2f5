"""The learning rate: warm-up, peak, decay and floor, for every kind."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from raypretrain.training.schedule import ScheduleConfig, learning_rate

PEAK = 3e-3


def rates(steps: int = 100, **settings: Any) -> list[float]:
    return [learning_rate(step, steps, PEAK, ScheduleConfig(**settings)) for step in range(1, steps + 1)]


def test_cosine_is_the_published_formula_after_a_linear_warm_up() -> None:
    found = rates(kind="cosine", warmup=0.1, final=0.2)
    assert found[:10] == pytest.approx([PEAK * s / 10 for s in range(1, 11)])
    floor = 0.2 * PEAK
    wanted = [floor + 0.5 * (PEAK - floor) * (1 + math.cos(math.pi * (s - 10) / 90)) for s in range(11, 101)]
    assert found[10:] == pytest.approx(wanted)
    assert found[54] == pytest.approx((PEAK + floor) / 2)  # half-way
    assert found[-1] == pytest.approx(floor)
    assert max(found) == found[9] == pytest.approx(PEAK)


def test_wsd_is_stable_and_then_falls_in_a_straight_line() -> None:
    found = rates(kind="wsd", warmup=0.05, decay=0.2, final=0.1)
    assert found[:5] == pytest.approx([PEAK * s / 5 for s in range(1, 6)])
    assert found[5:80] == [PEAK] * 75
    falls = [a - b for a, b in pairwise(found[79:])]
    assert falls == pytest.approx([0.9 * PEAK / 20] * 20)
    assert found[-1] == pytest.approx(0.1 * PEAK)


def test_linear_falls_in_a_straight_line_from_the_warm_up_to_the_last_step() -> None:
    found = rates(kind="linear", warmup=0.1, final=0.2)
    assert found[9] == pytest.approx(PEAK)
    assert [a - b for a, b in pairwise(found[9:])] == pytest.approx([0.8 * PEAK / 90] * 90)
    assert found[-1] == pytest.approx(0.2 * PEAK)


def test_constant_stays_at_the_peak() -> None:
    assert rates(kind="constant", warmup=0) == [PEAK] * 100
    assert rates(kind="constant", warmup=0.5)[49:] == [PEAK] * 51


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 1000])
def test_no_length_gives_a_rate_outside_of_zero_to_peak(kind: str, steps: int) -> None:
    for settings in ({}, {"warmup": 0.0}, {"warmup": 0.9, "decay": 1.0, "final": 0.0}):
        found = rates(steps, kind=kind, **settings)
        assert all(0 <= rate <= PEAK * (1 + 1e-12) for rate in found)
        assert any(rate > 0 for rate in found) or settings.get("final") == 0.0


def test_the_default_is_cosine_to_a_tenth() -> None:
    assert rates()[-1] == pytest.approx(PEAK / 10)
    assert rates()[1] == pytest.approx(PEAK)


@pytest.mark.parametrize("wrong", [{"warmup": 1.0}, {"decay": 0}, {"final": 1.5}, {"kind": "square"}])
def test_a_schedule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ScheduleConfig(**wrong)
