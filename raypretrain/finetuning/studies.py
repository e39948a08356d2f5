"""Searches that learn from their trials: the tree-structured Parzen estimator, by the library ``optuna``. No Ray.

Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011; how ``optuna`` does it: arXiv:2304.11127.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raypretrain.finetuning.space import Axis, changed, is_none
from raypretrain.finetuning.work import PlannedTrial, Work, planned, write_plan

if TYPE_CHECKING:
    import optuna

STARTING = 5
"""Trials of a study that are drawn at random before it learns from them."""


@dataclass
class _Study:
    """One task with one cell of the grids: the drawn axes are searched."""

    task: str
    cell: dict[str, Any]
    key: str
    known: optuna.Study
    asked: int = 0
    open: dict[str, optuna.Trial] = field(default_factory=dict)
    again: list[PlannedTrial] = field(default_factory=list)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the trials that are run again."""


class Studies:
    """What to try next, from what was found so far: in this run of the command, or in one before.

    Args:
        work: its list of trials grows by those that are asked for.
    """

    def __init__(self, work: Work) -> None:
        search = work.recipe.search
        self._work, self._axes, self._trials = work, search.drawn, search.trials
        self._studies = [
            self._study(name, dict(zip(search.grids, cell, strict=True)))
            for name in work.tasks
            for cell in itertools.product(*search.grids.values())
            if not is_none(dict(zip(search.grids, cell, strict=True)), work.recipe.adapt)
        ]
        self._of: dict[str, _Study] = {}
        self._restore()

    @property
    def total(self) -> int:
        """Trials of all studies."""
        return len(self._studies) * self._trials

    def _study(self, task: str, cell: dict[str, Any]) -> _Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        work = self._work
        axes = {name: axis.model_dump(mode="json") for name, axis in self._axes.items()}
        base = work.recipe.adapt.model_dump(mode="json")
        whole = json.dumps([work.fingerprints[task], cell, axes, base], sort_keys=True, default=str)
        key = hashlib.sha256(whole.encode()).hexdigest()[:10]
        directions = optuna.study.StudyDirection
        direction = directions.MAXIMIZE if work.goals[task].larger_is_better else directions.MINIMIZE
        made = _Study(task, cell, key, optuna.create_study(direction=direction))
        self._seed(made)
        return made

    def _seed(self, study: _Study) -> None:
        """So that a search which goes on does not draw again what it has drawn."""
        import optuna

        study.known.sampler = optuna.samplers.TPESampler(
            seed=self._work.recipe.run.seed + int(study.key[:6], 16) + study.asked,
            n_startup_trials=STARTING,
            multivariate=True,
            constant_liar=True,  # several trials run at once
        )

    def _restore(self) -> None:
        """Learn again what the trials of this search have shown that are in the run's folder."""
        studies = {study.key: study for study in self._studies}
        folders = self._work.folder / "trials"
        for path in sorted(folders.glob("*/recipe.json")):
            plan = json.loads(path.read_text(encoding="utf-8"))
            study = studies.get(plan.get("study", ""))
            if study is None or study.asked >= self._trials:
                continue
            trial = planned(self._work, study.task, self._adapt(study, plan["values"]))
            self._work.trials.append(trial)
            self._of[trial.id] = study
            study.asked += 1
            result = path.parent / "result.json"
            if result.exists():
                found = json.loads(result.read_text(encoding="utf-8"))
                self._learn(
                    study, plan["values"], found.get(f"validation_{self._work.goals[study.task].metric}")
                )
            else:
                study.again.append(trial)
                study.values[trial.id] = plan["values"]
        for study in self._studies:
            self._seed(study)

    def _learn(self, study: _Study, values: dict[str, Any], value: float | None) -> None:
        import optuna

        if value is None or not math.isfinite(value):
            return
        made = {name: distribution(axis) for name, axis in self._axes.items()}
        study.known.add_trial(optuna.trial.create_trial(params=values, distributions=made, value=value))

    def _adapt(self, study: _Study, values: dict[str, Any]) -> Any:
        adapt = changed(self._work.recipe.adapt, study.cell | values)
        return adapt.model_copy(update={"length": self._work.base.usable_length(adapt.length)})

    def __iter__(self) -> Iterator[PlannedTrial]:
        """The trials to run, one for each study in turn; ends when all were asked for."""
        for _ in range(self._trials):
            for study in self._studies:
                if study.again:
                    yield study.again.pop(0)
                elif study.asked < self._trials and (trial := self._ask(study)):
                    yield trial
        yield from (trial for study in self._studies for trial in study.again)

    def _ask(self, study: _Study) -> PlannedTrial | None:
        """The next trial; None if it is one that there was."""
        import optuna

        made = {name: distribution(axis) for name, axis in self._axes.items()}
        asked = study.known.ask(made)
        study.asked += 1
        trial = planned(self._work, study.task, self._adapt(study, asked.params))
        if trial.id in self._of:
            study.known.tell(asked, state=optuna.trial.TrialState.PRUNED)
            return None
        self._work.trials.append(trial)
        self._of[trial.id] = study
        study.open[trial.id] = asked
        write_plan(self._work, trial, {"study": study.key, "values": asked.params})
        return trial

    def tell(self, trial: str, value: float | None) -> None:
        """What a trial came to; None if it failed."""
        import optuna

        study = self._of[trial]
        asked = study.open.pop(trial, None)
        if asked is None:
            self._learn(study, study.values[trial], value)
            return
        if value is None or not math.isfinite(value):
            study.known.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            study.known.tell(asked, value)


def distribution(axis: Axis) -> optuna.distributions.BaseDistribution:
    """A drawn axis as ``optuna`` has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if axis.choice is not None:
        return CategoricalDistribution(axis.choice)
    bounds = axis.uniform or axis.log_uniform
    assert bounds is not None
    return FloatDistribution(*bounds, log=axis.log_uniform is not None)
