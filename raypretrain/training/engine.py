"""The engine: DeepSpeed behind one small seam. The only file that imports it.

What the rest of the system knows: micro-batches go in, a loss comes out, :meth:`Engine.step` moves the weights,
:meth:`Engine.save` and :meth:`Engine.load` keep what that needs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)

import deepspeed
import deepspeed.ops
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

# DeepSpeed would compile a collective over shared memory at its first start on CPUs: half a minute, a compiler,
# and a lock file that hangs every later start if the build is killed. gloo does the same work.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

_TAG = "engine"


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


class Engine:
    """A model, its optimizer, and how both are spread over the workers.

    Args:
        model: the network, with its first weights, equal on all workers.
        settings: see :class:`EngineSettings`.
        device: where this worker computes.
    """

    def __init__(self, model: nn.Module, settings: EngineSettings, device: torch.device) -> None:
        self.device = device
        self._settings = settings
        # Without ZeRO and in fp32, DeepSpeed clips but does not say by what norm.
        self._plain = settings.zero == 0 and settings.precision == "fp32"
        optimizer = torch.optim.AdamW(
            decay_groups(model, settings.weight_decay),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
            fused=True,
        )
        self._engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=_deepspeed_config(settings), dist_init_required=False
        )

    def accumulate(
        self, micro_batches: Iterable[tuple[Tensor, Tensor, float]], each: Tensor | None = None
    ) -> Tensor:
        """Forward and backward of one step's micro-batches; returns their mean loss (an fp64 scalar on the device).

        Args:
            micro_batches: ``(ids, targets, weight)``, ids and targets int64 [micro_batch, length], ``accumulation``
                of them; the weights have the mean 1 over all workers, and are 1 where all have as many targets.
            each: fp32 [accumulation · micro_batch, length] on the device; takes the loss of every target.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        engine = self._engine
        for i, (ids, targets, weight) in enumerate(micro_batches):
            engine.set_gradient_accumulation_boundary(i == self._settings.accumulation - 1)
            own = {} if each is None else {"each": each[i * len(ids) : (i + 1) * len(ids)]}
            loss = engine(ids, targets, **own)
            loss = loss if weight == 1 else loss * weight
            engine.backward(loss)
            total += loss.detach()
        return total / self._settings.accumulation

    def step(self, learning_rate: float) -> float:
        """Move the weights; returns the norm of the whole gradient before it was clipped."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        own_norm = self._plain_norm() if self._plain else None
        self._engine.step()
        return float(own_norm if own_norm is not None else self._engine.get_global_grad_norm())

    def _plain_norm(self) -> Tensor:
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(grads)

    @torch.no_grad()
    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean loss without training, an fp32 scalar. All workers must call it equally often (ZeRO 3)."""
        self._engine.eval()
        value: Tensor = self._engine(ids, targets)
        self._engine.train()
        return value

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state below ``folder``; to be called by all workers."""
        self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        """Take up what :meth:`save` wrote, with the same number of workers; or what was converted for this one."""
        groups = self._engine.optimizer.param_groups
        own = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        # DeepSpeed reads its own pickles; the caller has verified their hashes against our manifest.
        path, _ = self._engine.load_checkpoint(str(folder), tag=_TAG)
        if path is None:
            raise FileNotFoundError(f"{folder}: no engine state")
        # Stage 3 gives every group what the first one had in converted files, its weight decay too.
        for group, settings in zip(self._engine.optimizer.param_groups, own, strict=True):
            group.update(settings)
        # And one tensor for the steps of all groups: each would count it up.
        inner = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        for state in inner.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()


def consolidated_state(folder: Path, zero: int) -> dict[str, Tensor]:
    """The whole model's weights in fp32 out of a checkpoint that :meth:`Engine.save` wrote, on the CPU."""
    if zero:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=_TAG))
    path = folder / _TAG / "mp_rank_00_model_states.pt"
    # Our own file, verified by its hash. It holds DeepSpeed's objects, not only tensors.
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return {name: weight.float() for name, weight in saved["module"].items()}


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of AdamW: matrices decay, vectors (the norms' weights) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _deepspeed_config(settings: EngineSettings) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation,
        "train_batch_size": settings.micro_batch * settings.accumulation * settings.workers,
        "gradient_clipping": settings.clip,
        "bf16": {"enabled": settings.precision == "bf16"},
        "zero_optimization": {"stage": settings.zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        "checkpoint": {"load_universal": settings.universal},
    }
