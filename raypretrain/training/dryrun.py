"""What a recipe comes to, without touching anything: sizes, steps, and what each worker must hold."""

from __future__ import annotations

import math
from typing import Any

from raypretrain.models.config import ModelShape
from raypretrain.training.cluster import Sizes, local_resources, size_up
from raypretrain.training.length import run_length
from raypretrain.training.prepare import check_tokenizer, check_weight_groups, list_corpus
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.vocabulary import given_tokenizer

_CPUS_OF_A_GPU = 8
"""Of a cluster that is only assumed; clouds' machines with GPUs have this many or more."""


def dry_run(recipe: PretrainRecipe) -> dict[str, Any]:
    """Resolve ``recipe`` against the files there are and this machine (a cluster is not asked).

    A recipe that asks for more GPUs than are here is for a cluster: it is resolved for the fewest that it asks for.

    Raises:
        RaypretrainError: whatever a start would refuse as well.
    """
    manifest = list_corpus(recipe)
    given = given_tokenizer(recipe)
    if given:
        check_tokenizer(recipe, given)
    vocabulary = given.vocabulary if given else recipe.tokenizer.vocabulary
    folder = RunFolder(recipe.run.folder)
    if folder.begun():
        folder.refuse_changes(recipe)
    assumed = _assumed(recipe, local_resources())
    sizes = size_up(recipe, assumed or local_resources())
    shape = recipe.model.shape(vocabulary, recipe.sequences.length)
    check_weight_groups(recipe, shape)
    length = run_length(recipe, shape.parameters)
    predicted = recipe.training.mask.rate if recipe.objective == "masked" else 1.0
    return {
        "run": str(folder.path),
        "corpus": {"files": len(manifest.files), "bytes": sum(file.size for file in manifest.files)},
        "model": {
            "parameters": shape.parameters,
            "vocabulary": vocabulary,
            "layers": shape.layers,
            "width": shape.width,
        },
        "training": {
            "steps": length.steps,
            "tokens": length.tokens(),
            "tokens_per_step": length.tokens_per_step,
            "flops": shape.flops_per_token(recipe.sequences.length, predicted) * length.tokens(),
            "evaluate_every": length.evaluate_every,
            "checkpoint_every": length.checkpoint_every or "auto",
        },
        "compute": vars(sizes),
        "assumed": assumed,
        "memory_per_worker": memory(recipe, sizes, shape),
    }


def _assumed(recipe: PretrainRecipe, here: dict[str, float]) -> dict[str, float] | None:
    """CPUs and GPUs of a cluster that just suffices, where ``compute.device: cuda`` asks for more than are here."""
    gpus, batch = recipe.compute.workers or 1, recipe.training.batches.first
    if isinstance(gpus, tuple):
        gpus = next(number for number in range(gpus[0], gpus[1] + 1) if batch % number == 0)
    if recipe.compute.device != "cuda" or here["GPU"] >= gpus:
        return None
    return {"CPU": float(gpus * _CPUS_OF_A_GPU), "GPU": float(gpus)}


def memory(recipe: PretrainRecipe, sizes: Sizes, shape: ModelShape) -> dict[str, int]:
    """Bytes that a worker holds, by part: a reckoning, without fragmentation and libraries.

    Weights, gradients and AdamW's state by ZeRO stage: Rajbhandari et al., ZeRO, 2020, section 3; activations
    of a layer: Korthikanti et al., Reducing Activation Recomputation, 2022, eq. 2, for 34·width and attention that
    keeps no scores; with selective checkpointing the products' results, with full its input and one whole layer.
    """
    half = sizes.precision == "bf16"
    workers, zero, number = sizes.workers, recipe.compute.zero, shape.parameters
    unit = 2 if half else 4
    weights = number * unit // (workers if zero >= 3 else 1)
    gradients = number * unit // (workers if zero >= 2 else 1)
    optimizer = number * (12 if half else 8) // (workers if zero >= 1 else 1)
    tokens = sizes.micro_batch * recipe.sequences.length
    if recipe.compute.offload != "none":
        optimizer = 0  # in the node's memory
    kept = {"none": 17 * shape.layers, "selective": 8 * shape.layers, "full": shape.layers + 17}
    activations = tokens * shape.width * kept[recipe.compute.gradient_checkpointing] * unit
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "activations": activations,
        "total": math.fsum((weights, gradients, optimizer, activations)).__trunc__(),
    }
