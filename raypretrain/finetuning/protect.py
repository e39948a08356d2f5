"""What holds the base while a trial trains, and after it: replay, L2-SP, and weights between base and tuned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raypretrain.errors import RunError
from raypretrain.finetuning.adapt import AdaptConfig, sequences_needed
from raypretrain.finetuning.anchor import Anchor, State, blend, pick, sweep
from raypretrain.finetuning.base_text import BaseText
from raypretrain.finetuning.replay import Replay
from raypretrain.finetuning.results import Goal
from raypretrain.finetuning.team import ALONE, Team
from raypretrain.models.families import LanguageModel


class Protection:
    """Of one trial: what is added to the loss of a step, and what follows the optimizer's.

    Args:
        network: that is trained.
        base: the base's weights.
        text: of the base, with what is replayed if ``adapt.replay`` asks for it.
        steps: of the trial.
    """

    def __init__(
        self, network: LanguageModel, base: State, text: BaseText | None, adapt: AdaptConfig, steps: int
    ) -> None:
        self._network, self._weight = network, adapt.replay_weight
        self._anchor = Anchor(network, base, adapt.anchor) if adapt.anchor else None
        self._replay: Replay | None = None
        if adapt.replay:
            assert text is not None  # check_fit has seen to it
            each, _ = sequences_needed(adapt.replay, adapt.batch, steps)
            self._replay = Replay(text, batch=each, steps=steps, seed=adapt.seed)

    def loss(self, step: int, team: Team = ALONE) -> Tensor | None:
        """What is replayed in a step, from 0; of a team this worker's part, all parts adding up to the whole."""
        if self._replay is None:
            return None
        return self._weight * self._replay.loss(self._network, step, team)

    def after(
        self, optimizer: torch.optim.Optimizer, weight_of: Callable[[Tensor], Tensor] = lambda moved: moved
    ) -> None:
        """Draw the weights to the base.

        Args:
            weight_of: of what the optimizer moves the weight of the network, where the two are not the same.
        """
        if self._anchor is not None:
            self._anchor.pull(optimizer, weight_of)


def blend_with(
    network: Any, base: State, adapt: AdaptConfig, goal: Goal, evaluate: Callable[[], dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Set the network to the best of ``adapt.blend`` between base and tuned.

    Args:
        evaluate: the validation scores, and the forgetting where it is measured, of the network as it is.

    Returns:
        The chosen row, and that of every share.

    Raises:
        RunError: no share forgot little enough.
    """
    rows = sweep(network, base, adapt.blend, evaluate)
    chosen = pick(rows, f"validation_{goal.metric}", goal.larger_is_better, adapt.most_forgetting)
    if chosen is None:
        least = min(row["forgetting"] for row in rows)
        raise RunError(
            f"each share of adapt.blend forgot more than {adapt.most_forgetting:g} nats, the least {least:.4f}",
            fix="raise adapt.most_forgetting, or give smaller shares",
        )
    network.load_state_dict(blend(base, dict(network.state_dict()), chosen["share"]))
    return dict(chosen), rows
