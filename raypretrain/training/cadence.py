"""How often to save: the cadence that loses least (Young, 1974; Daly, 2006), from what a save was seen to cost."""

from __future__ import annotations

from raypretrain.planning.failures import best_steps

FIRST = 10
"""Where the cadence is found by itself, the first save comes after so many steps: it shows what one costs."""


class Cadence:
    """When a run is saved. All workers ask for the same steps, and are told the same costs.

    Args:
        every: steps between two saves; 0 finds it by itself.
        start: the step after which the run begins.
        failures: mean seconds between two failures.
    """

    def __init__(self, every: int, start: int, failures: float) -> None:
        self._every, self._failures = every, failures
        self._next = start + (every or FIRST)
        self.steps = every or FIRST

    @property
    def automatic(self) -> bool:
        """Whether it is found by itself."""
        return not self._every

    def due(self, step: int) -> bool:
        """Whether to save after ``step``."""
        return step % self._every == 0 if self._every else step >= self._next

    def saved(self, step: int) -> None:
        """A save was begun after ``step``."""
        self._next = step + self.steps

    def learn(self, cost: float, step_seconds: float, save_seconds: float) -> None:
        """What the last save cost, in seconds over all workers; see :func:`best_steps`."""
        if not self._every:
            before = self._next - self.steps
            self.steps = best_steps(cost, self._failures, step_seconds, save_seconds)
            self._next = before + self.steps
