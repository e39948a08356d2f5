"""What Ray Tune runs in a trial's process."""

# ruff: noqa: E402
from __future__ import annotations

import gc

gc.disable()  # it goes through all that is imported, again and again: half a second of a process' start

import tempfile
import traceback
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from ray import tune

from raypretrain.errors import RaypretrainError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.encode import TaskTokens
from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.recipe import TrialCompute
from raypretrain.finetuning.results import Goal, Goals
from raypretrain.finetuning.schedulers import adapt_of
from raypretrain.finetuning.space import exchanges
from raypretrain.finetuning.start import Start
from raypretrain.finetuning.trial import Save, run_trial
from raypretrain.finetuning.work import write_failure
from raypretrain.finetuning.workers import Order, lead
from raypretrain.models.cpu import use_cpus

gc.enable()

_CACHE = FeatureCache()
"""Of a trial's process: Tune gives the process to the next trial of the same search."""

_once = cache(gc.freeze)
"""What was imported stays: otherwise the collections of a process' first trial go through all of it."""


def attempt(
    config: dict[str, Any],
    start: Any,
    tokens: Any,
    folder: str,
    goals: Goals,
    compute: TrialCompute,
    scratch: str | None,
) -> None:
    """What Ray Tune calls in a trial's process.

    Args:
        start, tokens: from the object store; for a trial of several workers a list with the reference, because
            the process that leads them has no use for what it refers to.
        scratch: where the state after each epoch is written for Tune, if it may be wanted.
    """
    _once()
    own, adapt = Path(folder) / "trials" / config["trial"], adapt_of(config)
    name, goal = config["task"], goals[config["task"]]
    try:
        if compute.workers_per_trial > 1:
            lead(Order(name, adapt, goal, own, compute), start[0], tokens[0], tune.report)
        else:
            use_cpus(max(1, int(compute.cpus_per_trial)))
            assert adapt.length is not None
            _alone(start, tokens[name, adapt.length], adapt, own, goal, scratch)
    except Exception as error:
        line = str(error) if isinstance(error, RaypretrainError) else f"{type(error).__name__}: {error}"
        write_failure(own, line, traceback.format_exc())
        raise


def _alone(
    start: Start, task: TaskTokens, adapt: AdaptConfig, own: Path, goal: Goal, scratch: str | None
) -> None:
    """A trial in this process, from the state that Tune gives it."""

    def report(line: dict[str, Any], save: Save) -> None:
        if scratch is None or not exchanges(adapt) or line["epoch"] == adapt.epochs:
            tune.report(line)
            return
        with tempfile.TemporaryDirectory(dir=scratch) as state:
            save(Path(state))
            tune.report(line, checkpoint=tune.Checkpoint.from_directory(state))

    known = tune.get_checkpoint()
    with known.as_directory() if known else nullcontext() as state:
        going_on = Path(state) if state else None
        run_trial(start, task, adapt, own, goal=goal, report=report, cache=_CACHE, going_on=going_on)
