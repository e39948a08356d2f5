"""What a checkpoint, a restart and the failures of many GPUs take. Pure functions; the simulation is goodput.py's."""

from __future__ import annotations

from dataclasses import dataclass

from goodput import Parts, goodput, seconds_between_failures
from scaling_collectives import WEIGHT, Model, nodes_of
from scaling_constants import (
    FIRST_STEP,
    FOUND,
    GROUP,
    HASHED,
    JOINED,
    STALL,
    STARTED,
    STORE,
    TO_HOST,
    WRITER,
)

from raypretrain.training.cadence import best_steps
from raypretrain.training.checkpoint import CHECKPOINT_BYTES_PER_PARAMETER
from raypretrain.training.cluster import look_seconds

STATE = (
    CHECKPOINT_BYTES_PER_PARAMETER - WEIGHT
)  # bytes a parameter, that ZeRO shards: fp32 weights and two moments


@dataclass(frozen=True)
class Save:
    """A checkpoint with ZeRO 1 or 2: every worker writes its share of the state, worker 0 all weights as well.

    Args:
        size: bytes in all.
        first: bytes that worker 0 writes.
        stall: seconds for which training stands.
        write: seconds from then on until the checkpoint counts.
    """

    size: float
    first: float
    stall: float
    write: float


def save(model: Model, gpus: int) -> Save:
    """Of a run on so many GPUs."""
    size = model.parameters * CHECKPOINT_BYTES_PER_PARAMETER
    first = model.parameters * (WEIGHT + STATE / gpus)
    # The copy to the host goes on beside the next forward and backward pass.
    stall = STALL.value + max(0.0, first / TO_HOST.value - model.compute)
    return Save(size, first, stall, max(first / WRITER.value, size / STORE.value))


@dataclass(frozen=True)
class Restart:
    """Seconds from the loss of a worker until the next step is done.

    Args:
        group: until it is noticed and all workers stand again and are joined.
        read: bytes that come from the run's storage: each share once to be verified and once to be loaded, the
            weights once for every node.
        restore: until those are read.
        step: until the first step is done.
    """

    group: float
    read: float
    restore: float
    step: float

    @property
    def seconds(self) -> float:
        """In all."""
        return self.group + self.restore + self.step


def restart(model: Model, gpus: int) -> Restart:
    """Of a run on so many GPUs, with the eight workers of a node reading the weights once, and a node to spare."""
    group = FOUND.value + look_seconds(gpus) + GROUP.value + gpus / STARTED.value + JOINED.value
    weights, state = model.parameters * WEIGHT, model.parameters * STATE
    read = nodes_of(gpus) * weights + 2 * state + weights
    hashed = max(weights, state / gpus) / HASHED.value
    return Restart(group, read, read / STORE.value + hashed, FIRST_STEP.value)


@dataclass(frozen=True)
class Kept:
    """What failures leave of the time.

    Args:
        between: seconds between two failures.
        every: steps between two saves, as ``checkpoint.every: auto`` chooses.
        interval: the same in seconds.
        goodput: training that is kept ÷ wall time.
    """

    between: float
    every: int
    interval: float
    goodput: float


def kept(model: Model, gpus: int, step: float, failures: int = 4_000) -> Kept:
    """Of a run with steps of ``step`` seconds, by simulating so many failures."""
    saved, again, between = save(model, gpus), restart(model, gpus), seconds_between_failures(gpus)
    every = best_steps(saved.stall, between, step, saved.write)
    parts = Parts(step, saved.stall, saved.write, again.group + again.step, again.restore)
    return Kept(between, every, every * step, goodput(parts, between, every, failures))
