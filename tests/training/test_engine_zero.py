"""The engine on two real workers: every ZeRO stage learns the same, goes on bit by bit, and gives its weights back."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from process_group import leave, start_workers
from targets import causal_targets

from raypretrain.models.config import ModelConfig, ModelShape
from raypretrain.models.llama import Llama
from raypretrain.training.microbatch import MicroBatch

pytestmark = pytest.mark.slow

WORKERS, ACCUMULATION, MICRO_BATCH, LENGTH = 2, 2, 3, 32
STEPS, FURTHER = 5, 3
RATE, DECAY, BETAS, EPSILON, CLIP = 3e-3, 0.1, (0.9, 0.95), 1e-8, 0.5
STAGES = [(precision, zero) for precision in ("fp32", "bf16") for zero in range(4)]


def shape() -> ModelShape:
    return ModelConfig(preset="llama-1m", width=32, layers=2, heads=2, feed_forward=64).shape(128, LENGTH)


def model() -> Llama:
    made = Llama(shape())
    made.init_weights(0)
    return made


def batch(step: int) -> torch.Tensor:
    """Step ``step``'s ids, [accumulation, workers, micro-batch, length]: half of them can be learned."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 128, (ACCUMULATION, WORKERS, MICRO_BATCH, LENGTH), generator=generator)
    ids[..., ::2] = 7
    return ids


# ------------------------------------------------------------------------------------- what each worker does


def work(rank: int, folder: Path) -> None:
    """All stages, one after the other; writes ``RANK.json``."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    results = {f"{precision}-{zero}": stage(rank, folder, precision, zero) for precision, zero in STAGES}
    (folder / f"{rank}.json").write_text(json.dumps(results), encoding="utf-8")
    leave()


def stage(rank: int, folder: Path, precision: str, zero: int) -> dict[str, Any]:
    import torch.distributed as dist

    from raypretrain.training.writing import write_part

    def steps(engine: Any, first: int, number: int) -> list[tuple[float, float]]:
        found = []
        for step in range(first, first + number):
            micro_batches = ((ids, causal_targets(ids)) for ids in batch(step)[:, rank])
            loss = engine.accumulate(MicroBatch(ids, targets) for ids, targets in micro_batches)
            dist.all_reduce(loss)
            found.append((loss.item() / WORKERS, engine.step(rate(step))))
        return found

    def held_out(engine: Any) -> float:
        ids = batch(99)[0, 0]
        return float(engine.loss(MicroBatch(ids, causal_targets(ids))))

    place = folder / f"{precision}-{zero}"
    engine = make_engine(precision, zero)
    trained = steps(engine, 0, STEPS)
    engine.save(place)
    saved_loss = held_out(engine)
    state, copied = late_snapshot(engine)
    further = steps(engine, STEPS, FURTHER)
    copied()
    write_part(folder / f"late-{precision}-{zero}", state)
    dist.barrier()
    again, late = make_engine(precision, zero), make_engine(precision, zero)
    again.load(place)
    late.load(folder / f"late-{precision}-{zero}")
    return {
        "late": steps(late, STEPS, FURTHER),
        "trained": trained,
        "saved_loss": saved_loss,
        "loaded_loss": held_out(again),
        "further": further,
        "resumed": steps(again, STEPS, FURTHER),
    }


def late_snapshot(engine: Any) -> Any:
    """A snapshot of which nothing is copied for a while: longer than the next forward and backward pass take."""
    from raypretrain.training import buffers

    buffers._LARGE = 0  # the weights here are small, and would be copied at once
    pool = engine._copies._buffers._threads()
    for _ in range(pool._max_workers):
        pool.submit(time.sleep, 0.3)
    return engine.snapshot()


def rate(step: int) -> float:
    return RATE * (1 - 0.1 * step)


def make_engine(precision: str, zero: int) -> Any:
    from raypretrain.training.engine import Engine, EngineSettings

    settings = EngineSettings(
        zero=zero,
        precision=precision,
        micro_batch=MICRO_BATCH,
        accumulation=ACCUMULATION,
        workers=WORKERS,
        learning_rate=RATE,
        weight_decay=DECAY,
        betas=BETAS,
        epsilon=EPSILON,
        clip=CLIP,
    )
    return Engine(model(), settings, torch.device("cpu"))


# ------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two workers, in processes of their own, wrote."""
    folder = tmp_path_factory.mktemp("engine")
    start_workers(__file__, folder, WORKERS)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, dict[str, Any]]:
    """By stage, as all workers found them."""
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORKERS)]
    assert found[0] == found[1]
    return found[0]


@pytest.fixture(scope="module")
def reference() -> tuple[Llama, list[tuple[float, float]]]:
    """The same training in plain PyTorch in one process: the weights after STEPS, and the losses and norms."""
    trained = model()
    matrices = [p for p in trained.parameters() if p.ndim >= 2]
    vectors = [p for p in trained.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPSILON)
    found = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = rate(step)
        ids = batch(step).flatten(0, 2)
        loss = trained(ids, causal_targets(ids))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.parameters(), CLIP)
        optimizer.step()
        found.append((loss.item(), float(norm)))
    assert any(norm > CLIP for _, norm in found), "clipping is not put to the test"
    return trained, found


def consolidated(folder: Path, precision: str, zero: int) -> dict[str, torch.Tensor]:
    from raypretrain.training.engine import consolidated_state

    return consolidated_state(folder / f"{precision}-{zero}", zero)


@pytest.mark.parametrize("zero", range(4))
def test_every_stage_learns_what_plain_pytorch_learns(
    results: dict[str, Any], reference: tuple[Llama, list[tuple[float, float]]], zero: int
) -> None:
    found, wanted = results[f"fp32-{zero}"]["trained"], reference[1]
    assert [loss for loss, _ in found] == pytest.approx([loss for loss, _ in wanted], rel=1e-4)
    assert [norm for _, norm in found] == pytest.approx([norm for _, norm in wanted], rel=1e-3)
    assert found[-1][0] < found[0][0] - 0.05


@pytest.mark.parametrize("zero", range(4))
def test_the_consolidated_weights_are_those_that_plain_pytorch_reaches(
    folder: Path, results: dict[str, Any], reference: tuple[Llama, list[tuple[float, float]]], zero: int
) -> None:
    state, wanted = consolidated(folder, "fp32", zero), reference[0].state_dict()
    assert {name for name in wanted if name not in state} <= {"output.weight", "lm_head.weight"}
    for name, weight in state.items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, wanted[name], rtol=0, atol=2e-4)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as the workers had: another number sums in another order, and bf16 rounds visibly."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("precision", "zero"), STAGES)
def test_the_consolidated_weights_are_those_that_were_trained(
    folder: Path, results: dict[str, Any], precision: str, zero: int, one_thread: None
) -> None:
    made = Llama(shape())
    made.load_state_dict(consolidated(folder, precision, zero))
    if precision == "bf16":
        made.bfloat16()
    ids = batch(99)[0, 0]
    with torch.no_grad():
        loss = float(made(ids, causal_targets(ids)))
    assert loss == pytest.approx(results[f"{precision}-{zero}"]["saved_loss"], rel=1e-5)


@pytest.mark.parametrize(("precision", "zero"), STAGES)
def test_a_resumed_engine_goes_on_bit_by_bit(results: dict[str, Any], precision: str, zero: int) -> None:
    found = results[f"{precision}-{zero}"]
    assert found["loaded_loss"] == found["saved_loss"]
    assert found["resumed"] == found["further"]
    assert found["further"] != found["trained"][-FURTHER:]


@pytest.mark.parametrize(("precision", "zero"), STAGES)
def test_a_snapshot_that_is_still_copied_when_training_goes_on_is_of_before(
    results: dict[str, Any], precision: str, zero: int
) -> None:
    found = results[f"{precision}-{zero}"]
    assert found["late"] == found["further"]


@pytest.mark.parametrize("zero", range(4))
def test_bf16_learns_as_fp32_does(results: dict[str, Any], zero: int) -> None:
    found = [loss for loss, _ in results[f"bf16-{zero}"]["trained"]]
    wanted = [loss for loss, _ in results["fp32-0"]["trained"]]
    assert found == pytest.approx(wanted, rel=0.01)
    assert found != wanted


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_what_bf16_releases_is_more_precise_than_bf16(
    folder: Path, results: dict[str, Any], zero: int
) -> None:
    state = consolidated(folder, "bf16", zero)
    assert any((weight != weight.bfloat16().float()).any() for weight in state.values())


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(int(sys.argv[1]), Path(sys.argv[2]))
