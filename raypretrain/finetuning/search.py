"""Fanning trials out with Ray Tune from one base model, read once and shared through the object store."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raypretrain.finetuning.attempt import attempt
from raypretrain.finetuning.coming import Coming
from raypretrain.finetuning.described import described
from raypretrain.finetuning.history import record, settings_at_end
from raypretrain.finetuning.population import Populations
from raypretrain.finetuning.quiet import quiet_tune, without_environment
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.release import forget_weights, release
from raypretrain.finetuning.results import Row, best_of, compare, write_results
from raypretrain.finetuning.schedulers import Fair
from raypretrain.finetuning.tracking import check_trackers, trackers
from raypretrain.finetuning.work import (
    Progress,
    Work,
    prepare,
    refuse_if_all_failed,
    rows_of,
    write_failure,
    write_stopped,
)
from raypretrain.finetuning.workers import check_room, resources_of
from raypretrain.training import cluster
from raypretrain.training.runfolder import locked

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from raypretrain.finetuning.start import Start


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        rows: one flat row a trial: trial, task, status, ``adapt.*``, numbers.
        best: task → its best trial's row, with ``model``: the released folder.
        comparison: per task, way and initialisation, at their best settings: mean and spread over seeds.
        tasks: of each task its kind, metric, labels, numbers of examples, and the cheap ``rival``'s numbers.
        paths: ``results`` (JSON), ``table`` (Parquet), ``report`` (HTML).
        seconds: of the whole search.
    """

    rows: list[Row]
    best: dict[str, Row]
    comparison: list[Row]
    tasks: dict[str, dict[str, Any]]
    paths: dict[str, str]
    seconds: float


def search(
    recipe: FinetuneRecipe,
    progress: Progress | None = None,
    connect: Callable[[], None] | None = None,
) -> SearchResult:
    """Run all trials of a recipe on each of its tasks, several at once, and release the best of each task.

    The same recipe again runs only what has no result yet; a trial that fails does not end the others. After
    Ctrl-C or SIGTERM the finished trials are kept and their table is written.

    Args:
        progress: is told ``plan`` (trials, done), ``epoch`` (trial, and its numbers) and ``trial`` (trial,
            status: finished, stopped or failed, and its numbers).
        connect: starts or joins Ray if it is not up yet; otherwise :func:`raypretrain.training.cluster.connect` does.

    Raises:
        RaypretrainError: what is wrong with the input or the cluster, that another process searches in this folder,
        or that no trial of a task was finished. KeyboardInterrupt: after the table is written.
    """
    check_trackers(recipe.search.track)
    began = time.perf_counter()
    work = prepare(recipe, recipe.trials())
    with locked(work.folder):
        return _carried_out(work, progress or (lambda event: None), connect, began)


def _carried_out(
    work: Work, tell: Progress, connect: Callable[[], None] | None, began: float
) -> SearchResult:
    for stale in work.folder.glob(".tune-*"):  # of a search that was killed
        shutil.rmtree(stale, ignore_errors=True)
    coming = Coming(work)
    tell({"event": "plan", "trials": coming.done + coming.total, "done": coming.done})
    start = work.start()
    whole = not coming.total or _run(work, start, coming, tell, connect)
    rows = rows_of(work)
    best = _released(work, start, rows)
    comparison = compare(rows, work.goals)
    tasks = described(work, with_rivals=work.recipe.search.rival and whole)
    seconds = round(time.perf_counter() - began, 3)
    summary = {"seconds": seconds, "best": best, "comparison": comparison, "tasks": tasks}
    paths = write_results(work.folder, rows, summary)
    if not whole:
        raise KeyboardInterrupt
    refuse_if_all_failed(work, rows)
    return SearchResult(rows, best, comparison, tasks, paths, seconds)


def _released(work: Work, start: Start, rows: list[Row]) -> dict[str, Row]:
    trials = {trial.id: trial for trial in work.trials}
    best = best_of(rows, work.goals)
    for row in best.values():
        trial = trials[row["trial"]]
        trial = replace(trial, adapt=settings_at_end(work.trial_folder(trial), trial.adapt))
        row["model"] = str(release(work, start, trial, row))
    forget_weights(work, keep={row["trial"] for row in best.values()})
    return best


def _run(
    work: Work, start: Start, coming: Coming, tell: Progress, connect: Callable[[], None] | None
) -> bool:
    """Run trials under Ray Tune. False if somebody interrupted it."""
    tokens = work.tokens(coming.pairs)
    if not ray.is_initialized():
        (connect or partial(cluster.connect, None))()
    compute, settings = work.recipe.compute, work.recipe.search
    check_room(compute)
    alone = compute.workers_per_trial == 1
    watch = _Watch(work, coming, tell)
    ahead = 1 if settings.searcher == "tpe" else 200
    if settings.scheduler == "pbt":  # all have to be there before the first is through an epoch
        ahead = max(ahead, coming.total)
    with (
        quiet_tune(ahead=ahead),
        without_environment(),
        _stopped_as_by_ctrl_c(),
        tempfile.TemporaryDirectory(prefix=".tune-", dir=work.folder) as scratch,
    ):
        trainable = tune.with_resources(
            tune.with_parameters(
                attempt,
                start=start if alone else [ray.put(start)],
                tokens=tokens if alone else [ray.put(tokens)],
                folder=str(work.folder.resolve()),
                goals=work.goals,
                compute=compute,
                scratch=str(Path(scratch).resolve()) if settings.scheduler == "pbt" else None,
            ),
            resources_of(compute),
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=coming,
                num_samples=coming.total,
                scheduler=_scheduler(work),
                max_concurrent_trials=None if settings.concurrency == "auto" else settings.concurrency,
                reuse_actors=alone,  # a process that leads others takes no time to start
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(Path(scratch).resolve()),
                callbacks=[watch, *trackers(settings.track, work.folder)],
                # A population keeps step, so that nobody asks for an older one; with fewer than three, Tune warns.
                checkpoint_config=tune.CheckpointConfig(num_to_keep=3),
                verbose=0,
            ),
        )
        tuner.fit()
    return coming.over and watch.ended == coming.given


@contextmanager
def _stopped_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, by which a cluster stops a job, does what Ctrl-C does, for as long as the context lasts."""
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _scheduler(work: Work) -> TrialScheduler:
    kind = work.recipe.search.scheduler
    if kind == "none":
        return FIFOScheduler()
    if kind == "pbt":
        folder, seed = work.folder / "trials", work.recipe.run.seed
        return Populations(
            work.recipe.search, work.goals, seed, lambda trial, change: record(folder / trial, change)
        )
    return Fair(kind, work.goals)


class _Watch(tune.Callback):
    """Tells what happens, and records what a trial cannot record itself: that it was stopped, or died."""

    def __init__(self, work: Work, coming: Coming, tell: Progress) -> None:
        self.work, self.coming, self.tell = work, coming, tell
        self.ended = 0

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own way of resuming; a view of a terminal cannot be.
        return vars(self) | {"tell": None, "coming": None, "work": None}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self.tell({"event": "epoch", "trial": trial.config["trial"]} | _numbers(result))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        name = trial.config["trial"]
        folder = self.work.folder / "trials" / name
        stopped = not (folder / "result.json").exists()
        if stopped:
            write_stopped(folder, _numbers(trial.last_result))
        status = "stopped" if stopped else "finished"
        metric = f"validation_{self.work.goals[trial.config['task']].metric}"
        self.coming.tell(name, (trial.last_result or {}).get(metric))
        self._end(name, {"status": status} | _numbers(trial.last_result))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        name = trial.config["trial"]
        folder = self.work.folder / "trials" / name
        if not (folder / "error.json").exists():
            cause = trial.get_error() or RuntimeError("no reason is known")
            write_failure(folder, f"the trial's process died ({type(cause).__name__})", str(cause))
        error = json.loads((folder / "error.json").read_text(encoding="utf-8"))["error"]
        self.coming.tell(name, None)
        self._end(name, {"status": "failed", "error": error})

    def _end(self, name: str, event: dict[str, Any]) -> None:
        self.ended += 1
        self.tell({"event": "trial", "trial": name} | event)


def _numbers(result: dict[str, Any] | None) -> dict[str, Any]:
    """What a trial reported, without what Tune adds."""
    kept = ("epoch", "train_loss", "seconds")
    return {k: v for k, v in (result or {}).items() if k in kept or k.startswith("validation_")}
