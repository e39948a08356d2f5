"""The memory of the whole pipeline over a long stream, and that of a task that meets a document of 200 MB.

The stream runs as in training, from .jsonl files through two tasks and the dealer to two ranks that take their rows
as fast as they come. Every ten seconds the memory of each process that it has to itself is read, and how much of
the object store was ever filled. The table says what it was after the first tenth and at the end, and by how much it
grew in an hour.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import ray
from processes import store_bytes, uses
from report import Row, parser, report, say_load, show
from stream import trained, windows_of
from text import write_corpus

from raypretrain.demo.reviews import read_reviews
from raypretrain.tokens.batching import BatchSizes
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealer import DealtSteps, Supply, Turn, start_dealer, steps_of_a_deal
from raypretrain.tokens.objectives import Causal
from raypretrain.tokens.tokenizer import Tokenizer
from raypretrain.tokens.window import Windows
from raypretrain.training.cluster import connect

LENGTH, BATCH, RANKS = 512, 64, 2
GIANT = 200_000_000
MB = 1e6


class Rank:
    """Takes its rows of every step, as a training worker does."""

    def __init__(self, dealer: list[Any], supply: Supply, rank: int) -> None:
        self._steps = iter(
            DealtSteps(
                dealer[0],
                Turn(1, Cursor(), RANKS, supply),
                rank,
                10**9,
                steps_of_a_deal(BATCH, LENGTH, RANKS),
            )
        )

    def take(self, seconds: float) -> int:
        """Tokens of the steps that came in that time."""
        begun, tokens = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            tokens += next(self._steps).sequences.tokens.size
        return tokens


def watch(windows: Windows, seconds: float, every: float) -> tuple[list[dict[str, float]], float]:
    """Samples of bytes by role, with ``seconds`` since the start; and tokens per second."""
    objective = Causal(windows.tokenizer.bos)
    dealer = start_dealer(2.0)
    supply = Supply(
        [ray.put(windows)], BatchSizes.all_alike(BATCH), objective, cpus=2.0, window_bytes=4 << 20
    )
    ranks = [ray.remote(Rank).options(num_cpus=0).remote([dealer], supply, r) for r in range(RANKS)]
    samples, tokens, begun = [], 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        # All ranks take as many steps, or they would wait for each other at the end.
        tokens += sum(ray.get([rank.take.remote(every) for rank in ranks]))
        now = {role: float(use.own) for role, use in uses().items()}
        store = float(store_bytes())
        total = sum(now.values()) + store
        samples.append({**now, "object store": store, "all": total, "seconds": _since(begun)})
    return samples, tokens / _since(begun)


def _since(begun: float) -> float:
    return time.perf_counter() - begun


def growth(samples: list[dict[str, float]]) -> list[list[object]]:
    """For each role: MB after the first tenth (a mean over a tenth), at the end, the most, and by how much an hour."""
    columns: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for role, value in sample.items():
            columns[role].append(value)
    hours = np.array(columns.pop("seconds")) / 3600
    tenth = max(1, len(samples) // 10)
    rows: list[list[object]] = []
    for role, values in columns.items():
        if len(values) < len(samples):
            continue  # was not there all the time
        late = slice(tenth, None)
        slope = float(np.polyfit(hours[late], np.array(values[late]) / MB, 1)[0]) if len(values) > 4 else 0.0
        first, last = np.mean(values[tenth : 2 * tenth]), np.mean(values[-tenth:])
        rows.append([role, float(first) / MB, float(last) / MB, max(values) / MB, f"{slope:+,.0f}"])
    return rows


def most_bytes() -> float:
    """The most memory that this process ever had. (Of ``ru_maxrss`` the process that started it is a part.)"""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return float(line.split()[1]) * 1024


def giant(model: str, folder: str) -> dict[str, float]:
    """A window with one document of 200 MB, in this process: the most memory it had, in bytes, and seconds."""
    windows = windows_of(folder, Tokenizer.load(model), length=LENGTH)
    list(windows_of(f"{folder}-small", windows.tokenizer).parts(0))  # what any window needs
    before, begun = most_bytes(), time.perf_counter()
    epoch = takewhile(lambda w: w < windows.plan.windows_of_an_epoch, windows.windows_from(0))
    tokens = sum(part.sequences.tokens.size for w in epoch for part in windows.parts(w))
    seconds = time.perf_counter() - begun
    return {"before": before, "peak": most_bytes(), "seconds": seconds, "tokens": tokens}


def write_giant(folder: Path) -> None:
    """A .jsonl file with one document of 200 MB, and beside it a folder with a small one."""
    texts = [review.text for review in read_reviews()]
    draw = random.Random(0)
    for name, size in (("giant", GIANT), ("giant-small", 1_000_000)):
        (folder / name).mkdir()
        found: list[str] = []
        length = 0
        while length < size:
            found.append(draw.choice(texts))
            length += len(found[-1])
        line = json.dumps({"text": "\n".join(found)}, ensure_ascii=False) + "\n"
        (folder / name / "one.jsonl").write_text(line, encoding="utf-8")


def measure_giant(model: Path, folder: Path) -> dict[str, float]:
    """:func:`giant` in a process of its own."""
    write_giant(folder)
    command = [sys.executable, __file__, "--giant", str(model), str(folder / "giant")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def session_bytes() -> int:
    """What Ray has written into its folder: logs, mostly."""
    session = Path(ray._private.worker._global_node.get_session_dir_path())  # type: ignore[attr-defined]
    return sum(path.stat().st_size for path in session.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument("--minutes", type=float, default=60)
    made.add_argument("--no-giant", action="store_true", help="without the document of 200 MB")
    options = made.parse_args()
    seconds, every = (30.0, 1.5) if options.quick else (60 * options.minutes, 10.0)
    rows: list[Row] = []
    say_load()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = write_corpus(folder / "corpus", 24_000_000)
        tokenizer = trained("bpe", texts[:2500], folder)
        if not (options.no_giant or options.quick):
            found = measure_giant(folder / "bpe.model", folder)
            took = (found["peak"] - found["before"]) / GIANT
            said = f"{found['peak'] / MB:,.0f} MB at most, {found['before'] / MB:,.0f} before it"
            print(f"a document of {GIANT / MB:,.0f} MB: {said}, {found['seconds']:.1f} s")
            rows.append(Row("memory of a document, in its own size", took, 8.0, 1.0, less=True))
        connect(None, cpus=2)
        samples, speed = watch(windows_of(str(folder / "corpus"), tokenizer), seconds, every)
        written = session_bytes()
        ray.shutdown()
    say_load()
    lines = growth(samples)
    title = (
        f"memory over {samples[-1]['seconds'] / 60:.1f} minutes, {speed:,.0f} tokens/s, own to the processes"
    )
    show(title, ["", "after a tenth, MB", "at the end, MB", "most, MB", "growth, MB/hour"], lines)
    print(f"written by Ray meanwhile: {written / MB:.1f} MB")
    total = next(line for line in lines if line[0] == "all")
    rows.append(Row("memory at the end as after a tenth", float(total[2]), float(total[1]), 0.95, less=True))  # type: ignore[arg-type]
    report("memory", "see the row", rows, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--giant"]:
        print(json.dumps(giant(*sys.argv[2:4])))
    else:
        os.nice(10)
        main()
