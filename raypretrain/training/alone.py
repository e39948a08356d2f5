"""A run in this very process: one worker, its stream and its driver, without Ray, so that a debugger sees all of it.

The worker, the dealer and the windows are those of every run; only what lies between them is called here, not sent. So
the batches are the same, and so is what the run leaves in its folder. What is missing is what needs other processes:
reading ahead, restarts, and a supervisor, who would take a stop at a breakpoint for a hang.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
import torch.distributed as dist

from raypretrain.errors import RecipeError
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealer import Dealer, StepRows, Supply, Turn
from raypretrain.tokens.dealing import Part
from raypretrain.tokens.stream import not_empty
from raypretrain.training.fitting import STOPPING, Watch, signals
from raypretrain.training.job import Job
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.requests import Request
from raypretrain.training.worker import Worker


def one_worker(recipe: PretrainRecipe) -> PretrainRecipe:
    """The recipe for one worker, beside which no processes stand by.

    Raises:
        RecipeError: it wants more.
    """
    given = recipe.compute.workers
    least = given[0] if isinstance(given, tuple) else given or 1
    if least > 1:
        raise RecipeError(
            f"{least} workers do not fit into one process",
            where="compute.workers",
            fix="give --set compute.workers=1 with --local-process, or leave that out",
        )
    compute = recipe.compute.model_copy(update={"workers": 1, "standby": False})
    return recipe.model_copy(update={"compute": compute})


@dataclass(frozen=True)
class NearSupply(Supply):
    """What a run deals, its windows read where it is asked for them; these are in the list as they are."""

    def parts(self, cursor: Cursor) -> Iterator[Part]:
        """As those of every supply."""
        windows: Any = self.windows[0]
        found = (
            part
            for w in windows.windows_from(cursor.window)
            for part in windows.parts(w, cursor.part if w == cursor.window else 0)
        )
        return not_empty(found)


class Teller:
    """In the board's place: what the worker posts is told at once, and a signal is what is asked of it.

    Args:
        watch: of the run.
        waits: seconds of what came before the worker, by name.
        received: the signals so far.
    """

    def __init__(self, watch: Watch, waits: dict[str, float], received: list[int]) -> None:
        self._watch, self._waits, self._received = watch, waits, received
        self._told = False

    def post(self, kind: str, value: Any, *, now: bool = False) -> None:
        """As of the poster."""
        self._watch({kind: {**self._waits, **value} if kind == "starting" else value})

    def note(self, line: str, level: int = logging.WARNING) -> None:
        """As of the poster."""
        self._watch({"say": line, "level": level})

    def asked(self) -> Request:
        """As of the poster."""
        if not self._received:
            return Request.NOTHING
        if not self._told:
            self._told = True
            self.note(STOPPING, logging.INFO)
        return Request.STOP


class LoneWorker(Worker):
    """The only worker of a run.

    Args:
        job: of the run; it has neither a dealer nor a board.
        teller: in the board's place.
    """

    def __init__(self, job: Job, teller: Teller) -> None:
        super().__init__(job, teller)
        self.incarnation = 1

    def deal(self, turn: Turn, steps: int) -> Iterator[StepRows]:
        """As those of every worker, from a dealer of its own."""
        dealer: Any = Dealer()
        dealer.begin(turn)
        for step in range(steps):
            yield from dealer.take(turn.group, step, 1, self.rank)


def fit_here(job: Job, watch: Watch, waits: dict[str, float]) -> int | None:
    """Carry out the job in this process; returns the signal that stopped it, if one did.

    Args:
        waits: seconds of what came before, by name.
    """
    logging.getLogger("ray.train").setLevel(logging.ERROR)  # it says that this is its local mode
    with signals() as received, _group_of_one("nccl" if job.sizes.device == "cuda" else "gloo"):
        work = partial(_work, job, Teller(watch, waits, received))
        # Without workers of its own, Ray Train calls the function itself.
        ray.train.torch.TorchTrainer(work, scaling_config=ray.train.ScalingConfig(num_workers=0)).fit()
    return received[0] if received else None


def _work(job: Job, teller: Teller) -> None:
    LoneWorker(job, teller).run()


@contextmanager
def _group_of_one(backend: str) -> Iterator[None]:
    """A process group without a network; DeepSpeed looks for the rank in the environment."""
    before = dict(os.environ)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
        if dist.is_initialized():
            dist.destroy_process_group()
