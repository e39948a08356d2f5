"""What one forward and backward pass takes, and a worker's share of a step in such parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypretrain.tokens.dealer import StepRows
from raypretrain.tokens.objectives import IGNORED, Objective


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a step, on the device.

    Args:
        ids, targets: int64 [micro_batch, length].
        weight: of its loss; the mean over all workers' is 1, and each is 1 where all have as many targets.
        starts: int64 [micro_batch, length], where the document of each token begins; None does not keep them apart.
    """

    ids: Tensor
    targets: Tensor
    weight: float = 1.0
    starts: Tensor | None = None


def with_last(micro_batches: Iterable[MicroBatch]) -> Iterator[tuple[MicroBatch, bool]]:
    """Each, and whether it is the last one."""
    ahead = iter(micro_batches)
    part = next(ahead)
    for following in ahead:
        yield part, False
        part = following
    yield part, True


@dataclass(frozen=True)
class Place:
    """This worker's place among the workers, how it computes, what is learned, and whether documents stay apart.

    Args:
        micro_batches: of all workers, in a step whose batch is full.
        together: so many neighbouring workers share each sequence.
    """

    rank: int
    world: int
    micro_batch: int
    device: torch.device
    objective: Objective
    boundaries: bool
    micro_batches: int
    together: int = 1

    def columns(self, length: int) -> slice:
        """This worker's, of sequences of ``length`` tokens."""
        part = length // self.together
        return slice(self.rank % self.together * part, (self.rank % self.together + 1) * part)


def micro_batches(rows: StepRows, place: Place) -> Iterator[MicroBatch]:
    """A step's rows.

    The loss of a micro-batch is the mean over its targets. The engine takes the mean of these means as if there
    were as many micro-batches as in a full batch; weighted, that is the mean over all targets of the step, however they
    are shared out, and however many there are.
    """
    sequences = rows.sequences
    size = math.gcd(len(sequences), place.micro_batch)
    columns = place.columns(sequences.tokens.shape[1])
    for start in range(0, len(sequences), size):
        part = slice(start, start + size)
        whole = place.objective.examples(sequences[part], rows.places[part])
        ids, wanted = (np.ascontiguousarray(values[:, columns]) for values in whole)
        targets = int((wanted != IGNORED).sum())
        if not targets:  # all workers have to take part: it predicts something, and counts nothing
            wanted[0, 0] = ids[0, -1]
        starts = sequences[part].starts()[:, columns] if place.boundaries else None
        yield on_device(ids, wanted, place, targets * place.micro_batches / rows.predicted, starts)


def on_device(
    ids: NDArray[np.int64],
    targets: NDArray[np.int64],
    place: Place,
    weight: float = 1.0,
    starts: NDArray[np.int64] | None = None,
) -> MicroBatch:
    """Rows, int64 [B, length], as the engine takes them."""

    def moved(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(place.device, non_blocking=True)

    return MicroBatch(moved(ids), moved(targets), weight, None if starts is None else moved(starts))
