"""A job on so many GPUs: does it fit, how long, how much, and what of the answer is a guess."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raypretrain.errors import InputError
from raypretrain.planning import memory as of_memory
from raypretrain.planning.calibration import CALIBRATIONS, Calibration
from raypretrain.planning.compute import number_of_parameters, operations, parameters
from raypretrain.planning.hardware import PRICES_ON, SPOT, Gpu
from raypretrain.planning.law import CHINCHILLA, last_epoch_worth, smaller_models, worth_of
from raypretrain.planning.layout import Layout
from raypretrain.planning.money import Prices, money
from raypretrain.planning.network import Network
from raypretrain.planning.time import Step, step
from raypretrain.planning.wholerun import BUDGET, RESTART, Rhythm, Whole, whole_run

STREAM_TOKENS = 6.8e6
"""Tokens a second that one CPU core reads, tokenizes and packs: docs/performance.md, BPE from .zst on s3, one task."""

USUAL_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Of a micro-batch, where the recipe does not say how many sequences it has (training/cluster.py)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A pretraining run in plain numbers.

    Args:
        network: what is trained.
        layout: as the recipe says; its workers and accumulation follow from the GPUs.
        global_batch: sequences of a step.
        tokens: of the whole run.
        rhythm: what it does beside its steps.
        kept: checkpoints that stay.
        corpus_bytes: of text; None where the corpus is not there.
        corpus_tokens: about so many; None where the corpus is not there.
        micro_batch: sequences of a forward pass, where the recipe says it.
    """

    network: Network
    layout: Layout
    global_batch: int
    tokens: int
    rhythm: Rhythm
    kept: int = 2
    corpus_bytes: int | None = None
    corpus_tokens: int | None = None
    micro_batch: int | None = None

    @property
    def parameters(self) -> int:
        """All weights."""
        return number_of_parameters(self.network)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What it is to run on.

    Args:
        number: GPUs.
        calibration: measured; None takes what is known of the generation.
    """

    gpu: Gpu
    number: int
    prices: Prices = field(default_factory=Prices)
    calibration: Calibration | None = None

    @property
    def nodes(self) -> int:
        """How many they are in."""
        return -(-self.number // self.gpu.per_node)

    @property
    def efficiencies(self) -> Calibration:
        """The measured ones, or those of the generation."""
        return self.calibration or CALIBRATIONS[self.gpu.efficiency]


def lay_out(job: Job, machine: Machine) -> Layout:
    """The job's layout on the machine's GPUs, as the recipe has it.

    Raises:
        InputError: the GPUs do not divide the global batch.
    """
    asked, batch, number = job.layout, job.global_batch, machine.number
    if batch * asked.sequence_workers % number:
        fitting = max(n for n in range(1, number + 1) if batch * asked.sequence_workers % n == 0)
        raise InputError(
            f"{number} GPUs do not share the {batch} sequences of training.global_batch equally",
            where="--gpus",
            fix=f"take {fitting}, or a global batch that is a multiple of {number}",
        )
    usual = USUAL_TOKENS["cpu" if asked.blockwise else "cuda"] // (asked.length // asked.sequence_workers)
    return with_micro_batch(job, replace(asked, workers=number), job.micro_batch or max(1, usual))


def with_micro_batch(job: Job, layout: Layout, most: int) -> Layout:
    """The layout with the largest micro-batch up to ``most`` that divides a worker's share of the batch."""
    share = job.global_batch * layout.sequence_workers // layout.workers
    size = max(m for m in range(1, min(share, max(1, most)) + 1) if share % m == 0)
    return replace(layout, micro_batch=size, accumulation=share // size)


def that_fits(job: Job, machine: Machine, layout: Layout) -> tuple[str, Layout] | None:
    """What to change first where ``layout`` does not fit, and the layout that it makes, with all the GPUs hold."""
    capacity = machine.gpu.memory
    found = of_memory.first_remedy(job.network, layout, capacity)
    if found is None:
        return None
    said, changed = found
    most = of_memory.largest_micro_batch(job.network, changed, capacity, layout.micro_batch)
    return said, with_micro_batch(job, changed, most)


def gpus_that_hold(job: Job, machine: Machine, most: int = 65_536) -> int | None:
    """The least power of two of GPUs on which the job fits somehow; None up to ``most`` on none."""
    number = machine.number
    while (number := 2 ** number.bit_length()) <= most:
        layout = replace(job.layout, workers=number, micro_batch=1)
        if of_memory.first_remedy(job.network, layout, machine.gpu.memory):
            return number
    return None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a layout comes to: the step, and the whole run."""

    layout: Layout
    step: Step
    whole: Whole

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs, while steps are made."""
        return self.layout.tokens_per_step / self.step.seconds

    @property
    def gpu_hours(self) -> float:
        """Of the whole run."""
        return self.whole.seconds / 3600 * self.layout.workers


def estimate(job: Job, machine: Machine, layout: Layout) -> Estimate:
    """Time of the step and of the whole run."""
    made = step(job.network, layout, machine.gpu, machine.efficiencies)
    saved = job.parameters * (14.0 if layout.unit == 2 else 12.0)
    whole = whole_run(
        made.seconds, job.rhythm, machine.number, machine.nodes, saved, spot=machine.prices.spot
    )
    return Estimate(layout=layout, step=made, whole=whole)


def plan(job: Job, machine: Machine) -> dict[str, Any]:
    """The whole answer, in plain values for JSON; ``run``, ``step`` and ``money`` are None where nothing fits.

    Raises:
        InputError: what is asked for is impossible: the number of GPUs, or a price.
    """
    asked, capacity = lay_out(job, machine), machine.gpu.memory
    machine.prices.of(machine.gpu)  # that none is known is said before anything else is
    fits = of_memory.fits(job.network, asked, capacity)
    change = ("", asked) if fits else that_fits(job, machine, asked)
    made = estimate(job, machine, change[1]) if change else None
    share = asked.micro_batch * asked.accumulation
    more = None if change else gpus_that_hold(job, machine)
    advice = change[0] if change else f"--gpus {more}" if more else "another GPU, or a smaller model"
    gpu = machine.gpu
    return {
        "gpu": {"name": gpu.name, "source": gpu.source, "number": machine.number, "nodes": machine.nodes},
        "model": {"parameters": job.parameters, "parts": parameters(job.network)},
        "compute": _compute(job, change[1] if change else asked),
        "memory": of_memory.memory(job.network, asked)
        | {
            "capacity": capacity,
            "fits": fits,
            "micro_batch": asked.micro_batch,
            "largest_micro_batch": of_memory.largest_micro_batch(job.network, asked, capacity, share),
            "change_first": None if fits else advice,
        },
        "layout": asdict(made.layout) if made else None,
        "step": asdict(made.step) | {"seconds": made.step.seconds} if made else None,
        "run": _run(job, machine, made) if made else None,
        "money": _dollars(job, machine, made) if made else None,
        "data": _data(job, made),
        "law": _law(job),
        "guesses": guesses(machine),
    }


def _compute(job: Job, layout: Layout) -> dict[str, float]:
    cost = operations(job.network, layout.length, layout.predicted)
    return {
        "flops_per_token": cost.training,
        "attention_share": cost.attention / cost.forward,
        "recomputed_per_token": cost.recomputed(layout.checkpointing),
        "flops": cost.training * job.tokens,
    }


def _run(job: Job, machine: Machine, made: Estimate) -> dict[str, float]:
    whole = made.whole
    cost = operations(job.network, made.layout.length, made.layout.predicted)
    peak = machine.gpu.flops_fp32 if made.layout.precision == "fp32" else machine.gpu.flops
    return {
        "steps": job.rhythm.steps,
        "tokens": job.tokens,
        "tokens_per_second": made.tokens_per_second,
        "tokens_per_second_per_gpu": made.tokens_per_second / made.layout.workers,
        "mfu": cost.training * made.tokens_per_second / made.layout.workers / peak,
        "hours_of_steps": whole.training / 3600,
        "hours": whole.seconds / 3600,
        "gpu_hours": made.gpu_hours,
        "gpu_hours_to_budget": whole.training / 3600 * made.layout.workers / BUDGET,
        "goodput": whole.goodput,
        "evaluation_hours": whole.evaluation / 3600,
        "checkpoint_hours": whole.checkpoints / 3600,
        "failure_hours": whole.failures / 3600,
        "hours_between_failures": whole.between_failures / 3600,
        "hours_between_saves": whole.interval / 3600,
        "checkpoint_bytes": whole.checkpoint_bytes,
    }


def _dollars(job: Job, machine: Machine, made: Estimate) -> dict[str, Any]:
    stored = job.kept * made.whole.checkpoint_bytes
    spent = money(
        machine.gpu, machine.prices, made.gpu_hours, made.whole.seconds / 3600, stored, job.corpus_bytes or 0
    )
    return spent | {"price": machine.prices.of(machine.gpu), "spot": machine.prices.spot}


def _data(job: Job, made: Estimate | None) -> dict[str, float | None]:
    return {
        "tokens": job.tokens,
        "corpus_tokens": job.corpus_tokens,
        "epochs": job.tokens / job.corpus_tokens if job.corpus_tokens else None,
        "stream_cores": math.ceil(made.tokens_per_second / STREAM_TOKENS) if made else None,
    }


def _law(job: Job) -> dict[str, Any]:
    """What else so many operations could buy, by the published law; and what repeated text is worth."""
    flops = 6.0 * job.parameters * job.tokens
    best, tokens = CHINCHILLA.optimal(flops)
    distinct = job.corpus_tokens or job.tokens
    epochs = job.tokens / distinct
    return {
        "tokens_per_parameter": job.tokens / job.parameters,
        "optimal_parameters": best,
        "optimal_tokens": tokens,
        "loss_above_optimal": CHINCHILLA.loss(job.parameters, worth_of(job.tokens, distinct))
        - CHINCHILLA.loss(best, tokens),
        "worth_in_distinct_tokens": worth_of(job.tokens, distinct),
        "worth_of_the_last_epoch": last_epoch_worth(epochs),
        "smaller_models": [asdict(one) for one in smaller_models(flops)],
        "source": CHINCHILLA.source,
    }


def guesses(machine: Machine) -> list[str]:
    """What of the answer nobody measured."""
    gpu, prices = machine.gpu, machine.prices
    found = [f"efficiencies: {machine.efficiencies.source}"]
    if not gpu.measured and machine.calibration is None:
        found[0] += f"; that a {gpu.name} reaches them too is a guess (--probe measures)"
    if prices.gpu_hour is None:
        found.append(
            f"the price is a guess of {PRICES_ON}" + (f", spot at {SPOT:.0%} of it" if prices.spot else "")
        )
    found.append(
        f"a restart takes {RESTART:.0f} s: a guess; failures come at the rate of Llama 3's pretraining"
    )
    found.append(
        f"public runs took 1 / {BUDGET:g} of their time in the run (people, network, storage): budget for it"
    )
    found.append("energy: 90 % of the highest draw, nodes and cooling on top: a guess")
    return found
