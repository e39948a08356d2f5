"""How a base model is adapted to a task: the settings of one trial. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from raypretrain.config import Config, Count
from raypretrain.models.lora_config import LoraConfig


class AdaptConfig(Config):
    """One trial: from which weights, which of them move, and how far.

    Args:
        way: ``full`` trains the network's weights by gradient descent. ``lora`` trains adapters of low rank beside its
            matrices, which are merged when it is released. ``head`` leaves the network as it is, computes each
            text's features once, and solves for the head alone: a convex problem that needs neither learning rate
            nor epochs.
        init: ``base`` starts from the released model, ``scratch`` from random weights of the same shape; the
            difference between both is what the pretraining was worth.
        pooling: what the head reads of a whole text: the ``mean`` over all positions, the ``last`` (of a decoder), or
            the first, ``cls`` (of an encoder).
        learning_rate: the highest one, of every weight but the head's.
        head_learning_rate: the head's own, which begins at zero; ten times ``learning_rate`` where it is not given.
        layer_decay: each layer's learning rate is so much of the next one's (ULMFiT, arXiv:1801.06146).
        top_layers: train so many of the last layers, and what follows them, alone (``full``).
        lora: of the adapters.
        warm_head: begin with the head that ``way: head`` would find instead of zeros, so that the first steps
            do not spoil the network (LP-FT, arXiv:2202.10054).
        ridge: how strongly the solved head is drawn to zero (``head``, and others with ``warm_head``).
        class_weights: ``balanced`` lets every class weigh as much as any other in sum.
        epochs: passes over the labelled examples.
        patience: stop after so many epochs in which the validation metric was not better than before, and keep the
            weights of the best epoch; otherwise all epochs are trained and the last is kept.
        batch: examples per step.
        weight_decay: decoupled, of matrices only.
        warmup: share of the steps in which the learning rate rises; it falls linearly to zero afterwards.
        clip: the gradient's largest norm.
        length: texts are cut after so many tokens; otherwise after 512, or what the base model has positions
            for.
        examples: how many training examples it takes, drawn by its seed; otherwise as many as the task says.
        seed: of everything random in a trial: the drawn examples, their order, and the weights of
            ``scratch``.
    """

    way: Literal["full", "lora", "head"] = "full"
    init: Literal["base", "scratch"] = "base"
    pooling: Literal["mean", "last", "cls"] = "mean"
    learning_rate: float = Field(default=1e-3, gt=0)
    head_learning_rate: float | None = Field(default=None, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    top_layers: Count | None = Field(default=None, ge=0)
    lora: LoraConfig = LoraConfig()
    warm_head: bool = False
    ridge: float = Field(default=0.03, gt=0)
    class_weights: Literal["none", "balanced"] = "none"
    epochs: Count = Field(default=3, gt=0)
    patience: Count | None = Field(default=None, gt=0)
    batch: Count = Field(default=16, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    length: Count | None = Field(default=None, gt=1)
    examples: Count | None = Field(default=None, gt=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> AdaptConfig:
        if self.way == "lora" and self.init == "scratch":
            raise ValueError("adapters of low rank cannot be trained from scratch; take way: full")
        return self

    @property
    def head_rate(self) -> float:
        """The head's highest learning rate."""
        return self.head_learning_rate or 10 * self.learning_rate

    def effective(self) -> dict[str, Any]:
        """The settings that change this trial's outcome; two trials that agree in them are the same trial.

        A setting that came later and has its default is left out: so older trials keep their names.
        """
        values = self.model_dump(mode="json")
        unused = set() if self.way == "lora" else {"lora"}
        unused |= {key for key in _LATER if values[key] == AdaptConfig.model_fields[key].default}
        if self.way == "head":
            unused |= {"learning_rate", "head_learning_rate", "warm_head", "epochs", "weight_decay", "warmup"}
            unused |= {"clip", "batch", "layer_decay", "top_layers", "patience"}
        else:
            values["head_learning_rate"] = self.head_rate
            unused |= set() if self.warm_head else {"ridge"}
            unused |= {"top_layers"} if self.way == "lora" else set()
        return {key: value for key, value in values.items() if key not in unused}


_LATER = ("layer_decay", "top_layers", "class_weights", "patience", "examples")
