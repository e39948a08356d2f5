"""Engine files of two workers, converted and taken up by one, and those of one by two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from process_group import leave, start_workers
from targets import causal_targets

from raypretrain.models.config import ModelConfig, ModelShape
from raypretrain.models.llama import Llama
from raypretrain.training.microbatch import MicroBatch
from raypretrain.training.resize import needs_conversion, scratch_folder, start_conversion

pytestmark = pytest.mark.slow

BATCH, MICRO_BATCH, LENGTH, STEPS = 12, 3, 32, 4
STAGES = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 0), ("bf16", 1)]
RATE, DECAY = 1e-2, 0.5
PHASES = (2, 1, 2)  # workers of each phase; every one but the first takes up what the one before saved


def shape() -> ModelShape:
    return ModelConfig(preset="llama-1m", width=32, layers=2, heads=2, feed_forward=64).shape(128, LENGTH)


def batch(step: int) -> torch.Tensor:
    """Step ``step``'s ids, [batch, length]: half of them can be learned."""
    ids = torch.randint(0, 128, (BATCH, LENGTH), generator=torch.Generator().manual_seed(step))
    ids[..., ::2] = 7
    return ids


# ------------------------------------------------------------------------------------- what each worker does


def work(folder: Path, phase: int) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    found = {f"{precision}-{zero}": stage(folder, phase, precision, zero) for precision, zero in STAGES}
    if dist.get_rank() == 0:
        (folder / f"{phase}.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


def stage(folder: Path, phase: int, precision: str, zero: int, optimizer: str = "adamw") -> list[float]:
    """The losses of this phase's steps; the first phase goes on through all of them, as the one to compare with."""
    import torch.distributed as dist

    place = folder / f"{precision}-{zero}"
    universal = phase > 0 and needs_conversion(PHASES[phase - 1], PHASES[phase], zero)
    engine = make_engine(precision, zero, dist.get_world_size(), universal, optimizer)
    if phase:
        before = place / f"phase-{phase - 1}"
        engine.load(scratch_folder(before) if universal else before)
    losses = steps(engine, phase * STEPS)
    engine.save(place / f"phase-{phase}")
    return losses if phase else losses + steps(engine, STEPS) + steps(engine, 2 * STEPS)


def steps(engine: Any, first: int) -> list[float]:
    import torch.distributed as dist

    world = dist.get_world_size()
    share = BATCH // world
    found = []
    for step in range(first, first + STEPS):
        rows = batch(step)[dist.get_rank() * share :][:share].split(MICRO_BATCH)
        loss = engine.accumulate(MicroBatch(ids, causal_targets(ids)) for ids in rows)
        dist.all_reduce(loss)
        found.append(loss.item() / world)
        engine.step(rate(step))
    return found


def rate(step: int) -> float:
    return RATE * (1 - 0.05 * step)


def make_engine(precision: str, zero: int, workers: int, universal: bool, optimizer: str) -> Any:
    from raypretrain.training.engine import Engine, EngineSettings

    model = Llama(shape())
    model.init_weights(0)
    settings = EngineSettings(
        zero=zero,
        precision=precision,
        micro_batch=MICRO_BATCH,
        accumulation=BATCH // workers // MICRO_BATCH,
        workers=workers,
        learning_rate=RATE,
        weight_decay=DECAY,
        betas=(0.9, 0.95),
        epsilon=1e-8,
        clip=0.5,
        universal=universal,
        optimizer=optimizer,
    )
    return Engine(model, settings, torch.device("cpu"))


# ------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[float]]]:
    """By phase and stage."""
    return live_through(__file__, tmp_path_factory.mktemp("engine"))


def live_through(script: str, folder: Path) -> list[dict[str, list[float]]]:
    """All phases, each by the number of workers that it has, which run ``script``; their losses by phase and stage."""
    for phase in range(len(PHASES)):
        if phase:
            converted = [
                start_conversion(folder / f"{precision}-{zero}" / f"phase-{phase - 1}")
                for precision, zero in STAGES
                if needs_conversion(PHASES[phase - 1], PHASES[phase], zero)
            ]
            for conversion in converted:
                conversion.finish()
        start_workers(script, folder, PHASES[phase], str(phase))
    return [json.loads((folder / f"{phase}.json").read_text()) for phase in range(len(PHASES))]


@pytest.mark.parametrize(("precision", "zero"), STAGES)
@pytest.mark.parametrize("phase", range(1, len(PHASES)))
def test_a_resized_engine_goes_on_with_the_losses_of_one_that_was_not_resized(
    losses: list[dict[str, list[float]]], phase: int, precision: str, zero: int
) -> None:
    stage = f"{precision}-{zero}"
    undisturbed = losses[0][stage][phase * STEPS :][:STEPS]
    assert losses[phase][stage] == pytest.approx(undisturbed, rel=1e-5 if precision == "fp32" else 1e-3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[2]), int(sys.argv[3]))
