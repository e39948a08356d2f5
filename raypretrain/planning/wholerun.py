"""From a step to a whole run: checkpoints, evaluation, failures and restarts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raypretrain.planning.failures import best_interval, goodput, mean_time_between_failures

COPY = 10e9
"""Bytes a second from a GPU to its node's memory, for which a save holds training up. A guess: PCIe 4 has 32 GB/s."""

STORE = 1e9
"""Bytes a second from a node to where checkpoints lie. A guess: stores differ widely."""

RESTART = 300.0
"""Seconds from a failure until training goes on, on a cluster of many nodes: found, workers started, checkpoint read. A
guess; on one machine benchmarks/recovery.py measured 8."""

EVALUATION = 1 / 3
"""Of a training step of as many sequences: the forward pass alone."""

PREEMPTION = 48 * 3600.0
"""Seconds until a spot node is taken away, on average. A guess: it differs by region and hour."""

BUDGET = 0.85
"""Whole run ÷ in-run throughput of public runs: Llama 3.1 405B had 35 % of the peak over all and 41 % in the run; 10 to
20 % is what is usually budgeted for restarts, evaluation, stalls of storage and network, and people."""


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """What a run does beside its steps.

    Args:
        steps: of the whole run.
        evaluate_every, checkpoint_every: in steps; 0 saves at the best interval.
        evaluation_share: sequences of an evaluation ÷ those of a step.
    """

    steps: int
    evaluate_every: int
    checkpoint_every: int
    evaluation_share: float


@dataclass(frozen=True)
class Whole:
    """Seconds of a whole run, by what they go to.

    Args:
        training: steps that count.
        evaluation: held-out loss.
        checkpoints: training waits for a save.
        failures: repeated steps and restarts, expected.
        interval: seconds between two saves.
        between_failures: mean seconds between two failures.
        checkpoint_bytes: of one checkpoint.
    """

    training: float
    evaluation: float
    checkpoints: float
    failures: float
    interval: float
    between_failures: float
    checkpoint_bytes: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.training + self.evaluation + self.checkpoints + self.failures

    @property
    def goodput(self) -> float:
        """Share of the time that steps take which count."""
        return self.training / self.seconds


def whole_run(
    step_seconds: float,
    rhythm: Rhythm,
    workers: int,
    nodes: int,
    checkpoint_bytes: float,
    *,
    spot: bool = False,
) -> Whole:
    """What a run comes to.

    Args:
        checkpoint_bytes: weights and the optimizer's state, of all workers together.
        spot: nodes are also preempted.
    """
    training = rhythm.steps * step_seconds
    evaluations = math.ceil(rhythm.steps / rhythm.evaluate_every)
    evaluation = evaluations * rhythm.evaluation_share * step_seconds * EVALUATION
    between = mean_time_between_failures(workers)
    if spot:
        between = 1 / (1 / between + nodes / PREEMPTION)
    cost = checkpoint_bytes / workers / COPY
    written = checkpoint_bytes / nodes / STORE
    if rhythm.checkpoint_every:
        interval = rhythm.checkpoint_every * step_seconds
    else:
        interval = max(best_interval(cost, between), written, step_seconds)
    interval = min(interval, training)  # the end is saved in any case
    kept = goodput(cost, interval, between, RESTART)
    saves = training / interval * cost
    all_of_it = (training + evaluation) / kept if kept else math.inf
    return Whole(
        training=training,
        evaluation=evaluation,
        checkpoints=saves,
        failures=max(0.0, all_of_it - training - evaluation - saves),
        interval=interval,
        between_failures=between,
        checkpoint_bytes=checkpoint_bytes,
    )
