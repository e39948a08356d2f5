"""What a kind of task is: its data, its head, its loss, its scores, and how it is released.

A new kind is a class of some fifty lines: ``kind: mypackage.mymodule:MyKind`` in a recipe, or a line in
:data:`KINDS`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from raypretrain.config import nearest
from raypretrain.errors import InputError
from raypretrain.finetuning.encode import Encoded, Encoder
from raypretrain.finetuning.labelled import Example
from raypretrain.finetuning.rows import LabelledFile

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raypretrain.finetuning.tasks import TaskConfig
    from raypretrain.models.families import LanguageModel
    from raypretrain.models.releasing import Special

Row = dict[str, object]

KINDS = {
    "classify": "raypretrain.finetuning.kinds.classify:Classify",
    "label": "raypretrain.finetuning.kinds.label:Label",
    "regress": "raypretrain.finetuning.kinds.regress:Regress",
    "tag": "raypretrain.finetuning.kinds.tag:Tag",
    "generate": "raypretrain.finetuning.kinds.generate:Generate",
    "embed": "raypretrain.finetuning.kinds.embed:Embed",
    "prefer": "raypretrain.finetuning.kinds.prefer:Prefer",
}
"""Name → where its class is; imported when a task of it is read."""


@dataclass(frozen=True)
class Batch:
    """Some examples on the device of the model.

    Args:
        ids: int64 [R, L], padded on the right; R is examples · sequences of each.
        lengths: int64 [R].
        targets: [examples, …], or int64 [R, L] of tokens.
        known: [examples, …], or None.
        starts: int64 [R, L], of packed rows the column at which each position's sequence begins; then ``lengths`` is
            that of the rows.
    """

    ids: Tensor
    lengths: Tensor
    targets: Tensor
    known: Tensor | None = None
    starts: Tensor | None = None


@dataclass(frozen=True)
class Details:
    """What the report shows beside the numbers.

    Args:
        truth, predicted: of each example, as text.
        losses: fp64 [examples]; the larger, the harder.
        confusion: (labels, counts int64 [true, predicted]), or None.
        per_label: rows with name, precision, recall, f1, support, or None.
    """

    truth: list[str]
    predicted: list[str]
    losses: np.ndarray
    confusion: tuple[Sequence[str], np.ndarray] | None = None
    per_label: list[dict[str, Any]] | None = None


HARDEST = 20
"""Examples that the report shows."""


def shown(found: Details, texts: Sequence[str]) -> dict[str, Any]:
    """What ``examples.json`` of a trial holds.

    Args:
        texts: of the examples that ``found`` is about.
    """
    hardest = np.argsort(-found.losses, kind="stable")[:HARDEST]
    return {
        "confusion": found.confusion
        and {"labels": list(found.confusion[0]), "counts": found.confusion[1].tolist()},
        "per_label": found.per_label,
        "hardest": [
            {
                "text": texts[i][:1000],
                "truth": found.truth[i],
                "predicted": found.predicted[i],
                "loss": float(found.losses[i]),
            }
            for i in hardest
        ],
    }


class Kind(ABC):
    """One kind of task, fitted to the training examples: it knows the labels, or the mean of the numbers.

    Travels to the processes of the trials: small and picklable.
    """

    metrics: ClassVar[dict[str, bool]]
    """What :meth:`scores` gives and a search may go by → whether more is better; the first is the usual one."""
    objectives: ClassVar[tuple[str, ...]] = ("causal", "masked")
    """Of the base models that fit it."""
    solvable: ClassVar[bool] = False
    """Whether ``way: head`` can solve for its head (``Solvable``)."""
    packs: ClassVar[bool] = False
    """Whether its loss is of tokens alone, so that several sequences may share a row in training."""
    divisible: ClassVar[bool] = False
    """Whether several workers may share a batch: its loss is a mean over what :meth:`divisor` counts, or it is one
    that ``contrasts``."""
    contrasts: ClassVar[bool] = False
    """Whether the loss is between the examples of a batch: :meth:`loss_between` of what :meth:`vectors` gives."""
    learns_output: ClassVar[bool] = False
    """Whether it trains what the network was pretrained to predict with."""

    @classmethod
    @abstractmethod
    def parse(cls, row: Row, where: str, file: LabelledFile) -> Example:
        """One example of a row.

        Raises:
            InputError: with ``where``.
        """

    @classmethod
    @abstractmethod
    def fit(cls, config: TaskConfig, train: Sequence[Example]) -> Kind:
        """The kind for these examples.

        Raises:
            InputError: nothing can be learned from them, e.g. there is one class only.
        """

    def check(self, examples: Sequence[Example], file: LabelledFile) -> None:  # noqa: B027
        """Refuse validation or test examples that do not fit the training examples.

        Args:
            file: that they are of.

        Raises:
            InputError: a label that is not among those to learn.
        """

    def strata(self, examples: Sequence[Example]) -> np.ndarray:
        """The class of each example, whose shares are kept where few are drawn: int64 [examples]."""
        return np.zeros(len(examples), dtype=np.int64)

    @abstractmethod
    def encode(self, examples: Sequence[Example], encoder: Encoder) -> Encoded:
        """Their tokens and targets."""

    @abstractmethod
    def model(self, network: LanguageModel, pooling: str | None) -> nn.Module:
        """The network, as attribute ``network``, with this kind's head, as attribute ``score`` if there is one."""

    def before(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """What is computed once of each example before training: ``known`` of later batches, [examples, …]."""
        return None

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch, weights: Tensor | None) -> Tensor:
        """The mean loss, a scalar.

        Args:
            weights: fp32 [labels], of the classes; None weighs them alike.
        """

    def divisor(self, batch: Batch, weights: Tensor | None) -> float:
        """What the sum in the mean of :meth:`loss` is divided by: so many examples, or tokens, or their weights."""
        raise NotImplementedError

    def vectors(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of a kind that ``contrasts``: what each example is to the others, [examples, …]."""
        raise NotImplementedError

    def loss_between(self, vectors: Tensor) -> Tensor:
        """The mean loss of a whole batch, a scalar, of what :meth:`vectors` gave of its examples, in any order."""
        raise NotImplementedError

    @abstractmethod
    def outputs(self, model: nn.Module, batch: Batch) -> Sequence[np.ndarray]:
        """What is predicted, for each example an array."""

    @abstractmethod
    def scores(self, outputs: Sequence[np.ndarray], data: Encoded) -> dict[str, float]:
        """The metrics and ``loss`` of outputs in the order of ``data``."""

    def class_weights(self, data: Encoded) -> np.ndarray | None:
        """fp32 [labels]: each class weighs as much as any other in sum; None where there are no classes."""
        return None

    def details(self, outputs: Sequence[np.ndarray], data: Encoded) -> Details | None:
        """What the report shows; None for nothing."""
        return None

    @abstractmethod
    def release(self, model: nn.Module, folder: Path, special: Special) -> None:
        """Write ``config.json`` and the weights as ``transformers`` loads them."""


def kind_class(name: str) -> type[Kind]:
    """The class of a kind.

    Raises:
        InputError: there is none of this name.
    """
    path = KINDS.get(name, name)
    module, sign, attribute = path.partition(":")
    if not sign:
        guess = nearest(name, KINDS)
        raise InputError(
            f"there is no kind of task '{name}'",
            where="tasks.kind",
            fix=f"did you mean '{guess}'?"
            if guess
            else f"known: {', '.join(KINDS)}, or MODULE:CLASS of yours",
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"'{name}' cannot be imported ({error})", where="tasks.kind") from None
    if not (isinstance(found, type) and issubclass(found, Kind)):
        raise InputError(f"'{name}' is no Kind", where="tasks.kind")
    return found


def check_known(label: str, labels: Sequence[str], where: str) -> None:
    """Refuse a label that is not one of ``labels``.

    Raises:
        InputError: with the nearest one.
    """
    if label in labels:
        return
    some = ", ".join(f"'{known}'" for known in labels[:8]) + (", …" if len(labels) > 8 else "")
    guess = nearest(label, labels)
    raise InputError(
        f"the label '{label}' is not among those to learn ({some})",
        where=where,
        fix=f"did you mean '{guess}'?" if guess else None,
    )


def balanced(counts: np.ndarray) -> np.ndarray:
    """Weights, fp32, with which each class weighs the same in sum, their mean over the examples being 1."""
    present = counts > 0
    weights = np.zeros(len(counts), dtype=np.float32)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights
