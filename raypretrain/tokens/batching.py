"""How many sequences the batch of each step has: a pure function of the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True)
class BatchSizes:
    """Batches that double, evenly over the first steps, until they are full.

    A small batch is enough while the gradient says much the same whatever the batch is, at the beginning (McCandlish et
    al., An Empirical Model of Large-Batch Training, arXiv:1812.06162).

    Args:
        full: sequences of a batch in the end.
        first: of the first step; ``full`` is that times a power of two.
        warmup: steps before batches are full.
    """

    full: int
    first: int
    warmup: int

    @classmethod
    def all_alike(cls, size: int) -> BatchSizes:
        """Of one size from the first step on."""
        return cls(size, size, 0)

    def of(self, step: int) -> int:
        """Sequences of ``step`` (from 1)."""
        if step > self.warmup:
            return self.full
        doublings = (self.full // self.first).bit_length() - 1
        return self.first << (step - 1) * doublings // self.warmup

    def after(self, step: int) -> Iterator[int]:
        """Of the steps after ``step``, one after the other."""
        return map(self.of, count(step + 1))

    def total(self, steps: int) -> int:
        """Sequences of the first ``steps`` steps."""
        growing = min(steps, self.warmup)
        return sum(map(self.of, range(1, growing + 1))) + (steps - growing) * self.full

    def steps_of(self, sequences: int) -> int:
        """The fewest steps that have so many sequences."""
        grown = self.total(self.warmup)
        if sequences >= grown:
            return self.warmup + -(-(sequences - grown) // self.full)
        return next(steps for steps in range(self.warmup + 1) if self.total(steps) >= sequences)

    def whole_steps(self, sequences: int) -> int:
        """The most steps that so many sequences are enough for."""
        steps = self.steps_of(sequences)
        return steps if self.total(steps) == sequences else steps - 1
