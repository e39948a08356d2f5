"""``raypretrain plan --probe``: some steps of the recipe on the actual cluster, against what was assumed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from raypretrain.errors import RunError
from raypretrain.training.length import run_length
from raypretrain.training.pretrain import Watch, pretrain
from raypretrain.training.recipe import PretrainRecipe

STEPS = 20


def probe(recipe: PretrainRecipe, watch: Watch) -> dict[str, Any]:
    """Train ``STEPS`` steps in a folder that is thrown away; what they took against what was predicted.

    On a cluster the folder lies beside the run's own, which every node sees.

    Raises:
        RaypretrainError: whatever a start would refuse as well; or the GPU is not one that the planner knows.
    """
    beside = Path(recipe.run.folder).parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="probe-", dir=beside) as folder:
        outcome = pretrain(short(recipe).in_folder(Path(folder) / "run"), watch)
    found = outcome.result.get("plan")
    if not found:
        raise RunError(
            "the probe ended without a measurement", where="--probe", fix="give the GPU's figures by --gpu"
        )
    values: dict[str, Any] = found
    return values


def short(recipe: PretrainRecipe) -> PretrainRecipe:
    """The recipe for ``STEPS`` steps, the batch full from the first, that saves once and evaluates little."""
    training = recipe.training
    length = run_length(recipe, 1)
    changed = training.model_copy(
        update={
            "steps": min(STEPS, length.steps) if training.steps else STEPS,
            "tokens": None,
            "batch_warmup": type(training.batch_warmup)(),
            "evaluation": training.evaluation.model_copy(update={"every": 10**6, "sequences": 1}),
            "checkpoint": training.checkpoint.model_copy(update={"every": 10**6, "copy_to": None}),
        }
    )
    return recipe.model_copy(update={"training": changed})
