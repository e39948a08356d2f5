"""What Ray Tune runs in a trial's process."""

from __future__ import annotations

import tempfile
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from ray import tune

from raypretrain.errors import RaypretrainError
from raypretrain.finetuning.encode import TaskTokens
from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.results import Goals
from raypretrain.finetuning.schedulers import adapt_of
from raypretrain.finetuning.space import exchanges
from raypretrain.finetuning.trial import Save, Start, run_trial
from raypretrain.finetuning.work import write_failure

Tokens = dict[tuple[str, int], TaskTokens]
"""By task and length."""

_CACHE = FeatureCache()
"""Of a trial's process: Tune gives the process to the next trial of the same search."""


def attempt(
    config: dict[str, Any],
    start: Start,
    tokens: Tokens,
    folder: str,
    goals: Goals,
    threads: int,
    scratch: str | None,
) -> None:
    """What Ray Tune calls in a trial's process; ``start`` and ``tokens`` lie in the object store.

    Args:
        scratch: where the state after each epoch is written for Tune, if it may be wanted.
    """
    torch.set_num_threads(threads)
    own, adapt = Path(folder) / "trials" / config["trial"], adapt_of(config)
    assert adapt.length is not None
    task = tokens[config["task"], adapt.length]

    def report(line: dict[str, Any], save: Save) -> None:
        if scratch is None or not exchanges(adapt) or line["epoch"] == adapt.epochs:
            tune.report(line)
            return
        with tempfile.TemporaryDirectory(dir=scratch) as state:
            save(Path(state))
            tune.report(line, checkpoint=tune.Checkpoint.from_directory(state))

    known = tune.get_checkpoint()
    try:
        goal = goals[config["task"]]
        with known.as_directory() if known else nullcontext() as state:
            going_on = Path(state) if state else None
            run_trial(start, task, adapt, own, goal=goal, report=report, cache=_CACHE, going_on=going_on)
    except Exception as error:
        line = str(error) if isinstance(error, RaypretrainError) else f"{type(error).__name__}: {error}"
        write_failure(own, line, traceback.format_exc())
        raise
