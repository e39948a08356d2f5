"""Many small trials: the wall time of a search against what its trials take bare, and against a loop of ``Trainer``.

- bare: the sum of the trials' own times, run one after the other in one process, ÷ the trials at once.
- bare, at once: the same in as many processes as there are trials at once, which share memory's speed and the caches.
- the loop: one process a trial, one after the other, each with all CPUs, as ``for seed in …; do python …`` does.
- the search: when Ray has started, with its process for each CPU; and once more with Ray's own start, beside which the
  first trials begin.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import ray
import torch
from report import Row, parser, report, say_load, show
from tuning_data import recipe, write_base, write_labelled

from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.search import search
from raypretrain.finetuning.trial import run_trial
from raypretrain.finetuning.work import prepare
from raypretrain.models.cpu import use_cpus
from raypretrain.training.cluster import connect

BUDGET = {"epochs": 2, "batch": 16, "length": 128}
RATE = 1e-3
AFTER_SECONDS = 5.0
"""Ray goes on starting after ``ray.init`` is back: its agents, and a process for each CPU."""


def main() -> None:
    """Print both ratios."""
    options = parser(__doc__ or "")
    options.add_argument("--trials", type=int, default=16)
    options.add_argument("--train", type=int, default=500, help="labelled examples of a trial")
    options.add_argument("--slots", type=int, default=2, help="trials at once, of a CPU each")
    given = options.parse_args()
    if given.quick:
        given.trials, given.train = 4, 100
    say_load()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = write_base(folder / "base")
        write_labelled(folder, given.train, 500)
        bare = _bare(folder, base, range(given.trials))
        beside = _bare_at_once(folder, base, given.trials, given.slots)
        loop = _shell_loop(folder, base, given.trials)
        cold, _ = _search(folder, base, given.trials, "cold", up=False)
        whole, starts = _search(folder, base, given.trials, "warm", up=True)
    parts = [["bare, one after the other", bare], [f"bare, {given.slots} at once, their sum", beside]]
    parts += [["shell loop of Trainer", loop], ["search", whole], ["search, Ray's own start included", cold]]
    parts += [["start of a trial to its first epoch's end, median", starts]]
    show(f"{given.trials} trials, {given.slots} at once", ["", "seconds"], parts)
    rows = [
        Row(
            "the trials' own time ÷ slots, against the search",
            whole,
            bare / given.slots,
            goal=1 / 1.25,
            less=True,
        ),
        Row(
            "the same, of trials measured beside each other",
            whole,
            beside / given.slots,
            goal=1 / 1.25,
            less=True,
        ),
        Row("a shell loop of Trainer against the search", whole, loop, goal=2.0, less=True),
    ]
    report("fan-out", "s", rows, given.json)


def _recipe(folder: Path, base: Path, name: str, seeds: range) -> object:
    adapt = BUDGET | {"learning_rate": RATE, "seed": {"grid": list(seeds)}}
    return recipe(folder, base, name, adapt=adapt, search={"rival": False})


def _bare(folder: Path, base: Path, seeds: range) -> float:
    """Seconds of the trials themselves, with a thread each, in a process that is used as a trial's is."""
    wanted = _recipe(folder, base, f"bare-{seeds.start}-{seeds.step}", seeds)
    work = prepare(wanted, wanted.trials())
    start = work.start()
    tokens = work.tokens([(trial.task, trial.adapt) for trial in work.trials])
    threads = torch.get_num_threads()
    use_cpus(1)
    cache, seconds = FeatureCache(), 0.0
    for trial in work.trials:
        begun = time.perf_counter()
        run_trial(start, tokens[trial.task, trial.length], trial.adapt, work.trial_folder(trial), cache=cache)
        seconds += time.perf_counter() - begun
    torch.set_num_threads(threads)
    return seconds


def _bare_at_once(folder: Path, base: Path, trials: int, slots: int) -> float:
    with ProcessPoolExecutor(slots, mp_context=multiprocessing.get_context("spawn")) as processes:
        begun = [processes.submit(_bare, folder, base, range(slot, trials, slots)) for slot in range(slots)]
        return sum(one.result() for one in begun)


def _shell_loop(folder: Path, base: Path, trials: int) -> float:
    script = Path(__file__).with_name("tuning_peer.py")
    begun = time.perf_counter()
    for seed in range(trials):
        options = [f"--{name}={value}" for name, value in (BUDGET | {"rate": RATE, "seed": seed}).items()]
        done = subprocess.run(
            [sys.executable, str(script), str(base), str(folder), *options], capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(done.stderr)
        json.loads(done.stdout.splitlines()[-1])
    return time.perf_counter() - begun


def _search(folder: Path, base: Path, trials: int, name: str, up: bool) -> tuple[float, float]:
    """Seconds from the command to its table, with Ray's own start if it is not up; and those of a first epoch."""
    begun = time.perf_counter()
    connect(None)
    if up:
        time.sleep(AFTER_SECONDS)
        begun = time.perf_counter()
    found = search(_recipe(folder, base, name, range(trials)))
    seconds = time.perf_counter() - begun
    assert all(row["status"] == "finished" for row in found.rows)
    ray.shutdown()
    firsts = []
    for path in (folder / name / "trials").glob("*/metrics.jsonl"):
        firsts.append(json.loads(path.read_text(encoding="utf-8").splitlines()[0])["seconds"])
    return seconds, sorted(firsts)[len(firsts) // 2]


if __name__ == "__main__":
    main()
