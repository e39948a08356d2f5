"""What share of the wall time is training kept, by how often a checkpoint is made: a simulation from measured parts.

A run trains for so many steps, stalls for a save, and the checkpoint counts once it is written, beside the training. A
failure, which comes at any moment, loses what was done since the last checkpoint that counts; then it is found, the
workers start, the checkpoint is read; that may fail as well. Failures are those of Llama 3: 419 unexpected ones in 54
days on 16,384 GPUs (The Llama 3 Herd of Models, 2024, section 3.3.4), in proportion to the number of GPUs.

Beside the best cadence of the simulation stand the formulas: Young, A first order approximation to the optimum
checkpoint interval, 1974; Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, 2006.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import random
from dataclasses import dataclass
from typing import Any

from report import Row, parser, report, show

CADENCE = "raypretrain.planning.failures"
ours: Any = importlib.import_module(CADENCE) if importlib.util.find_spec(CADENCE) else None
"""What the product itself goes by where ``checkpoint.every`` is ``auto``."""

LLAMA_3_FAILURES, LLAMA_3_DAYS, LLAMA_3_GPUS = 419, 54, 16_384
SECONDS_OF_A_DAY = 86_400.0
CADENCES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Parts:
    """What a step, a save and a restart take, all in seconds.

    Args:
        step: of training.
        stall: for which a save holds the training up.
        write: from the end of the stall until the checkpoint counts; training goes on meanwhile.
        restart: from a failure until all workers are there again: found, and started.
        restore: to verify and read a checkpoint, up to the first step.
    """

    step: float
    stall: float
    write: float
    restart: float
    restore: float


def seconds_between_failures(gpus: int) -> float:
    """The mean, at Llama 3's rate."""
    return LLAMA_3_DAYS * SECONDS_OF_A_DAY / LLAMA_3_FAILURES * LLAMA_3_GPUS / gpus


def young(stall: float, between: float) -> float:
    """Seconds of training between two saves."""
    return math.sqrt(2 * stall * between)


def daly(stall: float, between: float) -> float:
    """As :func:`young`, of a higher order."""
    if stall >= 2 * between:
        return between
    ratio = stall / (2 * between)
    return math.sqrt(2 * stall * between) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall


def goodput(parts: Parts, between: float, every: int, failures: int, seed: int = 0) -> float:
    """Training that was kept ÷ wall time, over so many failures, with a checkpoint ``every`` so many steps."""
    draw = random.Random(seed)
    training = every * parts.step
    # The next save waits for the one before.
    cycle = training + parts.stall + max(0.0, parts.write - training)
    again = parts.restart + parts.restore
    kept = wall = 0.0
    for _ in range(failures):
        up = draw.expovariate(1 / between)
        kept += training * max(0, math.floor((up - parts.write + max(0.0, parts.write - training)) / cycle))
        wall += up
        while (failed := draw.expovariate(1 / between)) < again:
            wall += failed
        wall += again
    return kept / wall


def best_cadence(parts: Parts, between: float, failures: int) -> int:
    """The number of steps with the largest goodput: looked for between powers, ever closer."""
    low, high = 1, max(2, int(between / parts.step))
    while high - low > 2:
        ratio = (high / low) ** (1 / 8)
        tries = sorted({min(high, max(low, round(low * ratio**i))) for i in range(9)})
        at = max(range(len(tries)), key=lambda i: goodput(parts, between, tries[i], failures))
        narrower = tries[max(0, at - 1)], tries[min(len(tries) - 1, at + 1)]
        if narrower == (low, high):
            break
        low, high = narrower
    return max(
        range(low, high + 1, max(1, (high - low) // 8)), key=lambda n: goodput(parts, between, n, failures)
    )


def tables(parts: Parts, gpus: int, failures: int) -> Row:
    """Print those of a number of GPUs; returns Daly's cadence against the best."""
    between = seconds_between_failures(gpus)
    best = best_cadence(parts, between, failures)
    chosen = {
        "the best of the simulation": best,
        "Young": max(1, round(young(parts.stall, between) / parts.step)),
        "Daly": max(1, round(daly(parts.stall, between) / parts.step)),
    }
    if ours:
        seconds = ours.best_interval(parts.stall, between)
        chosen["checkpoint.every: auto"] = max(1, round(max(seconds, parts.write) / parts.step))
    share = {every: goodput(parts, between, every, failures) for every in {*CADENCES, *chosen.values()}}
    print(f"\n{gpus:,} GPUs: a failure every {between / 3600:.1f} hours")
    show("", ["steps", "seconds", "goodput"], [[n, n * parts.step, share[n]] for n in CADENCES])
    show(
        "",
        ["cadence of", "steps", "seconds", "goodput"],
        [[k, n, n * parts.step, share[n]] for k, n in chosen.items()],
    )
    return Row(
        f"goodput at Daly's cadence ÷ at the best one, {gpus:,} GPUs",
        share[chosen["Daly"]],
        share[best],
        0.999,
    )


def options() -> argparse.Namespace:
    """The parts, measured by recovery.py and by the run itself."""
    made = parser(__doc__ or "")
    made.add_argument("--step", type=float, default=STEP, help="seconds of a step")
    made.add_argument("--stall", type=float, default=STALL, help="seconds for which a save holds training up")
    made.add_argument(
        "--write", type=float, default=WRITE, help="seconds until a save counts, beside the training"
    )
    made.add_argument(
        "--restart", type=float, default=RESTART, help="seconds until all workers are there again"
    )
    made.add_argument(
        "--restore", type=float, default=RESTORE, help="seconds to verify and read a checkpoint"
    )
    made.add_argument("--gpus", type=int, nargs="+", default=[1_000, 16_000])
    return made.parse_args()


# All but the step as measured by checkpoint.py and recovery.py.
STEP, STALL, WRITE, RESTART, RESTORE = 1.0, 0.02, 2.6, 6.7, 1.2


def main() -> None:
    """Run it."""
    given = options()
    parts = Parts(given.step, given.stall, given.write, given.restart, given.restore)
    print(", ".join(f"{name} {seconds:g} s" for name, seconds in vars(parts).items()))
    failures = 4_000 if given.quick else 40_000
    rows = [tables(parts, gpus, failures) for gpus in given.gpus]
    report("how good the formula is", "share of the wall time", rows, given.json)


if __name__ == "__main__":
    main()
