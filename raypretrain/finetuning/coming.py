"""Which trial Ray Tune runs next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from raypretrain.finetuning.studies import Studies
from raypretrain.finetuning.work import Work, write_plan


class Coming(Searcher):
    """What Tune asks for the next trial: those that are planned, or what a searcher makes of the results."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._studies = Studies(work) if work.recipe.search.searcher != "random" else None
        pending = work.pending()
        self.done = len(work.trials) - len(pending)
        self.total = self._studies.total - self.done if self._studies else len(pending)
        if not self._studies:
            for trial in pending:
                write_plan(work, trial)
        self._next = iter(self._studies or pending)
        self.given, self.over = 0, False
        self.pairs = [(trial.task, trial.adapt) for trial in pending]
        if self._studies:  # what decides over the tokens is not searched: any settings of the recipe have it
            self.pairs = [(name, adapt) for name in work.tasks for adapt in work.recipe.trials()]

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles it for its own way of resuming, which is not ours.
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        trial = next(self._next, None)
        if trial is None:
            self.over = True
            return str(Searcher.FINISHED)
        self.given += 1
        self.over = self.given == self.total
        return {"trial": trial.id, "task": trial.task, "adapt": trial.adapt.model_dump_json()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The results come by :class:`_Watch`, which knows the trial's name."""

    def tell(self, trial: str, value: float | None) -> None:
        """What a trial came to; None if it failed."""
        if self._studies:
            self._studies.tell(trial, value)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is done is in the run's folder."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as of :meth:`save`."""
