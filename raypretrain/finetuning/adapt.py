"""How a base model is adapted to a task: the settings of one trial. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from raypretrain.config import Config, Count


class AdaptConfig(Config):
    """One trial: from which weights, which of them move, and how far.

    Args:
        way: ``full`` trains every weight by gradient descent. ``head`` leaves the model as it is, computes
            each text's features once, and solves for the head alone: a convex problem that needs neither
            learning rate nor epochs.
        init: ``base`` starts from the released model, ``scratch`` from random weights of the same shape; the
            difference between both is what the pretraining was worth.
        pooling: what the head reads: the ``mean`` over all positions, or the ``last``.
        learning_rate: the highest one, of every weight but the head's (``full``).
        head_learning_rate: the head's own, which begins at zero; ten times ``learning_rate`` where it is not given.
        warm_head: begin with the head that ``way: head`` would find instead of zeros, so that the first steps
            do not spoil the body (LP-FT, arXiv:2202.10054).
        ridge: how strongly the solved head is drawn to zero (``head``, and ``full`` with ``warm_head``).
        epochs: passes over the labelled examples.
        batch: examples per step.
        weight_decay: decoupled, of matrices only.
        warmup: share of the steps in which the learning rate rises; it falls linearly to zero afterwards.
        clip: the gradient's largest norm.
        length: texts are cut after so many tokens; otherwise after 512, or what the base model has positions
            for.
        seed: of everything random in a trial: the drawn examples, their order, and the weights of
            ``scratch``.
    """

    way: Literal["full", "head"] = "full"
    init: Literal["base", "scratch"] = "base"
    pooling: Literal["mean", "last"] = "mean"
    learning_rate: float = Field(default=1e-3, gt=0)
    head_learning_rate: float | None = Field(default=None, gt=0)
    warm_head: bool = False
    ridge: float = Field(default=0.03, gt=0)
    epochs: Count = Field(default=3, gt=0)
    batch: Count = Field(default=16, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    length: Count | None = Field(default=None, gt=1)
    seed: int = Field(default=0, ge=0)

    @property
    def head_rate(self) -> float:
        """The head's highest learning rate."""
        return self.head_learning_rate or 10 * self.learning_rate

    def effective(self) -> dict[str, Any]:
        """The settings that change this trial's outcome; two trials that agree in them are the same trial."""
        values = self.model_dump(mode="json")
        if self.way == "head":
            unused = {"learning_rate", "head_learning_rate", "warm_head", "epochs", "weight_decay", "warmup"}
            unused |= {"clip", "batch"}
            return {key: value for key, value in values.items() if key not in unused}
        values["head_learning_rate"] = self.head_rate
        if not self.warm_head:
            del values["ridge"]
        return values
