"""A recipe of fine-tuning as the planner takes it: its trials one after another, and side by side."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from raypretrain.config import validate
from raypretrain.errors import InputError, RaypretrainError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.base import DEFAULT_LENGTH
from raypretrain.finetuning.recipe import FinetuneRecipe, TrialCompute
from raypretrain.finetuning.rows import read_rows
from raypretrain.finetuning.tasks import TaskConfig
from raypretrain.models.config import ModelConfig, read_json_object, read_shape
from raypretrain.models.shape import ModelShape
from raypretrain.planning.hardware import Gpu
from raypretrain.planning.layout import Layout
from raypretrain.planning.memory import fits, memory
from raypretrain.planning.money import Prices
from raypretrain.planning.network import Network
from raypretrain.planning.plan import Job, Machine, plan
from raypretrain.planning.wholerun import Rhythm
from raypretrain.storage import is_remote
from raypretrain.tokens.tokenizer_config import TokenizerConfig
from raypretrain.tokens.tokenizer_fixed import AminoAcids
from raypretrain.training.planned import network_of

EXAMPLES = 1000
"""Of a task whose files are not there and that does not say how many it takes. A guess."""

_PASSES = {"full": 3.0, "lora": 2.2, "head": 1.0}
"""Forward passes that an example of an epoch costs: adapters of low rank need no gradients of the large matrices; a
head is solved for once, whatever ``epochs`` says."""

_TRAINED = {"full": 1.0, "lora": 0.01, "head": 0.0}
"""Share of the weights that a trial trains; of adapters roughly, at the usual ranks."""


def forecast(
    recipe: FinetuneRecipe, gpu: Gpu, number: int | None, prices: Prices, preset: str | None = None
) -> dict[str, Any]:
    """The plan of all trials of all tasks: a GPU for each worker, as many trials at a time as ``number`` has room for.

    Args:
        preset: of the base model's size, which then need not be there.

    Raises:
        RaypretrainError: the base model is not there, or what is asked for is impossible.
    """
    workers = recipe.compute.workers_per_trial
    if number is not None and number < workers:
        raise InputError(f"{number} GPUs are fewer than the {workers} workers of a trial", where="--gpus")
    at_once = (number or workers) // workers
    assumed = ["texts are as long as adapt.length lets them be: shorter ones take less"]
    trials = recipe.trials()
    shape = _shape_of(preset, trials, assumed) if preset else _base_shape(recipe)
    network = network_of(shape)
    head = 1.0 if any(task.kind == "generate" for task in recipe.tasks) else 0.0
    on_cpu = gpu.efficiency == "cpu"
    layouts = [_layout(trial, recipe.compute, shape, head, on_cpu=on_cpu) for trial in trials]
    largest = max(layouts, key=lambda layout: memory(network, layout)["total"])
    length, batch = largest.length, largest.micro_batch * workers
    counts = [_examples(task, assumed) for task in recipe.tasks]
    tokens = [
        _tokens(trial, layout, trial.examples or count)
        for trial, layout in zip(trials, layouts, strict=True)
        for count in counts
    ]
    job = Job(
        network=network,
        layout=largest,
        global_batch=batch,
        tokens=round(sum(tokens)),
        rhythm=Rhythm(
            steps=max(1, round(sum(tokens) / length / batch)), evaluate_every=10**9, checkpoint_every=10**9,
            evaluation_share=0.0,
        ),
        kept=0,
        micro_batch=largest.micro_batch,
    )  # fmt: skip
    found = plan(job, Machine(gpu=gpu, number=workers, prices=prices))
    found["gpu"]["number"] = at_once * workers
    assumed.append("the starts and tests of trials are not in it")
    none: dict[str, Any] = {"options": [], "choice": None, "probe": None, "law": None}
    if found["memory"]["fits"]:
        none["trials"] = _side_by_side(found["run"], tokens, at_once) | {"workers": workers}
    else:
        found["memory"]["change_first"] = _change_first(network, largest, gpu.memory)
        none |= {"layout": None, "step": None, "run": None, "money": None, "trials": None}
    return {**found, **none, "guesses": assumed + found["guesses"]}


def _layout(
    trial: AdaptConfig, compute: TrialCompute, shape: ModelShape, head: float, *, on_cpu: bool
) -> Layout:
    """Of a step of a trial. ``head``: share of the positions that pass the output matrix."""
    workers = compute.workers_per_trial
    return Layout(
        workers=workers, zero=0 if workers == 1 or trial.way == "head" else compute.zero,
        micro_batch=math.ceil(trial.batch / workers), length=min(shape.max_length, trial.length or DEFAULT_LENGTH),
        precision=compute.precision or ("fp32" if on_cpu else "bf16"), predicted=head, blockwise=on_cpu,
        checkpointing=compute.gradient_checkpointing, trained=_TRAINED[trial.way],
    )  # fmt: skip


def _side_by_side(run: dict[str, float], tokens: list[float], at_once: int) -> dict[str, float]:
    """Hours of single trials; those of the whole ``run`` become what so many ``at_once`` take."""
    longest = max(tokens) / sum(tokens) * run["hours"]
    found = {
        "number": len(tokens),
        "mean_hours": run["hours"] / len(tokens),
        "longest_hours": longest,
    }
    run |= {key: max(longest, run[key] / at_once) for key in ("hours", "hours_of_steps")}
    return found


def _change_first(network: Network, layout: Layout, capacity: float) -> str:
    """Keys of a recipe of fine-tuning with which it fits, the first that help."""
    small = replace(layout, micro_batch=1)
    least, ways = layout.workers, dict[str, Layout]()
    if least > 1 and layout.trained and layout.zero < 3:
        ways["compute.zero: 3"] = replace(layout, zero=3)
    ways[f"adapt.batch: {least}"] = small
    if layout.trained:
        key = "compute.gradient_checkpointing: full"
        ways[key] = replace(layout, checkpointing="full")
        ways[f"{key}, adapt.batch: {least}"] = small = replace(small, checkpointing="full")
    if layout.trained == 1.0:
        lora = _TRAINED["lora"]
        ways |= {"adapt.way: lora": replace(layout, trained=lora)}
        ways |= {f"adapt.way: lora, batch: {least}": replace(small, trained=lora)}
    ways[f"adapt.way: head, batch: {least}"] = replace(small, trained=0.0, zero=0)
    return next(
        (said for said, changed in ways.items() if fits(network, changed, capacity)),
        "another GPU, or a smaller base model",
    )


def _tokens(trial: AdaptConfig, layout: Layout, examples: int) -> float:
    """Tokens of a trial, as if all weights were trained on each, by all workers: a head is solved for by one alone."""
    epochs = layout.workers if trial.way == "head" else trial.epochs
    replayed = 1 + trial.replay
    return examples * epochs * replayed * layout.length * _PASSES[trial.way] / 3


def _shape_of(preset: str, trials: list[AdaptConfig], assumed: list[str]) -> ModelShape:
    model = validate({"preset": preset}, ModelConfig, folder=Path(), where="--base")
    length = max(trial.length or DEFAULT_LENGTH for trial in trials)
    vocabulary = TokenizerConfig().vocabulary
    if model.shape(vocabulary, length).family == "esm":
        vocabulary = AminoAcids().vocabulary
    assumed.append(f"the base model is like {preset}, with a vocabulary of {vocabulary:,}")
    return model.shape(vocabulary, length)


def _base_shape(recipe: FinetuneRecipe) -> ModelShape:
    path = recipe.base.path
    folder = Path(path) / "model" if (Path(path) / "model" / "config.json").is_file() else Path(path)
    if is_remote(path):
        fix = "bring it in first: raypretrain import"
    else:
        fix = (
            "pretrain it first, or name another by --set base.path=FOLDER, or a preset of its size by --base"
        )
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
