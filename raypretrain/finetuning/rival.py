"""The cheap rival: TF-IDF and a linear model on the same labelled examples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from raypretrain.finetuning.encode import Encoded
from raypretrain.finetuning.kinds.classify import Classify
from raypretrain.finetuning.kinds.kind import Kind
from raypretrain.finetuning.kinds.label import Label
from raypretrain.finetuning.kinds.regress import Regress
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.tasks import Task

STRENGTH = 10.0
"""The inverse of the regularisation (scikit-learn's ``C``)."""


def rival(task: Task, seed: int = 0) -> dict[str, Any] | None:
    """Train it on the examples that a trial with ``seed`` learns from; measure it on the test set.

    Words and pairs of words, lower-cased, with logarithmic counts; a logistic regression (``classify``; in ``label``
    one for each label) or a ridge regression (``regress``).

    Returns:
        The kind's metrics on the test set (on the validation set where there is none), seconds, examples; None for a
        kind that has no such rival.
    """
    if not isinstance(task.kind, Classify | Label | Regress):
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer

    began = time.perf_counter()
    train = [task.train[i] for i in task.draw(seed)]
    held_out = task.test or task.validation
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    vectors = vectorizer.fit_transform(_texts(train))
    found = _predicted(task.kind, vectors, task.kind.targets(train), vectorizer.transform(_texts(held_out)))
    targets = task.kind.targets(held_out)
    data = Encoded(np.empty(0, np.int32), np.zeros(len(held_out) + 1, np.int64), targets)
    scores = task.kind.scores(list(found[:, None]), data)
    return scores | {"seconds": round(time.perf_counter() - began, 3), "examples": len(train)}


def rivals(task: Task, seeds: Sequence[int]) -> dict[str, Any] | None:
    """The mean over ``seeds``, with the ``spread`` of each number (standard deviation with n − 1)."""
    found = [row for seed in seeds if (row := rival(task, seed)) is not None]
    if not found:
        return None
    means: dict[str, Any] = {key: statistics.mean(row[key] for row in found) for key in found[0]}
    spread = {key: statistics.stdev(row[key] for row in found) for key in found[0] if len(found) > 1}
    return means | {"seeds": len(found), "spread": spread}


def _predicted(kind: Kind, train: Any, targets: np.ndarray, test: Any) -> np.ndarray:
    """The scores [examples, outputs] of the test set."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if isinstance(kind, Regress):
        numbers = Ridge(alpha=1 / STRENGTH).fit(train, targets).predict(test)
        return np.asarray(numbers)[:, None]
    if isinstance(kind, Classify):
        model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(train, targets)
        logits = np.full((test.shape[0], len(kind.labels)), -1e9)
        logits[:, model.classes_] = model.predict_log_proba(test)
        return logits
    columns = []
    for has in targets.T > 0:
        if has.all() or not has.any():
            columns.append(np.full(test.shape[0], 20.0 if has.all() else -20.0))
        else:
            columns.append(
                LogisticRegression(C=STRENGTH, max_iter=1000).fit(train, has).decision_function(test)
            )
    return np.stack(columns, axis=1)


def _texts(examples: list[Example]) -> list[str]:
    return [example.text for example in examples]
