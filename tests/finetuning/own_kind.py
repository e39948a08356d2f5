"""A kind of task of one's own, as a user would write it: stars from 1 to 5, of which near ones are nearly right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.finetuning.encode import Encoded
from raypretrain.finetuning.head import solve_numbers
from raypretrain.finetuning.kinds.text import TextKind
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.rows import LabelledFile, value_of
from raypretrain.models.releasing import Special, save_classifier


@dataclass(frozen=True)
class Stars(TextKind):
    """The loss is the squared error from the middle of the scale."""

    metrics: ClassVar[dict[str, bool]] = {"within_one": True, "loss": False}
    outputs_wanted = 1

    @classmethod
    def parse(cls, row: dict[str, object], where: str, file: LabelledFile) -> Example:
        text, pair = cls.texts(row, where, file)
        stars = value_of(row, file.label, where)
        if str(stars) not in "12345":
            raise InputError(f"{stars!r} is no number of stars", where=where)
        return Example(text, int(str(stars)), where, pair)

    @classmethod
    def fit(cls, config: Any, train: Sequence[Example]) -> Stars:
        return cls()

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        return np.array([example.label - 3 for example in examples], dtype=np.float32)

    def loss_of(self, scores: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        return (scores[:, 0] - targets).square().mean()

    def solve(self, model: Any, vectors: Tensor, data: Encoded, ridge: float, weights: Any) -> None:
        import torch

        model.score.weight.data.copy_(solve_numbers(vectors, torch.from_numpy(data.targets), ridge))

    def scores(self, outputs: Sequence[np.ndarray], data: Encoded) -> dict[str, float]:
        away = np.abs(np.concatenate(outputs)[:, 0] - data.targets)
        return {"within_one": float((away <= 1).mean()), "loss": float((away**2).mean())}

    def release(self, model: Any, folder: Path, special: Special) -> None:
        save_classifier(model, folder, ["stars"], special, "regression")
