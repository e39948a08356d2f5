"""The workers of one trial, as one of them sees them: what each takes, and how they agree. Plain torch.distributed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """By default a trial's only process, for which nothing here costs anything.

    What says "to be called by all" is a collective of the process group that all workers have joined.

    Args:
        rank, world: this worker's number, and how many there are.
        zero: DeepSpeed's ZeRO stage, 0 to 3, where there are several.
        device: ``cpu`` or ``cuda``; None takes a GPU if there is one.
    """

    rank: int = 0
    world: int = 1
    zero: int = 0
    device: str | None = None

    def own(self, parts: Sequence[T]) -> list[T]:
        """This worker's of some parts: all take as many, the last one again where they do not come out even.

        ZeRO 3 brings weights together in every forward pass, so all have to make as many.
        """
        rounds = math.ceil(len(parts) / self.world)
        return [parts[min(i * self.world + self.rank, len(parts) - 1)] for i in range(rounds)]

    def everyone(self, value: T) -> list[T]:
        """Every worker's ``value``, by rank; anything that can be pickled. To be called by all."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def joined(self, rows: Tensor, counted: bool) -> Tensor:
        """The rows of all workers, [all, …]; gradients reach this worker's own. To be called by all.

        Args:
            rows: [n, …], n as it comes on each worker.
            counted: whether this worker's are among them.
        """
        import torch
        import torch.distributed as dist

        numbers = self.everyone(len(rows) if counted else 0)
        padded = rows.new_zeros(max(numbers), *rows.shape[1:])
        if counted:
            padded[: len(rows)] = rows.detach()
        found = [torch.empty_like(padded) for _ in numbers]
        dist.all_gather(found, padded)
        parts = [part[:number] for part, number in zip(found, numbers, strict=True)]
        if counted:
            parts[self.rank] = rows
        # A worker that counts nothing has to go through its backward pass all the same.
        return torch.cat(parts) + 0.0 * rows.sum()

    def first(self, value: T) -> T:
        """The first worker's ``value``. To be called by all."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        found: list[Any] = [value]
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def total(self, value: float) -> float:
        """The sum of all workers' values, the same on all. To be called by all."""
        if self.world == 1:
            return value
        import torch
        import torch.distributed as dist

        number = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(number)
        return number.item()


ALONE = Team()
