"""What saves memory changes nothing that is learned: gradient checkpointing and offload, on two real workers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from process_group import leave, start_workers
from targets import causal_targets
from test_engine_zero import BETAS, CLIP, DECAY, EPSILON, MICRO_BATCH, RATE, WORKERS, batch, model, rate

from raypretrain.training.microbatch import MicroBatch
from raypretrain.training.settings import WeightGroup

pytestmark = pytest.mark.slow

STEPS, FURTHER = 4, 2
CASES: dict[str, dict[str, Any]] = {
    f"{name}, ZeRO {zero}, {precision}": {"zero": zero, "precision": precision, **options}
    for name, options in {
        "plain": {},
        "selective": {"checkpointing": "selective"},
        "full": {"checkpointing": "full"},
        "offload": {"offload": "cpu"},
        "offload, muon": {"offload": "cpu", "optimizer": "muon"},
        "offload to files": {"offload": "nvme", "offload_folder": "disk"},
        "muon": {"optimizer": "muon"},
        "groups": {"rules": (WeightGroup(parameters="embedding.*", learning_rate=0.0),)},
    }.items()
    for zero, precision in ((1, "bf16"), (2, "fp32"), (3, "fp32"))
    if not (zero == 3 and name == "selective")
}


# ------------------------------------------------------------------------------------- what each worker does


def work(rank: int, folder: Path) -> None:
    """All cases, one after the other; writes ``RANK.json``."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    os.chdir(folder)
    results = {}
    for name, options in CASES.items():
        engine = make_engine(options)
        trained = steps(engine, rank, 0, STEPS)
        engine.save(folder / name)
        further = steps(engine, rank, STEPS, FURTHER)
        again = make_engine(options)
        again.load(folder / name)
        assert all(map(in_file, moments(again))) == all(map(in_file, moments(engine))) == ("files" in name)
        resumed = steps(again, rank, STEPS, FURTHER)
        results[name] = {"trained": trained, "further": further, "resumed": resumed}
    (folder / f"{rank}.json").write_text(json.dumps(results), encoding="utf-8")
    leave()


def steps(engine: Any, rank: int, first: int, number: int) -> list[tuple[float, float]]:
    import torch.distributed as dist

    found = []
    for step in range(first, first + number):
        loss = engine.accumulate(MicroBatch(ids, causal_targets(ids)) for ids in batch(step)[:, rank])
        dist.all_reduce(loss)
        found.append((loss.item() / WORKERS, engine.step(rate(step))))
    return found


def moments(engine: Any) -> list[torch.Tensor]:
    states = engine._optimizer.state.values()
    return [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]


def in_file(tensor: torch.Tensor) -> bool:
    name = tensor.untyped_storage().filename or ""
    return "/disk/offload-" in f"/{name}" and not Path(name).exists()  # it has no name any longer


def make_engine(options: dict[str, Any]) -> Any:
    from raypretrain.training.engine import Engine, EngineSettings

    settings = EngineSettings(
        micro_batch=MICRO_BATCH,
        accumulation=2,
        workers=WORKERS,
        learning_rate=RATE,
        weight_decay=DECAY,
        betas=BETAS,
        epsilon=EPSILON,
        clip=CLIP,
        **options,
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
    """By case, as all workers found them."""
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORKERS)]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    "name", [name for name in CASES if name.startswith(("selective", "full", "offload"))]
)
def test_it_learns_the_same_as_without(results: dict[str, dict[str, Any]], name: str) -> None:
    kind, stage = name.split(", ZeRO")
    plain = "muon" if "muon" in kind else "plain"
    rounding = 1e-3 if name.endswith("bf16") else 1e-5
    found, wanted = results[name], results[f"{plain}, ZeRO{stage}"]
    for part in ("trained", "further"):
        for (loss, norm), (wanted_loss, wanted_norm) in zip(found[part], wanted[part], strict=True):
            assert loss == pytest.approx(wanted_loss, rel=rounding)
            assert norm == pytest.approx(wanted_norm, rel=rounding)


@pytest.mark.parametrize("name", CASES)
def test_it_goes_on_from_a_checkpoint_bit_by_bit(results: dict[str, dict[str, Any]], name: str) -> None:
    assert results[name]["resumed"] == results[name]["further"]


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("groups")])
def test_weights_of_a_group_without_a_learning_rate_stay(folder: Path, results: Any, name: str) -> None:
    from raypretrain.training.engine import consolidated_state

    trained, drawn = consolidated_state(folder / name, CASES[name]["zero"]), model()
    wanted = drawn.bfloat16().float() if CASES[name]["precision"] == "bf16" else drawn
    torch.testing.assert_close(
        trained["embedding.weight"], wanted.embedding.weight.detach(), rtol=0, atol=1e-7
    )
    assert not torch.equal(trained["norm.weight"], wanted.norm.weight)


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(int(sys.argv[1]), Path(sys.argv[2]))
