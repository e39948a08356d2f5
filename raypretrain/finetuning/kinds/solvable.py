"""Kinds of tasks whose head, on frozen features, is found by solving for it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raypretrain.finetuning.encode import Encoded
from raypretrain.finetuning.kinds.kind import Batch, Kind

if TYPE_CHECKING:
    from torch import Tensor, nn


class Solvable(Kind):
    """A kind with a head on features of texts or words. On frozen features it is a convex problem: it is solved for.

    Its model has the attributes ``features`` and ``scores``, as those of :mod:`raypretrain.models.heads`.
    """

    solvable = True

    @abstractmethod
    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the head reads: [rows, width], a row for each text, or for each word."""

    def rows(self, targets: Any) -> Any:
        """Of the targets of a batch or of all data those that the rows of the features have."""
        return targets

    def counts(self, data: Encoded) -> np.ndarray:
        """The rows of each example, int64 [examples]."""
        return np.ones(len(data), dtype=np.int64)

    @abstractmethod
    def loss_of(self, scores: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """The mean loss of the rows."""

    @abstractmethod
    def solve(
        self, model: nn.Module, vectors: Tensor, data: Encoded, ridge: float, weights: np.ndarray | None
    ) -> None:
        """Set the model's head to the best for ``vectors``, the features of all of ``data``, in its order."""

    def warm(self, model: nn.Module, vectors: Callable[[], Tensor]) -> None:
        """What the head needs to know of the training examples' features before it is trained."""

    def loss(self, model: Any, batch: Batch, weights: Tensor | None) -> Tensor:
        return self.loss_of(model.scores(self.features(model, batch)), self.rows(batch.targets), weights)

    def divisor(self, batch: Batch, weights: Tensor | None) -> float:
        return float(len(self.rows(batch.targets)))

    def outputs(self, model: Any, batch: Batch) -> Sequence[np.ndarray]:
        scores: np.ndarray = model.scores(self.features(model, batch)).float().cpu().numpy()
        places = np.cumsum(self._counts_of(batch))[:-1]
        return np.split(scores, places)

    def _counts_of(self, batch: Batch) -> np.ndarray:
        return np.ones(len(batch.ids), dtype=np.int64)
