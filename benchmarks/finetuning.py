"""One fine-tuning run against ``transformers``' ``Trainer``: the same base, data and budget, in turn, over seeds.

Seconds are those of the training alone; the score is the test accuracy. With --ways, ours in each way: time, memory.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from head_loss import bytes_held
from report import Row, parser, report, say_load, show
from tuning_data import recipe, write_base, write_labelled
from tuning_peer import train as train_peer

from raypretrain.finetuning.head import FeatureCache
from raypretrain.finetuning.trial import RunningTrial, run_trial
from raypretrain.finetuning.work import Work, prepare
from raypretrain.models.cpu import use_cpus

BUDGET = {"epochs": 2, "batch": 16, "length": 128}
RATE = 1e-3


def main() -> None:
    """Print the table and the ratio."""
    options = parser(__doc__ or "")
    options.add_argument("--base", type=Path, help="a released model; by default one of the demo's size")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--train", type=int, default=2000, help="labelled examples")
    options.add_argument("--test", type=int, default=1000)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--ways", action="store_true", help="ours in each way, instead of against the peer")
    given = options.parse_args()
    if given.quick:
        given.seeds, given.train, given.test = 1, 300, 100
    torch.set_num_threads(given.threads)
    say_load()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = given.base or write_base(folder / "base")
        write_labelled(folder, given.train, given.test)
        if given.ways:
            _show_ways(folder, base, given.threads)
        else:
            _against_peer(folder, base, given.seeds, given.json)


def _against_peer(folder: Path, base: Path, seeds: int, to: Path | None) -> None:
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for seed in range(seeds):
        ours.append(_ours(folder, base, seed))
        theirs.append(train_peer(base, folder, rate=RATE, seed=seed, **BUDGET))
    rows: list[list[object]] = []
    for name, found in (("ours", ours), ("Trainer", theirs)):
        scores = [row["accuracy"] for row in found]
        spread = statistics.stdev(scores) if seeds > 1 else 0.0
        rows.append(
            [name, statistics.median(row["seconds"] for row in found), statistics.mean(scores), spread]
        )
    show("fine-tuning, all weights", ["", "seconds", "test accuracy", "spread over seeds"], rows)
    took = [statistics.median(row["seconds"] for row in found) for found in (ours, theirs)]
    ratio = Row("a fine-tuning run of all weights", *took, goal=1.3, less=True)
    report("fine-tuning against transformers' Trainer", "s", [ratio], to)


def _work(folder: Path, base: Path, name: str, **adapt: object) -> Work:
    wanted = recipe(folder, base, name, adapt=BUDGET | {"learning_rate": RATE} | adapt)
    return prepare(wanted, [wanted.adapt])


def _ours(folder: Path, base: Path, seed: int) -> dict[str, float]:
    """The steps alone, as the peer's seconds are; what is measured after each epoch is not among them."""
    work = _work(folder, base, f"ours-{seed}", seed=seed)
    [trial] = work.trials
    start, tokens = work.start(), work.tokens([(trial.task, trial.adapt)])[trial.task, trial.length]
    running = RunningTrial(start, tokens, trial.adapt, FeatureCache())
    begun = time.perf_counter()
    for _ in running.epochs():
        pass
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "accuracy": running.scores("test")["test_accuracy"]}


WAYS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "full": ({}, {}),
    "full, bf16": ({}, {"precision": "bf16"}),
    "full, activations again": ({}, {"gradient_checkpointing": "full"}),
    "top layer": ({"top_layers": 1}, {}),
    "LoRA": ({"way": "lora"}, {}),
    "LoRA, bf16": ({"way": "lora"}, {"precision": "bf16"}),
    "DoRA": ({"way": "lora", "lora": {"dora": True}}, {}),
    "head": ({"way": "head"}, {}),
    "head, bf16": ({"way": "head"}, {"precision": "bf16"}),
}
"""Each with what it sets of ``adapt`` and of ``compute``."""


def _show_ways(folder: Path, base: Path, threads: int) -> None:
    """Each in a process of its own, whose memory is its own."""
    rows: list[list[object]] = []
    for name in WAYS:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            rows.append([name, *process.submit(_one_way, name, folder, base, threads).result()])
    show(
        "ways", ["", "seconds", "parameters trained", "test accuracy", "MB at most", "MB of it loaded"], rows
    )


def _one_way(name: str, folder: Path, base: Path, threads: int) -> list[object]:
    use_cpus(threads)
    adapt, compute = WAYS[name]
    own = name.replace(" ", "-").replace(",", "")
    wanted = recipe(folder, base, own, adapt=BUDGET | {"learning_rate": RATE} | adapt, compute=compute)
    work = prepare(wanted, [wanted.adapt])
    [trial] = work.trials
    tokens = work.tokens([(trial.task, trial.adapt)])[trial.task, trial.length]
    start = work.start()
    loaded = bytes_held("cpu", "most") / 1e6
    found = run_trial(start, tokens, trial.adapt, work.trial_folder(trial))
    return [
        found["seconds"],
        found["parameters_trained"],
        found["test_accuracy"],
        bytes_held("cpu", "most") / 1e6,
        loaded,
    ]


if __name__ == "__main__":
    main()
