"""What kinds that score a whole text share: one text or a pair, a vector of features, and a head on it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raypretrain.finetuning.encode import Encoded, Encoder, flat, starts_of
from raypretrain.finetuning.kinds.kind import Batch, Row
from raypretrain.finetuning.kinds.solvable import Solvable
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.rows import LabelledFile, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raypretrain.models.families import LanguageModel


class TextKind(Solvable):
    """Of each text, or pair of texts, some scores.

    A file's ``pair`` names the column of the second text.
    """

    outputs_wanted: int

    @classmethod
    def texts(cls, row: Row, where: str, file: LabelledFile) -> tuple[str, tuple[str, str] | None]:
        """The text to be shown, and the pair if it is one."""
        text = text_of(row, file.text, where)
        if file.pair is None:
            return text, None
        pair = text, text_of(row, file.pair, where)
        return "\n".join(pair), pair

    def encode(self, examples: Sequence[Example], encoder: Encoder) -> Encoded:
        ids = encoder.encode([example.parts or example.text for example in examples])
        return Encoded(flat(ids), starts_of([len(row) for row in ids]), self.targets(examples))

    @abstractmethod
    def targets(self, examples: Sequence[Example]) -> np.ndarray:
        """What is to be learned of each example."""

    def model(self, network: LanguageModel, pooling: str | None) -> nn.Module:
        from raypretrain.models.heads import SequenceClassifier

        wanted: Any = pooling or "mean"
        return SequenceClassifier(network, self.outputs_wanted, wanted)

    def features(self, model: Any, batch: Batch) -> Tensor:
        features: Tensor = model.features(batch.ids, batch.lengths)
        return features
