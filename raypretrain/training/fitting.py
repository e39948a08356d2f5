"""Ray Train carries out a job: hands it over, passes on what the workers post, and takes the signals to stop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from raypretrain.errors import RunError
from raypretrain.training import standby
from raypretrain.training.elastic import Trainer, scaling
from raypretrain.training.job import Job
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.supervisor import Supervisor, TellOfLosses

Watch = Callable[[dict[str, Any]], None]
"""Is told what happens: ``{"say": line}``, ``{"start": …}``, and the latest ``phase``, ``step``, ``evaluation``."""

STOPPING = "saving a checkpoint, then stopping; once more ends at once"

_POLL_SECONDS = 0.2


def fit(
    job: Job,
    watch: Watch,
    waits: dict[str, float],
    function: Callable[[dict[str, Job]], None],
    enough: Callable[[], bool],
) -> tuple[int | None, bool]:
    """Run Ray Train to its end and pass on what the workers post.

    Args:
        waits: seconds of what came before, by name.
        function: what each worker does.
        enough: asked again and again; once it says so, the workers are asked to stop.

    Returns:
        The signal that stopped it, if one did, and whether the workers were asked to stop at all.

    Raises:
        RaypretrainError: what the user can mend, from any process of the run.
    """
    recipe, board, sizes, pointers = job.recipe, job.board, job.sizes, Path(job.pointers)
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

    def warn(line: str) -> None:
        watch({"say": line, "level": logging.WARNING})

    supervisor = Supervisor(board, RunFolder(job.folder), recipe.compute, warn)

    def work() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            errors.append(error)

    # In a thread of its own: in the main one Ray would take the signals, and end without a checkpoint.
    thread = threading.Thread(target=work, name="ray-train", daemon=True)
    with signals() as received:
        thread.start()
        told = False
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            _pass_on(board, watch, waits)
            supervisor.look()
            if not told and (received or enough()):
                told = True
                board.ask_to_stop.remote()
                if received:
                    watch({"say": STOPPING})
    _pass_on(board, watch, waits)
    supervisor.look(last=True)
    _raise_user_error(board)
    if errors:
        raise _lost_workers(errors[0], recipe.compute.max_failures) or errors[0]
    return (received[0] if received else None), told


def _pass_on(board: Any, watch: Watch, waits: dict[str, float]) -> None:
    latest, notes = ray.get(board.read.remote())
    for line, in_its_log in notes:
        watch({"say": line, "logged": in_its_log})
    if "starting" in latest:
        latest["starting"] = {**waits, **latest["starting"]}
    watch(latest)


@contextmanager
def signals() -> Iterator[list[int]]:
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
