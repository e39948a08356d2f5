"""Muon: for the matrices of the layers, the update is the momentum made orthogonal (Jordan et al., Muon, 2024).

The other weights (embedding, output, norms, biases) are learned by AdamW. Each matrix's update is scaled to the size
that AdamW's has (Liu et al., Muon is Scalable for LLM Training, arXiv:2502.16982, eq. 4), so that one learning rate and
one weight decay serve both.

DeepSpeed gives an optimizer flat pieces of many matrices. What a worker has whole it works on alone, so that ZeRO 1 and
2 share the work as they share the state; a matrix that lies on several workers is brought together by a sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim._muon import _zeropower_via_newtonschulz

from raypretrain.models.linear import has_bf16
from raypretrain.training.optimizer import VetoedAdamW, adam_step, parameter_groups
from raypretrain.training.settings import EngineSettings

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_LEAST_NORM = 1e-7


@dataclass(frozen=True)
class Piece:
    """What of a matrix lies in a flat tensor of this worker's.

    Args:
        shape: of the whole matrix.
        begin: of the piece, among the matrix' entries.
        place: of the piece in the flat tensor.
        entries: its length; 0 if this worker has nothing of the matrix.
        split: whether other workers have the rest of it.
    """

    shape: torch.Size
    begin: int
    place: int
    entries: int
    split: bool


class Muon(VetoedAdamW):
    """Muon for the groups with ``muon``, AdamW for the others.

    Attributes:
        pieces: what the flat tensors consist of, by their id; a tensor that is not here is a whole matrix.
        device: where matrices are made orthogonal; the state may lie elsewhere.
    """

    def __init__(
        self, groups: list[dict[str, Any]], momentum: float, device: torch.device, **adamw: Any
    ) -> None:
        self.pieces: dict[int, list[Piece]] = {}
        self.device = device
        super().__init__([{"momentum": momentum, **group} for group in groups], **adamw)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """See :class:`torch.optim.AdamW`."""
        if self.vetoed():
            return super().step(closure)
        every = self.param_groups
        self.param_groups = [group for group in every if not group["muon"]]
        try:
            adam_step(self, closure)
        finally:
            self.param_groups = every
        for group in every:
            if group["muon"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, group)
        return None

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        # Both of AdamW's moments: DeepSpeed's conversion for another number of workers asks for the second one too.
        self._init_group({**group, "params": [parameter]}, [], [], [], [], [], [])
        state = self.state[parameter]
        state["step"] += 1
        momentum = state["exp_avg"]
        gradient = parameter.grad
        assert gradient is not None
        momentum.lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(momentum, group["momentum"])  # Nesterov's
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        for piece, update in self._updates(parameter, ahead, group["stacked"]):
            rate = group["lr"] * 0.2 * math.sqrt(max(piece.shape[0] // group["stacked"], piece.shape[1]))
            flat = parameter.view(-1)[piece.place : piece.place + piece.entries]
            own = update.reshape(-1)[piece.begin : piece.begin + piece.entries]
            flat.add_(own.to(flat), alpha=-rate)

    def _updates(self, parameter: Tensor, ahead: Tensor, stacked: int) -> Iterator[tuple[Piece, Tensor]]:
        whole = [Piece(parameter.shape, 0, 0, parameter.numel(), split=False)]
        for piece in self.pieces.get(id(parameter), whole):
            matrix = ahead.view(-1)[piece.place : piece.place + piece.entries].to(self.device)
            if piece.split:
                full = matrix.new_zeros(piece.shape.numel())
                full[piece.begin : piece.begin + piece.entries] = matrix
                dist.all_reduce(full)
                matrix = full
            if piece.entries:
                yield piece, torch.cat([orthogonal(part) for part in matrix.view(piece.shape).chunk(stacked)])


def make_optimizer(model: nn.Module, settings: EngineSettings, device: torch.device) -> VetoedAdamW:
    """What a recipe asks for; it makes orthogonal on ``device``."""
    groups = parameter_groups(
        model,
        settings.weight_decay,
        muon=settings.optimizer == "muon",
        rules=settings.rules,
        matrix_rate=settings.matrix_rate,
    )
    adamw: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "eps": settings.epsilon,
        "fused": True,
    }
    if settings.optimizer == "muon":
        return Muon(groups, settings.momentum, device, **adamw)
    return VetoedAdamW(groups, **adamw)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix with orthogonal rows or columns: singular values of 0.7 to 1.2, the same directions.

    Args:
        matrix: [outputs, inputs].

    Returns:
        Five iterations of Newton and Schulz, with Jordan's coefficients, in bf16; in fp32 on a CPU without it.
    """
    if has_bf16(matrix.device):
        made: Tensor = _zeropower_via_newtonschulz(matrix, _COEFFICIENTS, _ITERATIONS, _LEAST_NORM)
        return made
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).float()
    x = x / x.norm().clamp(min=_LEAST_NORM)
    first, second, third = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=second, alpha=third), x, beta=first)
    return x.T if tall else x


def pieces_of(optimizer: Any, zero: int, device: torch.device) -> dict[int, list[Piece]]:
    """What the flat tensors of the groups with ``muon`` of DeepSpeed's ``optimizer`` consist of; called by all workers.

    Args:
        zero: its stage.
        device: for a tensor that all workers reduce.
    """
    if zero == 3:
        return _pieces_of_stage_3(optimizer)
    flattened = getattr(optimizer, "bit16_groups", None) or getattr(optimizer, "bf16_groups", None)
    if flattened is None:
        return {}  # without ZeRO and in fp32: every parameter is whole
    groups = [
        (group["params"][0], matrices)
        for group, matrices in zip(optimizer.optimizer.param_groups, flattened, strict=True)
        if group["muon"]
    ]
    pieces = {id(flat): [_piece(matrix) for matrix in matrices] for flat, matrices in groups}
    split = [0 < piece.entries < piece.shape.numel() for found in pieces.values() for piece in found]
    anywhere = torch.tensor(split, dtype=torch.int32, device=device)
    dist.all_reduce(anywhere, dist.ReduceOp.MAX)
    flags = iter(anywhere.tolist())
    return {
        flat: [p for piece in found if (p := replace(piece, split=bool(next(flags)))).split or p.entries]
        for flat, found in pieces.items()
    }


def _piece(matrix: Tensor) -> Piece:
    """As DeepSpeed has noted it at the parameter; nothing where no entry is this worker's."""
    mapping = matrix._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return Piece(matrix.shape, 0, 0, 0, split=False)
    inside, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Piece(matrix.shape, inside.start, flat.start, flat.numel, split=False)


def _pieces_of_stage_3(optimizer: Any) -> dict[int, list[Piece]]:
    """Each worker has an equal part of every matrix, the last ones perhaps less."""
    rank, world = dist.get_rank(), dist.get_world_size()
    found: dict[int, list[Piece]] = {}
    for number, matrices in enumerate(optimizer.fp16_groups):
        pieces, place = [], 0
        for matrix in matrices:
            part = matrix.ds_tensor.ds_numel
            begin = min(rank * part, matrix.ds_numel)
            pieces.append(
                Piece(matrix.ds_shape, begin, place, min(part, matrix.ds_numel - begin), split=world > 1)
            )
            place += part
        found[id(optimizer.fp32_partitioned_groups_flat[number])] = pieces
    return found
