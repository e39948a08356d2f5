"""``regress``: each text, or pair of texts, has a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from raypretrain.errors import InputError
from raypretrain.finetuning.encode import Encoded
from raypretrain.finetuning.head import constant_of, solve_numbers
from raypretrain.finetuning.kinds.kind import Details, Row
from raypretrain.finetuning.kinds.text import TextKind
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.rows import LabelledFile, value_of
from raypretrain.finetuning.scores import number_scores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raypretrain.finetuning.tasks import TaskConfig
    from raypretrain.models.families import LanguageModel
    from raypretrain.models.releasing import Special


@dataclass(frozen=True)
class Regress(TextKind):
    """A number of each text; the loss is the squared error in units of the training numbers' standard deviation.

    Args:
        mean, deviation: of the training examples' numbers.
    """

    mean: float
    deviation: float
    divisible = True
    metrics: ClassVar[dict[str, bool]] = {
        "rmse": False,
        "mae": False,
        "spearman": True,
        "pearson": True,
        "r2": True,
        "loss": False,
    }
    outputs_wanted = 1

    @classmethod
    def parse(cls, row: Row, where: str, file: LabelledFile) -> Example:
        text, pair = cls.texts(row, where, file)
        return Example(text, number_of(value_of(row, file.label, where), where, file.label), where, pair)

    @classmethod
    def fit(cls, config: TaskConfig, train: Sequence[Example]) -> Regress:
        numbers = np.array([example.label for example in train])
        if len(numbers) == 0 or np.ptp(numbers) == 0:
            raise InputError(
                f"all examples have the number {numbers[0] if len(numbers) else '(none)'}",
                where=config.train.path,
                fix="there is nothing to learn",
            )
        return cls(float(numbers.mean()), float(numbers.std()))

    def strata(self, examples: Sequence[Example]) -> np.ndarray:
        """Five classes of equal size: the small numbers to the large."""
        numbers = np.array([example.label for example in examples])
        bounds = np.quantile(numbers, [0.2, 0.4, 0.6, 0.8]) if len(numbers) else np.zeros(4)
        return np.searchsorted(bounds, numbers)

    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        return np.array([example.label for example in examples], dtype=np.float32)

    def loss_of(self, scores: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        error: Tensor = ((scores[:, 0] - targets.to(scores.dtype)) / self.deviation).square().mean()
        return error

    def model(self, network: LanguageModel, pooling: str | None) -> nn.Module:
        from raypretrain.models.heads import SequenceRegressor

        wanted: Any = pooling or "mean"
        return SequenceRegressor(network, wanted, self.mean, self.deviation)

    def warm(self, model: Any, vectors: Callable[[], Tensor]) -> None:
        if not model.biased:
            model.one.copy_(constant_of(vectors()))

    def solve(
        self, model: Any, vectors: Tensor, data: Encoded, ridge: float, weights: np.ndarray | None
    ) -> None:
        import torch

        self.warm(model, lambda: vectors)
        rest = torch.from_numpy(data.targets) - self.mean * model.constant(vectors)[:, 0]
        model.score.weight.data.copy_(solve_numbers(vectors, rest / self.deviation, ridge))

    def scores(self, outputs: Sequence[np.ndarray], data: Encoded) -> dict[str, float]:
        found = np.concatenate(outputs)[:, 0].astype(np.float64)
        true = data.targets.astype(np.float64)
        return number_scores(found, true) | {"loss": float((((found - true) / self.deviation) ** 2).mean())}

    def details(self, outputs: Sequence[np.ndarray], data: Encoded) -> Details:
        found = np.concatenate(outputs)[:, 0]
        return Details(
            truth=[f"{value:g}" for value in data.targets],
            predicted=[f"{value:g}" for value in found],
            losses=np.abs(found - data.targets).astype(np.float64),
        )

    def release(self, model: Any, folder: Path, special: Special) -> None:
        from raypretrain.models.releasing import save_classifier

        save_classifier(model, folder, ["value"], special, "regression")


def number_of(value: object, where: str, name: str) -> float:
    """A finite number.

    Raises:
        InputError: it is none.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise InputError(f"column '{name}': {value!r} is no number", where=where)
    return number
