"""What the engine needs of a recipe, and how DeepSpeed is told. Imports neither it nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from raypretrain.config import Config

Checkpointing = Literal["none", "selective", "full"]


class WeightGroup(Config):
    """Weights that are learned otherwise than the others."""

    parameters: str = Field(min_length=1, description="a pattern of names, e.g. embedding.* or blocks.*.bias")
    learning_rate: float = Field(default=1.0, ge=0, description="factor of the run's")
    weight_decay: float | None = Field(default=None, ge=0, description="by default the run's")


@dataclass(frozen=True)
class EngineSettings:
    """What the engine needs of a recipe.

    Args:
        zero: ZeRO stage, 0 to 3 (Rajbhandari et al., ZeRO, 2020).
        precision: ``fp32`` or ``bf16``.
        micro_batch: sequences of one forward pass.
        accumulation: micro-batches of a step, on one worker.
        workers: data-parallel size.
        learning_rate: peak; the loop sets each step's.
        weight_decay: decoupled (Loshchilov & Hutter, 2019), on matrices only.
        betas: of AdamW.
        epsilon: of AdamW.
        clip: largest global norm of the gradient; 0 does not clip.
        universal: whether :meth:`Engine.load` is given files that were converted for another number of workers.
        new: whether the model has its first weights; otherwise :meth:`Engine.load` follows.
        optimizer: of the layers' matrices, ``adamw`` or ``muon``.
        momentum: of Muon.
        rules: weights that are learned otherwise.
        matrix_rate: factor of the learning rate of the layers' matrices.
        checkpointing: which activations are computed again in the backward pass: ``none``, ``selective`` or ``full``.
        sequence_workers: so many neighbouring workers share each sequence.
        compiled: whether the layers are compiled in the first step.
        offload: where the optimizer works and has its state: ``none``, on the device; ``cpu``; or ``nvme``, on the CPU
            with its moments, and the copy that a checkpoint is written from, in files.
        offload_folder: of those files, on the node's own disk.
    """

    zero: int
    precision: str
    micro_batch: int
    accumulation: int
    workers: int
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    epsilon: float
    clip: float
    universal: bool = False
    new: bool = True
    optimizer: Literal["adamw", "muon"] = "adamw"
    momentum: float = 0.95
    rules: tuple[WeightGroup, ...] = ()
    matrix_rate: float = 1.0
    checkpointing: Checkpointing = "none"
    offload: Literal["none", "cpu", "nvme"] = "none"
    offload_folder: str = ""
    sequence_workers: int = 1
    compiled: bool = False

    def for_deepspeed(self) -> dict[str, Any]:
        """DeepSpeed's own config."""
        zero: dict[str, Any] = {"stage": self.zero}
        if self.offload != "none":
            zero["offload_optimizer"] = {"device": "cpu"}  # what lies in files is ours
        return {
            "train_micro_batch_size_per_gpu": self.micro_batch,
            "gradient_accumulation_steps": self.accumulation,
            "train_batch_size": self.micro_batch * self.accumulation * self.workers,
            "gradient_clipping": self.clip,
            "bf16": {"enabled": self.precision == "bf16"},
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
            "checkpoint": {"load_universal": self.universal},
        }
