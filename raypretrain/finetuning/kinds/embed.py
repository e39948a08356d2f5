"""``embed``: texts that belong together become vectors that are near each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from raypretrain.finetuning.encode import Encoded, Encoder, flat, starts_of
from raypretrain.finetuning.kinds.generate import Whole
from raypretrain.finetuning.kinds.kind import Batch, Details, Kind, Row
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.rows import LabelledFile, text_of
from raypretrain.finetuning.scores import class_losses
from raypretrain.storage import write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raypretrain.finetuning.tasks import TaskConfig
    from raypretrain.models.families import LanguageModel
    from raypretrain.models.releasing import Special

TEMPERATURE = 0.05
"""As SimCSE's (arXiv:2104.08821)."""


@dataclass(frozen=True)
class Embed(Kind):
    """Pairs of texts; the others of a batch are what a text is not (InfoNCE, arXiv:1807.03748), in both directions.

    The embedding is the mean over the positions, of length 1.
    """

    metrics: ClassVar[dict[str, bool]] = {"recall_at_1": True, "mrr": True, "loss": False}
    divisible = True
    contrasts = True

    @classmethod
    def parse(cls, row: Row, where: str, file: LabelledFile) -> Example:
        pair = text_of(row, file.text, where), text_of(row, file.pair or "pair", where)
        return Example("\n".join(pair), None, where, pair)

    @classmethod
    def fit(cls, config: TaskConfig, train: Sequence[Example]) -> Embed:
        return cls()

    def encode(self, examples: Sequence[Example], encoder: Encoder) -> Encoded:
        ids = encoder.encode([text for example in examples for text in example.parts])
        nothing = np.zeros(len(examples), dtype=np.int64)
        return Encoded(flat(ids), starts_of([len(row) for row in ids]), nothing, group=2)

    def model(self, network: LanguageModel, pooling: str | None) -> nn.Module:
        return Whole.of(network)

    def loss(self, model: Any, batch: Batch, weights: Tensor | None) -> Tensor:
        return self.loss_between(self.vectors(model, batch))

    def divisor(self, batch: Batch, weights: Tensor | None) -> float:
        return len(batch.targets)

    def loss_between(self, vectors: Tensor) -> Tensor:
        import torch
        from torch.nn import functional as F

        likeness = vectors[:, 0] @ vectors[:, 1].T / TEMPERATURE
        own = torch.arange(len(likeness), device=likeness.device)
        return (F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)) / 2

    def vectors(self, model: Any, batch: Batch) -> Tensor:
        """[examples, 2, width], of length 1."""
        from torch.nn import functional as F

        from raypretrain.models.heads import mean_state

        mean = mean_state(model.network, batch.ids, batch.lengths).float()
        return F.normalize(mean, dim=-1).unflatten(0, (-1, 2))

    def outputs(self, model: Any, batch: Batch) -> Sequence[np.ndarray]:
        return list(self.vectors(model, batch).cpu().numpy())

    def scores(self, outputs: Sequence[np.ndarray], data: Encoded) -> dict[str, float]:
        """How a text finds its partner among those of all examples."""
        likeness = self._likeness(outputs)
        own = likeness.diagonal()
        ranks = (likeness > own[:, None]).sum(axis=1) + 1
        return {
            "recall_at_1": float((ranks == 1).mean()),
            "mrr": float((1 / ranks).mean()),
            "loss": float(class_losses(likeness / TEMPERATURE, np.arange(len(own))).mean()),
        }

    def _likeness(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        vectors = np.stack(outputs)
        likeness: np.ndarray = vectors[:, 0] @ vectors[:, 1].T
        return likeness

    def details(self, outputs: Sequence[np.ndarray], data: Encoded) -> Details:
        likeness = self._likeness(outputs)
        nearest, own = likeness.argmax(axis=1), likeness.diagonal()
        losses = class_losses(likeness / TEMPERATURE, np.arange(len(own)))
        truth = [f"pair {i}, likeness {value:.3f}" for i, value in enumerate(own)]
        found = [f"pair {j}, likeness {likeness[i, j]:.3f}" for i, j in enumerate(nearest)]
        return Details(truth, found, losses)

    def release(self, model: Any, folder: Path, special: Special) -> None:
        from raypretrain.models.releasing import save_embedder

        save_embedder(dict(model.network.state_dict()), model.network.shape, folder, special)
        # As the library sentence-transformers has its models: the network, the mean, length 1.
        parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(parts)
        ]
        pooling = {
            "word_embedding_dimension": model.network.shape.width,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
        }
        for name, values in (("modules.json", modules), ("1_Pooling/config.json", pooling)):
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomic(folder / name, json.dumps(values, indent=2) + "\n")
        (folder / "2_Normalize").mkdir(exist_ok=True)
