"""Which epoch of a trial counts: the last, or with ``patience`` the best."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from raypretrain.finetuning.kinds.kind import Kind
from raypretrain.finetuning.results import Goal


def usual_goal(kind: Kind) -> Goal:
    """By the first of the kind's metrics."""
    metric = next(iter(kind.metrics))
    return Goal(metric, kind.metrics[metric])


class BestEpoch:
    """Which epoch was the best, with its weights, where ``patience`` asks for it; otherwise the last one."""

    def __init__(self, model: nn.Module, goal: Goal, patience: int | None) -> None:
        self._model, self._patience = model, patience
        self._name, self._sign = f"validation_{goal.metric}", 1 if goal.larger_is_better else -1
        self._best: dict[str, Any] = {}
        self._weights: dict[str, Tensor] = {}
        self._waited = 0

    def is_over(self, line: dict[str, Any]) -> bool:
        """Whether training ends after the epoch of this line."""
        if self._patience is None:
            return False
        if not self._best or self._sign * (line[self._name] - self._best[self._name]) > 0:
            self._best, self._waited = line, 0
            moving = {name: w for name, w in self._model.named_parameters() if w.requires_grad}
            self._weights = {name: _held(weight).clone() for name, weight in moving.items()}
            return False
        self._waited += 1
        return self.over

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        return self._patience is not None and self._waited >= self._patience

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What :meth:`load` takes: the best line, with how long it was waited for a better one, and its weights."""
        return {"line": self._best, "waited": self._waited}, self._weights

    def load(self, known: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Be as the one whose :meth:`state` this was."""
        self._best, self._waited, self._weights = known["line"], known["waited"], weights

    def line(self, last: dict[str, Any]) -> dict[str, Any]:
        """The numbers of the epoch that counts."""
        return self._best or last

    def restore(self) -> None:
        """Go back to that epoch's weights."""
        for name, weight in self._model.named_parameters():
            if name in self._weights:
                _held(weight).copy_(self._weights[name])


def _held(weight: Tensor) -> Tensor:
    """What of a weight this process has: all of it, or under ZeRO 3 a part."""
    held: Tensor = getattr(weight, "ds_tensor", weight)
    return held.detach()
