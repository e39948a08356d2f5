"""The driver of a pretraining run: prepares it, hands it to Ray Train, watches it, and releases the model."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from raypretrain.errors import RunError
from raypretrain.models.config import ModelShape
from raypretrain.storage import check_writable, write_atomic
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealer import Supply, start_dealer
from raypretrain.training import checkpoint, standby
from raypretrain.training.basemodel import bring_base
from raypretrain.training.board import start_board
from raypretrain.training.checkpoint import CHECKPOINT_BYTES_PER_PARAMETER, Standing
from raypretrain.training.cluster import (
    Sizes,
    connect,
    footers_in_tasks,
    local_resources,
    missing_now,
    size_up,
)
from raypretrain.training.elastic import Trainer, scaling
from raypretrain.training.events import Events, read_events
from raypretrain.training.goodput import account_of
from raypretrain.training.job import Job
from raypretrain.training.length import Length, run_length
from raypretrain.training.measured import compared
from raypretrain.training.prepare import Prepared, check_weight_groups, objective_of, prepare
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.release import release
from raypretrain.training.runfolder import RunFolder, fingerprint_of
from raypretrain.training.supervisor import Supervisor, TellOfLosses
from raypretrain.training.worker import train_worker

_POLL_SECONDS = 0.2


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


Watch = Callable[[dict[str, Any]], None]
"""Is told what happens: ``{"say": line}``, ``{"start": …}``, and the latest ``phase``, ``step``, ``evaluation``."""


def pretrain(
    recipe: PretrainRecipe, watch: Watch, function: Callable[[dict[str, Job]], None] = train_worker
) -> Outcome:
    """Carry out the run of ``recipe``: from nothing, or on from where it stopped, to a released model.

    The first SIGINT or SIGTERM saves a checkpoint and ends, a second one ends at once.

    Args:
        function: what each worker does; a benchmark's measures more than ours.

    Raises:
        RaypretrainError: what the user can mend, from any process of the run.
    """
    folder = RunFolder(recipe.run.folder)
    with folder.lock():
        existed = folder.open(recipe)
        done = folder.read_result()
        if done is not None:
            goodput = done.get("goodput", {})
            return Outcome(
                "finished", folder.path, done["steps"], done["steps"], result=done, goodput=goodput
            )
        events, begun = Events(folder.events), time.time()
        try:
            outcome = _carry_out(recipe, folder, existed, watch, function)
        except BaseException as error:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error).split("\n")[0]
            if any(e["event"] == "start" and e["time"] >= begun for e in read_events(folder.events)):
                events.append("failed", reason=reason)
            raise
        by = {"reason": signal.Signals(outcome.signal).name} if outcome.signal else {}
        events.append(outcome.status, step=outcome.step, **by)
        outcome.goodput = outcome.result.get("goodput") or account_of(folder.path, time.time()).as_dict()
        return outcome


def _carry_out(
    recipe: PretrainRecipe,
    folder: RunFolder,
    existed: bool,
    watch: Watch,
    function: Callable[[dict[str, Job]], None],
) -> Outcome:
    def say(line: str) -> None:
        watch({"say": line})

    begun = time.time()
    if not (recipe.compute.address or os.environ.get("RAY_ADDRESS") or ray.is_initialized()):
        size_up(
            recipe, local_resources()
        )  # what cannot fit on this machine is refused before anything is made
    prepared = prepare(recipe, folder, say, partial(footers_in_tasks, recipe.compute.address))
    bring_base(recipe, folder, say)
    shape = recipe.model.shape(prepared.windows.tokenizer.vocabulary, recipe.sequences.length)
    check_weight_groups(recipe, shape)
    length = run_length(recipe, shape.parameters)
    check_writable(folder.path, need_bytes=shape.parameters * CHECKPOINT_BYTES_PER_PARAMETER * 2)
    prepared_at = time.time()
    say("starting Ray")
    connect(recipe.compute.address)
    sizes = size_up(recipe, ray.cluster_resources())
    waits_for = missing_now(sizes, ray.available_resources())
    if waits_for:
        say(f"note: {waits_for} are in use by other work on the cluster; waiting for them")
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
    watch({"start": {"shape": shape, "length": length, "sizes": sizes, "resumed": existed}})
    board = start_board()
    job = _job(recipe, folder, prepared, sizes, shape, length, board)
    waits = {"prepare": prepared_at - begun, "ray": time.time() - prepared_at}
    stopped_by = _fit(job, recipe, board, watch, waits, function)
    _raise_user_error(board)
    step = _newest_step(folder)
    if stopped_by and step < length.steps:
        return Outcome("stopped", folder.path, step, length.steps, signal=stopped_by)
    if step < length.steps:
        raise RunError(
            f"ended after step {step} of {length.steps}", where=str(folder.path), fix="start it again"
        )
    say("releasing the model")
    result = release(folder, recipe, prepared.windows.tokenizer)
    planned = compared(recipe, shape, sizes, _accelerator(ray.cluster_resources()), result)
    if planned:
        result["plan"] = planned
    result["goodput"] = account_of(folder.path, time.time()).as_dict()
    write_atomic(folder.result, json.dumps(result, indent=1))
    for needless in (folder.ray, folder.fetched):
        shutil.rmtree(needless, ignore_errors=True)
    return Outcome("finished", folder.path, step, length.steps, result=result)


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
    board: Any,
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
        dealer=start_dealer(sizes.stream_cpus),
        supply=Supply(
            windows=[ray.put(windows)],
            batches=recipe.training.batches,
            objective=objective_of(recipe, windows.tokenizer),
            cpus=sizes.stream_cpus,
            window_bytes=recipe.sequences.window,
        ),
        start=start,
        pointers=str(folder.ray / attempt),
        board=board,
        submitted=time.time(),
    )


def _fit(
    job: Job,
    recipe: PretrainRecipe,
    board: Any,
    watch: Watch,
    waits: dict[str, float],
    function: Callable[[dict[str, Job]], None],
) -> int | None:
    """Run Ray Train to its end and pass on what the workers post; returns the signal that stopped it, if one did."""
    sizes, pointers = job.sizes, Path(job.pointers)
    callbacks: list[Any] = [TellOfLosses(board)]
    if recipe.compute.standby:
        callbacks.append(standby.HelpersStandBy(board))
    trainer = Trainer(
        function,
        batch=recipe.training.batches.first,
        board=board,
        train_loop_config={"job": job},
        scaling_config=scaling(
            sizes.elastic or sizes.workers, sizes.cpus_per_worker, gpu=sizes.device == "cuda"
        ),
        run_config=ray.train.RunConfig(
            name=pointers.name,
            storage_path=str(pointers.parent),
            failure_config=ray.train.FailureConfig(max_failures=recipe.compute.max_failures),
            callbacks=callbacks,
            worker_runtime_env={"env_vars": standby.environment()},  # type: ignore[call-arg]
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if sizes.device == "cuda" else "gloo"),
    )
    errors: list[BaseException] = []
    supervisor = Supervisor(board, RunFolder(job.folder), recipe.compute, lambda line: watch({"say": line}))

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            errors.append(error)

    # In a thread of its own: in the main one Ray would take the signals, and end without a checkpoint.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with _signals() as received:
        thread.start()
        told = False
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            _pass_on(board, watch, waits)
            supervisor.look()
            if received and not told:
                told = True
                board.ask_to_stop.remote()
                watch({"say": "saving a checkpoint, then stopping; once more ends at once"})
    _pass_on(board, watch, waits)
    supervisor.look(last=True)
    if errors:
        _raise_user_error(board)
        raise _lost_workers(errors[0], recipe.compute.max_failures) or errors[0]
    return received[0] if received else None


def _pass_on(board: Any, watch: Watch, waits: dict[str, float]) -> None:
    latest, notes = ray.get(board.read.remote())
    for line in notes:
        watch({"say": line})
    if "starting" in latest:
        latest["starting"] = {**waits, **latest["starting"]}
    watch(latest)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM as a list that grows; a second one raises KeyboardInterrupt."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lost_workers(error: BaseException, restarts: int) -> RunError | None:
    """The error as the user's, if it comes from workers that were lost without a word."""
    failures = getattr(error, "worker_failures", {})
    # The others fail as well, in the collective that the lost one has left.
    lost = sorted(
        rank
        for rank, failure in failures.items()
        if isinstance(getattr(failure, "health_check_failure", failure), ray.exceptions.RayActorError)
    )
    if not lost:
        return None
    ranks = ", ".join(str(rank) for rank in lost)
    who = f"workers {ranks} were" if len(lost) > 1 else f"worker {ranks} was"
    return RunError(
        f"{who} lost, after {restarts} restarts",
        where="compute.max_failures",
        fix="see whether its machine ran out of memory; the same command goes on from the last checkpoint",
    )


def _raise_user_error(board: Any) -> None:
    line = ray.get(board.error.remote())
    if line:
        raise RunError(line)


def _newest_step(folder: RunFolder) -> int:
    found = checkpoint.committed(folder.checkpoints)
    return checkpoint.read_standing(found[0]).step if found else 0
