"""Which trials Ray Tune ends early: by successive halving, or below the median."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.results import Goal, Goals

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


class Fair(FIFOScheduler):
    """ASHA (arXiv:1810.05934) or the median rule (Golovin et al., Google Vizier, KDD 2017), for each group of
    comparable trials.

    Trials of different tasks cannot be compared; and if those from the base and those from scratch competed,
    the comparison between both would be over before it was made. One group is what shares task, way,
    initialisation, epochs, examples and seed.
    """

    def __init__(self, kind: str, goals: Goals) -> None:
        super().__init__()
        self._groups: dict[tuple[object, ...], TrialScheduler] = {}
        self._kind, self._goals = kind, goals

    def _group(self, trial: Trial) -> TrialScheduler:
        task, adapt = trial.config["task"], adapt_of(trial.config)
        key = (task, adapt.way, adapt.init, adapt.epochs, adapt.examples, adapt.seed)
        if key not in self._groups:
            self._groups[key] = self._made(self._goals[task], adapt)
        return self._groups[key]

    def _made(self, goal: Goal, adapt: AdaptConfig) -> TrialScheduler:
        by: dict[str, Any] = {
            "metric": f"validation_{goal.metric}",
            "mode": "max" if goal.larger_is_better else "min",
        }
        if self._kind == "median":
            return MedianStoppingRule(time_attr="epoch", grace_period=1, min_samples_required=3, **by)
        # The last epoch is nobody's to stop: the test set comes after it.
        return ASHAScheduler(max_t=adapt.epochs + 1, reduction_factor=3, **by)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._group(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        adapt = adapt_of(trial.config)
        if adapt.way == "head" or result["epoch"] >= adapt.epochs:  # its test scores come next
            return TrialScheduler.CONTINUE
        decision = self._group(trial).on_trial_result(tune_controller, trial, result)
        # The median rule would pause a trial until others have caught up: here it goes on.
        return TrialScheduler.CONTINUE if decision == TrialScheduler.PAUSE else decision

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._group(trial).on_trial_complete(tune_controller, trial, result)


def adapt_of(config: dict[str, Any]) -> AdaptConfig:
    """The settings in what Tune has of a trial."""
    return AdaptConfig.model_validate_json(config["adapt"])
