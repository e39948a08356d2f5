"""The cheap rival: TF-IDF and logistic regression on the same labelled examples."""

from __future__ import annotations

import time
from typing import Any

from raypretrain.finetuning.tasks import Example, Task


def rival(task: Task, seed: int = 0, strength: float = 10.0) -> dict[str, Any]:
    """Train it on the examples that a trial with ``seed`` learns from; measure it on the test set.

    Words and pairs of words, lower-cased, with logarithmic counts.

    Args:
        strength: the inverse of the regularisation (scikit-learn's ``C``).

    Returns:
        accuracy and macro_f1 on the test set (of the validation set where there is none), seconds, examples.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    began = time.perf_counter()
    train = [task.train[i] for i in task.draw(seed)]
    held_out = task.test or task.validation
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    vectors = vectorizer.fit_transform(_texts(train))
    model = LogisticRegression(C=strength, max_iter=1000).fit(vectors, task.classes(train))
    predicted = model.predict(vectorizer.transform(_texts(held_out)))
    classes = task.classes(held_out)
    return {
        "accuracy": float((predicted == classes).mean()),
        "macro_f1": float(f1_score(classes, predicted, average="macro")),
        "seconds": round(time.perf_counter() - began, 3),
        "examples": len(train),
    }


def _texts(examples: list[Example]) -> list[str]:
    return [example.text for example in examples]
