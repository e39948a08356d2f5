"""How a base model is adapted to a task: the settings of one trial. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
        ridge: how strongly the solved head is drawn to zero (``head``, and others with ``warm_head``); ``auto`` takes
            what has the least loss on parts of the training examples that were left out (cross-validation).
        class_weights: ``balanced`` lets every class weigh as much as any other in sum.
        anchor: how strongly the base's weights are drawn to where they were (L2-SP), instead of by ``weight_decay`` to
            zero.
        replay: so many sequences of the base's text (``base.text``) are trained on for each labelled example.
        replay_weight: what their loss counts beside the task's.
        blend: after training, take the best of these shares of the tuned weights, the rest being the base's
            (WiSE-FT): by the validation metric, among those that forgot at most ``most_forgetting`` nats.
        most_forgetting: see ``blend``.
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
    ridge: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    class_weights: Literal["none", "balanced"] = "none"
    anchor: float = Field(default=0.0, ge=0)
    replay: float = Field(default=0.0, ge=0)
    replay_weight: float = Field(default=1.0, gt=0)
    blend: list[Annotated[float, Field(ge=0, le=1)]] = Field(default=[])
    most_forgetting: float | None = None
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
        if self.way == "lora" and (self.blend or self.anchor):
            raise ValueError("blend and anchor hold weights that are trained themselves; take way: full")
        if self.most_forgetting is not None and not self.blend:
            raise ValueError("most_forgetting chooses between shares: give blend as well")
        return self

    @property
    def head_rate(self) -> float:
        """The head's highest learning rate."""
        return self.head_learning_rate or 10 * self.learning_rate

    @property
    def held(self) -> AdaptConfig:
        """This, without what holds the base where there is none to hold, or nothing moves it."""
        if self.way != "head" and self.init == "base":
            return self
        return self.model_copy(update={"anchor": 0.0, "replay": 0.0, "blend": [], "most_forgetting": None})

    def effective(self) -> dict[str, Any]:
        """The settings that change this trial's outcome; two trials that agree in them are the same trial.

        A setting that came later and has its default is left out: so older trials keep their names.
        """
        values = self.model_dump(mode="json")
        unused = set() if self.way == "lora" else {"lora"}
        unused |= {key for key in _LATER if values[key] == AdaptConfig.model_fields[key].default}
        if self.way == "head" or self.init == "scratch":  # there is no base to hold, or nothing that moves it
            unused |= {"anchor", "replay", "replay_weight", "blend", "most_forgetting"}
        if not self.replay:
            unused |= {"replay_weight"}
        if self.way == "head":
            unused |= {"learning_rate", "head_learning_rate", "warm_head", "epochs", "weight_decay", "warmup"}
            unused |= {"clip", "batch", "layer_decay", "top_layers", "patience"}
        else:
            values["head_learning_rate"] = self.head_rate
            unused |= set() if self.warm_head else {"ridge"}
            unused |= {"top_layers"} if self.way == "lora" else set()
        return {key: value for key, value in values.items() if key not in unused}


_LATER = (
    "layer_decay", "top_layers", "class_weights", "patience", "examples",
    "anchor", "replay", "replay_weight", "blend", "most_forgetting",
)  # fmt: skip


def sequences_needed(rate: float, batch: int, steps: int) -> tuple[int, int]:
    """Sequences of a step, and of a trial, that replays ``rate`` of them for each example of its ``batch``."""
    each = max(1, round(rate * batch))
    return each, each * steps
