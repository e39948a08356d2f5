"""The planner against runs on this machine: peak memory and time of a step, by family, size, stage and precision.

The efficiencies of a core are found from half of the runs, as ``raypretrain plan --probe`` would, and tried on the
other half, of other sizes. A worker is a process with one thread; two exchange over gloo.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("planning_worker.py")
SECONDS = 300


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


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for of in KNOWN + UNKNOWN:
        found = run(of)
        with out.open("a") as file:
            file.write(json.dumps(of | found) + "\n")
        print(of["preset"], of["zero"], of["precision"], of["workers"], found, flush=True)
