"""Training a task's model by gradient descent, and running it over data. Plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raypretrain.errors import RunError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.encode import Encoded, batches
from raypretrain.finetuning.kinds.kind import Batch, Kind
from raypretrain.finetuning.kinds.solvable import Solvable
from raypretrain.finetuning.protect import Protection
from raypretrain.finetuning.team import ALONE, Team
from raypretrain.models.freezing import layer_of
from raypretrain.training.optimizer import VetoedAdamW

EVALUATION_BATCH = 64


def batch_of(data: Encoded, places: np.ndarray, pad: int, device: torch.device) -> Batch:
    """The examples at ``places`` on the device."""
    ids, lengths, targets = (torch.from_numpy(part) for part in data.padded(places, pad))
    known = None if data.known is None else torch.from_numpy(data.known[places]).to(device)
    return Batch(ids.to(device), lengths.to(device), targets.to(device), known)


def packed_batch(data: Encoded, places: np.ndarray, pad: int, device: torch.device) -> Batch:
    """The same, several sequences in a row."""
    ids, starts, targets = (torch.from_numpy(part).to(device) for part in data.packed(places, pad))
    lengths = torch.full((len(ids),), ids.shape[1], device=device)
    return Batch(ids, lengths, targets, starts=starts)


def steps_of(adapt: AdaptConfig, examples: int) -> int:
    """The steps of a trial on so many examples."""
    return adapt.epochs * math.ceil(examples / adapt.batch)


class Masters:
    """An fp32 copy of each weight in 16 bits, for the optimizer to move: what is small would be lost in the weight
    itself (Micikevicius et al., arXiv:1710.03740, section 3.1).

    Args:
        weights: of a model; those in 16 bits that want gradients get a copy.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self._pairs = [
            (weight, nn.Parameter(weight.detach().float()))
            for weight in weights
            if weight.requires_grad and weight.dtype == torch.bfloat16
        ]
        self._masters = {id(weight): master for weight, master in self._pairs}
        self._weights = {id(master): weight for weight, master in self._pairs}

    def of(self, weight: nn.Parameter) -> nn.Parameter:
        """What the optimizer moves in the place of a weight: its copy, or the weight itself."""
        return self._masters.get(id(weight), weight)

    def weight_of(self, moved: Tensor) -> Tensor:
        """The weight that is moved by moving this."""
        return self._weights.get(id(moved), moved)

    def take_gradients(self) -> None:
        """Let the copies have the weights' gradients."""
        for weight, master in self._pairs:
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None

    @torch.no_grad()
    def hand_down(self) -> None:
        """Let the weights be what the copies are, rounded."""
        for weight, master in self._pairs:
            weight.copy_(master)


class Steps:
    """The steps of a trial, of this process alone: those weights of the model move that want gradients.

    Args:
        model: trained in place.
        data: to learn from.
        protection: what holds the base.

    Attributes:
        random: of the order of the examples.
        masters: of weights in 16 bits what the optimizer moves.
    """

    holds_masters = True

    def __init__(
        self,
        model: nn.Module,
        kind: Kind,
        data: Encoded,
        adapt: AdaptConfig,
        pad: int,
        protection: Protection | None = None,
    ) -> None:
        self.model, self.kind, self.protection = model, kind, protection
        self._data, self._pad, self._clip = data, pad, adapt.clip
        self._device = next(model.parameters()).device
        self.masters = Masters(model.parameters() if self.holds_masters else ())
        self.optimizer = _optimizer(model, adapt, self.masters)
        self.random = np.random.default_rng(adapt.seed)
        self._moving = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        weights = kind.class_weights(data) if adapt.class_weights == "balanced" else None
        self.weighing = None if weights is None else torch.from_numpy(weights).to(self._device)

    def batch(self, places: np.ndarray) -> Batch:
        """The examples at ``places``, as the kind is trained on them."""
        made = packed_batch if self.kind.packs else batch_of
        return made(self._data, places, self._pad, self._device)

    def set_share(self, share: float) -> None:
        """Have the next step made with this share of the highest learning rates."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share

    def take(self, places: np.ndarray, step: int) -> float:
        """One step, from 0, on a batch; returns its mean loss, in the kind's unit."""
        loss = self.kind.loss(self.model, self.batch(places), self.weighing)
        more = self.protection.loss(step) if self.protection else None
        (loss if more is None else loss + more).backward()
        self.masters.take_gradients()
        torch.nn.utils.clip_grad_norm_(self._moving, self._clip)
        self.optimizer.step()
        if self.protection:
            self.protection.after(self.optimizer, self.masters.weight_of)
        self.masters.hand_down()
        self.optimizer.zero_grad()
        return loss.item()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """``function(model, …)`` between two steps."""
        return function(self.model, *arguments)

    def end(self) -> None:
        """Training is over."""


def train(steps: Steps, data: Encoded, adapt: AdaptConfig, done: int = 0) -> Iterator[float]:
    """Train on ``data``, for the epochs that are left, in batches that follow from the seed alone.

    Args:
        done: epochs that are done.

    Yields:
        After each epoch the mean training loss of the task, in the kind's unit.

    Raises:
        RunError: the loss is no longer a number.
    """
    total = steps_of(adapt, len(data))
    step = done * total // adapt.epochs
    for _ in range(done, adapt.epochs):
        steps.model.train()
        losses = 0.0
        for places in batches(data.lengths, adapt.batch, steps.random):
            steps.set_share(_share(step, total, adapt.warmup))
            value = steps.take(places, step)
            losses += value * len(places)
            step += 1
            if not math.isfinite(value):
                raise RunError(
                    f"the loss is {value} at step {step} of {total}", fix="lower adapt.learning_rate"
                )
        yield losses / len(data)


@torch.no_grad()
def outputs_of(
    model: nn.Module,
    kind: Kind,
    data: Encoded,
    pad: int,
    team: Team = ALONE,
    ask: Callable[..., Any] | None = None,
) -> list[np.ndarray]:
    """What the model predicts, in the order of ``data``.

    Args:
        team: who shares it out; each gets all of it.
        ask: calls a function with the model, where that has to be seen to.
    """
    device = next(model.parameters()).device
    model.eval()
    made = []
    for places in team.own(list(batches(data.lengths, EVALUATION_BATCH))):
        batch = batch_of(data, places, pad, device)
        made.append((places, ask(kind.outputs, batch) if ask else kind.outputs(model, batch)))
    found: list[Any] = [None] * len(data)
    for places, outputs in (part for parts in team.everyone(made) for part in parts):
        for place, output in zip(places, outputs, strict=True):
            found[place] = output
    return found


@torch.no_grad()
def features_of(model: nn.Module, kind: Solvable, data: Encoded, pad: int) -> Tensor:
    """What the head reads of ``data``, in its order: fp32 [rows, width], on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    counts = kind.counts(data)
    begins = np.concatenate([[0], np.cumsum(counts)])
    found: Tensor | None = None
    for places in batches(data.lengths, EVALUATION_BATCH):
        vectors = kind.features(model, batch_of(data, places, pad, device)).float().cpu()
        if found is None:
            found = torch.empty(int(begins[-1]), vectors.shape[1])
        rows = np.concatenate([np.arange(begins[i], begins[i] + counts[i]) for i in places])
        found[torch.from_numpy(rows)] = vectors
    return torch.empty(0, 1) if found is None else found


@torch.no_grad()
def known_of(model: nn.Module, kind: Kind, data: Encoded, pad: int, team: Team = ALONE) -> np.ndarray | None:
    """What the kind wants to know of each example before training; None for nothing. The team shares it out."""
    device = next(model.parameters()).device
    model.eval()
    made = []
    for places in team.own(list(batches(data.lengths, EVALUATION_BATCH))):
        known = kind.before(model, batch_of(data, places, pad, device))
        if known is None:
            return None
        made.append((places, known.cpu().numpy()))
    found: np.ndarray | None = None
    for places, values in (part for parts in team.everyone(made) for part in parts):
        if found is None:
            found = np.empty((len(data), *values.shape[1:]), dtype=values.dtype)
        found[places] = values
    return found


def _optimizer(model: nn.Module, adapt: AdaptConfig, masters: Masters) -> torch.optim.Optimizer:
    """AdamW: the head has its own learning rate, lower layers have less of it, and vectors do not decay."""
    network: Any = model.network
    last = network.shape.layers + 1
    groups: dict[tuple[float, bool, bool], list[Tensor]] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        own = name.removeprefix("network.")
        rate = adapt.head_rate
        if own != name:
            rate = adapt.learning_rate * adapt.layer_decay ** (last - layer_of(own, network.shape.layers))
        # What is drawn to the base is not drawn to zero.
        decays = weight.ndim > 1 and not (adapt.anchor and own != name)
        groups.setdefault((rate, decays, own == name), []).append(masters.of(weight))
    made: list[dict[str, Any]] = [
        {"params": weights, "peak": rate, "weight_decay": adapt.weight_decay if decays else 0.0}
        for (rate, decays, _), weights in groups.items()
    ]
    # Nothing vetoes it here; torch's own would import torch's compiler, a second of a process' start.
    return VetoedAdamW(made, lr=adapt.learning_rate, fused=True)


def _share(step: int, total: int, warmup: float) -> float:
    """Which share of the highest learning rate a step has: linearly up, then linearly down to almost zero."""
    rise = max(1, round(warmup * total))
    return (step + 1) / rise if step < rise else (total - step) / max(1, total - rise)
