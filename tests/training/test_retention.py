"""Which checkpoints stay."""

from __future__ import annotations

import math

from raypretrain.training.retention import kept

STEPS = [10, 20, 30, 40, 50]


def test_the_last_stay() -> None:
    assert kept(STEPS, keep=2) == {40, 50}
    assert kept(STEPS, keep=9) == set(STEPS)
    assert kept([], keep=2) == set()


def test_multiples_stay_for_ever() -> None:
    assert kept(STEPS, keep=1, every=20) == {20, 40, 50}


def test_the_best_stays_of_those_that_were_measured_and_of_equals_the_earlier() -> None:
    losses = {10: 3.0, 20: 2.0, 30: 2.0, 50: math.nan, 60: 0.5}
    assert kept(STEPS, keep=1, losses=losses) == {20, 50}
    assert kept(STEPS, keep=1, losses={}) == {50}
