"""How good predictions are. NumPy alone."""

from __future__ import annotations

import numpy as np


def scores_of(logits: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 (unweighted mean over the classes that occur or are predicted) and loss (nats).

    Args:
        logits: floating point [examples, labels].
        classes: int64 [examples].
    """
    predicted = logits.argmax(axis=1)
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    own = shifted[np.arange(len(classes)), classes]
    return {
        "accuracy": float((predicted == classes).mean()),
        "macro_f1": macro_f1(predicted, classes),
        "loss": float((np.log(np.exp(shifted).sum(axis=1)) - own).mean()),
    }


def macro_f1(predicted: np.ndarray, classes: np.ndarray) -> float:
    """The mean over classes of 2·hits / (times predicted + times true)."""
    found = []
    for i in np.union1d(predicted, classes):
        hits = np.sum((predicted == i) & (classes == i))
        found.append(2 * hits / (np.sum(predicted == i) + np.sum(classes == i)))
    return float(np.mean(found))
