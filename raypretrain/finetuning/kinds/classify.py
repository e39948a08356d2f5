"""``classify``: each text, or pair of texts, has one of a few labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from raypretrain.errors import InputError
from raypretrain.finetuning.encode import Encoded
from raypretrain.finetuning.head import solve_classes
from raypretrain.finetuning.kinds.kind import Batch, Details, Row, balanced, check_known
from raypretrain.finetuning.kinds.text import TextKind
from raypretrain.finetuning.labelled import Example, label_of
from raypretrain.finetuning.rows import LabelledFile
from raypretrain.finetuning.scores import class_losses, confusion, per_label, scores_of

if TYPE_CHECKING:
    from torch import Tensor

    from raypretrain.finetuning.tasks import TaskConfig
    from raypretrain.models.releasing import Special


@dataclass(frozen=True)
class Classify(TextKind):
    """One label of each text; the loss is the cross-entropy."""

    labels: tuple[str, ...]
    divisible = True
    metrics: ClassVar[dict[str, bool]] = {"accuracy": True, "macro_f1": True, "loss": False}

    @classmethod
    def parse(cls, row: Row, where: str, file: LabelledFile) -> Example:
        text, pair = cls.texts(row, where, file)
        return Example(text, label_of(row, file.label, where), where, pair)

    @classmethod
    def fit(cls, config: TaskConfig, train: Sequence[Example]) -> Classify:
        return cls(labels_to_learn(config, [example.label for example in train], train))

    def check(self, examples: Sequence[Example], file: LabelledFile) -> None:
        for example in examples:
            check_known(example.label, self.labels, example.where or file.path)

    def strata(self, examples: Sequence[Example]) -> np.ndarray:
        return self.targets(examples)

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        places = {label: i for i, label in enumerate(self.labels)}
        return np.array([places[example.label] for example in examples], dtype=np.int64)

    @property
    def outputs_wanted(self) -> int:  # type: ignore[override]
        return len(self.labels)

    def class_weights(self, data: Encoded) -> np.ndarray:
        return balanced(np.bincount(data.targets, minlength=len(self.labels)))

    def loss_of(self, scores: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        from torch.nn import functional as F

        return F.cross_entropy(scores, targets, weights)

    def divisor(self, batch: Batch, weights: Tensor | None) -> float:
        classes = self.rows(batch.targets)
        return float(len(classes) if weights is None else weights[classes].sum())

    def solve(
        self, model: Any, vectors: Tensor, data: Encoded, ridge: float, weights: np.ndarray | None
    ) -> None:
        found = solve_classes(vectors, data.targets, len(self.labels), ridge, weights)
        model.score.weight.data.copy_(found)

    def scores(self, outputs: Sequence[np.ndarray], data: Encoded) -> dict[str, float]:
        return scores_of(np.concatenate(outputs), data.targets)

    def details(self, outputs: Sequence[np.ndarray], data: Encoded) -> Details:
        predicted = np.concatenate(outputs).argmax(axis=1)
        counts = confusion(data.targets, predicted, len(self.labels))
        return Details(
            truth=[self.labels[i] for i in data.targets],
            predicted=[self.labels[i] for i in predicted],
            losses=class_losses(np.concatenate(outputs), data.targets),
            confusion=(self.labels, counts),
            per_label=per_label(self.labels, counts),
        )

    def release(self, model: Any, folder: Path, special: Special) -> None:
        from raypretrain.models.releasing import save_classifier

        save_classifier(model, folder, self.labels, special)


def labels_to_learn(config: TaskConfig, given: Sequence[str], train: Sequence[Example]) -> tuple[str, ...]:
    """The recipe's labels, or those of the training examples, sorted.

    Args:
        given: the labels of all training examples.

    Raises:
        InputError: there is one only, or one of them is not among the other.
    """
    where, found = config.train.path, sorted(set(given))
    if config.labels is not None:
        for example in train:
            for label in [example.label] if isinstance(example.label, str) else example.label:
                check_known(label, config.labels, example.where or where)
        missing = [label for label in config.labels if label not in found]
        if missing:
            raise InputError(f"no example has the label '{missing[0]}' of tasks.labels", where=where)
        return tuple(config.labels)
    if len(found) < 2:
        raise InputError(
            f"all examples have the label '{found[0]}'" if found else "no example has a label",
            where=where,
            fix="a classifier needs at least two",
        )
    return tuple(found)
