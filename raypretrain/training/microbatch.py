"""What one forward and backward pass takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor


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
