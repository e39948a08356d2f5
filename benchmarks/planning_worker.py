"""One rank of a training step that the planner is tried on: DeepSpeed by our engine, without Ray, on random tokens."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raypretrain.models.config import ModelConfig
from raypretrain.models.families import build
from raypretrain.models.loss import IGNORED
from raypretrain.training.engine import Engine
from raypretrain.training.microbatch import MicroBatch
from raypretrain.training.settings import EngineSettings

WARM_UP, STEPS = 2, 5


def memory_now(field: str) -> float:
    """Bytes of this process: ``VmRSS``, or ``VmHWM``, the most since :func:`forget_peak`."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return float(line.split()[1]) * 1024


def forget_peak() -> None:
    """Let ``VmHWM`` begin again from what there is now."""
    Path("/proc/self/clear_refs").write_text("5")


def rows(work: dict[str, Any], vocabulary: int, masked: bool) -> MicroBatch:
    """Random tokens; of a masked objective every third position has a target."""
    size = (work["micro_batch"], work["length"])
    ids = torch.randint(0, vocabulary, size, generator=torch.Generator().manual_seed(0))
    if not masked:
        return MicroBatch(ids, torch.roll(ids, -1, 1))
    targets = torch.full(size, IGNORED)
    targets.view(-1)[::3] = ids.view(-1)[::3]
    return MicroBatch(ids, targets)


def measure(work: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step (median), and the bytes that it took at most."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    shape = ModelConfig(preset=work["preset"]).shape(work["vocabulary"], work["length"])
    torch.randn(512, 512) @ torch.randn(512, 512)  # the libraries' own memory does not count
    forget_peak()
    before = memory_now("VmRSS")
    model = build(shape)
    model.init_weights(0)
    settings = EngineSettings(
        zero=work["zero"], precision=work["precision"], micro_batch=work["micro_batch"], accumulation=1,
        workers=work["workers"], learning_rate=1e-3, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8, clip=1.0,
        checkpointing=work["checkpointing"],
    )  # fmt: skip
    engine = Engine(model, settings, torch.device("cpu"))
    batch = rows(work, work["vocabulary"], shape.objective == "masked")
    seconds = []
    for _ in range(WARM_UP + STEPS):
        dist.barrier()
        begun = time.perf_counter()
        engine.accumulate([batch])
        engine.step(1e-3)
        seconds.append(time.perf_counter() - begun)
        if len(seconds) == WARM_UP:
            forget_peak()  # of the start: a checkpoint of the first weights, and what was made on the way
    return {"seconds": statistics.median(seconds[WARM_UP:]), "bytes": memory_now("VmHWM") - before}


if __name__ == "__main__":
    found = measure(json.loads(sys.argv[1]))
    if os.environ["RANK"] == "0":
        Path(sys.argv[2]).write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # DeepSpeed's process groups outlive their end
