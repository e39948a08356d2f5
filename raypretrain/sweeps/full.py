"""From the best trial to the run in full: forked where its rate was still at its height, or trained from the beginning.

A rate that has come down over a few tokens is not the beginning of a longer run. With WSD it has not come down until
the last steps, so a run in full can take up what the trial had before them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raypretrain.training.fork import fork
from raypretrain.training.length import run_length
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder


def last_stable_step(trial: PretrainRecipe) -> int:
    """The step of a trial before its rate falls, with WSD; 0 with any other schedule."""
    schedule, steps = trial.training.schedule, run_length(trial, 0).steps
    return max(0, steps - max(1, round(schedule.decay * steps))) if schedule.kind == "wsd" else 0


def kept_where_it_decays(trial: PretrainRecipe) -> PretrainRecipe:
    """The same trial, with a checkpoint of its last stable step, if there is one."""
    at, training = last_stable_step(trial), trial.training
    if not at:
        return trial
    kept = training.checkpoint.model_copy(update={"every": at, "keep_every": at})
    return trial.model_copy(update={"training": training.model_copy(update={"checkpoint": kept})})


def in_full(
    full: PretrainRecipe, trial: PretrainRecipe, done: RunFolder, say: Callable[[str], None]
) -> PretrainRecipe:
    """The recipe to train on with, whose folder is a fork of the trial's where that is possible.

    Args:
        full: as long as it is to be, in its own folder.
        trial: as it was tried.
        done: the finished trial.
    """
    at = last_stable_step(trial)
    if not at:
        return full
    folder = Path(full.run.folder)
    parameters = (done.read_result() or {})["parameters"]
    steps = [run_length(recipe, parameters).steps for recipe in (trial, full)]
    # With as many steps of warm-up as the trial had, the fork is what a run of this recipe would be.
    schedule = full.training.schedule
    warmup = round(schedule.warmup * steps[0]) / steps[1]
    training = full.training.model_copy(update={"schedule": schedule.model_copy(update={"warmup": warmup})})
    longer = full.model_copy(update={"training": training}).in_folder(done.path)
    return fork(longer, folder, say, at)
