"""Population based training (arXiv:1711.09846) by Ray Tune: after an epoch the worst go on from the best's state."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler

from raypretrain.finetuning.results import Goal, Goals
from raypretrain.finetuning.schedulers import adapt_of
from raypretrain.finetuning.space import Axis, SearchConfig, changed, exchanges, population_of, value_of

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

Record = Callable[[str, dict[str, Any]], None]
"""Takes a trial's name, and what :func:`raypretrain.finetuning.history.record` takes."""


class Populations(FIFOScheduler):
    """One population for each task and combination of the grids: what differs in drawn keys alone.

    All of a population wait for each other after every epoch. So which trials go on from which, and with what,
    follows from their numbers and the seed, not from which was faster.

    Args:
        seed: of the changes.
        record: is told of each trial that goes on from another's state.
    """

    def __init__(self, search: SearchConfig, goals: Goals, seed: int, record: Record) -> None:
        super().__init__()
        self._search, self._goals, self._seed, self._record = search, goals, seed, record
        self._populations: dict[str, Population] = {}
        self._of: dict[Trial, Population] = {}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        adapt, task = adapt_of(trial.config), trial.config["task"]
        if not exchanges(adapt):
            return
        key = f"{task} {population_of(adapt, self._search.drawn)}"
        if key not in self._populations:
            seed = int(hashlib.sha256(f"{self._seed} {key}".encode()).hexdigest()[:12], 16)
            self._populations[key] = Population(self._search.drawn, self._goals[task], seed, self._record)
        self._of[trial] = self._populations[key]
        self._of[trial].add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        # After the last epoch its test scores come next.
        if trial not in self._of or result["epoch"] >= adapt_of(trial.config).epochs:
            return TrialScheduler.CONTINUE
        return self._of[trial].result(tune_controller, trial, result)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        for population in self._populations.values():
            if (trial := population.choose(tune_controller)) is not None:
                return trial
        others = (trial for trial in tune_controller.get_trials() if trial not in self._of)
        return next((trial for trial in others if trial.status == trial.PENDING), None)


class Population:
    """Trials that can go on from each other's state.

    Args:
        drawn: the keys that change, and where their values are.
    """

    def __init__(self, drawn: dict[str, Axis], goal: Goal, seed: int, record: Record) -> None:
        self._drawn, self._record = drawn, record
        self._names: dict[Trial, str] = {}
        draws = np.random.default_rng(seed)
        self._random = random.Random(seed).getstate()
        self._tune = PopulationBasedTraining(
            time_attr="epoch",
            metric=f"validation_{goal.metric}",
            mode="max" if goal.larger_is_better else "min",
            perturbation_interval=1,
            hyperparam_mutations={
                "changing": {key: axis.choice or partial(axis.draw, draws) for key, axis in drawn.items()}
            },
            custom_explore_fn=self._within_bounds,
            log_config=False,
            synch=True,
        )

    def add(self, controller: Any, trial: Trial) -> None:
        """Take a trial in, before it begins."""
        self._names[trial] = trial.config["trial"]
        adapt = adapt_of(trial.config)
        trial.config["changing"] = {key: value_of(adapt, key) for key in self._drawn}
        self._tune.on_trial_add(self._own(controller), trial)

    def result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """What a trial does after an epoch; the last one to come decides for all."""
        before = {each: each.config["changing"] for each in self._names}
        with self._own_random():
            decision: str = self._tune.on_trial_result(self._own(controller), trial, result)
        for each, name in self._names.items():
            if (other := each.config["trial"]) == name:
                continue
            # Tune gave it the other's config as a whole.
            each.set_config(each.config | {"trial": name})
            settings = {"before": before[each], "theirs": before[self._named(other)]}
            self._record(
                name, {"epoch": result["epoch"], "from": other, **settings, "after": each.config["changing"]}
            )
        return decision

    def choose(self, controller: Any) -> Trial | None:
        """Which trial runs next, if one can."""
        own = self._own(controller)
        chosen: Trial | None = self._tune.choose_trial_to_run(own)
        live = own.get_live_trials()
        if chosen is None and live and all(trial.status == trial.PAUSED for trial in live):
            # The last one that they waited for failed, or had no patience left: Tune would wait for ever.
            self.result(controller, live[0], live[0].last_result)
            chosen = self._tune.choose_trial_to_run(own)
        return chosen

    def _named(self, name: str) -> Trial:
        return next(trial for trial, own in self._names.items() if own == name)

    def _own(self, controller: Any) -> Any:
        return _Own(controller, [trial for trial in self._names if not trial.is_finished()])

    def _within_bounds(self, config: dict[str, Any]) -> dict[str, Any]:
        """What Tune changed, within the range that the recipe gives, and as a trial reads it."""
        for key, value in config["changing"].items():
            if bounds := self._drawn[key].uniform or self._drawn[key].log_uniform:
                config["changing"][key] = min(max(value, bounds[0]), bounds[1])
        config["adapt"] = changed(adapt_of(config), config["changing"]).model_dump_json()
        return config

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        """Tune draws from the module ``random``, as others do: for as long, it is this population's."""
        others = random.getstate()
        random.setstate(self._random)
        try:
            yield
        finally:
            self._random = random.getstate()
            random.setstate(others)


class _Own:
    """Tune's controller, as if a population's trials that have not ended were all there are."""

    search_alg = None
    """Tune refuses searchers, because one that learns would take a changed trial for what it asked for; ours only
    hands out what is planned."""

    def __init__(self, controller: Any, trials: list[Trial]) -> None:
        self._controller, self._trials = controller, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)

    def get_trials(self) -> list[Trial]:
        return self._trials

    def get_live_trials(self) -> list[Trial]:
        return self._trials
