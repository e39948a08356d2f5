"""Which GPUs, ZeRO stage, micro-batch and checkpointing a budget or a deadline allows: the cheapest and the fastest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from raypretrain.errors import InputError
from raypretrain.planning import memory as of_memory
from raypretrain.planning.layout import Checkpointing, Layout
from raypretrain.planning.plan import Estimate, Job, Machine, estimate, with_micro_batch

MOST = 16_384
"""GPUs; what the largest public runs had."""

WAYS: tuple[tuple[int, Checkpointing], ...] = (
    (1, "none"), (2, "none"), (3, "none"), (1, "selective"), (2, "selective"), (1, "full"), (2, "full"), (3, "full"),
)  # fmt: skip
"""ZeRO stages and checkpointing that go together."""


@dataclass(frozen=True)
class Option:
    """A machine and a layout that fit, and what they come to.

    Args:
        dollars: of the GPUs.
    """

    machine: Machine
    made: Estimate
    dollars: float

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.made.whole.seconds

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for JSON."""
        layout = self.made.layout
        return {
            "gpus": self.machine.number,
            "zero": layout.zero,
            "micro_batch": layout.micro_batch,
            "checkpointing": layout.checkpointing,
            "hours": self.seconds / 3600,
            "gpu_hours": self.made.gpu_hours,
            "dollars": self.dollars,
        }

    def said(self) -> str:
        """In a few words."""
        layout = self.made.layout
        settings = (
            f"zero {layout.zero}, micro-batches of {layout.micro_batch}, checkpointing {layout.checkpointing}"
        )
        hours = self.seconds / 3600
        time = f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
        price = f"${self.dollars:,.0f}" if self.dollars >= 100 else f"${self.dollars:.2f}"
        return f"{self.machine.number} × {self.machine.gpu.name}, {settings}: {time}, {price}"


def options(job: Job, machine: Machine, number: int | None = None) -> Iterator[Option]:
    """What fits, of each number of GPUs (or of ``number``) the fastest layout."""
    for count in [number] if number else _numbers(job, machine):
        some = replace(machine, number=count)
        made = [estimate(job, some, layout) for layout in _layouts(job, some)]
        if made:
            best = min(made, key=lambda e: e.whole.seconds)
            yield Option(some, best, best.gpu_hours * some.prices.of(some.gpu))


def _numbers(job: Job, machine: Machine) -> list[int]:
    """One, two, four … and whole nodes, as far as they share the batch."""
    each = machine.gpu.per_node
    powers = [2**i for i in range(MOST.bit_length()) if 2**i < each or 2**i % each == 0]
    share = job.global_batch * job.layout.sequence_workers
    return [n for n in powers if share % n == 0 and n % job.layout.sequence_workers == 0]


def _layouts(job: Job, machine: Machine) -> Iterator[Layout]:
    capacity = machine.gpu.memory
    share = job.global_batch * job.layout.sequence_workers // machine.number
    for zero, checkpointing in WAYS:
        layout = replace(job.layout, workers=machine.number, zero=zero, checkpointing=checkpointing)
        most = of_memory.largest_micro_batch(job.network, layout, capacity, share)
        if most:
            yield with_micro_batch(job, layout, most)


def choose(
    job: Job, machine: Machine, budget: float | None, deadline: float | None, number: int | None = None
) -> dict[str, Option]:
    """The ``cheapest`` and the ``fastest`` of what is within ``budget`` (dollars) and ``deadline`` (seconds).

    Raises:
        InputError: nothing is; it says what would be possible.
    """
    for name, value in (("--budget", budget), ("--deadline", deadline)):
        if value is not None and not value > 0:
            raise InputError("must be greater than 0", where=name)
    every = list(options(job, machine, number))
    if not every:
        fix = "take a GPU with more memory, or a smaller model"
        raise InputError(
            f"fits on no number of {machine.gpu.name}, whatever the settings", where="the model", fix=fix
        )
    cheapest, fastest = min(every, key=lambda o: (o.dollars, o.seconds)), min(every, key=lambda o: o.seconds)
    within = [
        option
        for option in every
        if (budget is None or option.dollars <= budget) and (deadline is None or option.seconds <= deadline)
    ]
    if not within:
        where = "--budget" if budget is not None and cheapest.dollars > budget else "--deadline"
        raise InputError(
            "cannot be kept",
            where=where
            if budget is None or deadline is None or where == "--budget"
            else "--budget and --deadline",
            fix=f"the cheapest is {cheapest.said()}; the fastest {fastest.said()}",
        )
    return {
        "cheapest": min(within, key=lambda o: (o.dollars, o.seconds)),
        "fastest": min(within, key=lambda o: (o.seconds, o.dollars)),
    }


def parse_duration(text: str) -> float:
    """``90min``, ``12h``, ``5d``, ``2w`` in seconds.

    Raises:
        InputError: it is none.
    """
    for unit, seconds in (("min", 60), ("h", 3600), ("d", 86400), ("w", 604800)):
        if text.strip().endswith(unit):
            try:
                number = float(text.strip().removesuffix(unit))
            except ValueError:
                break
            if 0 < number < float("inf"):
                return number * seconds
    raise InputError(f"'{text}' is no time", where="--deadline", fix="write e.g. 90min, 12h, 5d or 2w")
