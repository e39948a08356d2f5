"""What a resume costs: from a Ray cluster that is up to the first batch, at step 10 and at step 100,000.

A resume knows its cursor from the checkpoint. It makes the plan, starts the dealer and reads the one window in which
the cursor stands. Every measurement has a cluster of its own, so that the dealer and the tasks are new processes
that have to import everything, as after a crash.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import ray
from report import Row, parser, report, say_load, show
from stream import LENGTH, WINDOW, trained, windows_of
from text import write_corpus

from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealer import DealtSteps, Supply, Turn, start_dealer
from raypretrain.tokens.objectives import Causal
from raypretrain.tokens.window import Windows
from raypretrain.training.cluster import connect

BATCH = 64
STEPS = (10, 100_000)
SECONDS = 3.0


def cursor_after(steps: int, windows: Windows) -> Cursor:
    """About where the data stands after so many steps: its window, and a place in the middle of it."""
    part = next(windows.parts(0)).sequences
    return Cursor(steps * BATCH // len(part), 0, len(part) // 2)


def resume(windows: Windows, cursor: Cursor) -> tuple[float, float]:
    """Seconds for the plan, and for everything up to the first batch."""
    connect(None, cpus=2)
    try:
        begun = time.perf_counter()
        next(windows.windows_from(cursor.window))
        planned = time.perf_counter() - begun
        objective = Causal(windows.tokenizer.bos)
        supply = Supply(
            [ray.put(windows)], BatchSizes.all_alike(BATCH), objective, cpus=1.0, window_bytes=WINDOW
        )
        first = next(iter(DealtSteps(start_dealer(1.0), Turn(1, cursor, 1, supply), 0, 10**9, 1)))
        assert first.sequences.tokens.shape == (BATCH, LENGTH)
        return planned, time.perf_counter() - begun
    finally:
        ray.shutdown()


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument("--rounds", type=int, default=5, help="medians of so many")
    options = made.parse_args()
    rounds = 2 if options.quick else options.rounds
    say_load()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = write_corpus(folder / "corpus", 24_000_000)
        tokenizer = trained("bpe", texts[:2500], folder)
        found: dict[int, list[tuple[float, float]]] = {steps: [] for steps in STEPS}
        cursors = {}
        for _ in range(rounds):
            for steps in STEPS:
                # A plan that knows nothing yet.
                windows = windows_of(str(folder / "corpus"), tokenizer, WINDOW, LENGTH)
                cursors[steps] = cursor_after(steps, windows)
                windows = windows_of(str(folder / "corpus"), tokenizer, WINDOW, LENGTH)
                found[steps].append(resume(windows, cursors[steps]))
    say_load()
    plan, all_of = ({s: statistics.median(f[i] for f in found[s]) for s in STEPS} for i in (0, 1))
    lines = [[f"{s:,}", cursors[s].window, plan[s], all_of[s]] for s in STEPS]
    show("resuming", ["step", "window", "plan, s", "to the first batch, s"], lines)  # type: ignore[arg-type]
    near, far = STEPS
    rows = [Row(f"within {SECONDS:g} s at step {s:,}", all_of[s], SECONDS, 1.0, less=True) for s in STEPS]
    rows.append(Row(f"step {far:,} as quick as step {near}", all_of[far], all_of[near], 0.9, less=True))
    report("resuming, from a cluster that is up to the first batch", "s", rows, options.json)


if __name__ == "__main__":
    main()
