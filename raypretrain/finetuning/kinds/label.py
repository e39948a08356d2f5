"""``label``: each text, or pair of texts, has any number of labels, also none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from raypretrain.errors import InputError
from raypretrain.finetuning.encode import Encoded
from raypretrain.finetuning.head import solve_labels
from raypretrain.finetuning.kinds.classify import labels_to_learn
from raypretrain.finetuning.kinds.kind import Details, Row, check_known
from raypretrain.finetuning.kinds.text import TextKind
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.rows import LabelledFile, value_of
from raypretrain.finetuning.scores import binary_losses, f1_of_counts, label_counts

if TYPE_CHECKING:
    from torch import Tensor

    from raypretrain.finetuning.tasks import TaskConfig
    from raypretrain.models.releasing import Special


@dataclass(frozen=True)
class Label(TextKind):
    """Several labels of each text; the loss is the binary cross-entropy, summed over the labels."""

    labels: tuple[str, ...]
    divisible = True
    metrics: ClassVar[dict[str, bool]] = {"micro_f1": True, "macro_f1": True, "exact": True, "loss": False}

    @classmethod
    def parse(cls, row: Row, where: str, file: LabelledFile) -> Example:
        text, pair = cls.texts(row, where, file)
        return Example(text, labels_of(value_of(row, file.label, where), where, file.label), where, pair)

    @classmethod
    def fit(cls, config: TaskConfig, train: Sequence[Example]) -> Label:
        return cls(labels_to_learn(config, [label for example in train for label in example.label], train))

    def check(self, examples: Sequence[Example], file: LabelledFile) -> None:
        for example in examples:
            for label in example.label:
                check_known(label, self.labels, example.where or file.path)

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        found = np.zeros((len(examples), len(self.labels)), dtype=np.float32)
        places = {label: i for i, label in enumerate(self.labels)}
        for row, example in zip(found, examples, strict=True):
            row[[places[label] for label in example.label]] = 1
        return found

    @property
    def outputs_wanted(self) -> int:  # type: ignore[override]
        return len(self.labels)

    def class_weights(self, data: Encoded) -> np.ndarray:
        """How much more an example that has the label weighs than one that has it not."""
        positive = data.targets.sum(axis=0)
        weights: np.ndarray = ((len(data) - positive) / np.maximum(positive, 1)).astype(np.float32)
        return weights

    def loss_of(self, scores: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        from torch.nn import functional as F

        whole = F.binary_cross_entropy_with_logits(scores, targets, pos_weight=weights, reduction="sum")
        return whole / len(scores)

    def solve(
        self, model: Any, vectors: Tensor, data: Encoded, ridge: float, weights: np.ndarray | None
    ) -> None:
        model.score.weight.data.copy_(solve_labels(vectors, data.targets, ridge, weights))

    def scores(self, outputs: Sequence[np.ndarray], data: Encoded) -> dict[str, float]:
        logits = np.concatenate(outputs)
        counts = label_counts(logits > 0, data.targets > 0)
        return {
            "micro_f1": float(f1_of_counts(counts.sum(axis=1))),
            "macro_f1": float(np.mean([f1_of_counts(column) for column in counts.T])),
            "exact": float(((logits > 0) == (data.targets > 0)).all(axis=1).mean()),
            "loss": float(binary_losses(logits, data.targets).mean()),
        }

    def details(self, outputs: Sequence[np.ndarray], data: Encoded) -> Details:
        logits = np.concatenate(outputs)
        counts = label_counts(logits > 0, data.targets > 0)
        rows = [
            {
                "name": label,
                "precision": float(hits / max(1, predicted)),
                "recall": float(hits / max(1, true)),
                "f1": float(f1_of_counts(np.array([hits, predicted, true]))),
                "support": int(true),
            }
            for label, (hits, predicted, true) in zip(self.labels, counts.T, strict=True)
        ]
        truth = [self._named(row > 0) for row in data.targets]
        losses = binary_losses(logits, data.targets)
        return Details(truth, [self._named(row > 0) for row in logits], losses, per_label=rows)

    def _named(self, has: np.ndarray) -> str:
        return ", ".join(label for label, yes in zip(self.labels, has, strict=True) if yes) or "(none)"

    def release(self, model: Any, folder: Path, special: Special) -> None:
        from raypretrain.models.releasing import save_classifier

        save_classifier(model, folder, self.labels, special, "multi_label_classification")


def labels_of(value: object, where: str, name: str) -> tuple[str, ...]:
    """Labels as a list, or as a text: a JSON list, or parted by ``;`` or ``,``.

    Raises:
        InputError: it is neither.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except ValueError:
                raise InputError(f"column '{name}': {text[:60]!r} is no JSON list", where=where) from None
        else:
            value = text.replace(",", ";").split(";")
    if not isinstance(value, list) or not all(isinstance(label, str | int) for label in value):
        raise InputError(
            f"column '{name}': {value!r} is no list of labels", where=where, fix="write e.g. news; sport"
        )
    return tuple(dict.fromkeys(str(label).strip() for label in value if str(label).strip()))
