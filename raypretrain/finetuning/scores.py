"""How good predictions are. NumPy, and scikit-learn where it has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NO_CLASS = -1
"""As the predicted class of what was given none."""


def scores_of(logits: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 (unweighted mean over the classes that occur or are predicted) and loss (nats).

    Args:
        logits: floating point [examples, labels].
        classes: int64 [examples].
    """
    predicted = logits.argmax(axis=1)
    return {
        "accuracy": float((predicted == classes).mean()),
        "macro_f1": macro_f1(predicted, classes),
        "loss": float(class_losses(logits, classes).mean()),
    }


def class_losses(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The cross-entropy of each example in nats, fp64."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    losses: np.ndarray = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(classes)), classes]
    return losses


def macro_f1(predicted: np.ndarray, classes: np.ndarray) -> float:
    """The mean over classes of 2·hits / (times predicted + times true).

    Args:
        predicted: may be ``NO_CLASS``, which is right for none.
    """
    found = []
    for i in np.setdiff1d(np.union1d(predicted, classes), NO_CLASS):
        hits = np.sum((predicted == i) & (classes == i))
        found.append(2 * hits / (np.sum(predicted == i) + np.sum(classes == i)))
    return float(np.mean(found))


def confusion(true: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """How often each class was taken for each: int64 [true, predicted]."""
    counts = np.bincount(true * labels + predicted, minlength=labels * labels)
    return counts.reshape(labels, labels)


def per_label(labels: Sequence[str], counts: np.ndarray) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class of a confusion matrix."""
    rows = []
    for i, label in enumerate(labels):
        hits, predicted, true = counts[i, i], counts[:, i].sum(), counts[i].sum()
        rows.append(
            {
                "name": label,
                "precision": float(hits / max(1, predicted)),
                "recall": float(hits / max(1, true)),
                "f1": float(2 * hits / max(1, predicted + true)),
                "support": int(true),
            }
        )
    return rows


def label_counts(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Hits, times predicted and times true of each label: int64 [3, labels]; both are bool [examples, labels]."""
    return np.stack([(predicted & true).sum(axis=0), predicted.sum(axis=0), true.sum(axis=0)])


def f1_of_counts(counts: np.ndarray) -> float:
    """F1 of (hits, times predicted, times true); 0 where neither occurs."""
    hits, predicted, true = counts
    return float(2 * hits / max(1, predicted + true))


def binary_losses(logits: np.ndarray, has: np.ndarray) -> np.ndarray:
    """The binary cross-entropy of each example, summed over its labels, in nats: fp64 [examples]."""
    wide = logits.astype(np.float64)
    losses: np.ndarray = (np.logaddexp(0, wide) - wide * has).sum(axis=1)
    return losses


def number_scores(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Root mean square and mean absolute error, both correlations, and the explained share of the variance.

    A correlation with numbers that are all the same is 0.
    """
    error = found - true
    variance = float(np.var(true))
    return {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        "pearson": _correlation(found, true),
        "spearman": _correlation(_ranks(found), _ranks(true)),
        "r2": float(1 - np.mean(error**2) / variance) if variance > 0 else 0.0,
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    spread = float(a.std() * b.std())
    return float(np.mean((a - a.mean()) * (b - b.mean())) / spread) if spread > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray = (ends - (counts + 1) / 2)[inverse]
    return ranks
