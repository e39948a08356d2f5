"""The training loop: what happens in a step, in order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypretrain.tokens.cursor import Cursor, fingerprint_rows, format_fingerprint
from raypretrain.training.engine import Engine
from raypretrain.training.evaluation import HeldOut, bits_per_byte, held_out_loss, share_of
from raypretrain.training.objective import causal_targets
from raypretrain.training.recipe import Length, TrainingConfig
from raypretrain.training.schedule import learning_rate


@dataclass(frozen=True)
class Place:
    """This worker's place among the workers, and how it computes."""

    rank: int
    world: int
    micro_batch: int
    device: torch.device


class Hooks(Protocol):
    """What the loop asks of the world around it."""

    def gather(self, values: Tensor) -> Tensor:
        """This worker's int64 [n] → every worker's, int64 [world, n]."""

    def log_step(self, row: dict[str, Any]) -> None:
        """Called by every worker with the metrics of each step."""

    def log_evaluation(self, row: dict[str, Any]) -> None:
        """Called by every worker with each evaluation."""

    def save(self, step: int, tokens: int, cursor: Cursor) -> None:
        """Make a checkpoint; called by every worker after the same step."""

    def stop_asked(self) -> bool:
        """Whether this worker was asked to save and stop."""


def train(
    engine: Engine,
    steps: Iterable[tuple[NDArray[np.int32], Cursor]],
    start: int,
    length: Length,
    training: TrainingConfig,
    held_out: HeldOut,
    place: Place,
    hooks: Hooks,
) -> int:
    """Train from the step after ``start`` to the last, or until asked to stop; returns the last step done.

    Args:
        steps: this worker's rows of each step, int32 [global_batch / world, length], and the cursor after it.
    """
    step, tokens = start, start * length.tokens_per_step
    data = iter(steps)
    if start == 0:
        evaluate(engine, held_out, step, tokens, place, hooks)
    while step < length.steps:
        begun = time.perf_counter()
        rows, cursor = next(data)
        data_wait = time.perf_counter() - begun

        step += 1
        tokens += length.tokens_per_step
        loss = engine.accumulate(micro_batches(rows, place))
        rate = learning_rate(step, length.steps, training.learning_rate, training.schedule)
        gradient_norm = engine.step(rate)

        fingerprint = fingerprint_rows(rows, first=place.rank * len(rows))
        everyone = exchange(hooks, float(loss), data_wait, fingerprint, hooks.stop_asked())
        seconds = time.perf_counter() - begun
        hooks.log_step(
            {
                "step": step,
                "loss": everyone.loss,
                "tokens": tokens,
                "learning_rate": rate,
                "grad_norm": gradient_norm,
                "step_seconds": seconds,
                "data_wait_seconds": everyone.data_wait,
                "tokens_per_second": length.tokens_per_step / seconds,
                "batch_fingerprint": format_fingerprint(everyone.fingerprint),
            }
        )
        last = step == length.steps or everyone.stop
        if step % length.evaluate_every == 0 or step == length.steps:
            evaluate(engine, held_out, step, tokens, place, hooks)
        if step % length.checkpoint_every == 0 or last:
            hooks.save(step, tokens, cursor)
        if last:
            break
    return step


def micro_batches(rows: NDArray[np.int32], place: Place) -> Iterator[tuple[Tensor, Tensor]]:
    """A step's rows as ``(ids, targets)``, each int64 [micro_batch, length] on the device."""
    for start in range(0, len(rows), place.micro_batch):
        yield as_batch(rows[start : start + place.micro_batch], place.device)


def as_batch(rows: NDArray[np.int32], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows, int32 [B, length] → ``(ids, targets)``, int64 [B, length]."""
    ids = torch.from_numpy(rows.astype(np.int64)).to(device, non_blocking=True)
    return ids, causal_targets(ids)


def evaluate(engine: Engine, held_out: HeldOut, step: int, tokens: int, place: Place, hooks: Hooks) -> None:
    """Held-out loss, over all workers; nothing where the corpus has no held-out text."""
    if not len(held_out.tokens):
        return
    begun = time.perf_counter()

    def total(sums: Tensor) -> Tensor:
        return hooks.gather(sums.view(torch.int64)).view(torch.float64).sum(dim=0)

    share = share_of(held_out, place.rank, place.world, place.micro_batch)
    nats = held_out_loss(share, lambda rows: engine.loss(*as_batch(rows, place.device)), total)
    hooks.log_evaluation(
        {
            "step": step,
            "tokens": tokens,
            "held_out_loss": nats,
            "held_out_bits_per_byte": bits_per_byte(nats, held_out),
            "seconds": time.perf_counter() - begun,
        }
    )


@dataclass(frozen=True)
class Everyone:
    """A step's figures over all workers."""

    loss: float
    data_wait: float
    fingerprint: int
    stop: bool


def exchange(hooks: Hooks, loss: float, data_wait: float, fingerprint: int, stop: bool) -> Everyone:
    """Bring the workers' figures together in one collective: floats travel as their 64 bits."""
    floats = torch.tensor([loss, data_wait], dtype=torch.float64).view(torch.int64)
    signed = fingerprint - 2**64 if fingerprint >= 2**63 else fingerprint
    own = torch.cat([floats, torch.tensor([signed, int(stop)], dtype=torch.int64)])
    all_rows = hooks.gather(own)
    numbers = all_rows[:, :2].contiguous().view(torch.float64)
    return Everyone(
        loss=float(numbers[:, 0].mean()),
        data_wait=float(numbers[:, 1].max()),
        fingerprint=sum(all_rows[:, 2].tolist()) % 2**64,
        stop=bool(all_rows[:, 3].any()),
    )
