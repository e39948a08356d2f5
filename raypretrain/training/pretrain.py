"""The driver of a pretraining run: prepares it, hands it to Ray Train, watches it, and releases the model."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray

from raypretrain.errors import RunError, user_error
from raypretrain.models.config import ModelShape
from raypretrain.storage import check_writable, write_atomic
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealer import Supply, start_dealer
from raypretrain.training import checkpoint
from raypretrain.training.admission import admit, sizes_on_cluster
from raypretrain.training.alone import NearSupply, fit_here, one_worker
from raypretrain.training.basemodel import bring_base
from raypretrain.training.board import start_board
from raypretrain.training.checkpoint import CHECKPOINT_BYTES_PER_PARAMETER, Standing
from raypretrain.training.cluster import (
    Sizes,
    connect,
    footers_in_tasks,
    footers_in_threads,
    local_resources,
    size_up,
)
from raypretrain.training.events import Events, read_events
from raypretrain.training.exporting import exported
from raypretrain.training.fitting import Watch, fit
from raypretrain.training.goodput import account_of
from raypretrain.training.job import Job
from raypretrain.training.length import Length, run_length
from raypretrain.training.logs import JsonLines, logged
from raypretrain.training.measured import compared
from raypretrain.training.prepare import Prepared, check_weight_groups, objective_of, prepare
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.release import release
from raypretrain.training.runfolder import RunFolder, fingerprint_of
from raypretrain.training.worker import train_worker

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How a call of :func:`pretrain` ended.

    Args:
        status: ``finished``, or ``stopped`` (by a signal, with a checkpoint).
        signal: the number of the signal that stopped it.
        result: of a finished run, as in its result.json.
        goodput: what the wall time went to, see ``goodput.py``.
    """

    status: str
    folder: Path
    step: int
    steps: int
    signal: int | None = None
    result: dict[str, Any] = field(default_factory=dict)
    goodput: dict[str, float] = field(default_factory=dict)


def pretrain(
    recipe: PretrainRecipe,
    watch: Watch,
    function: Callable[[dict[str, Job]], None] = train_worker,
    *,
    here: bool = False,
    enough: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Carry out the run of ``recipe``: from nothing, or on from where it stopped, to a released model.

    The first SIGINT or SIGTERM saves a checkpoint and ends, a second one ends at once.

    Args:
        function: what each worker does; a benchmark's measures more than ours.
        here: with one worker in this process, and without Ray.
        enough: asked again and again; once it says so, a checkpoint is saved and the run ends, as by a signal.

    Raises:
        RaypretrainError: what the user can mend, from any process of the run.
    """
    if here:
        one_worker(recipe)  # refused before anything is made
    folder = RunFolder(recipe.run.folder)
    with folder.lock():
        existed = folder.open(recipe)
        done = folder.read_result()
        if done is not None:
            goodput = done.get("goodput", {})
            return Outcome(
                "finished", folder.path, done["steps"], done["steps"], result=done, goodput=goodput
            )
        with logged(folder.path, None) as log:
            watch = _with_log(watch, log)
            return _accounted(
                folder, lambda: _carry_out(recipe, folder, existed, watch, function, here, enough)
            )


def _with_log(watch: Watch, log: JsonLines) -> Watch:
    """``watch``, and what it is told in the driver's log, unless a worker has it in its own."""
    step = 0
    log.step = lambda: step

    def watched(event: dict[str, Any]) -> None:
        nonlocal step
        step = event.get("step", {}).get("step", step)
        if "say" in event and not event.pop("logged", False):
            logger.log(event.pop("level", logging.INFO), event["say"])
        watch(event)

    return watched


def _accounted(folder: RunFolder, carry_out: Callable[[], Outcome]) -> Outcome:
    """Carry the run out, and write down how it ended."""
    events, begun = Events(folder.events), time.time()
    try:
        outcome = carry_out()
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error).split("\n")[0]
        logger.error("failed: %s", reason, exc_info=user_error(error) is None)
        if any(e["event"] == "start" and e["time"] >= begun for e in read_events(folder.events)):
            events.append("failed", reason=reason)
        raise
    by = {"reason": signal.Signals(outcome.signal).name} if outcome.signal else {}
    logger.info("%s after step %d", " by ".join([outcome.status, *by.values()]), outcome.step)
    events.append(outcome.status, step=outcome.step, **by)
    outcome.goodput = outcome.result.get("goodput") or account_of(folder.path, time.time()).as_dict()
    return outcome


def _carry_out(
    recipe: PretrainRecipe,
    folder: RunFolder,
    existed: bool,
    watch: Watch,
    function: Callable[[dict[str, Job]], None],
    here: bool,
    enough: Callable[[], bool],
) -> Outcome:
    def say(line: str) -> None:
        watch({"say": line})

    begun = time.time()
    if here:
        recipe = one_worker(recipe)
    _refuse_what_cannot_fit(recipe, here)
    footers = footers_in_threads if here else partial(footers_in_tasks, recipe.compute.address)
    prepared = prepare(recipe, folder, say, footers)
    bring_base(recipe, folder, say)
    shape = recipe.model.shape(prepared.windows.tokenizer.vocabulary, recipe.sequences.length)
    check_weight_groups(recipe, shape)
    length = run_length(recipe, shape.parameters)
    check_writable(folder.path, need_bytes=shape.parameters * CHECKPOINT_BYTES_PER_PARAMETER * 2)
    prepared_at = time.time()
    sizes = _sizes(recipe, say, here)
    folder.write_environment(asdict(sizes))
    Events(folder.events).append(
        "start",
        time=begun,
        resumed=existed,
        steps=length.steps,
        tokens_per_step=length.tokens_per_step,
        sizes=asdict(sizes),
        host=platform.node(),
        pid=os.getpid(),
    )
    logger.info("%d workers on %s, %d steps; pid %d", sizes.workers, sizes.device, length.steps, os.getpid())
    watch({"start": {"shape": shape, "length": length, "sizes": sizes, "resumed": existed}})
    job = _job(recipe, folder, prepared, sizes, shape, length, here)
    waits = {"prepare": prepared_at - begun}
    if not here:
        waits["ray"] = time.time() - prepared_at
    if here:
        stopped_by = fit_here(job, watch, waits)
        told = stopped_by is not None
    else:
        with exported(folder.path):
            stopped_by, told = fit(job, watch, waits, function, enough)
    step = _newest_step(folder)
    if told and step < length.steps:
        return Outcome("stopped", folder.path, step, length.steps, signal=stopped_by)
    if step < length.steps:
        raise RunError(
            f"ended after step {step} of {length.steps}", where=str(folder.path), fix="start it again"
        )
    say("releasing the model")
    result = release(folder, recipe, prepared.windows.tokenizer)
    planned = compared(recipe, shape, sizes, _accelerator({} if here else ray.cluster_resources()), result)
    if planned:
        result["plan"] = planned
    result["goodput"] = account_of(folder.path, time.time()).as_dict()
    write_atomic(folder.result, json.dumps(result, indent=1))
    for needless in (folder.ray, folder.fetched):
        shutil.rmtree(needless, ignore_errors=True)
    return Outcome("finished", folder.path, step, length.steps, result=result)


def _refuse_what_cannot_fit(recipe: PretrainRecipe, here: bool) -> None:
    """Before anything is made."""
    elsewhere = recipe.compute.address or os.environ.get("RAY_ADDRESS") or ray.is_initialized()
    if here or not elsewhere:
        size_up(recipe, local_resources())
    else:
        connect(recipe.compute.address)
        sizes_on_cluster(recipe, lambda line: None)


def _sizes(recipe: PretrainRecipe, say: Callable[[str], None], here: bool) -> Sizes:
    if here:
        say("training in this process, without Ray")
        return size_up(recipe, local_resources())
    say("starting Ray")
    connect(recipe.compute.address)
    return admit(recipe, say)


def _accelerator(resources: dict[str, float]) -> str:
    """What Ray calls the cluster's GPUs; empty where it has none."""
    named = (name.partition("accelerator_type:")[2] for name in resources)
    return next(filter(None, named), "")


def _job(
    recipe: PretrainRecipe,
    folder: RunFolder,
    prepared: Prepared,
    sizes: Sizes,
    shape: ModelShape,
    length: Length,
    here: bool,
) -> Job:
    windows = prepared.windows
    start = Standing(
        step=0,
        cursor=Cursor(),
        tokens=0,
        world_size=sizes.workers,
        zero=recipe.compute.zero,
        recipe=fingerprint_of(recipe),
        tokenizer=windows.tokenizer.fingerprint,
        corpus=windows.manifest.fingerprint,
    )
    # One folder for each start: Ray would otherwise go by what it remembers of the last one.
    attempt = time.strftime("%Y%m%d-%H%M%S")
    return Job(
        recipe=recipe,
        folder=str(folder.path),
        sizes=sizes,
        shape=shape,
        length=length,
        held_out=prepared.held_out,
        dealer=None if here else start_dealer(min(sizes.stream_cpus, ray.cluster_resources()["CPU"])),
        supply=(NearSupply if here else Supply)(
            windows=[windows if here else ray.put(windows)],  # type: ignore[list-item]
            batches=recipe.training.batches,
            objective=objective_of(recipe, windows.tokenizer),
            cpus=sizes.stream_cpus,
            window_bytes=recipe.sequences.window,
        ),
        start=start,
        pointers=str(folder.ray / attempt),
        board=None if here else start_board(),
        submitted=time.time(),
    )


def _newest_step(folder: RunFolder) -> int:
    found = checkpoint.committed(folder.checkpoints)
    return checkpoint.read_standing(found[0]).step if found else 0
