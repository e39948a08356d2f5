"""The guard's veto on two real workers: in every ZeRO stage, a step that is skipped is as if it had not been."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from process_group import leave, start_workers
from targets import causal_targets
from test_engine_zero import STAGES, WORKERS, batch, make_engine, rate

from raypretrain.training.microbatch import MicroBatch

pytestmark = [pytest.mark.slow, pytest.mark.faults]

BAD, STEPS = 2, 5  # the step that is broken, and how many there are
CASES = ("loss", "gradient", "veto")


def work(rank: int, folder: Path) -> None:
    """All stages, one after the other; writes ``RANK.json``."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    results = {f"{precision}-{zero}": stage(folder, precision, zero) for precision, zero in STAGES}
    (folder / f"{rank}.json").write_text(json.dumps(results), encoding="utf-8")
    leave()


def stage(folder: Path, precision: str, zero: int) -> dict[str, Any]:
    """Training without the step, and with it in each of the ways that it can be broken."""
    found = {"without": train(precision, zero, None)}
    for case in CASES:
        found[case] = train(precision, zero, case)
    found["first"] = train(precision, zero, "loss", bad=0, save=folder / f"first-{precision}-{zero}")
    found["without the first"] = train(precision, zero, None, bad=0)
    found["rewound"] = rewound(precision, zero, folder / f"rewound-{precision}-{zero}")
    return found


def train(
    precision: str, zero: int, case: str | None, bad: int = BAD, save: Path | None = None
) -> list[tuple[float, float]]:
    """Loss and norm of each step, and at last the held-out loss; ``None`` leaves the broken step out."""
    engine = make_engine(precision, zero)
    found: list[tuple[float, float]] = []
    for step in range(STEPS):
        if step != bad:
            found.append(one_step(engine, step, len(found)))
        elif case:
            norm = broken_step(engine, step, case)
            assert math.isfinite(norm) == (case == "veto"), (precision, zero, case, norm)
            if save:  # nothing has moved yet: what is saved must be as good as what stays
                engine.save(save)
                engine = make_engine(precision, zero)
                engine.load(save)
    return [*found, (held_out(engine), 0.0)]


def rewound(precision: str, zero: int, place: Path) -> list[tuple[float, float]]:
    """As without the broken step, though other steps were done before it and taken back."""
    engine = make_engine(precision, zero)
    found = [one_step(engine, step, step) for step in range(BAD)]
    engine.save(place)
    for other in range(20, 23):
        one_step(engine, other, other - 20)
    broken_step(engine, BAD, "loss")
    engine.load(place)
    found += [one_step(engine, step, step - 1) for step in range(BAD + 1, STEPS)]
    return [*found, (held_out(engine), 0.0)]


def one_step(engine: Any, step: int, updates: int) -> tuple[float, float]:
    import torch.distributed as dist

    ids = batch(step)[:, dist.get_rank()]
    loss = engine.accumulate(MicroBatch(part, causal_targets(part)) for part in ids)
    dist.all_reduce(loss)
    return loss.item() / WORKERS, engine.step(rate(updates))


def broken_step(engine: Any, step: int, case: str) -> float:
    """One worker's first micro-batch goes wrong; returns the norm that the engine says."""
    import torch.distributed as dist

    broken = (
        {"loss": infect_loss, "gradient": infect_gradient}.get(case)
        if dist.get_rank() == WORKERS - 1
        else None
    )
    hooked: list[Any] = []

    def once(*inputs: Any) -> Any:
        hooked.pop().remove()  # the second one is sound
        return broken(*inputs) if broken else None

    if broken:
        hooked.append(engine._engine.module.register_forward_hook(once))
    parts = batch(step)[:, dist.get_rank()]
    loss = engine.accumulate(MicroBatch(part, causal_targets(part)) for part in parts)
    dist.all_reduce(loss)
    assert math.isnan(loss) == (case == "loss")
    return float(engine.step(rate(step), veto=case == "veto" or math.isnan(loss)))


def infect_loss(module: Any, inputs: Any, loss: torch.Tensor) -> torch.Tensor:
    return loss * math.nan


def infect_gradient(module: Any, inputs: Any, loss: torch.Tensor) -> None:
    loss.register_hook(lambda gradient: gradient * math.inf)


def held_out(engine: Any) -> float:
    ids = batch(99)[0, 0]
    return float(engine.loss(MicroBatch(ids, causal_targets(ids))))


# ------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By stage, as all workers found them."""
    folder = tmp_path_factory.mktemp("guard")
    start_workers(__file__, folder, WORKERS)
    found: list[dict[str, Any]] = [json.loads((folder / f"{r}.json").read_text()) for r in range(WORKERS)]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("precision", "zero"), STAGES)
def test_a_broken_step_leaves_no_trace(results: dict[str, Any], precision: str, zero: int, case: str) -> None:
    found = results[f"{precision}-{zero}"]
    assert found[case] == found["without"]
    assert all(math.isfinite(number) for pair in found[case] for number in pair)


@pytest.mark.parametrize(("precision", "zero"), STAGES)
def test_a_first_step_that_is_broken_leaves_an_engine_that_can_be_saved(
    results: dict[str, Any], precision: str, zero: int
) -> None:
    found = results[f"{precision}-{zero}"]
    assert found["first"] == found["without the first"]


@pytest.mark.parametrize(("precision", "zero"), STAGES)
def test_an_engine_takes_up_a_checkpoint_in_mid_training(
    results: dict[str, Any], precision: str, zero: int
) -> None:
    found = results[f"{precision}-{zero}"]
    assert found["rewound"] == found["without"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(int(sys.argv[1]), Path(sys.argv[2]))
