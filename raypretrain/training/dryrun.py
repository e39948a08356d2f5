"""What a recipe comes to, without touching anything: sizes, steps, and what each worker must hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raypretrain.models.config import ModelShape
from raypretrain.planning.memory import memory as of_parts
from raypretrain.training.cluster import Sizes, local_resources, size_up
from raypretrain.training.length import run_length
from raypretrain.training.planned import layout_of, network_of
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
    """Bytes that a worker holds, by part: what ``raypretrain plan`` reckons with, see ``planning/memory.py``."""
    layout = replace(
        layout_of(recipe, on_cpu=sizes.device == "cpu"),
        workers=sizes.workers,
        micro_batch=sizes.micro_batch,
        precision="bf16" if sizes.precision == "bf16" else "fp32",
    )
    parts = of_parts(network_of(shape), layout)
    return {part: round(size) for part, size in parts.items() if part != "host"}
