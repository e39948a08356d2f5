"""Training a task's model by gradient descent, and running it over data. Plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raypretrain.errors import RunError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.encode import Encoded, batches
from raypretrain.finetuning.kinds.kind import Batch, Kind, Solvable
from raypretrain.finetuning.protect import Protection
from raypretrain.models.freezing import layer_of

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


@dataclass
class Progress:
    """What moves while a model is trained, its weights aside."""

    optimizer: torch.optim.Optimizer
    random: np.random.Generator
    """Of the order of the examples."""
    epoch: int = 0
    """Epochs that are done."""


def beginning(model: nn.Module, adapt: AdaptConfig) -> Progress:
    """Of the training of ``model``, on the device where it is."""
    return Progress(_optimizer(model, adapt), np.random.default_rng(adapt.seed))


def train(
    model: nn.Module,
    kind: Kind,
    data: Encoded,
    adapt: AdaptConfig,
    pad: int,
    progress: Progress,
    protection: Protection | None = None,
) -> Iterator[float]:
    """Train ``model`` in place, for the epochs that are left: those of its weights that want gradients.

    Args:
        progress: of this model; moves on.
        protection: what holds the base.

    Yields:
        After each epoch the mean training loss of the task, in the kind's unit.

    Raises:
        RunError: the loss is no longer a number.
    """
    device = next(model.parameters()).device
    optimizer = progress.optimizer
    moving = [weight for group in optimizer.param_groups for weight in group["params"]]
    weights = kind.class_weights(data) if adapt.class_weights == "balanced" else None
    weighing = None if weights is None else torch.from_numpy(weights).to(device)
    total = steps_of(adapt, len(data))
    step = progress.epoch * total // adapt.epochs
    while progress.epoch < adapt.epochs:
        model.train()
        losses = 0.0
        for places in batches(data.lengths, adapt.batch, progress.random):
            _set_learning_rates(optimizer, _share(step, total, adapt.warmup))
            batch = (packed_batch if kind.packs else batch_of)(data, places, pad, device)
            loss = kind.loss(model, batch, weighing)
            more = protection.loss(step) if protection else None
            (loss if more is None else loss + more).backward()
            torch.nn.utils.clip_grad_norm_(moving, adapt.clip)
            optimizer.step()
            if protection:
                protection.after(optimizer)
            optimizer.zero_grad()
            value = loss.item()
            losses += value * len(places)
            step += 1
            if not math.isfinite(value):
                raise RunError(
                    f"the loss is {value} at step {step} of {total}", fix="lower adapt.learning_rate"
                )
        progress.epoch += 1
        yield losses / len(data)


@torch.no_grad()
def outputs_of(model: nn.Module, kind: Kind, data: Encoded, pad: int) -> list[np.ndarray]:
    """What the model predicts, in the order of ``data``."""
    device = next(model.parameters()).device
    model.eval()
    found: list[Any] = [None] * len(data)
    for places in batches(data.lengths, EVALUATION_BATCH):
        made = kind.outputs(model, batch_of(data, places, pad, device))
        for place, output in zip(places, made, strict=True):
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
def known_of(model: nn.Module, kind: Kind, data: Encoded, pad: int) -> np.ndarray | None:
    """What the kind wants to know of each example before training; None for nothing."""
    device = next(model.parameters()).device
    model.eval()
    found: np.ndarray | None = None
    for places in batches(data.lengths, EVALUATION_BATCH):
        known = kind.before(model, batch_of(data, places, pad, device))
        if known is None:
            return None
        values = known.cpu().numpy()
        if found is None:
            found = np.empty((len(data), *values.shape[1:]), dtype=values.dtype)
        found[places] = values
    return found


def _optimizer(model: nn.Module, adapt: AdaptConfig) -> torch.optim.Optimizer:
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
        groups.setdefault((rate, decays, own == name), []).append(weight)
    made: list[dict[str, Any]] = [
        {"params": weights, "peak": rate, "weight_decay": adapt.weight_decay if decays else 0.0}
        for (rate, decays, _), weights in groups.items()
    ]
    return torch.optim.AdamW(made, lr=adapt.learning_rate, fused=True)


def _share(step: int, total: int, warmup: float) -> float:
    """Which share of the highest learning rate a step has: linearly up, then linearly down to almost zero."""
    rise = max(1, round(warmup * total))
    return (step + 1) / rise if step < rise else (total - step) / max(1, total - rise)


def _set_learning_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
