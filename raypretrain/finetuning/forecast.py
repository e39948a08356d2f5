"""A recipe of fine-tuning as the planner takes it: its trials one after another, and side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from raypretrain.errors import InputError, RaypretrainError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.base import DEFAULT_LENGTH
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.finetuning.rows import read_rows
from raypretrain.finetuning.tasks import TaskConfig
from raypretrain.models.config import read_json_object, read_shape
from raypretrain.models.shape import ModelShape
from raypretrain.planning.hardware import Gpu
from raypretrain.planning.layout import Layout
from raypretrain.planning.money import Prices
from raypretrain.planning.plan import Job, Machine, plan
from raypretrain.planning.wholerun import Rhythm
from raypretrain.storage import is_remote
from raypretrain.training.planned import network_of

EXAMPLES = 1000
"""Of a task whose files are not there and that does not say how many it takes. A guess."""

_PASSES = {"full": 3.0, "lora": 2.2, "head": 1.0}
"""Forward passes that an example of an epoch costs: adapters of low rank need no gradients of the large matrices; a
head is solved for once, whatever ``epochs`` says."""


def forecast(recipe: FinetuneRecipe, gpu: Gpu, number: int | None, prices: Prices) -> dict[str, Any]:
    """The plan of all trials of all tasks: a GPU for each worker, as many trials at a time as ``number`` has room for.

    Raises:
        RaypretrainError: the base model is not there, or what is asked for is impossible.
    """
    workers = recipe.compute.workers_per_trial
    if number is not None and number < workers:
        raise InputError(f"{number} GPUs are fewer than the {workers} workers of a trial", where="--gpus")
    assumed = ["texts are as long as adapt.length lets them be: shorter ones take less"]
    shape = _base_shape(recipe)
    trials = recipe.trials()
    length = min(shape.max_length, max(trial.length or DEFAULT_LENGTH for trial in trials))
    share = math.ceil(max(trial.batch for trial in trials) / workers)
    counts = [_examples(task, assumed) for task in recipe.tasks]
    tokens = sum(_tokens(trial, length, trial.examples or count) for trial in trials for count in counts)
    on_cpu, side_by_side = gpu.efficiency == "cpu", (number or workers) // workers
    zero = recipe.compute.zero if workers > 1 else 0
    job = Job(
        network=network_of(shape),
        layout=Layout(
            workers=workers, zero=zero, micro_batch=share, length=length, precision="fp32", predicted=0.0,
            blockwise=on_cpu,
        ),
        global_batch=share * workers,
        tokens=round(tokens),
        rhythm=Rhythm(
            steps=max(1, round(tokens / length / share / workers)), evaluate_every=10**9, checkpoint_every=10**9,
            evaluation_share=0.0,
        ),
        kept=0,
        micro_batch=share,
    )  # fmt: skip
    found = plan(job, Machine(gpu=gpu, number=workers, prices=prices))
    if found["run"]:
        found["run"] |= {key: found["run"][key] / side_by_side for key in ("hours", "hours_of_steps")}
    found["gpu"]["number"] = side_by_side * workers
    on = "one a GPU" if workers == 1 else f"each on {workers} GPUs, {side_by_side}"
    assumed.append(
        f"{len(trials) * len(counts)} trials, {on} at a time; their starts and tests are not in it"
    )
    none: dict[str, Any] = {"options": [], "choice": None, "probe": None, "law": None}
    return {**found, **none, "guesses": assumed + found["guesses"]}


def _tokens(trial: AdaptConfig, length: int, examples: int) -> float:
    """Tokens of a trial, as if all weights were trained on each."""
    epochs = 1 if trial.way == "head" else trial.epochs
    replayed = 1 + trial.replay
    return examples * epochs * replayed * min(length, trial.length or length) * _PASSES[trial.way] / 3


def _base_shape(recipe: FinetuneRecipe) -> ModelShape:
    path = recipe.base.path
    folder = Path(path) / "model" if (Path(path) / "model" / "config.json").is_file() else Path(path)
    if is_remote(path):
        fix = "bring it in first: raypretrain import"
    else:
        fix = "pretrain it first, or name another by --set base.path=FOLDER"
    return read_shape(read_json_object(folder / "config.json", fix), str(folder / "config.json"))


def _examples(task: TaskConfig, assumed: list[str]) -> int:
    """Of training, for one trial."""
    if task.examples:
        return task.examples
    try:
        return sum(1 for _ in read_rows(task.train))
    except RaypretrainError as error:
        assumed.append(
            f"{task.name}: {EXAMPLES:,} examples, because its files are not here ({error.where}): a guess"
        )
        return EXAMPLES
