"""The plan of a search over pretraining: its trials, what early stopping leaves of them, and the run in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypretrain.config import load_recipe
from raypretrain.planning.hardware import GPUS
from raypretrain.planning.money import Prices
from raypretrain.sweeps.forecast import START, evaluations, expected_share, forecast
from raypretrain.sweeps.recipe import SweepRecipe
from raypretrain.sweeps.stopping import Curve, stopped_at

JOB = Path(__file__).parents[2] / "jobs" / "search-pretraining.yaml"


def load(*overrides: str) -> SweepRecipe:
    return load_recipe(JOB, SweepRecipe, overrides)


def planned(*overrides: str) -> dict[str, Any]:
    return forecast(load(*overrides), GPUS["cpu"], None, Prices())


def test_at_most_is_every_trial_to_its_end_and_the_run_in_full() -> None:
    found = planned("search.scheduler=none", "training.schedule.kind=cosine")
    search, run = found["search"], found["run"]
    most = search["at_most"]
    assert (search["trials"], search["share"], search["expected"]) == (12, 1.0, most)
    assert most["gpu_hours"] == pytest.approx(most["trials_gpu_hours"] + run["gpu_hours"])
    assert most["hours"] == pytest.approx(most["gpu_hours"] / 2)
    steps = 12 * 2_000_000 / run["tokens"] * 2 * run["hours_of_steps"]
    starts = 12 * 2 * START / 3600
    # A short run evaluates as often as a long one.
    assert steps + starts < most["trials_gpu_hours"] < 1.1 * steps + starts


def test_of_the_values_the_slowest_counts() -> None:
    one = "search.space={model.preset: {grid: [llama-3m, llama-10m, llama-1m]}}"
    several, large = planned(one), planned("model.preset=llama-10m")
    assert several["model"] == large["model"]
    assert several["search"]["trials"] == 36
    assert "model.preset 'llama-10m'" in several["guesses"][0]


def test_early_stopping_and_a_fork_make_it_less() -> None:
    found = planned()
    most, expected = found["search"]["at_most"], found["search"]["expected"]
    assert expected["trials_gpu_hours"] == pytest.approx(found["search"]["share"] * most["trials_gpu_hours"])
    forked = (most["gpu_hours"] - most["trials_gpu_hours"]) - (
        expected["gpu_hours"] - expected["trials_gpu_hours"]
    )
    decay = load().training.schedule.decay
    assert forked / found["run"]["gpu_hours"] == pytest.approx((1 - decay) * 2e6 / 50e6, rel=0.05)


def test_the_share_is_that_of_the_rule_itself() -> None:
    """Three trials are never ended: of four, a fourth goes on to the end only if it is the best of them."""
    recipe = load("search.trials=4")
    looks = evaluations(recipe.plain({}, Path("run"), recipe.search.tokens))
    assert looks[-1] >= recipe.search.tokens > looks[-2]
    first: list[Curve] = [[(tokens, float(i)) for tokens in looks] for i in range(3)]
    stop = stopped_at("asha", [(tokens, 9.0) for tokens in looks], first, recipe.search.tokens)
    assert stop is not None
    share = (3 + 0.25 + 0.75 * stop / looks[-1]) / 4
    assert expected_share(recipe.search, looks) == pytest.approx(share, abs=0.02)
    assert expected_share(load("search.trials=3").search, looks) == 1.0
    assert 0.3 < expected_share(load("search.scheduler=median").search, looks) < 0.9
