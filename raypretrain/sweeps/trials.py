"""Which trials a search over pretraining consists of, and which is next: from the recipe and the results alone."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypretrain.finetuning.studies import STARTING, distribution
from raypretrain.sweeps.recipe import SweepConfig


@dataclass(frozen=True)
class Trial:
    """Values in place of the axes; trial ``number`` of a search, from 0."""

    number: int
    values: dict[str, Any]

    def name(self, rest: Any) -> str:
        """Of its folder; it follows from all that it depends on: its values, and the ``rest`` of its recipe."""
        text = json.dumps([self.values, rest], sort_keys=True, default=str)
        return f"{self.number:03d}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def cells(search: SweepConfig) -> list[dict[str, Any]]:
    """Every combination of the grids."""
    return [dict(zip(search.grids, each, strict=True)) for each in itertools.product(*search.grids.values())]


def number_of_trials(search: SweepConfig) -> int:
    """In all; without a drawn axis there is one for each combination of the grids."""
    return len(cells(search)) * (search.trials if search.drawn else 1)


def trial(search: SweepConfig, seed: int, before: Sequence[tuple[Trial, float | None]]) -> Trial:
    """The next trial; the same for the same results.

    Args:
        before: the trials before it, in their order, each with its loss; None where it failed.
    """
    number, every = len(before), cells(search)
    cell = every[number % len(every)]
    draw = _learned if search.searcher == "tpe" else _random
    same = before[number % len(every) :: len(every)]
    return Trial(number, cell | draw(search, seed + number, same))


def _random(search: SweepConfig, seed: int, before: Sequence[tuple[Trial, float | None]]) -> dict[str, Any]:
    # A generator for each trial: what is drawn hangs on no other one.
    random = np.random.default_rng(seed)
    return {key: axis.draw(random) for key, axis in search.drawn.items()}


def _learned(search: SweepConfig, seed: int, before: Sequence[tuple[Trial, float | None]]) -> dict[str, Any]:
    """By the tree-structured Parzen estimator, from the trials with the same values of the grids."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = {key: distribution(axis) for key, axis in search.drawn.items()}
    # Made anew for each trial, so that a search that goes on draws what it would have drawn.
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTING, multivariate=True)
    study = optuna.create_study(sampler=sampler, direction="minimize")
    for known, loss in before:
        if loss is not None and math.isfinite(loss):
            drawn = {key: known.values[key] for key in made}
            study.add_trial(optuna.trial.create_trial(params=drawn, distributions=made, value=loss))
    params: dict[str, Any] = study.ask(made).params
    return params
