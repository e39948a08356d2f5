"""The engine: DeepSpeed behind one small seam. The only file that imports it.

What the rest of the system knows: micro-batches go in, a loss comes out, :meth:`Engine.step` moves the weights,
:meth:`Engine.save` and :meth:`Engine.load` keep what that needs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raypretrain.models.checkpointing import checkpoint_blocks
from raypretrain.models.compiling import compile_blocks
from raypretrain.models.ulysses import share_of_sequences, shared
from raypretrain.training.buffers import Buffers
from raypretrain.training.disk_memory import DiskMemory
from raypretrain.training.microbatch import MicroBatch, with_last
from raypretrain.training.settings import EngineSettings
from raypretrain.training.writing import Snapshot, State, write_part

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)

import deepspeed
import deepspeed.ops
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from raypretrain.training.muon import Muon, make_optimizer, pieces_of
from raypretrain.training.optimizer import VetoedAdamW
from raypretrain.training.replicas import fingerprint_of_tensors

# DeepSpeed would compile a collective over shared memory at its first start on CPUs: half a minute, a compiler,
# and a lock file that hangs every later start if the build is killed. gloo does the same work.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
# Every stage looks whether the optimizer is its Muon, whose module has torch's compiler imported, two seconds of a
# core, to compile functions that are not used here.
_compile, torch.compile = torch.compile, lambda *args, **kwargs: lambda function: function  # type: ignore
import deepspeed.runtime.zero.muon.muon_optimizer

torch.compile = _compile

ZERO_SUPPORTED_OPTIMIZERS.extend((VetoedAdamW, Muon))  # as AdamW itself is; DeepSpeed goes by the very class

_TAG = "engine"
_COLLECTIVES = (
    "all_reduce", "all_reduce_coalesced", "reduce", "reduce_scatter", "reduce_scatter_tensor", "broadcast",
    "all_gather", "all_gather_into_tensor", "all_gather_coalesced", "barrier",
)  # fmt: skip


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
        self._mark: Callable[[str], object] = lambda phase: None
        # Without ZeRO and in fp32, DeepSpeed clips but does not say by what norm.
        self._plain = settings.zero == 0 and settings.precision == "fp32"
        if settings.compiled:
            compile_blocks(model)
        checkpoint_blocks(model, settings.checkpointing)
        disk = DiskMemory(settings.offload_folder) if settings.offload == "nvme" else None
        optimizer = make_optimizer(model, settings, device)
        optimizer.disk = disk
        config = settings.for_deepspeed()
        with contextlib.nullcontext() if settings.new else _no_broadcast():
            self._engine, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=config, dist_init_required=False
            )
        self._share = share_of_sequences(settings.sequence_workers)
        self._optimizer = optimizer
        self._copies = _Copies(disk)
        self._copied: Callable[[], None] = lambda: None
        self._engine.checkpoint_engine = self._copies
        self._engine._copy_recovery_script = lambda folder: None  # it would be in no manifest
        self._veto, self._own_norm = False, 0.0
        optimizer.vetoed = self._vetoed
        if isinstance(optimizer, Muon):
            optimizer.pieces = pieces_of(self._engine.optimizer, settings.zero, device)

    def watch(
        self, mark: Callable[[str], object], collective: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Have every phase marked: forward, backward, optimizer, and DeepSpeed's own collectives within them.

        Args:
            mark: is told of a phase that begins.
            collective: makes of a function one that is marked while it runs.
        """
        self._mark = mark
        backend = deepspeed.comm.comm.cdb  # one for all engines of this process
        for name in _COLLECTIVES:
            setattr(backend, name, collective(getattr(backend, name)))

    def accumulate(self, micro_batches: Iterable[MicroBatch], each: Tensor | None = None) -> Tensor:
        """Forward and backward of one step's micro-batches; returns the sum of their weighted losses, divided by
        ``accumulation`` (an fp64 scalar on the device).

        Args:
            micro_batches: all of one size; ``accumulation`` of them where the batch is full.
            each: fp32 [rows, length] on the device; takes the loss of every target.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        engine = self._engine
        for i, (part, last) in enumerate(with_last(micro_batches)):
            engine.set_gradient_accumulation_boundary(last)
            rows = len(part.ids)
            own = None if each is None else each[i * rows : (i + 1) * rows]
            with shared(self._share):
                self._mark("forward")
                loss = engine(part.ids, part.targets, own, part.starts)
                loss = loss if part.weight == 1 else loss * part.weight
                self._mark("backward")
                engine.backward(loss)
            total += loss.detach()
        return total / self._settings.accumulation

    def step(self, learning_rate: float, *, veto: bool = False) -> float:
        """Move the weights, unless there is a veto, on all workers, or the gradient is not finite.

        The gradients are used up in any case.

        Returns:
            The norm of the whole gradient before it was clipped, the same on all workers; infinite or nan if it is.
        """
        self._mark("optimizer")
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        if self._plain:
            self._own_norm = self._plain_norm()
        self._veto = veto
        self._copied()
        self._engine.step()
        return self._norm()

    def _vetoed(self) -> bool:
        """Asked by the optimizer, when DeepSpeed has brought the gradients together and clipped them."""
        return self._veto or not math.isfinite(self._norm())

    def _norm(self) -> float:
        if self._plain:
            return self._own_norm
        norm = float(self._engine.optimizer._global_grad_norm)
        return norm if norm >= 0 else math.inf  # where DeepSpeed marks what is not finite by -1

    def _plain_norm(self) -> float:
        grads = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def fingerprint(self) -> int:
        """64 bits, signed, of this worker's copy of the parameters; 0 where it holds a part of them only."""
        if self._settings.zero == 3:
            return 0
        return fingerprint_of_tensors(self._engine.module.parameters())

    @torch.no_grad()
    def loss(self, part: MicroBatch) -> Tensor:
        """Mean loss without training, an fp32 scalar. All workers must call it equally often (ZeRO 3)."""
        self._mark("evaluation")
        self._engine.eval()
        value: Tensor = self._engine(part.ids, part.targets, None, part.starts)
        self._engine.train()
        return value

    def snapshot(self, of_each_node: bool = False) -> Snapshot:
        """This worker's part of a checkpoint, copied to memory that the next snapshot uses again; called by all.

        The copying goes on meanwhile; :meth:`step` and :meth:`load` wait for it.

        Args:
            of_each_node: have each node's first worker, not the first of all alone, take what all have alike.
        """
        writer = self._engine.save_non_zero_checkpoint
        if of_each_node:
            self._engine.save_non_zero_checkpoint |= self._engine.local_rank == 0
        try:
            self._engine.save_checkpoint(".", tag=_TAG, save_latest=False)
        finally:
            self._engine.save_non_zero_checkpoint = writer
        state, self._copied = self._copies.take()
        return state, self._copied

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state below ``folder`` and wait for it; to be called by all workers."""
        state, copied = self.snapshot()
        copied()
        write_part(folder, state)
        dist.barrier()

    def load(self, folder: Path) -> None:
        """Take up what :meth:`save` wrote, with the same number of workers; or what was converted for this one."""
        self._copied()
        groups = self._engine.optimizer.param_groups
        own = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        # DeepSpeed reads its own pickles; the caller has verified their hashes against our manifest.
        path, _ = self._engine.load_checkpoint(str(folder), tag=_TAG)
        self._copies.forget()
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
        self._optimizer.moments_to_disk()


def share(module: nn.Module, optimizer: torch.optim.Optimizer, settings: EngineSettings) -> Any:
    """DeepSpeed's engine of any module, whose training all workers share; called by all, with equal weights."""
    config = settings.for_deepspeed()
    return deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)[0]


def make_whole(engine: Any) -> None:
    """Give every worker all weights of what :func:`share` made, for good; called by all, after the last step."""
    if engine.zero_optimization_stage() == 3:
        # What is whole already may be older than its parts, if these have been gone back to.
        engine.optimizer.parameter_offload.partition_all_parameters()
        deepspeed.zero.GatheredParameters(list(engine.module.parameters())).__enter__()
        engine.destroy()  # or the next forward pass would part them again


class _Copies(TorchCheckpointEngine):
    """Takes what DeepSpeed would write and writes nothing: training waits for a copy in memory alone."""

    def __init__(self, disk: DiskMemory | None) -> None:
        super().__init__()
        self._buffers = Buffers(disk.empty_like) if disk else Buffers()
        self._taken: State = []
        self._read: dict[str, Any] = {}

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Whoever writes makes the folders."""

    def save(self, state_dict: Any, path: str) -> None:
        """Copy the state of one file."""
        name = os.path.normpath(path)
        self._taken.append((name, self._buffers.copy(name, state_dict)))

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read a file. Of some DeepSpeed first looks at how many there are, and then reads them again."""
        if path not in self._read:
            self._read = {}
            self._read[path] = super().load(path, map_location)
        return self._read[path]

    def forget(self) -> None:
        """Let go of what was read."""
        self._read = {}

    def take(self) -> Snapshot:
        """What was copied since the last call, or still is."""
        taken, self._taken = self._taken, []
        return taken, self._buffers.waits()


@contextlib.contextmanager
def _no_broadcast() -> Iterator[None]:
    """Without worker 0's weights for everybody: what is loaded replaces them."""
    kind = deepspeed.DeepSpeedEngine
    broadcast, kind._broadcast_model = kind._broadcast_model, lambda engine: None
    try:
        yield
    finally:
        kind._broadcast_model = broadcast


def consolidated_state(folder: Path, zero: int) -> dict[str, Tensor]:
    """The whole model's weights in fp32 out of a checkpoint that :meth:`Engine.save` wrote, on the CPU."""
    if zero:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=_TAG))
    path = folder / _TAG / "mp_rank_00_model_states.pt"
    # Our own file, verified by its hash. It holds DeepSpeed's objects, not only tensors.
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return {name: weight.float() for name, weight in saved["module"].items()}
