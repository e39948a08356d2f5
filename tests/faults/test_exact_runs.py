"""Real runs with 1, 2, 3 and 4 workers, left alone, killed once and killed twice: the batches of the plan.

Row 1, with any number of workers.
"""

from __future__ import annotations

import signal
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import pytest
from fault_table import Account
from runs import fingerprints, run, train_workers, write_recipe

from raypretrain.config import load_recipe
from raypretrain.tokens.cursor import Cursor, fingerprint_rows, format_fingerprint
from raypretrain.tokens.dealing import Batches
from raypretrain.training.prepare import read_windows
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

STEPS = 24
QUICK = {(1, ()), (2, ()), (3, (9,))}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), corpus, STEPS)


def planned(folder: Path) -> dict[int, str]:
    """The fingerprints that the plan gives, without Ray, from the run's own manifest and tokenizer."""
    windows = read_windows(RunFolder(folder).read_recipe(), RunFolder(folder))
    parts = (part for w in windows.windows_from(0) for part in windows.parts(w))
    batches = islice(Batches(parts, Cursor(), repeat(12)), STEPS)
    return {
        step: format_fingerprint(fingerprint_rows(batch.sequences.tokens, first=0))
        for step, batch in enumerate(batches, start=1)
    }


@pytest.mark.row(1, "no worker, one or two are killed, of 1 to 4")
@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        pytest.param(n, kills, marks=() if (n, kills) in QUICK else pytest.mark.long)
        for n in (1, 2, 3, 4)
        for kills in ((), (9,), (5, 15))
    ],
)
def test_every_batch_is_the_planned_one(
    cluster: str, recipe: Path, tmp_path: Path, account: Account, workers: int, kills: tuple[int, ...]
) -> None:
    left = list(kills)

    def kill(event: dict[str, Any]) -> None:
        if left and event.get("step", {}).get("step", 0) >= left[0]:
            left.pop(0)
            train_workers()[-1].send_signal(signal.SIGKILL)

    overrides = [f"compute.workers={workers}", "compute.cpus_per_worker=0.3", "training.checkpoint.every=6"]
    overrides += [
        "training.evaluation.every=24",
        "sequences.packing=" + ("best-fit" if workers % 2 else "concatenate"),
    ]
    folder = tmp_path / "run"
    assert run(recipe, folder, *overrides, watch=kill).status == "finished"
    assert not left
    found = fingerprints(folder)
    assert len(found) == STEPS
    account(how="SIGKILL", exact=found == planned(folder))
    assert found == planned(folder)
    assert load_recipe(recipe, PretrainRecipe, []).training.global_batch % workers == 0
