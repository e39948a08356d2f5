"""``tag``: each word of a sentence has a tag, as names have in IOB2, or parts of speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from raypretrain.errors import InputError
from raypretrain.finetuning.conll import as_tagged
from raypretrain.finetuning.encode import NO_TARGET, Encoded, Encoder, flat, starts_of
from raypretrain.finetuning.entities import OUTSIDE, check_iob2, entity_scores, repair_iob2
from raypretrain.finetuning.head import solve_classes
from raypretrain.finetuning.kinds.classify import labels_to_learn
from raypretrain.finetuning.kinds.kind import Batch, Details, Row, balanced, check_known
from raypretrain.finetuning.kinds.solvable import Solvable
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.rows import LabelledFile, token_place
from raypretrain.finetuning.scores import NO_CLASS, class_losses, confusion, macro_f1, per_label

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raypretrain.finetuning.tasks import TaskConfig
    from raypretrain.models.families import LanguageModel
    from raypretrain.models.releasing import Special


@dataclass(frozen=True)
class Tag(Solvable):
    """A tag of each word; the loss is the mean cross-entropy of the words.

    A word's tag is that of its first token or, as a decoder has seen the word only there, of its last. Words that do
    not fit into the length are not learned, and count as missed.

    Args:
        iob2: the tags are names' as in IOB2, and what counts is whole names.
        between: what parts words.
    """

    labels: tuple[str, ...]
    iob2: bool
    between: str = " "
    divisible = True
    metrics: ClassVar[dict[str, bool]] = {"f1": True, "accuracy": True, "loss": False}

    @classmethod
    def parse(cls, row: Row, where: str, file: LabelledFile) -> Example:
        words, tags = as_tagged(row, where, file.words, file.tags)
        if file.iob2 == "repair":
            tags = repair_iob2(tags)
        return Example(" ".join(words), tuple(tags), where, tuple(words))

    @classmethod
    def fit(cls, config: TaskConfig, train: Sequence[Example]) -> Tag:
        labels = labels_to_learn(config, [tag for example in train for tag in example.label], train)
        kind = cls(labels, any(tag.startswith("B-") for tag in labels), between=config.between)
        kind.check(train, config.train)
        return kind

    def check(self, examples: Sequence[Example], file: LabelledFile) -> None:
        for example in examples:
            for i, tag in enumerate(example.label):
                check_known(tag, self.labels, token_place(file, example.where, i))
            flaw = check_iob2(example.label) if self.iob2 else None
            if flaw:
                raise InputError(flaw.what, where=token_place(file, example.where, flaw.token))

    def encode(self, examples: Sequence[Example], encoder: Encoder) -> Encoded:
        texts = [self.between.join(example.parts) for example in examples]
        ids, targets, missing = [], [], []
        places = {label: i for i, label in enumerate(self.labels)}
        for example, encoding in zip(examples, encoder.aligned(texts), strict=True):
            at = token_of_words(encoding.offsets, example.parts, len(self.between), encoder.causal)
            row = np.full(len(encoding.ids), NO_TARGET)
            for place, tag in zip(at, example.label, strict=True):
                if place is not None:
                    row[place] = places[tag]
            missing.append(tuple((i, places[tag]) for i, tag in enumerate(example.label) if at[i] is None))
            ids.append(encoding.ids)
            targets.append(row)
        starts = starts_of([len(row) for row in ids])
        unseen = tuple(missing) if any(missing) else ()
        return Encoded(flat(ids), starts, flat(targets, np.int64), of_tokens=True, missing=unseen)

    def model(self, network: LanguageModel, pooling: str | None) -> nn.Module:
        from raypretrain.models.heads import TokenClassifier

        return TokenClassifier(network, len(self.labels))

    def class_weights(self, data: Encoded) -> np.ndarray:
        return balanced(np.bincount(data.targets[data.targets != NO_TARGET], minlength=len(self.labels)))

    def features(self, model: Any, batch: Batch) -> Tensor:
        from raypretrain.models.heads import starts_of as row_starts

        read = model.features(batch.ids, row_starts(batch.lengths, batch.ids.shape[1]))
        wanted: Tensor = read[batch.targets != NO_TARGET]
        return wanted

    def rows(self, targets: Any) -> Any:
        return targets[targets != NO_TARGET]

    def counts(self, data: Encoded) -> np.ndarray:
        counted = np.concatenate([[0], np.cumsum(data.targets != NO_TARGET)])
        return counted[data.starts[1:]] - counted[data.starts[:-1]]

    def _counts_of(self, batch: Batch) -> np.ndarray:
        found: np.ndarray = (batch.targets != NO_TARGET).sum(dim=1).cpu().numpy()
        return found

    def loss_of(self, scores: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        from torch.nn import functional as F

        return F.cross_entropy(scores, targets, weights)

    def divisor(self, batch: Batch, weights: Tensor | None) -> float:
        classes = self.rows(batch.targets)
        return float(len(classes) if weights is None else weights[classes].sum())

    def solve(
        self, model: Any, vectors: Tensor, data: Encoded, ridge: float, weights: np.ndarray | None
    ) -> None:
        import torch

        classes = data.targets[data.targets != NO_TARGET]
        wide = torch.cat([vectors, torch.ones(len(vectors), 1)], dim=1)
        found = solve_classes(wide, classes, len(self.labels), ridge, weights)
        model.score.weight.data.copy_(found[:, :-1])
        model.score.bias.data.copy_(found[:, -1])

    def scores(self, outputs: Sequence[np.ndarray], data: Encoded) -> dict[str, float]:
        logits, true = np.concatenate(outputs), data.targets[data.targets != NO_TARGET]
        loss = float(class_losses(logits, true).mean())
        unseen = [tag for example in data.missing for _, tag in example]
        true = np.concatenate([true, np.array(unseen, dtype=np.int64)])
        predicted = np.concatenate([logits.argmax(axis=1), np.full(len(unseen), NO_CLASS)])
        found = {"accuracy": float((predicted == true).mean()), "loss": loss}
        if unseen:
            found["unseen"] = len(unseen) / len(true)  # the share of words that the length cut off
        if not self.iob2:
            return {"f1": macro_f1(predicted, true)} | found
        whole = entity_scores(*self._tags(outputs, data))
        return {name: whole[name] for name in ("f1", "precision", "recall")} | found

    def details(self, outputs: Sequence[np.ndarray], data: Encoded) -> Details:
        truth, predicted = self._tags(outputs, data)
        losses = [
            float(class_losses(logits, classes).sum()) if len(classes) else 0.0
            for logits, classes in zip(outputs, self._classes(data), strict=True)
        ]
        counts = confusion(
            np.array([self.labels.index(tag) for row in truth for tag in row], dtype=np.int64),
            np.array([self.labels.index(tag) for row in predicted for tag in row], dtype=np.int64),
            len(self.labels),
        )
        rows = entity_scores(truth, predicted)["per_type"] if self.iob2 else per_label(self.labels, counts)
        as_text = [" ".join(row) for row in truth], [" ".join(row) for row in predicted]
        return Details(*as_text, np.array(losses), (self.labels, counts), rows)

    def _tags(self, outputs: Sequence[np.ndarray], data: Encoded) -> tuple[list[list[str]], list[list[str]]]:
        """The true and the predicted tags of each sentence."""
        truth, predicted = [], []
        for i, (logits, classes) in enumerate(zip(outputs, self._classes(data), strict=True)):
            truth.append([self.labels[place] for place in classes])
            predicted.append([self.labels[place] for place in logits.argmax(axis=1)])
            if self.iob2 and data.missing:  # an entity that is not seen is not found
                for word, tag in data.missing[i]:
                    truth[i].insert(word, self.labels[tag])
                    predicted[i].insert(word, OUTSIDE)
        return truth, predicted

    @staticmethod
    def _classes(data: Encoded) -> list[np.ndarray]:
        """Of each sentence's words that have a token, their true classes."""
        rows = np.split(data.targets, data.starts[1:-1])
        return [row[row != NO_TARGET] for row in rows]

    def release(self, model: Any, folder: Path, special: Special) -> None:
        from raypretrain.models.releasing import save_token_classifier

        save_token_classifier(model, folder, self.labels, special, between=self.between)


def token_of_words(
    offsets: Sequence[tuple[int, int]], words: Sequence[str], gap: int, last: bool
) -> list[int | None]:
    """The token at which each word has its tag; None for a word that is cut off.

    Args:
        offsets: of each token its first character and the one after its last; both alike for special tokens.
        gap: characters between two words.
        last: the last token of a word, and not the first.
    """
    begins = np.cumsum([0] + [len(word) + gap for word in words])
    found: list[int | None] = [None] * len(words)
    for i, (start, stop) in enumerate(offsets):
        if stop > start:
            # A token may begin with the space before its word: its last character says which word it is of.
            word = int(np.searchsorted(begins, stop - 1, side="right")) - 1
            if word < len(words) and (last or found[word] is None):
                found[word] = i
    return found
