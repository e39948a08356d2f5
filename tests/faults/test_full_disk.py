"""Row 12: a real file system that fills up while a real run saves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_table import Account
from runs import fingerprints, run
from small_disk import mounted
from striking import assert_exact

from raypretrain.errors import RaypretrainError
from raypretrain.training.checkpoint import committed, problem_of
from raypretrain.training.events import read_events

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

ROOM = 900_000
"""Enough for the logs and one checkpoint of the tests' model, which has 0.5 MB; not for two."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 32 MB."""
    with mounted(tmp_path / "disk", "32m") as place:
        yield place


def fill(disk: Path) -> None:
    """Leave ROOM bytes."""
    with (disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(disk).free - ROOM)


@pytest.mark.row(12, "the disk is full while saving, and has room again")
def test_one_save_that_fails_on_a_full_disk_does_not_end_the_training(
    undisturbed: Path, tiny_recipe: Path, disk: Path, account: Account
) -> None:
    folder, said = disk / "run", []

    def fill_then_free(event: dict[str, Any]) -> None:
        said.append(event.get("say", ""))
        if "start" in event:
            fill(disk)
        if "is not saved" in said[-1]:
            (disk / "filler").unlink(missing_ok=True)

    account(how="a tmpfs of 32 MB filled up, and freed after the failed save", exact=False)
    assert run(tiny_recipe, folder, watch=fill_then_free).status == "finished"
    failed = [line for line in said if "is not saved" in line]
    assert failed, "no save has failed"
    assert "space" in failed[0]
    assert_exact(folder, undisturbed)
    account(exact=True, lost=f"{len(failed)} save")
    events = [(row["event"], row.get("step")) for row in read_events(folder / "events.jsonl")]
    assert ("save-failed", 20) in events
    assert ("save", 40) in events
    found = committed(folder / "checkpoints")
    assert found[0].name == "step-00000040"
    assert [problem_of(path) for path in found] == [None] * len(found)
    assert all((path / "MANIFEST.json").is_file() for path in (folder / "checkpoints").iterdir())


@pytest.mark.row(12, "the disk stays full")
@pytest.mark.long
def test_a_disk_that_stays_full_ends_the_run_with_one_line_and_it_goes_on_from_the_last_whole_checkpoint(
    cluster: str, tiny_recipe: Path, disk: Path, account: Account
) -> None:
    folder = disk / "run"

    def fill_at_the_start(event: dict[str, Any]) -> None:
        if "start" in event:
            fill(disk)

    account(how="a tmpfs of 32 MB filled up")
    with pytest.raises(RaypretrainError) as error:
        run(tiny_recipe, folder, "training.checkpoint.failures=2", watch=fill_at_the_start)
    torn = folder / "checkpoints" / "step-00000030"
    line = str(error.value)
    assert line.startswith(f"{torn}: the checkpoint cannot be written (")
    assert "space" in line
    assert "2 times in a row" in line
    assert "make room there" in line
    assert "\n" not in line
    whole = list((folder / "checkpoints").iterdir())
    assert [path.name for path in whole] == ["step-00000010"], "a torn one has stayed"
    assert problem_of(whole[0]) is None

    (disk / "filler").unlink()
    assert run(tiny_recipe, folder).status == "finished"
    assert list(fingerprints(folder)) == list(range(1, 41))
    found = committed(folder / "checkpoints")
    assert [path.name for path in found] == ["step-00000040", "step-00000030"]
    assert [problem_of(path) for path in found] == [None, None]
