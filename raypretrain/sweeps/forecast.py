"""A search over pretraining as the planner takes it: its trials, at most and as expected, and the run in full."""

from __future__ import annotations

import random
from math import inf
from pathlib import Path
from typing import Any

from raypretrain.planning.hardware import Gpu
from raypretrain.planning.money import Prices
from raypretrain.planning.plan import Machine, plan
from raypretrain.sweeps.full import last_stable_step
from raypretrain.sweeps.recipe import SweepConfig, SweepRecipe, refuse_impossible, values_of
from raypretrain.sweeps.stopping import Curve, stopped_at
from raypretrain.sweeps.trials import number_of_trials
from raypretrain.training.forecast import forecast as of_run
from raypretrain.training.forecast import job_of, machine_of
from raypretrain.training.length import run_length
from raypretrain.training.recipe import PretrainRecipe

START = 10.0
"""Seconds until a trial makes its first step (docs/searching.md); on a cluster of many nodes more."""

DRAWN = 2000
"""Trials that are drawn to find what early stopping leaves of them."""


def forecast(recipe: SweepRecipe, gpu: Gpu, number: int | None, prices: Prices) -> dict[str, Any]:
    """The plan of the run in full, and beside it, as ``search``, what its trials come to.

    Raises:
        RaypretrainError: a value that can be tried is not possible, or what is asked for is not.
    """
    refuse_impossible(recipe)
    slowest = _slowest(recipe, gpu, number, prices)
    folder = Path(recipe.run.folder)
    full, trial = (recipe.plain(slowest, folder, tokens) for tokens in (None, recipe.search.tokens))
    found = of_run(full, gpu, number, prices)
    machine = machine_of(trial, gpu, number, prices)
    one = _gpu_hours(trial, machine)
    found["search"] = None
    if found["run"]:
        found["search"] = _search(recipe.search, trial, one + machine.number * START / 3600, found)
    others = ", ".join(f"{key} {value!r}" for key, value in slowest.items())
    said = [f"each trial and the run in full with the slowest values there are: {others}"]
    if recipe.search.scheduler != "none":
        said.append(f"trials that end early: as if their losses came in no order{_learned(recipe.search)}")
    return found | {"guesses": said + found["guesses"]}


def _search(search: SweepConfig, trial: PretrainRecipe, one: float, found: dict[str, Any]) -> dict[str, Any]:
    """Accelerator-hours, hours and dollars: ``at_most`` and ``expected``, trials and the run in full together."""
    number, full, price = found["gpu"]["number"], found["run"]["gpu_hours"], found["money"]["price"]
    trials = number_of_trials(search)
    share = expected_share(search, evaluations(trial))
    done = run_length(trial, 0).tokens(last_stable_step(trial)) / found["run"]["tokens"]
    every = {"at_most": (trials * one, full), "expected": (trials * one * share, full * (1 - done))}
    together = {
        name: {
            "trials_gpu_hours": tried,
            "gpu_hours": tried + rest,
            "hours": (tried + rest) / number,
            "dollars": (tried + rest) * price,
        }
        for name, (tried, rest) in every.items()
    }
    return {
        "trials": trials, "tokens": search.tokens, "scheduler": search.scheduler, "share": share, **together,
    }  # fmt: skip


def _learned(search: SweepConfig) -> str:
    return "; with tpe later ones are better, and fewer end" if search.searcher == "tpe" else ""


def _slowest(recipe: SweepRecipe, gpu: Gpu, number: int | None, prices: Prices) -> dict[str, Any]:
    """Of each key the value with which the trial takes longest, the others as they are."""
    folder, found = Path(recipe.run.folder), {}
    for key, axis in recipe.search.space.items():
        hours = {}
        for value in values_of(axis.model_dump(mode="json")):
            trial = recipe.plain({key: value}, folder, recipe.search.tokens)
            hours[_gpu_hours(trial, machine_of(trial, gpu, number, prices))] = value
        found[key] = hours[max(hours)]
    return found


def _gpu_hours(recipe: PretrainRecipe, machine: Machine) -> float:
    """Infinite where it does not fit."""
    run = plan(job_of(recipe, machine.gpu).job, machine)["run"]
    return float(run["gpu_hours"]) if run else inf


def evaluations(trial: PretrainRecipe) -> list[int]:
    """Tokens after which a trial's held-out loss is measured."""
    length = run_length(trial, 0)
    return [
        length.tokens(step)
        for step in [*range(length.evaluate_every, length.steps, length.evaluate_every), length.steps]
    ]


def expected_share(search: SweepConfig, looks: list[int]) -> float:
    """Of all trials' tokens, how many are trained on if a trial stays as good among the others as it begins.

    Args:
        looks: tokens at each evaluation.
    """
    draw, trials = random.Random(0), number_of_trials(search)
    used, searches = 0, max(1, DRAWN // trials)
    for _ in range(searches):
        before: list[Curve] = []
        for loss in draw.sample(range(trials), trials):
            curve = [(tokens, float(loss)) for tokens in looks]
            stop = stopped_at(search.scheduler, curve, before, search.tokens)
            before.append([point for point in curve if stop is None or point[0] <= stop])
            used += before[-1][-1][0]
    return used / (searches * trials * looks[-1])
