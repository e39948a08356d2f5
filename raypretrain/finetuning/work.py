"""The work of a run: which trials there are, what they share, and which are done. Plain functions, no Ray."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raypretrain.config import save_recipe
from raypretrain.errors import InputError, RunError
from raypretrain.finetuning.adapt import AdaptConfig, sequences_needed
from raypretrain.finetuning.base import BaseModel, open_base, pack
from raypretrain.finetuning.base_text import BaseText, read_base_text
from raypretrain.finetuning.checks import check_fit, check_shared
from raypretrain.finetuning.encode import Draw, TaskTokens, encode_task
from raypretrain.finetuning.history import HISTORY, settings_at_end
from raypretrain.finetuning.recipe import FinetuneRecipe, Precision
from raypretrain.finetuning.results import Goal
from raypretrain.finetuning.space import exchanges
from raypretrain.finetuning.tasks import Task, load_task
from raypretrain.storage import check_writable, write_atomic

if TYPE_CHECKING:  # start.py imports torch
    from torch import Tensor

    from raypretrain.finetuning.start import Start
    from raypretrain.models.shape import ModelShape

Progress = Callable[[dict[str, Any]], None]
"""Takes an event: ``{"event": "plan" | "epoch" | "trial" | "export", …}``; see the functions that send it."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial that a recipe asks for; ``id``, also its folder's name, follows from all that it depends on."""

    id: str
    task: str
    adapt: AdaptConfig

    @property
    def length(self) -> int:
        """Texts are cut after so many tokens."""
        assert self.adapt.length is not None  # prepare() has set it
        return self.adapt.length


@dataclass(frozen=True)
class Work:
    """A recipe with its inputs checked and read, weights aside."""

    recipe: FinetuneRecipe
    base: BaseModel
    tasks: dict[str, Task]
    trials: list[PlannedTrial]
    text: BaseText | None = None
    fingerprints: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Of each task: that of the base model, with its text, and that of the data."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.recipe.run.folder)

    def trial_folder(self, trial: PlannedTrial) -> Path:
        """Where a trial writes."""
        return self.folder / "trials" / trial.id

    def pending(self) -> list[PlannedTrial]:
        """The trials without a result yet; those that failed are among them."""
        return [trial for trial in self.trials if not (self.trial_folder(trial) / "result.json").exists()]

    def tokens(self, pairs: Sequence[tuple[str, AdaptConfig]]) -> dict[tuple[str, int], TaskTokens]:
        """(task, length) → the tokens that trials of these tasks with these settings need."""
        draws: dict[tuple[str, int], list[Draw]] = {}
        for task, adapt in pairs:
            length = self.base.usable_length(adapt.length)
            draws.setdefault((task, length), []).append((adapt.seed, adapt.examples))
        return {
            (name, length): encode_task(self.tasks[name], self.base.encoder(length), drawn)
            for (name, length), drawn in draws.items()
        }

    def start(self) -> Start:
        """The base model with its weights, read now.

        Raises:
            InputError: they cannot be read, are pickled, or do not fit the config.
        """
        from raypretrain.finetuning.start import Start
        from raypretrain.models.loading import load_completed

        loaded = load_completed(self.base.folder, seed=0)
        if self.text is not None and loaded.drawn:
            raise InputError(
                "was released without its output, so what it forgets cannot be measured",
                where=str(self.base.folder),
                fix="take base.text out",
            )
        before = None if self.text is None else self._recalled(self.text, loaded.shape, loaded.state)
        compute, weights = self.recipe.compute, pack(loaded.state)
        computing = compute.computes_in, compute.gradient_checkpointing
        return Start(loaded.shape, weights, self.base.pad, self.text, before, *computing)

    def _recalled(self, text: BaseText, shape: ModelShape, state: dict[str, Tensor]) -> dict[str, Any]:
        """How well the base does what it was trained for, kept for the next time."""
        from raypretrain.finetuning.forgetting import recall
        from raypretrain.finetuning.start import set_precision
        from raypretrain.models.families import build

        precision = self.recipe.compute.computes_in
        whole = f"{self.base.fingerprint()} {text.fingerprint}{_suffix(precision)}"
        key = hashlib.sha256(whole.encode()).hexdigest()[:10]
        path = self.folder / f"base-{key}.json"
        if not path.exists():
            network = build(shape).float()
            network.load_state_dict(state)
            set_precision(network, precision)
            write_atomic(path, json.dumps(recall(network, text), indent=2) + "\n")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    @property
    def goals(self) -> dict[str, Goal]:
        """What decides between the trials of each task."""
        found = {}
        for name, task in self.tasks.items():
            metric = self.recipe.search.metric_of(task.kind)
            found[name] = Goal(metric, task.kind.metrics[metric])
        return found


def prepare(recipe: FinetuneRecipe, trials: Sequence[AdaptConfig]) -> Work:
    """Check everything that a user can have got wrong, then make the run's folder.

    Args:
        trials: to be run on each task.

    Raises:
        RaypretrainError: what is wrong with the base model, a task's files, or the folder.
    """
    folder = Path(recipe.run.folder)
    base = open_base(recipe.base, folder / "base")
    trials = [adapt.model_copy(update={"length": base.usable_length(adapt.length)}) for adapt in trials]
    tasks = {config.name: load_task(config) for config in recipe.tasks}
    for task in tasks.values():
        check_fit(task, base, recipe.search, trials, recipe.base.text is not None)
        check_shared(task, recipe.compute.workers_per_trial)
    check_writable(recipe.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, folder / "recipe.yaml")
    text = _text(recipe, base, tasks, trials)
    model = base.fingerprint()
    if text is not None:  # a trial without it measured less
        model = f"{model} {text.fingerprint}"
    model += _suffix(recipe.compute.computes_in)
    fingerprints = {name: (model, task.fingerprint) for name, task in tasks.items()}
    work = Work(recipe, base, tasks, [], text, fingerprints)
    if recipe.search.searcher == "random":
        work.trials.extend(planned(work, name, adapt) for name in tasks for adapt in trials)
    return work


def _suffix(precision: Precision) -> str:
    """What tells trials in another precision than fp32 apart."""
    return "" if precision == "fp32" else f" {precision}"


def _text(
    recipe: FinetuneRecipe, base: BaseModel, tasks: dict[str, Task], trials: Sequence[AdaptConfig]
) -> BaseText | None:
    """The base's text, with as much to replay as the trials need."""
    config = recipe.base.text
    if config is None:
        return None
    needed = 0
    for task in tasks.values():
        for adapt in (trial.held for trial in trials):
            if adapt.replay:
                steps = adapt.epochs * math.ceil(len(task.draw(adapt.seed, adapt.examples)) / adapt.batch)
                needed = max(needed, sequences_needed(adapt.replay, adapt.batch, steps)[1])
    return read_base_text(config, base.folder, base.shape, replay=needed, seed=recipe.run.seed)


def planned(work: Work, task: str, adapt: AdaptConfig) -> PlannedTrial:
    """The trial of a task with these settings."""
    depends: list[Any] = [*work.fingerprints[task], adapt.effective()]
    search = work.recipe.search
    if search.scheduler == "pbt" and exchanges(adapt):  # others of its population as well
        drawn = {key: axis.model_dump(mode="json") for key, axis in search.drawn.items()}
        depends.append([drawn, search.trials, search.metric, work.recipe.run.seed])
    whole = json.dumps(depends, sort_keys=True)
    short = hashlib.sha256(whole.encode()).hexdigest()[:10]
    return PlannedTrial(f"{task}-{adapt.way}-{adapt.init}-{short}", task, adapt)


def write_plan(work: Work, trial: PlannedTrial, more: dict[str, Any] | None = None) -> None:
    """Make a trial's folder with what it is going to do, and forget an earlier attempt.

    Args:
        more: what a searcher wants to know of it again.
    """
    folder = work.trial_folder(trial)
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in ("error.json", HISTORY):
        (folder / earlier).unlink(missing_ok=True)
    plan = {"trial": trial.id, "task": trial.task, "adapt": trial.adapt.model_dump(mode="json")} | (
        more or {}
    )
    write_atomic(folder / "recipe.json", json.dumps(plan, indent=2) + "\n")


def write_failure(folder: Path, error: str, trace: str) -> None:
    """Record that a trial failed: one line, and where it happened."""
    write_atomic(folder / "error.json", json.dumps({"error": error, "trace": trace}, indent=2) + "\n")


def write_stopped(folder: Path, numbers: dict[str, Any]) -> None:
    """Record that a scheduler ended a trial early, with its last numbers; it has no test result."""
    write_atomic(folder / "result.json", json.dumps({"status": "stopped"} | numbers, indent=2) + "\n")


def rows_of(work: Work) -> list[dict[str, Any]]:
    """One flat row a trial: trial, task, status (finished, stopped, failed, missing), settings at its end, numbers."""
    rows = []
    for trial in work.trials:
        folder = work.trial_folder(trial)
        row: dict[str, Any] = {"trial": trial.id, "task": trial.task, "status": "missing"}
        row["kind"] = work.tasks[trial.task].config.kind
        for key, value in settings_at_end(folder, trial.adapt).effective().items():
            inside = (
                {f".{name}": each for name, each in value.items()} if isinstance(value, dict) else {"": value}
            )
            row |= {f"adapt.{key}{name}": each for name, each in inside.items()}
        if (folder / "result.json").exists():
            row |= {"status": "finished"} | json.loads((folder / "result.json").read_text())
            metric = work.goals[trial.task].metric
            row |= {"metric": metric, "score": row.get(f"test_{metric}", row.get(f"validation_{metric}"))}
        elif (folder / "error.json").exists():
            row |= {"status": "failed", "error": json.loads((folder / "error.json").read_text())["error"]}
        rows.append(row)
    return rows


def refuse_if_all_failed(work: Work, rows: list[dict[str, Any]]) -> None:
    """A task without a single finished trial has no best one.

    Raises:
        RunError: with the first failure.
    """
    for name in work.tasks:
        own = [row for row in rows if row["task"] == name]
        failed = [row for row in own if row["status"] == "failed"]
        if failed and not any(row["status"] == "finished" for row in own):
            first = failed[0]
            raise RunError(
                f"{len(failed)} of {len(own)} trials of task '{name}' failed, and none was finished; "
                f"the first: {first['error']}",
                where=str(work.folder / "trials" / first["trial"]),
            )
