"""The training loop: what happens in a step, in order."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from raypretrain.tokens.cursor import Cursor, fingerprint_rows, format_fingerprint
from raypretrain.tokens.dealer import StepRows
from raypretrain.training.checkpoint import Standing
from raypretrain.training.engine import Engine
from raypretrain.training.evaluation import HeldOut, Rows, bits_per_byte, losses_by_source
from raypretrain.training.guard import Guard, GuardConfig, Verdict, odd_ones_out
from raypretrain.training.length import Length
from raypretrain.training.microbatch import Place, micro_batches, on_device
from raypretrain.training.requests import Regroup, Request, agree
from raypretrain.training.schedule import learning_rate
from raypretrain.training.training_config import TrainingConfig


class Hooks(Protocol):
    """What the loop asks of the world around it."""

    def gather(self, values: Tensor) -> Tensor:
        """This worker's int64 [n] → every worker's, int64 [world, n]."""

    def log_step(self, row: dict[str, Any], data: StepRows) -> None:
        """Called by every worker with the metrics of each step, and what it was trained on."""

    def log_sequences(self, step: int, losses: list[float]) -> None:
        """Called by every worker with the loss of each sequence of a step's batch, if the recipe asks for it."""

    def log_evaluation(self, row: dict[str, Any]) -> None:
        """Called by every worker with each evaluation."""

    def save_due(self, step: int) -> bool:
        """Whether to make a checkpoint after ``step``; the same for every worker."""

    def save(self, step: int, tokens: int, cursor: Cursor, updates: int, now: bool) -> None:
        """Begin to make a checkpoint, or with ``now`` have it made; called by every worker after the same step."""

    def rewind(self, step: int, reason: str) -> Standing | None:
        """Take up the newest checkpoint's weights, if there is one; called by every worker after the same step."""

    def refused(self, step: int, verdict: Verdict) -> None:
        """Called by every worker with a step that moved no weights, when its metrics are logged.

        Raises:
            RunError: the verdict is to stop.
        """

    def replicas_differ(self, step: int, ranks: list[int]) -> None:
        """Called by every worker with the ranks whose parameters are not those of the others.

        Raises:
            RunError: always.
        """

    def request(self) -> Request:
        """What this worker was asked to do after this step."""

    def agreed(self, request: Request) -> None:
        """Called by every worker with what all of them do after this step."""

    def phase(self, name: str, step: int | None = None) -> object:
        """What this worker does from now on; every worker enters the same phases. ``step`` is given as it begins."""


def train(
    engine: Engine,
    steps: Iterable[StepRows],
    start: int,
    length: Length,
    training: TrainingConfig,
    held_out: HeldOut,
    guard: Guard,
    place: Place,
    hooks: Hooks,
) -> int:
    """Train from the step after ``start`` to the last, or until asked to stop; returns the last step done.

    Args:
        steps: this worker's rows of each step.
        guard: as it was after ``start``.

    Raises:
        Regroup: the workers were asked to save and be started anew.
    """
    step, tokens = start, length.tokens(start)
    data = iter(steps)
    if start == 0:
        evaluate(engine, held_out, step, tokens, place, hooks)
    while step < length.steps:
        hooks.phase("data", step + 1)
        begun = time.perf_counter()
        rows = next(data)
        data_wait = time.perf_counter() - begun

        step += 1
        step_tokens = length.batches.of(step) * length.sequence
        tokens += step_tokens
        each = None
        if training.sequence_losses:
            number, sequence = rows.sequences.tokens.shape
            each = torch.zeros((number, sequence // place.together), device=place.device)
        loss = engine.accumulate(micro_batches(rows, place), each)
        replica = engine.fingerprint() if replicas_due(step, training.guard, hooks) else 0
        # All learn the same before anything moves, and so decide the same.
        everyone = exchange(hooks, place, rows, float(loss), data_wait, replica)
        if odd := odd_ones_out(everyone.replicas):
            hooks.replicas_differ(step, odd)
        rate = learning_rate(guard.updates + 1, length.steps, training.learning_rate, training.schedule)
        gradient_norm = engine.step(rate, veto=guard.vetoes(everyone.loss))
        verdict, marks = go_back(guard.judge(everyone.loss, gradient_norm), guard, step, hooks)
        seconds = time.perf_counter() - begun
        hooks.phase("logging")
        hooks.log_step(
            {
                "step": step,
                "loss": everyone.loss,
                "tokens": tokens,
                "learning_rate": rate,
                "grad_norm": gradient_norm,
                "step_seconds": seconds,
                "data_wait_seconds": everyone.data_wait,
                "tokens_per_second": step_tokens / seconds,
                "batch_fingerprint": format_fingerprint(everyone.fingerprint),
                "cursor": [rows.cursor.window, rows.cursor.part, rows.cursor.index],
                "updates": guard.updates,
                **marks,
            },
            rows,
        )
        if each is not None:
            hooks.log_sequences(step, sequence_losses(each, rows, place, hooks))
        if verdict.action != "train":
            hooks.refused(step, verdict)
        last = step == length.steps or everyone.request == Request.STOP
        if step % length.evaluate_every == 0 or step == length.steps:
            evaluate(engine, held_out, step, tokens, place, hooks)
        hooks.agreed(everyone.request)
        urgent = last or everyone.request != Request.NOTHING or verdict.action == "rewind"
        if urgent or hooks.save_due(step):
            hooks.phase("checkpoint")
            hooks.save(step, tokens, rows.cursor, guard.updates, urgent)
        if last:
            break
        if everyone.request == Request.REGROUP:
            raise Regroup(f"after step {step}")
    return step


def go_back(verdict: Verdict, guard: Guard, step: int, hooks: Hooks) -> tuple[Verdict, dict[str, Any]]:
    """Carry out a verdict to rewind; without a checkpoint it becomes one to stop. With what the metrics have of it."""
    if verdict.action != "rewind":
        return verdict, verdict.marks()
    back = hooks.rewind(step, verdict.reason)
    if back is None:
        verdict = replace(verdict, action="stop", history="there is no checkpoint to go back to")
        return verdict, verdict.marks()
    guard.rewound(back.updates)
    return verdict, {**verdict.marks(), "rewound_to": back.step}


def replicas_due(step: int, guard: GuardConfig, hooks: Hooks) -> bool:
    """Whether the workers' parameters are compared in this step: so often, and before each checkpoint."""
    every = guard.replicas_every
    return every > 0 and (step % every == 0 or hooks.save_due(step))


def sequence_losses(each: Tensor, rows: StepRows, place: Place, hooks: Hooks) -> list[float]:
    """The mean loss of every sequence of the global batch, in its order; ``each`` as of the engine, of this worker."""
    targets = torch.from_numpy(place.objective.counts(rows.sequences))
    own = each.cpu().double().sum(dim=1) / targets.clamp(min=1)
    everyone = hooks.gather(own.view(torch.int64)).view(torch.float64)
    of_sequences = everyone.unflatten(0, (-1, place.together)).sum(dim=1)
    return [round(loss, 6) for loss in of_sequences.flatten().tolist()]


def evaluate(engine: Engine, held_out: HeldOut, step: int, tokens: int, place: Place, hooks: Hooks) -> None:
    """Held-out loss, over all workers; nothing where the corpus has no held-out text."""
    if not len(held_out.tokens):
        return
    hooks.phase("evaluation")
    begun = time.perf_counter()

    def total(sums: Tensor) -> Tensor:
        return hooks.gather(sums.view(torch.int64)).view(torch.float64).sum(dim=0)

    def loss(part: Rows) -> Tensor:
        starts = part.starts if place.boundaries else None
        return engine.loss(on_device(part.ids, part.targets, place, starts=starts))

    nats, of_sources = losses_by_source(
        held_out, place.objective, (place.rank, place.world), place.micro_batch, loss, total
    )
    row: dict[str, Any] = {
        "step": step,
        "tokens": tokens,
        "held_out_loss": nats,
        "held_out_bits_per_byte": bits_per_byte(nats, held_out, place.objective),
        "seconds": time.perf_counter() - begun,
    }
    if held_out.sources is not None:
        parts = held_out.parts()
        row["sources"] = {
            source: {"loss": mean, "bits_per_byte": bits_per_byte(mean, parts[source], place.objective)}
            for source, mean in of_sources.items()
        }
    hooks.log_evaluation(row)


@dataclass(frozen=True)
class Everyone:
    """A step's figures over all workers."""

    loss: float
    data_wait: float
    fingerprint: int
    request: Request
    replicas: list[int]


def exchange(
    hooks: Hooks, place: Place, rows: StepRows, loss: float, data_wait: float, replica: int
) -> Everyone:
    """Bring the workers' figures together in one collective: floats travel as their 64 bits."""
    tokens = rows.sequences.tokens
    part, again = divmod(place.rank, place.together)
    fingerprint = 0 if again else fingerprint_rows(tokens, first=part * len(tokens))
    floats = torch.tensor([loss, data_wait], dtype=torch.float64).view(torch.int64)
    signed = fingerprint - 2**64 if fingerprint >= 2**63 else fingerprint
    own = torch.cat([floats, torch.tensor([signed, int(hooks.request()), replica], dtype=torch.int64)])
    all_rows = hooks.gather(own)
    numbers = all_rows[:, :2].contiguous().view(torch.float64)
    return Everyone(
        loss=float(numbers[:, 0].mean()),
        data_wait=float(numbers[:, 1].max()),
        fingerprint=sum(all_rows[:, 2].tolist()) % 2**64,
        request=agree(all_rows[:, 3].tolist()),
        replicas=all_rows[:, 4].tolist(),
    )
