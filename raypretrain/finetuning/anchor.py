"""Near the base: L2-SP while a trial trains, and between base and tuned weights (WiSE-FT) after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raypretrain.errors import InputError, RecipeError

SHARES = tuple(i / 10 for i in range(11))
"""Of the tuned weights, from the base to what was trained."""

State = Mapping[str, Tensor]


class Anchor:
    """L2-SP (Li et al., arXiv:1802.01483): each weight is drawn to where it started, not to zero.

    Decoupled, as AdamW's decay (arXiv:1711.05101): after the optimizer's step ``w += rate · strength · (base − w)``.
    As a penalty in the loss, Adam would divide the pull by the size of the gradients, so that just the weights that a
    task moves most would be held least. It replaces the decay to zero: ``weight_decay`` of these weights should be 0.
    The head is new and has no base.

    On the CPU the base's weights are not copied, so they may be those that all trials share; on a GPU they take one
    copy, in their own dtype.

    Args:
        network: the weights of it that are trained and that the base has are held.
        base: the state dict of the base.
        strength: of the pull. Over a trial whose rates add up to R, a weight without gradient comes nearer by
            the factor exp(−R · strength).

    Raises:
        RecipeError: the base has none of the trained weights.
    """

    def __init__(self, network: nn.Module, base: State, strength: float) -> None:
        self.strength = strength
        self._base = {
            id(weight): base[name].to(weight.device)
            for name, weight in network.named_parameters()
            if weight.requires_grad and name in base
        }
        if not self._base:
            what = "L2-SP holds the base's weights where they are, and this way trains none of them"
            raise RecipeError(what, where="adapt", fix="leave it out, or train the weights themselves")

    @torch.no_grad()
    def pull(
        self, optimizer: torch.optim.Optimizer, weight_of: Callable[[Tensor], Tensor] = lambda moved: moved
    ) -> None:
        """Draw the weights to the base, each by its group's learning rate; to be called after ``step``.

        Args:
            weight_of: of what the optimizer moves the weight of the network, where the two are not the same.
        """
        for group in optimizer.param_groups:
            share = min(1.0, group["lr"] * self.strength)
            for weight in group["params"]:
                base = self._base.get(id(weight_of(weight)))
                if base is not None:
                    weight.lerp_(base.to(weight.dtype), share)


def blend(base: State, tuned: State, share: float) -> dict[str, Tensor]:
    """WiSE-FT (Wortsman et al., arXiv:2109.01903, equation 1): ``(1 − share) · base + share · tuned``, in fp32.

    At 0 and 1 it is exactly the one and the other.

    Args:
        base, tuned: state dicts of the same network. The head of a task is not in them and stays as it is.

    Raises:
        InputError: they differ in their weights' names or shapes.
    """
    _refuse_others(base, tuned)
    return {name: _between(base[name], weight, share) for name, weight in tuned.items()}


@torch.no_grad()
def sweep(
    network: nn.Module, base: State, shares: Iterable[float], evaluate: Callable[[], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Look at the network between the base and what it is now; nothing is trained, and it ends as it began.

    Args:
        network: tuned; it takes one copy of its weights.
        shares: of the tuned weights.
        evaluate: the task's scores and the forgetting of ``network`` as it then is, as a flat row.

    Returns:
        A row for each share: ``share``, and what ``evaluate`` gave.

    Raises:
        InputError: as of :func:`blend`.
    """
    state = network.state_dict()
    tuned = {name: weight.clone() for name, weight in state.items()}
    _refuse_others(base, tuned)
    rows = []
    try:
        for share in shares:
            for name, weight in state.items():
                weight.copy_(_between(base[name], tuned[name], share))
            rows.append({"share": share, **evaluate()})
    finally:
        network.load_state_dict(tuned)
    return rows


def pick(
    points: Sequence[Mapping[str, Any]], metric: str, larger_is_better: bool, most: float | None = None
) -> Mapping[str, Any] | None:
    """The best of some rows by a validation metric; of equal ones that which forgot less.

    Args:
        metric: its key in the rows.
        most: the largest ``forgetting`` that is accepted; None takes any.

    Returns:
        None where no row has a score and forgot little enough.
    """

    def rank(row: Mapping[str, Any]) -> tuple[float, float]:
        return (row[metric] if larger_is_better else -row[metric]), -row.get("forgetting", 0.0)

    fitting = [row for row in points if most is None or row["forgetting"] <= most]
    return max((row for row in fitting if not math.isnan(row[metric])), key=rank, default=None)


def _between(base: Tensor, tuned: Tensor, share: float) -> Tensor:
    return torch.lerp(base.to(tuned.device, torch.float32), tuned.float(), share)


def _refuse_others(base: State, tuned: State) -> None:
    for name in sorted(base.keys() | tuned.keys()):
        shapes = [list(state[name].shape) if name in state else None for state in (base, tuned)]
        if shapes[0] != shapes[1]:
            what = f"the weight '{name}' is {shapes[0] or 'not there'} in the base, {shapes[1] or 'not there'} tuned"
            raise InputError(what, where="weights between base and tuned", fix="give the base of this trial")
