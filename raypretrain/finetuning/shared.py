"""The steps of a trial that several workers share, by DeepSpeed's ZeRO: each takes its examples of every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.encode import Encoded
from raypretrain.finetuning.kinds.kind import Batch, Kind
from raypretrain.finetuning.protect import Protection
from raypretrain.finetuning.recipe import Precision
from raypretrain.finetuning.team import Team
from raypretrain.finetuning.train import Steps
from raypretrain.training.engine import make_whole, share
from raypretrain.training.settings import EngineSettings


class Asked(nn.Module):
    """A task's model, all of whose uses are forward passes of one module.

    In these alone ZeRO 3 brings together the weights that are read outside of their own module, as a tied output is.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(model, …)``."""
        return function(self.model, *arguments)


class SharedSteps(Steps):
    """Steps of all workers together, with the numbers that one would get, up to rounding.

    A kind's loss is a mean over what its ``divisor`` counts. Shares of a batch differ in that, so each worker's loss
    weighs by its part of the whole, and not all alike.

    Args:
        model: the same on all workers; trained in place. With ZeRO 3 it is whole again only after :meth:`end`.
        protection: what holds the base; an anchor wants ZeRO 0, and fp32.
        team: at least two workers, in a process group.
        precision: that the network computes in. DeepSpeed has everything in bf16, the head too, and what the
            optimizer moves in fp32.
    """

    holds_masters = False

    def __init__(
        self,
        model: nn.Module,
        kind: Kind,
        data: Encoded,
        adapt: AdaptConfig,
        pad: int,
        protection: Protection | None,
        team: Team,
        precision: Precision,
    ) -> None:
        super().__init__(model, kind, data, adapt, pad, protection)
        self._team = team
        settings = EngineSettings(
            zero=team.zero,
            precision=precision,
            micro_batch=1,  # DeepSpeed only multiplies these: shares are as large as they come
            accumulation=1,
            workers=team.world,
            learning_rate=adapt.learning_rate,
            weight_decay=adapt.weight_decay,
            betas=(0.9, 0.999),
            epsilon=1e-8,
            clip=adapt.clip,
        )
        self._engine = share(Asked(model), self.optimizer, settings)

    def take(self, places: np.ndarray, step: int) -> float:
        """One step on the whole batch; to be called by all."""
        team = self._team
        batch, own = self._share(places)
        found, more = self._engine(self._losses, batch, step)
        if self.kind.contrasts:  # what is found of each example goes to all, and each has the whole loss
            loss, part = self.kind.loss_between(team.joined(found, own > 0)), 1.0 / team.world
            mean = loss
        else:
            loss, part = found, own / (team.total(own) or float("nan"))
            mean = loss * part
        whole = mean if more is None else mean + more
        self._engine.backward(whole * team.world)  # DeepSpeed takes the mean over the workers
        self._engine.step()
        if self.protection:
            self.protection.after(self.optimizer)
        return team.total(loss.item() * part)

    def _losses(self, model: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor | None]:
        more = self.protection.loss(step, self._team) if self.protection else None
        if self.kind.contrasts:
            return self.kind.vectors(model, batch), more
        return self.kind.loss(model, batch, self.weighing), more

    def _share(self, places: np.ndarray) -> tuple[Batch, float]:
        """This worker's examples, and how much they count.

        A worker without any computes one of another's, because the others need it there, and it counts nothing.
        """
        own = places[self._team.rank :: self._team.world]
        batch = self.batch(own if len(own) else places[:1])
        counted = self.kind.divisor(batch, self.weighing) if len(own) else 0.0
        if counted:
            return batch, counted
        # An example may have nothing to learn, as an answer that is cut off; its loss would be no number.
        others = (self.batch(places[i : i + 1]) for i in range(len(places)))
        return next((b for b in others if self.kind.divisor(b, self.weighing)), batch), 0.0

    def set_share(self, share: float) -> None:
        """As of :class:`Steps`; of a group that DeepSpeed holds parts of."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = group["peak"] * share

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(model, …)``, with weights that are there; to be called by all."""
        return self._engine.module(function, *arguments)

    def end(self) -> None:
        """Training is over: the model is an ordinary one from here on. To be called by all."""
        make_whole(self._engine)
