"""Predicted against measured: what the planner would have said of a run, and what the run then took."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raypretrain.models.shape import ModelShape
from raypretrain.planning.calibration import CALIBRATIONS
from raypretrain.planning.hardware import GPUS, Gpu
from raypretrain.planning.plan import Machine
from raypretrain.planning.time import step
from raypretrain.training.planned import layout_of, network_of
from raypretrain.training.recipe import PretrainRecipe

if TYPE_CHECKING:
    from raypretrain.training.cluster import Sizes

_WORDS = (
    ("h200", ("H200",)), ("h100", ("H100",)), ("b200", ("B200",)), ("a100-40gb", ("A100", "40GB")),
    ("a100-40gb", ("A100", "40G")), ("a100", ("A100",)),
    ("a10g", ("A10G",)), ("l40s", ("L40S",)), ("l4", ("L4",)), ("rtx-4090", ("RTX", "4090")), ("v100", ("V100",)),
    ("mi300x", ("MI300X",)),
)  # fmt: skip
"""What a GPU of the table has in the name that CUDA or Ray gives it; the first that fits is taken."""


def gpu_named(name: str) -> Gpu | None:
    """The GPU of the table that is called so, e.g. ``NVIDIA A100-SXM4-40GB`` or ``H100``; None if it has none."""
    parts = name.replace("-", " ").split()
    known = next((key for key, words in _WORDS if all(word in parts for word in words)), None)
    return GPUS[known] if known else None


def compared(
    recipe: PretrainRecipe, shape: ModelShape, sizes: Sizes, accelerator: str, result: dict[str, Any]
) -> dict[str, Any] | None:
    """Seconds of a step, predicted and measured, and their ratio; None for a GPU that the planner does not know.

    Args:
        accelerator: what Ray or CUDA calls the GPU.
        result: as in the run's result.json.
    """
    gpu = GPUS["cpu"] if sizes.device == "cpu" else gpu_named(accelerator)
    if gpu is None:
        return None
    if sizes.device == "cpu":
        gpu = replace(gpu, flops=gpu.flops * sizes.threads, flops_fp32=gpu.flops_fp32 * sizes.threads)
    share = recipe.training.global_batch * recipe.compute.sequence_workers // sizes.workers
    layout = replace(
        layout_of(recipe, on_cpu=sizes.device == "cpu"),
        workers=sizes.workers,
        micro_batch=sizes.micro_batch,
        accumulation=share // sizes.micro_batch,
        precision="bf16" if sizes.precision == "bf16" else "fp32",
    )
    calibration = CALIBRATIONS[gpu.efficiency]
    predicted = step(network_of(shape), layout, gpu, calibration).seconds
    measured = result["median_step_seconds"] * (1 - result["data_wait_share"])
    return {
        "gpu": gpu.name,
        "predicted_step_seconds": predicted,
        "measured_step_seconds": measured,
        "predicted_over_measured": predicted / measured,
        "efficiencies": calibration.source,
    }


def calibrate(machine: Machine, ratio: float) -> Machine:
    """The machine with its efficiencies changed so that a step takes ``1 / ratio`` of the time predicted before."""
    c = machine.efficiencies
    changed = replace(
        c,
        products=c.products * ratio,
        attention=c.attention * ratio,
        memory=c.memory * ratio,
        link=c.link * ratio,
        network=c.network * ratio,
        launch=c.launch / ratio,
        source=f"measured by a probe: {ratio:.2f} times what was assumed ({c.source})",
    )
    return replace(machine, calibration=changed)
