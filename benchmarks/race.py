"""Contestants of a training step, timed in turn, and the tables that come of it."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from apart import Apart, Here
from peers import Form, ours_by_default
from report import Row, show
from sizes import Precision, Work

GOALS: dict[Precision, float] = {"fp32": 1.3, "bf16": 1.6}
"""Ours with its defaults ÷ a peer as it comes."""
GOAL_COMPILED = 1.1
"""Ours with its defaults ÷ a peer that is compiled."""


@dataclass
class Time:
    """What a contestant took.

    Args:
        flops: of a token.
        beginning: seconds of the first two steps, in which what is to be compiled is.
        seconds: of each of the later steps.
        peak: bytes of a GPU's memory at most.
    """

    name: str
    form: Form
    work: Work
    parameters: int
    flops: int
    beginning: float
    seconds: list[float] = field(default_factory=list)
    peak: int = 0

    @property
    def label(self) -> str:
        """As tables name it."""
        return label(self.name, self.form)

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """By the median step."""
        return self.work.tokens / self.median

    @property
    def flops_per_second(self) -> float:
        """As the network's size says, whatever was computed."""
        return self.flops * self.tokens_per_second


def in_turn(
    names: Sequence[str], forms: Sequence[Form], work: Work, rounds: int, steps: int = 1
) -> list[Time]:
    """All of them, a few steps each in turn, so that a busy moment of the machine hits all alike.

    On a CPU each in a process of its own; a GPU is one process' alone.

    Args:
        rounds: how often each has its turn, after two steps that do not count.
        steps: of a turn; on a GPU many, as the end of a turn has to be waited for.
    """
    where = Apart if work.device == "cpu" else Here
    contestants: list[Here | Apart] = []
    try:
        times = []
        for name in names:
            for form in forms:
                contestants.append(each := where(name, work, form))
                # The first step may change what the second is compiled for.
                times.append(Time(name, form, work, each.parameters, each.flops, 2 * each.seconds(2)))
        for _ in range(rounds):
            for each, taken in zip(contestants, times, strict=True):
                taken.seconds.append(each.seconds(steps))
    finally:
        for each in contestants:
            each.close()
        if "compiled" in forms:
            torch.compiler.reset()  # it keeps a few forms of a function alone, and makes sizes that vary variables
    return times


def one_by_one(
    names: Sequence[str], forms: Sequence[Form], work: Work, rounds: int, steps: int
) -> list[Time]:
    """Each alone, with the GPU's memory to itself; what does not fit is left out with a line."""
    times = []
    for name in names:
        for form in forms:
            if work.device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            try:
                [each] = in_turn([name], [form], work, rounds, steps)
            except torch.OutOfMemoryError:
                print(
                    f"{label(name, form)} is left out: {work.batch} sequences do not fit in memory",
                    flush=True,
                )
            else:
                each.peak = 0 if work.device == "cpu" else torch.cuda.max_memory_allocated()
                times.append(each)
            gc.collect()
            if work.device != "cpu":
                torch.cuda.empty_cache()
    return times


def label(name: str, form: Form) -> str:
    """As tables name a contestant."""
    return f"{name}, compiled" if form == "compiled" else name


def ratios(times: list[Time], what: str, by_default: Form | None = None) -> list[Row]:
    """Ours ÷ each peer in each form: as it trains by default, which the goals are for; and both in the other form.

    Args:
        what: the size and precision, for the rows' names.
        by_default: how ours trains; None says it by what helps there.
    """
    ours = {each.form: each for each in times if each.name == "ours"}
    by_default = by_default or ours_by_default(times[0].work)
    if by_default not in ours:  # it takes no part
        by_default = next(iter(ours), by_default)
    rows = []
    for peer in times:
        for form, own in ours.items():
            if peer.name == "ours" or (form != by_default and form != peer.form):
                continue
            goal = GOALS[peer.work.precision] if peer.form == "eager" else GOAL_COMPILED
            name = f"{own.label} ÷ {peer.label}: {what}"
            speeds = own.tokens_per_second, peer.tokens_per_second
            rows.append(Row(name, *speeds, goal if form == by_default else None))
    return rows


def show_times(times: list[Time], title: str, peak: float | None = None) -> None:
    """A line for each contestant.

    Args:
        peak: FLOP/s of the processor at most, for the utilisation.
    """
    on_gpu = any(each.peak for each in times)
    columns = ["", "parameters", "tokens/s", "ms a step", "compiling, s"]
    columns += ["TFLOP/s", "÷ peak"] if peak else []
    columns += ["memory, GB"] if on_gpu else []
    rows: list[list[object]] = []
    for each in times:
        compiling = each.beginning - 2 * each.median if each.form == "compiled" else ""
        row = [each.label, each.parameters, each.tokens_per_second, 1000 * each.median, compiling]
        row += [each.flops_per_second / 1e12, each.flops_per_second / peak] if peak else []
        row += [each.peak / 1e9] if on_gpu else []
        rows.append(row)
    show(title, columns, rows)
