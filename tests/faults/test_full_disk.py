"""A real file system that fills up while a real run saves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import fingerprints, run, write_recipe

from raypretrain.errors import RaypretrainError
from raypretrain.training.checkpoint import committed, problem_of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.faults]

ROOM = 900_000
"""Enough for the logs and one checkpoint of the tests' model, which has 0.5 MB; not for two."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 32 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)]
        mounted = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode:
        pytest.skip(f"nothing may be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """Leave ROOM bytes."""
    with (disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(disk).free - ROOM)


def test_a_disk_that_fills_up_ends_the_run_with_one_line_and_it_goes_on_from_the_last_whole_checkpoint(
    cluster: str, corpus: Path, tmp_path: Path, disk: Path
) -> None:
    recipe, folder = write_recipe(tmp_path / "recipe", corpus), disk / "run"

    def fill_at_the_start(event: dict[str, Any]) -> None:
        if "start" in event:
            fill(disk)

    with pytest.raises(RaypretrainError) as error:
        run(recipe, folder, watch=fill_at_the_start)
    torn = folder / "checkpoints" / "step-00000020"
    line = str(error.value)
    assert line.startswith(f"{torn}: the checkpoint cannot be written (")
    assert "space" in line
    assert "make room there" in line
    assert "\n" not in line
    assert torn.is_dir(), "it did not fail in writing"
    whole = committed(folder / "checkpoints")
    assert [path.name for path in whole] == ["step-00000010"]
    assert problem_of(whole[0]) is None

    (disk / "filler").unlink()
    outcome = run(recipe, folder)
    assert outcome.status == "finished"
    assert list(fingerprints(folder)) == list(range(1, 41))
    found = committed(folder / "checkpoints")
    assert [path.name for path in found] == ["step-00000040", "step-00000030"]
    assert [problem_of(path) for path in found] == [None, None]
