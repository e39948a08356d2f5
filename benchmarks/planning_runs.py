"""The planner against runs on this machine: peak memory and time of a step, by family, size, stage and precision.

The efficiencies of a core are found from half of the runs, as ``raypretrain plan --probe`` would, and tried on the
other half, of other sizes. A worker is a process with one thread; two exchange over gloo. What was measured for
docs/planning.md is in ``planning_runs.jsonl``; with ``--runs`` and another file it is measured anew, in ten minutes.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from report import Row, parser, report, say_load, show
from scipy.optimize import least_squares

from raypretrain.models.config import ModelConfig
from raypretrain.planning.calibration import CALIBRATIONS, Calibration
from raypretrain.planning.hardware import GPUS, Gpu
from raypretrain.planning.layout import Layout
from raypretrain.planning.memory import HOLES, memory
from raypretrain.planning.network import Network
from raypretrain.planning.time import step
from raypretrain.training.planned import network_of

WORKER = Path(__file__).with_name("planning_worker.py")
RUNS = Path(__file__).with_name("planning_runs.jsonl")
SECONDS = 300
NAMES = ("products", "attention", "memory", "halves", "launch", "link")
"""What is fitted of a core."""


def work(
    preset: str, zero: int, precision: str, workers: int, micro_batch: int, length: int = 512,
    vocabulary: int = 16_384, checkpointing: str = "none",
) -> dict[str, Any]:  # fmt: skip
    """A run."""
    return locals()


KNOWN = [
    work("llama-1m", 0, "fp32", 1, 8), work("llama-1m", 1, "bf16", 2, 8), work("llama-3m", 1, "fp32", 2, 8),
    work("llama-3m", 2, "bf16", 2, 8), work("llama-3m", 3, "fp32", 2, 4), work("llama-3m", 0, "bf16", 1, 8),
    work("gpt2-1m", 1, "fp32", 1, 8), work("gpt2-1m", 2, "bf16", 2, 8), work("bert-1m", 0, "fp32", 1, 8),
    work("bert-1m", 1, "bf16", 1, 8), work("modernbert-1m", 1, "fp32", 2, 8), work("esm2-1m", 1, "fp32", 1, 8, 512, 33),
]  # fmt: skip
UNKNOWN = [
    work("llama-10m", 0, "fp32", 1, 8), work("llama-10m", 1, "fp32", 2, 8), work("llama-10m", 2, "bf16", 2, 8),
    work("llama-10m", 1, "bf16", 1, 8, 512, 16_384, "full"), work("llama-30m", 1, "bf16", 1, 4),
    work("llama-30m", 3, "fp32", 2, 4), work("gpt2-10m", 1, "fp32", 1, 8), work("gpt2-10m", 0, "bf16", 1, 8),
    work("bert-10m", 1, "fp32", 1, 8), work("bert-10m", 2, "bf16", 2, 8), work("modernbert-10m", 1, "fp32", 2, 8),
    work("modernbert-10m", 0, "bf16", 1, 8), work("esm2-8m", 1, "fp32", 1, 4, 512, 33),
    work("esm2-8m", 3, "bf16", 2, 4, 512, 33),
]  # fmt: skip


def run(of: dict[str, Any]) -> dict[str, float]:
    """Its seconds a step, and bytes at most."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    workers = str(of["workers"])
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": workers, "LOCAL_WORLD_SIZE": workers}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, str(WORKER), json.dumps(of), str(file)]
        ranks = [
            subprocess.Popen(
                command,
                env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for rank in range(of["workers"])
        ]
        try:
            for process in ranks:
                if process.wait(SECONDS):
                    raise SystemExit(f"a worker of {of} failed")
        finally:
            for process in ranks:
                process.kill()
        found: dict[str, float] = json.loads(file.read_text())
    return found


def layout_of(of: dict[str, Any], network: Network) -> Layout:
    """Of a run."""
    return Layout(
        workers=of["workers"],
        zero=of["zero"],
        micro_batch=of["micro_batch"],
        length=of["length"],
        precision=of["precision"],
        checkpointing=of["checkpointing"],
        predicted=1 / 3 if network.masked else 1.0,
        blockwise=True,
        documents=False,
    )


def network_of_run(of: dict[str, Any]) -> Network:
    """Of its preset."""
    return network_of(ModelConfig(preset=of["preset"]).shape(of["vocabulary"], of["length"]))


def seconds_of(of: dict[str, Any], core: Gpu, calibration: Calibration) -> float:
    """Of a step, as predicted."""
    network = network_of_run(of)
    return step(network, layout_of(of, network), core, calibration).seconds


def bytes_of(of: dict[str, Any]) -> float:
    """At most, as predicted."""
    network = network_of_run(of)
    return memory(network, layout_of(of, network))["total"]


def fit_core(runs: list[dict[str, Any]], core: Gpu) -> Calibration:
    """The efficiencies of a core, and of gloo, by least squares of the logarithms."""
    first = np.log([0.9, 0.5, 2.0, 1e-3, 0.1])

    def calibration(logs: np.ndarray) -> Calibration:
        products, memory, halves, launch, link = np.exp(logs)
        found = {"products": products, "attention": 0.9 * products, "memory": memory, "halves": halves}
        return replace(CALIBRATIONS["cpu"], launch=launch, link=link, **found)

    def off(logs: np.ndarray) -> np.ndarray:
        now = calibration(logs)
        errors = [math.log(seconds_of(run, core, now) / run["seconds"]) for run in runs]
        return np.concatenate([errors, 0.05 * (logs - first)])

    return calibration(least_squares(off, first, loss="soft_l1", f_scale=0.1).x)


def fit_holes(runs: list[dict[str, Any]]) -> float:
    """What ``HOLES`` of planning/memory.py would be by these runs."""

    def off(holes: np.ndarray) -> list[float]:
        found = []
        for run in runs:
            network = network_of_run(run)
            parts = memory(network, layout_of(run, network))
            rest = parts["total"] - parts["fragmentation"] * (1 - float(holes[0]) / HOLES)
            found.append(math.log(rest / run["bytes"]))
        return found

    return float(least_squares(off, [HOLES], loss="soft_l1", f_scale=0.05).x[0])


def efficiencies(of: Calibration) -> str:
    """What :func:`fit_core` finds, in a line."""
    return ", ".join(f"{name} {getattr(of, name):.3g}" for name in NAMES)


def compare(known: list[dict[str, Any]], unknown: list[dict[str, Any]], core: Gpu) -> list[Row]:
    """Print predicted against measured of the runs that nothing was fitted to."""
    fitted = fit_core(known, core)
    print(f"fitted: {efficiencies(fitted)}; holes {fit_holes(known):.2f}, in the package {HOLES}")
    print(f"fitted to all: {efficiencies(fit_core(known + unknown, core))}")
    lines: list[list[object]] = []
    space, time = [], []
    for of in unknown:
        size, seconds = bytes_of(of), seconds_of(of, core, fitted)
        space.append(size / of["bytes"] - 1)
        time.append(seconds / of["seconds"] - 1)
        lines.append(
            [of["preset"], of["zero"], of["precision"], of["workers"], of["checkpointing"], of["bytes"] / 1e6,
             size / 1e6, f"{space[-1]:+.1%}", of["seconds"], seconds, f"{time[-1]:+.1%}"]
        )  # fmt: skip
    columns = [
        "preset",
        "ZeRO",
        "",
        "workers",
        "checkpointing",
        "MB",
        "predicted",
        "",
        "s a step",
        "predicted",
        "",
    ]
    show("runs on this machine; nothing of them was fitted", columns, lines)
    return [
        Row("worst error of peak memory", 100 * max(map(abs, space)), 10.0, 1.0, less=True),
        Row("median error of peak memory", 100 * median(map(abs, space)), 10.0, 1.0, less=True),
        Row("worst error of a step's time", 100 * max(map(abs, time)), 15.0, 1.0, less=True),
        Row("median error of a step's time", 100 * median(map(abs, time)), 15.0, 1.0, less=True),
    ]


def halves(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The runs to fit to and those to try, from ``file``; what it lacks is run, and added to it."""
    done = [json.loads(line) for line in file.open()] if file.is_file() else []
    found = []
    for of in KNOWN + UNKNOWN:
        kept = next((run for run in done if of.items() <= run.items()), None)
        if not kept and not found:
            say_load()
        found.append(kept or of | run(of))
        if not kept:
            with file.open("a") as kept_in:
                kept_in.write(json.dumps(found[-1]) + "\n")
    return found[: len(KNOWN)], found[len(KNOWN) :]


def main() -> None:
    """Run it."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--runs",
        type=Path,
        default=RUNS,
        metavar="FILE",
        help="what was measured; what it lacks is, and is added",
    )
    options = made.parse_args()
    rows = compare(*halves(options.runs), GPUS["cpu"])
    report("the planner on this machine", "%", rows, options.json)


if __name__ == "__main__":
    main()
