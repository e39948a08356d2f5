"""``prefer``: of two answers the better one becomes more likely, by direct preference optimization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from raypretrain.errors import InputError
from raypretrain.finetuning.chat import Chat
from raypretrain.finetuning.encode import NO_TARGET, Encoded, Encoder, flat, starts_of
from raypretrain.finetuning.kinds.generate import Generate, answer_tokens
from raypretrain.finetuning.kinds.kind import Batch, Details, Row
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.messages import as_preference
from raypretrain.finetuning.rows import LabelledFile

if TYPE_CHECKING:
    from torch import Tensor

    from raypretrain.finetuning.tasks import TaskConfig


@dataclass(frozen=True)
class Prefer(Generate):
    """A prompt, a chosen and a rejected answer; the loss is DPO's (arXiv:2305.18290, equation 7).

    The reference is the model as the trial begins: its log-probabilities are computed once.

    Args:
        beta: how strongly it is held at the reference.
    """

    beta: float = 0.1
    packs = False
    metrics: ClassVar[dict[str, bool]] = {"accuracy": True, "margin": True, "loss": False}

    @classmethod
    def parse(cls, row: Row, where: str, file: LabelledFile) -> Example:
        found = as_preference(row, where)
        chosen, rejected = (found["prompt"] + found[way] for way in ("chosen", "rejected"))
        text = "\n".join(message["content"] for message in chosen)
        return Example(text, None, where, (chosen, rejected))

    @classmethod
    def fit(cls, config: TaskConfig, train: Sequence[Example]) -> Prefer:
        return cls(beta=config.beta)

    def encode(self, examples: Sequence[Example], encoder: Encoder) -> Encoded:
        chat = Chat.of(encoder)
        rows = []
        for example in examples:
            pair = [_last_answer(answer_tokens(chat, encoder, way, example.where)) for way in example.parts]
            if any((targets == NO_TARGET).all() for _, targets in pair):
                raise InputError(
                    f"the answer does not begin within {encoder.length} tokens",
                    where=example.where,
                    fix="raise adapt.length, or take the example out",
                )
            rows += pair
        starts = starts_of([len(ids) for ids, _ in rows])
        ids, targets = flat([ids for ids, _ in rows]), flat([targets for _, targets in rows], np.int64)
        return Encoded(ids, starts, targets, of_tokens=True, group=2)

    def before(self, model: Any, batch: Batch) -> Tensor:
        return self._log_probabilities(model, batch)

    def _log_probabilities(self, model: Any, batch: Batch) -> Tensor:
        """[examples, 2]: of the chosen and the rejected answer."""
        from raypretrain.models.heads import log_probabilities

        return log_probabilities(model.network, batch.ids, batch.targets).unflatten(0, (-1, 2))

    def loss(self, model: Any, batch: Batch, weights: Tensor | None) -> Tensor:
        from torch.nn import functional as F

        assert batch.known is not None
        gain = self._log_probabilities(model, batch) - batch.known
        return -F.logsigmoid(self.beta * (gain[:, 0] - gain[:, 1])).mean()

    def divisor(self, batch: Batch, weights: Tensor | None) -> float:
        assert batch.known is not None
        return float(len(batch.known))

    def outputs(self, model: Any, batch: Batch) -> Sequence[np.ndarray]:
        assert batch.known is not None
        gain = self._log_probabilities(model, batch) - batch.known
        return list(self.beta * gain.cpu().numpy())

    def scores(self, outputs: Sequence[np.ndarray], data: Encoded) -> dict[str, float]:
        """How often the chosen answer has the larger reward, and by how much (of the reference: never, and 0)."""
        margins = self._margins(outputs)
        return {
            "accuracy": float((margins > 0).mean()),
            "margin": float(margins.mean()),
            "loss": float(np.logaddexp(0, -margins).mean()),
        }

    def _margins(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        rewards = np.stack(outputs).astype(np.float64)
        margins: np.ndarray = rewards[:, 0] - rewards[:, 1]
        return margins

    def details(self, outputs: Sequence[np.ndarray], data: Encoded) -> Details:
        margins = self._margins(outputs)
        found = ["chosen" if margin > 0 else "rejected" for margin in margins]
        return Details(["chosen"] * len(found), found, np.logaddexp(0, -margins))


def _last_answer(row: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of a conversation with several answers, the last alone counts: those before are alike in both."""
    ids, targets = row
    counted = np.flatnonzero(targets != NO_TARGET)
    if len(counted):
        breaks = np.flatnonzero(np.diff(counted) > 1)
        first = counted[breaks[-1] + 1] if len(breaks) else counted[0]
        targets = targets.copy()
        targets[:first] = NO_TARGET
    return ids, targets
