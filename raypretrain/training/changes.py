"""What may change in the recipe of a run that has begun: what is safe, and what would make another run of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypretrain.config import flatten
from raypretrain.errors import RecipeError
from raypretrain.training.length import run_length
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.schedule import learning_rate

SAFE = (
    "run.folder",
    "corpus.on_change",
    "corpus.tokenized",  # the batches are the same
    "corpus.tokenized_endpoint_url",
    "model.endpoint_url",
    "training.checkpoint.",
    "training.guard.",  # it acts only where something went wrong
    "training.evaluation.every",
    "training.sequence_losses",
    "training.average",
    "compute.",
    "card.",
)
"""Keys, or with a dot at the end the beginnings of keys, that change no batch, and no loss beyond rounding."""

BOUND = ("compute.zero", "compute.precision", "compute.device")
"""Exceptions to these: a checkpoint's engine files belong to their values."""

LENGTH = ("training.steps", "training.tokens", "training.schedule.")
"""Safe where all steps done so far had the learning rates that they would have had with the new values."""

DATA = ("run.seed", "corpus.", "sequences.", "training.global_batch", "training.batch_warmup.", *BOUND)
"""With these a fork begins its data anew; with anything else it goes on at its parent's cursor."""

UNFORKABLE = ("model.", "tokenizer.")
"""With other values the parent's weights are of no use."""


@dataclass(frozen=True)
class Change:
    """A key that has two values."""

    key: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.then} → {self.now}"


def changes(saved: PretrainRecipe, recipe: PretrainRecipe) -> list[Change]:
    """Every key in which the recipes differ, sorted."""
    then, now = flatten(saved.model_dump(mode="json")), flatten(recipe.model_dump(mode="json"))
    return [
        Change(k, then.get(k), now.get(k))
        for k in sorted(then.keys() | now.keys())
        if then.get(k) != now.get(k)
    ]


def among(key: str, names: tuple[str, ...]) -> bool:
    """Whether a key is one of ``names``, or below one that ends with a dot."""
    return any(
        key == name or (name.endswith(".") and key.startswith(name)) or key.startswith(f"{name}.")
        for name in names
    )


def shown(found: list[Change]) -> str:
    """Some changes as text."""
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return ", ".join(map(str, found[:8])) + more


def refuse_changes(
    recipe: PretrainRecipe, saved: PretrainRecipe, folder: Path, step: int = 0, parameters: int = 0
) -> None:
    """Refuse to go on with a run whose recipe has changed in what it learns.

    Args:
        step: steps done so far.
        parameters: of the model; a run whose length is not given follows from them.

    Raises:
        RecipeError: names each such key, with both values.
    """
    found = [c for c in changes(saved, recipe) if among(c.key, BOUND) or not among(c.key, SAFE)]
    length = [c for c in found if among(c.key, LENGTH)]
    others = [c for c in found if c not in length]
    if others:
        raise RecipeError(
            f"the run was started with another recipe ({shown(others + length)})",
            where=str(folder),
            fix="go on with the recipe that it was started with, choose another run.folder, or take the changes "
            "into a new run that goes on from this one: --fork NEW_RUN",
        )
    reason = length and why_not_as_long(saved, recipe, step, parameters)
    if reason:
        raise RecipeError(
            f"{reason} ({shown(length)})",
            where=str(folder),
            fix="go on with the old length and schedule, or take the new ones into a new run: --fork NEW_RUN",
        )


def why_not_as_long(saved: PretrainRecipe, recipe: PretrainRecipe, step: int, parameters: int) -> str | None:
    """Why another length or schedule would have changed the ``step`` steps done; None if it would not have.

    Constant, or WSD before its decay: the same rates, if as many steps warm up. Cosine or linear over another length is
    another curve from its beginning.
    """
    steps = [run_length(r, parameters).steps for r in (saved, recipe)]
    if steps[1] < step:
        return f"{step} steps are done, more than the {steps[1]} of the changed recipe"
    peak = saved.training.learning_rate
    for done in range(1, step + 1):
        then, now = (
            learning_rate(done, number, peak, r.training.schedule)
            for r, number in zip((saved, recipe), steps, strict=True)
        )
        if not math.isclose(then, now, rel_tol=1e-9):
            hint = _hint(saved, recipe, steps)
            return f"step {done} would have had the learning rate {now:.6g} instead of {then:.6g}{hint}"
    return None


def _hint(saved: PretrainRecipe, recipe: PretrainRecipe, steps: list[int]) -> str:
    """Warm-up is a share of the length: the share that keeps its steps."""
    then, now = saved.training.schedule, recipe.training.schedule
    warmup = round(then.warmup * steps[0])
    if recipe.training.schedule.kind in ("cosine", "linear") or round(now.warmup * steps[1]) == warmup:
        return ""
    return f"; training.schedule.warmup: {warmup / steps[1]:.6g} keeps its {warmup} warm-up steps"
