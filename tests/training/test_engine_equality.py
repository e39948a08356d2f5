"""However many workers and whatever ZeRO stage: the same losses over 50 steps, to 1e-4."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from process_group import leave, start_workers
from targets import causal_targets

from raypretrain.models.config import ModelConfig
from raypretrain.models.llama import Llama
from raypretrain.training.microbatch import MicroBatch
from raypretrain.training.schedule import ScheduleConfig, learning_rate

pytestmark = pytest.mark.slow

WORKERS, STAGES = (1, 2, 4), (0, 1, 2, 3)
BATCH, MICRO_BATCH, LENGTH, STEPS = 12, 3, 32, 50


def batch(step: int) -> torch.Tensor:
    """Step ``step``'s ids, [batch, length]: half of them can be learned."""
    ids = torch.randint(0, 128, (BATCH, LENGTH), generator=torch.Generator().manual_seed(step))
    ids[..., ::2] = 7
    return ids


# ------------------------------------------------------------------------------------- what each worker does


def work(folder: Path) -> None:
    """All stages; worker 0 writes ``WORKERS.json``."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    found = {zero: losses_of(zero) for zero in STAGES}
    if dist.get_rank() == 0:
        (folder / f"{dist.get_world_size()}.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


def losses_of(zero: int) -> list[float]:
    import torch.distributed as dist

    from raypretrain.training.engine import Engine, EngineSettings

    rank, world = dist.get_rank(), dist.get_world_size()
    model = Llama(
        ModelConfig(preset="llama-1m", width=32, layers=2, heads=2, feed_forward=64).shape(128, LENGTH)
    )
    model.init_weights(0)
    settings = EngineSettings(
        zero=zero,
        precision="fp32",
        micro_batch=MICRO_BATCH,
        accumulation=BATCH // world // MICRO_BATCH,
        workers=world,
        learning_rate=3e-3,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        epsilon=1e-8,
        clip=1.0,
    )
    engine = Engine(model, settings, torch.device("cpu"))
    found = []
    for step in range(1, STEPS + 1):
        rows = batch(step)[rank * BATCH // world :][: BATCH // world].split(MICRO_BATCH)
        loss = engine.accumulate(MicroBatch(ids, causal_targets(ids)) for ids in rows)
        dist.all_reduce(loss)
        found.append(loss.item() / world)
        engine.step(learning_rate(step, STEPS, 3e-3, ScheduleConfig()))
    return found


# ------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, list[float]]]:
    """By number of workers and stage."""
    folder = tmp_path_factory.mktemp("equality")
    for workers in WORKERS:
        start_workers(__file__, folder, workers)
    return {workers: json.loads((folder / f"{workers}.json").read_text()) for workers in WORKERS}


@pytest.mark.parametrize("zero", STAGES)
@pytest.mark.parametrize("workers", WORKERS)
def test_the_losses_are_those_of_one_worker_without_zero(losses: Any, workers: int, zero: int) -> None:
    wanted = losses[1]["0"]
    assert losses[workers][str(zero)] == pytest.approx(wanted, rel=1e-4)
    assert wanted[-1] < wanted[0] - 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[2]))
