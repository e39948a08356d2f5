"""Training every weight of a classifier by gradient descent."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raypretrain.errors import RunError
from raypretrain.finetuning.adapt import AdaptConfig
from raypretrain.finetuning.encode import Encoded, batches
from raypretrain.finetuning.head import features, solve_head
from raypretrain.models.heads import SequenceClassifier


def train_full(model: SequenceClassifier, data: Encoded, adapt: AdaptConfig, pad: int) -> Iterator[float]:
    """Train ``model`` in place, all its weights.

    Yields:
        After each epoch its mean training loss, in nats.

    Raises:
        RunError: the loss is no longer a number.
    """
    device = next(model.parameters()).device
    if adapt.warm_head:
        classes = torch.from_numpy(data.classes)
        head = solve_head(features(model, data, pad), classes, model.score.out_features, adapt.ridge)
        model.score.weight.data.copy_(head)
    optimizer = _optimizer(model, adapt)
    random = np.random.default_rng(adapt.seed)
    total = adapt.epochs * math.ceil(len(data) / adapt.batch)
    step = 0
    model.train()
    for _ in range(adapt.epochs):
        losses = torch.zeros((), dtype=torch.float64)
        for places in batches(data.lengths, adapt.batch, random):
            _set_learning_rates(optimizer, _share(step, total, adapt.warmup))
            loss = _loss(model, data, places, pad, device)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), adapt.clip)
            optimizer.step()
            optimizer.zero_grad()
            losses += loss.item() * len(places)
            step += 1
            if not math.isfinite(loss.item()):
                raise RunError(
                    f"the loss is {loss.item()} at step {step} of {total}", fix="lower adapt.learning_rate"
                )
        yield float(losses) / len(data)


def _loss(
    model: SequenceClassifier, data: Encoded, places: np.ndarray, pad: int, device: torch.device
) -> Tensor:
    ids, lengths = data.padded(places, pad)
    classes = torch.from_numpy(data.classes[places]).to(device)
    scores = model(torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device))
    return F.cross_entropy(scores, classes)


def _optimizer(model: SequenceClassifier, adapt: AdaptConfig) -> torch.optim.Optimizer:
    """AdamW; the head has its own learning rate, and vectors (the norms' weights) do not decay."""
    body = [weight for name, weight in model.named_parameters() if name != "score.weight"]
    groups = [
        {"params": [w for w in body if w.ndim > 1], "peak": adapt.learning_rate},
        {"params": [w for w in body if w.ndim <= 1], "peak": adapt.learning_rate, "weight_decay": 0.0},
        {"params": [model.score.weight], "peak": adapt.head_rate},
    ]
    return torch.optim.AdamW(groups, lr=adapt.learning_rate, weight_decay=adapt.weight_decay, fused=True)


def _share(step: int, total: int, warmup: float) -> float:
    """Which share of the highest learning rate a step has: linearly up, then linearly down to almost zero."""
    rise = max(1, round(warmup * total))
    return (step + 1) / rise if step < rise else (total - step) / max(1, total - rise)


def _set_learning_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
