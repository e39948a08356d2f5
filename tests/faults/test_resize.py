"""Row 8: a run goes on with one worker instead of two, and with two again."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from fault_table import Account
from runs import fingerprints, metrics, run

from raypretrain.training.events import read_events
from raypretrain.training.metrics import read_log

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]


class StopAfter:
    """A watch that sends this process SIGTERM once the run has done so many steps."""

    def __init__(self, step: int) -> None:
        self._step, self._sent = step, False

    def __call__(self, event: dict[str, Any]) -> None:
        if not self._sent and event.get("step", {}).get("step", 0) >= self._step:
            self._sent = True
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.long
@pytest.mark.row(8, "other numbers of workers")
@pytest.mark.parametrize("zero", [1, 3])
def test_a_run_resized_from_two_workers_to_one_and_back_has_the_same_batches_and_losses(
    undisturbed: Path, tiny_recipe: Path, tmp_path: Path, account: Account, zero: int
) -> None:
    account(how=f"2 → 1 → 2 workers by stopping, ZeRO {zero}", exact=False)
    folder = tmp_path / "run"
    stage = f"compute.zero={zero}"
    assert run(tiny_recipe, folder, stage, watch=StopAfter(6)).status == "stopped"
    assert run(tiny_recipe, folder, stage, "compute.workers=1", watch=StopAfter(20)).status == "stopped"
    assert run(tiny_recipe, folder, stage).status == "finished"

    assert fingerprints(folder) == fingerprints(undisturbed)
    pairs = list(zip(metrics(folder), metrics(undisturbed), strict=True))
    assert all(a["loss"] == pytest.approx(b["loss"], rel=1e-4) for a, b in pairs)
    last = [read_log(f / "evaluations.jsonl")[-1]["held_out_loss"] for f in (folder, undisturbed)]
    assert last[0] == pytest.approx(last[1], rel=1e-4)
    sizes = [
        (e["before"], e["workers"]) for e in read_events(folder / "events.jsonl") if e["event"] == "resize"
    ]
    assert sizes == [(2, 1), (1, 2)]
    assert not list((folder / "checkpoints").glob(".universal-*"))
    account(exact=True, lost="0 steps done again")
