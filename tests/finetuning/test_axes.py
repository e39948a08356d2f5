"""Scales and numbers of the report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypretrain.finetuning.axes import (
    amount_text,
    count_text,
    scale,
    score_text,
    tick_text,
    time_text,
)

pytestmark = pytest.mark.unit


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5), st.booleans())
def test_every_value_has_a_place_between_the_ends_and_ticks_stand_inside(values: list[float], whole: bool):
    one = scale(values, 10, 210, whole=whole)
    assert all(10 - 1e-6 <= one.at(value) <= 210 + 1e-6 for value in values)
    ticks = one.ticks()
    assert len(ticks) <= 6
    assert ticks == sorted(set(ticks))
    assert all(10 - 0.1 <= one.at(tick) <= 210 + 0.1 for tick in ticks)
    assert not whole or all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize(
    ("values", "kind", "ticks"),
    [
        ([0.71, 0.84], {}, [0.725, 0.75, 0.775, 0.8, 0.825]),
        ([0.0, 1.0], {}, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([1, 4], {"whole": True}, [1, 2, 3, 4]),
        ([1], {"whole": True}, [1]),
        ([1e-5, 1e-3], {"log": True}, [1e-5, 1e-4, 1e-3]),
        ([100, 500, 2000], {"log": True}, [100, 200, 500, 1000, 2000]),
    ],
)
def test_ticks_are_the_round_values_that_a_person_would_write(values, kind, ticks):
    assert scale(values, 0, 100, **kind).ticks() == pytest.approx(ticks)


def test_a_logarithmic_scale_makes_equal_ratios_equally_long():
    one = scale([1e-4, 1e-2], 0, 100, log=True)
    assert one.at(1e-3) == pytest.approx(50)
    assert one.at(1e-3) - one.at(1e-4) == pytest.approx(one.at(1e-2) - one.at(1e-3))


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (tick_text, 0.00001, "1e-5"),
        (tick_text, -0.25, "−0.25"),
        (tick_text, 2000.0, "2,000"),
        (tick_text, 16.0, "16"),
        (score_text, 0.8734, "0.873"),
        (score_text, 0.0089, "0.009"),
        (score_text, -0.000123, "−0.00012"),
        (score_text, 123.44, "123.4"),
        (score_text, None, "–"),
        (count_text, 1127296.0, "1,127,296"),
        (amount_text, 0.01144, "0.0114"),
        (amount_text, 41.26, "41.3"),
        (amount_text, 1204.4, "1,204"),
        (time_text, 41.26, "41.3 s"),
        (time_text, 150.0, "2.5 min"),
        (time_text, 9000.0, "2.5 h"),
    ],
)
def test_numbers_are_as_short_as_they_can_be(function, value, text):
    assert function(value) == text


def test_a_change_shows_its_sign():
    assert score_text(0.25, sign=True) == "+0.250"
    assert score_text(-0.25, sign=True) == "−0.250"
