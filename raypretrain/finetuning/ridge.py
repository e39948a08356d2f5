"""How strongly a solved head is drawn to zero, found on the training examples alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raypretrain.finetuning.encode import Encoded
from raypretrain.finetuning.kinds.solvable import Solvable

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FOLDS = 3


@torch.no_grad()
def best_ridge(
    model: Any, kind: Solvable, vectors: Tensor, data: Encoded, weights: np.ndarray | None, seed: int
) -> float:
    """The one of :data:`RIDGES` with the least loss in a cross-validation; the model's head is changed on the way.

    With few examples for the features' width the best is a hundred times that with many.

    Args:
        vectors: the features of ``data``, fp32 [rows, width].
        seed: of the parts.
    """
    counts = kind.counts(data)
    begins = np.concatenate([[0], np.cumsum(counts)])
    fold = np.random.default_rng([seed, FOLDS]).permutation(len(data)) % FOLDS
    losses = dict.fromkeys(RIDGES, 0.0)
    device = next(model.parameters()).device
    for out in range(FOLDS):
        parts = []
        for places in (np.flatnonzero(fold != out), np.flatnonzero(fold == out)):
            rows = np.concatenate([np.arange(begins[i], begins[i + 1]) for i in places])
            parts.append((vectors[torch.from_numpy(rows)], data.take(places)))
        (trained, own), (left, others) = parts
        if not len(own) or not len(left):
            continue
        for ridge in RIDGES:
            with torch.enable_grad():
                kind.solve(model, trained, own, ridge, weights)
            scores = model.scores(left.to(device)).float().cpu().numpy()
            outputs = np.split(scores, np.cumsum(kind.counts(others))[:-1])
            losses[ridge] += kind.scores(outputs, others)["loss"]
    return min(RIDGES, key=lambda ridge: losses[ridge])
