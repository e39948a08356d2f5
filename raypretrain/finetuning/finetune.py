"""Fine-tuning without a search: one trial a task, in this process. No Ray."""

from __future__ import annotations

import time
import traceback
from typing import Any

import torch

from raypretrain.errors import RaypretrainError, RecipeError
from raypretrain.finetuning.described import described
from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.release import release
from raypretrain.finetuning.results import best_of, write_results
from raypretrain.finetuning.space import SearchConfig
from raypretrain.finetuning.start import Start
from raypretrain.finetuning.trial import Save, run_trial
from raypretrain.finetuning.work import (
    PlannedTrial,
    Progress,
    Work,
    prepare,
    refuse_if_all_failed,
    rows_of,
    write_failure,
    write_plan,
)
from raypretrain.training.runfolder import locked


def finetune(recipe: FinetuneRecipe, progress: Progress | None = None) -> dict[str, Any]:
    """Fine-tune one model for each task with the settings of ``adapt``; ``search`` is ignored.

    The same recipe again repeats nothing that is done.

    Args:
        progress: is told ``plan`` (trials, done), ``epoch`` (trial, and the numbers), ``trial`` (trial,
            status).

    Returns:
        folder, seconds, tasks (name → its row with ``model``, the released folder), and the paths of the
        tables.

    Raises:
        RaypretrainError: what is wrong with the input, or the first trial that failed.
    """
    began = time.perf_counter()
    if recipe.compute.workers_per_trial > 1:
        raise RecipeError(
            "is for searches: here a trial is this process",
            where="compute.workers_per_trial",
            fix="raypretrain search with the same recipe, or set it to 1",
        )
    work = prepare(_alone(recipe), [recipe.adapt])
    with locked(work.folder):
        return _carried_out(work, progress or (lambda event: None), began)


def _carried_out(work: Work, tell: Progress, began: float) -> dict[str, Any]:
    pending = work.pending()
    tell({"event": "plan", "trials": len(work.trials), "done": len(work.trials) - len(pending)})
    start = work.start()
    tokens = work.tokens([(trial.task, trial.adapt) for trial in pending])
    cache = FeatureCache()
    for trial in pending:
        status = _attempt(work, start, trial, tokens[trial.task, trial.length], cache, tell)
        tell({"event": "trial", "trial": trial.id, "status": status})
    rows = rows_of(work)
    tasks = best_of(rows, work.goals)
    for trial in work.trials:
        if trial.task in tasks:
            tasks[trial.task]["model"] = str(release(work, start, trial, tasks[trial.task]))
    seconds = round(time.perf_counter() - began, 3)
    summary = {"seconds": seconds, "best": tasks, "comparison": [], "tasks": described(work)}
    paths = write_results(work.folder, rows, summary)
    refuse_if_all_failed(work, rows)
    return {"folder": str(work.folder), "seconds": seconds, "tasks": tasks, "paths": paths}


def _alone(recipe: FinetuneRecipe) -> FinetuneRecipe:
    """The recipe without its search; trials have this process's GPU, if there is one."""
    compute, search = recipe.compute, SearchConfig(metric=recipe.search.metric)
    if torch.cuda.is_available() and not compute.precision:
        compute = compute.model_copy(update={"precision": "bf16"})
    return recipe.model_copy(update={"search": search, "compute": compute})


def _attempt(
    work: Work, start: Start, trial: PlannedTrial, tokens: Any, cache: FeatureCache, tell: Progress
) -> str:
    """Run one trial; a failure of its own is recorded, and the next task goes on."""
    folder = work.trial_folder(trial)
    write_plan(work, trial)

    def report(line: dict[str, Any], save: Save) -> None:
        tell({"event": "epoch", "trial": trial.id, "epochs": trial.adapt.epochs} | line)

    try:
        goal = work.goals[trial.task]
        run_trial(start, tokens, trial.adapt, folder, goal=goal, report=report, cache=cache)
    except RaypretrainError as error:
        write_failure(folder, str(error), traceback.format_exc())
        return "failed"
    return "finished"
