"""Whether tasks, base model, metric and ways fit each other, before anything is begun."""

from __future__ import annotations

from collections.abc import Sequence

from raypretrain.errors import InputError, RecipeError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.base import BaseModel
from raypretrain.finetuning.space import SearchConfig
from raypretrain.finetuning.tasks import Task


def check_fit(
    task: Task, base: BaseModel, search: SearchConfig, trials: Sequence[AdaptConfig], has_text: bool
) -> None:
    """Refuse a task that the base model, the metric or a way does not fit.

    Raises:
        RaypretrainError: with what would fit.
    """
    kind, name = task.kind, task.config.kind
    objective = base.shape.objective
    if objective not in kind.objectives:
        wanted = "a decoder, which predicts the next token" if "causal" in kind.objectives else "an encoder"
        raise RecipeError(
            f"task '{task.name}': {name} needs {wanted}, and the base model is a {base.shape.family}",
            where=str(base.folder),
        )
    search.metric_of(kind)
    for adapt in trials:
        if not has_text and (adapt.held.replay or adapt.held.most_forgetting is not None):
            key = "replay" if adapt.held.replay else "most_forgetting"
            raise RecipeError(f"adapt.{key} needs the text of the base", fix="give base.text")
        if adapt.way == "head" and not kind.solvable:
            raise RecipeError(
                f"task '{task.name}': there is no head to solve for in {name}", fix="take way: full or lora"
            )
        if kind.solvable and adapt.pooling not in base.poolings:
            raise RecipeError(
                f"adapt.pooling: {adapt.pooling} means nothing in a {base.shape.family}",
                fix=f"set it to {' or '.join(base.poolings)}",
            )
        count = len(task.draw(adapt.seed, adapt.examples))
        if adapt.way != "head" and count < adapt.batch:
            raise InputError(
                f"task '{task.name}' has {count} examples to train on, fewer than a batch of {adapt.batch}",
                fix=f"set adapt.batch to at most {count}, or give more examples",
            )


def check_shared(task: Task, workers: int) -> None:
    """Refuse several workers for a kind whose batches cannot be shared.

    Raises:
        RecipeError: it is one.
    """
    if workers > 1 and not task.kind.divisible:
        raise RecipeError(
            f"task '{task.name}': {workers} workers cannot share a batch of {task.config.kind}, "
            "whose loss is no mean over its examples",
            where="compute.workers_per_trial",
            fix="set it to 1",
        )
