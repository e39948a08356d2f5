"""What handing out the batches costs, and what 8 to 4,096 ranks would need of it.

Measured, with real Ray actors on this machine: the CPU time of the dealer for a call, for a byte and for a token; and
that of Ray Data for a window. From these and a run like Llama 8B (a sequence of 8,192 tokens a rank and step) the table
says for every number of ranks what the head node has to do, and where it breaks: one dealer has one core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice, repeat
from typing import Any

import numpy as np
import ray
from processes import cpu_between, uses
from report import Row, figure, parser, report, say_load, show
from scaling_collectives import LENGTH
from scaling_constants import TOKENS_OF_8B
from scaling_head import WINDOW, Costs, first_full, stream

from raypretrain.tokens import dealer as dealer_module
from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealer import Dealer, Supply, Turn, steps_of_a_deal
from raypretrain.tokens.dealing import Batches, Part
from raypretrain.tokens.objectives import Causal
from raypretrain.tokens.packing import Sequences
from raypretrain.tokens.stream import stream_parts
from raypretrain.training.cluster import connect

OBJECTIVE = Causal(bos=1)
CALLERS = 2  # processes that the ranks are simulated in
RANKS = (8, 64, 512, 1024, 4096)


def part(rows: int, length: int, w: int = 0) -> Part:
    """A part that costs nothing to make."""
    tokens = np.full((rows, length), 7, np.int32)
    begins = np.zeros((rows, length // 8), np.uint8)
    filled = np.full(rows, length, np.int32)
    return Part(w, 0, Sequences(tokens, begins, filled, filled[:, None]))


class FromMemory(Dealer):
    """A dealer whose windows are there already."""

    def __init__(self, batch: int, length: int, workers: int) -> None:
        made = part(max(1, WINDOW // 4 // length), length)

        def endless(windows: Any, cursor: Cursor, **limits: Any) -> Iterator[Part]:
            return (Part(w, 0, made.sequences) for w in count())

        dealer_module.stream_parts = endless
        super().__init__()
        self.begin(Turn(1, Cursor(), workers, Supply([None], BatchSizes.all_alike(batch), OBJECTIVE, 1.0, 1)))  # type: ignore[list-item]

    def cpu(self) -> float:
        """Seconds of CPU that this process has used."""
        times = os.times()
        return times.user + times.system


class Ranks:
    """Some of the ranks: each asks for its rows of every deal, and waits for them."""

    def run(self, dealer: list[Any], ranks: list[int], deals: int, first: int, steps: int) -> int:
        """The calls that were made."""
        for deal in range(deals):
            asked = [dealer[0].take.remote(1, first + deal * steps, steps, rank) for rank in ranks]
            for ref in asked:
                assert ray.get(ref)[0].sequences.tokens.flags.c_contiguous
            del asked, ref
        return deals * len(ranks)


@dataclass(frozen=True)
class Calls:
    """What was measured of a dealer: bytes of tokens in a call, its CPU seconds and the calls in a second."""

    bytes: float
    seconds: float
    rate: float
    tokens: float


def measure_calls(ranks: int, length: int, steps: int, deals: int) -> Calls:
    """``ranks`` ranks with a sequence each take ``deals`` deals of ``steps`` steps."""
    dealer = ray.remote(FromMemory).options(num_cpus=0).remote(ranks, length, ranks)
    callers = [ray.remote(Ranks).options(num_cpus=0).remote() for _ in range(CALLERS)]
    mine = [list(range(i, ranks, CALLERS)) for i in range(CALLERS)]
    ray.get([c.run.remote([dealer], m, 1, 0, steps) for c, m in zip(callers, mine, strict=True)])
    before, begun = ray.get(dealer.cpu.remote()), time.perf_counter()
    runs = [c.run.remote([dealer], m, deals, steps, steps) for c, m in zip(callers, mine, strict=True)]
    calls = sum(ray.get(runs))
    seconds = time.perf_counter() - begun
    used = ray.get(dealer.cpu.remote()) - before
    for actor in (dealer, *callers):
        ray.kill(actor)
    return Calls(4.0 * length * steps, used / calls, calls / seconds, length * steps)


def seconds_of_a_token(batch: int, length: int, steps: int) -> float:
    """CPU time of laying windows end to end and reckoning what a step needs, without Ray."""
    made = part(max(1, WINDOW // 4 // length), length)
    dealer = Dealer.__new__(Dealer)
    dealer._objective = OBJECTIVE
    batches = Batches((Part(w, 0, made.sequences) for w in count()), Cursor(), repeat(batch))
    begun = time.process_time()
    for whole in islice(batches, steps):
        dealer._whole(whole)
    return (time.process_time() - begun) / (steps * batch * length)


class Endless:
    """A source of windows that cost nothing to make."""

    def __init__(self, rows: int, length: int) -> None:
        self._part = part(rows, length)

    def windows_from(self, first: int) -> Iterator[int]:
        """All of them."""
        return count(first)

    def begin(self, w: int) -> None:
        """There is nothing to wait for."""

    def parts(self, w: int, first: int = 0) -> Iterator[Part]:
        """Always the same."""
        yield Part(w, 0, self._part.sequences)


class Taker:
    """Takes windows, as the dealer does."""

    def open(self, source: list[Any]) -> None:
        """Start, and let it run in."""
        self._parts = stream_parts(source[0], Cursor(), cpus=2, window_bytes=4 << 20)
        self.take(16)

    def take(self, windows: int) -> None:
        """So many windows."""
        for made in islice(self._parts, windows):
            assert len(made.sequences)


def measure_windows(rows: int, windows: int) -> tuple[float, dict[str, float]]:
    """Windows in a second, and the CPU seconds of a window by process."""
    taker = ray.remote(Taker).options(num_cpus=0).remote()
    ray.get(taker.open.remote([ray.put(Endless(rows, 512))]))
    before, begun = uses(memory=False), time.perf_counter()
    ray.get(taker.take.remote(windows))
    seconds = time.perf_counter() - begun
    used = cpu_between(before, uses(memory=False))
    ray.kill(taker)
    return windows / seconds, {role: cpu / windows for role, cpu in used.items()}


def simulate(ranks: int, costs: Costs, steps: int) -> list[object]:
    """A row of the table: a run on ``ranks`` GPUs, with deals of ``steps`` steps."""
    asked = stream(ranks, TOKENS_OF_8B.value, LENGTH, costs, steps)
    return [
        f"{ranks:,}", f"{asked.tokens / 1e6:.2f} M", steps, asked.calls, asked.tokens * 4 / 1e6, asked.windows,
        asked.cores, f"{asked.dealer:.3f}" + (" (too much)" if asked.dealer > 1 else ""),
        f"{asked.held / 2**30:.2f} GiB",
    ]  # fmt: skip


COLUMNS = [
    "ranks", "tokens/s", "steps of a deal", "calls/s", "MB/s", "windows/s", "cores to tokenize", "dealer, cores",
    "dealer, memory",
]  # fmt: skip


def most_ranks(costs: Costs) -> int:
    """How many ranks keep the dealer's core busy."""
    return first_full(lambda ranks: stream(ranks, TOKENS_OF_8B.value, LENGTH, costs).dealer)


def main() -> None:
    """Run it."""
    options = parser(__doc__ or "").parse_args()
    quick = options.quick
    say_load()
    connect(None, cpus=2)
    small = measure_calls(256, 64, 1, 3 if quick else 20)
    inline = measure_calls(256, LENGTH, 1, 3 if quick else 20)
    large = measure_calls(64, LENGTH, 8, 2 if quick else 10)
    token = seconds_of_a_token(256, LENGTH, 4 if quick else 20)
    names = (
        "a call of next to nothing",
        "a step of a sequence, in the answer",
        "8 steps, by the object store",
    )
    lines: list[list[object]] = [
        [name, c.bytes / 1024, c.seconds * 1e3, c.rate]
        for name, c in zip(names, (small, inline, large), strict=True)
    ]
    show("the dealer, measured", ["", "KiB", "CPU, ms a call", "calls/s reached"], lines)
    windows = {rows: measure_windows(rows, 40 if quick else 400) for rows in (1, WINDOW // 4 // 512)}
    lines = [
        [f"{rows * 2} KiB", rate, "; ".join(f"{r} {figure(v * 1e3)}" for r, v in by.items() if v > 2e-4)]
        for rows, (rate, by) in windows.items()
    ]
    show(
        "Ray Data, measured with windows that cost nothing",
        ["window", "windows/s", "CPU, ms a window"],
        lines,
    )
    ray.shutdown()
    per_byte = max(0.0, (large.seconds - large.tokens * token - small.seconds) / large.bytes)
    of_a_window = windows[WINDOW // 4 // 512][1].get("actor Taker", 0.0)
    costs = Costs(small.seconds, per_byte, token, of_a_window)
    said = f"{costs.call * 1e3:.2f} ms a call, {costs.byte * 1e9:.2f} ns a byte, {costs.token * 1e9:.2f} ns a token"
    print(f"dealer: {said}, {costs.window * 1e3:.1f} ms a window")
    deals = [simulate(ranks, costs, steps_of_a_deal(ranks, LENGTH, ranks)) for ranks in RANKS]
    show("simulated: Llama 8B on H100, a sequence of 8,192 tokens a rank and step", COLUMNS, deals)
    show("the same with one step a deal", COLUMNS, [simulate(ranks, costs, 1) for ranks in RANKS])
    most = most_ranks(costs)
    print(f"one core of the dealer is full at about {most:,} ranks")
    say_load()
    rows = [Row("ranks that one dealer can serve", most, 1024, 1.0)]
    report("dealing", "ranks", rows, options.json)


if __name__ == "__main__":
    main()
