"""How the workers of a run agree: every worker's word, brought together where all of them are in the same place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Crew:
    """The workers, as one of them sees them.

    Args:
        rank, world: this worker's number, and how many there are.
        gather: this worker's int64 [n] → every worker's, int64 [world, n]; a collective.
        note: tells the user a line.
    """

    rank: int
    world: int
    gather: Callable[[Tensor], Tensor]
    note: Callable[[str], None]

    def share(self, value: Any) -> list[Any]:
        """Every worker's ``value``, by rank: anything that JSON holds. To be called by all."""
        text = json.dumps(value).encode()
        longest = int(self.gather(torch.tensor([len(text)])).max())
        padded = torch.zeros(longest, dtype=torch.int64)
        padded[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        rows = self.gather(padded)
        return [json.loads(bytes(row.to(torch.uint8).tolist()).rstrip(b"\0")) for row in rows]

    def first(self, value: Any) -> Any:
        """The first worker's ``value``; to be called by all."""
        return self.share(value if self.rank == 0 else None)[0]

    def most(self, value: float) -> float:
        """The largest ``value`` of all; to be called by all."""
        return max(self.share(value))
