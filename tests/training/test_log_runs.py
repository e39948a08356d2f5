"""The logs of a real run whose workers fail and are killed: each one's file has what befell it."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from raypretrain.config import load_recipe
from raypretrain.training import worker as product
from raypretrain.training.job import Job
from raypretrain.training.logreading import Line, Wanted, read_lines
from raypretrain.training.pretrain import pretrain
from raypretrain.training.recipe import PretrainRecipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import the tests

FAILS_AT, KILLED_AT = 5, 25


class Fails(product.Worker):
    """Worker 1 of the first group ends with an exception, after a library of its has warned."""

    def log_step(self, row: dict[str, Any], data: Any) -> None:
        super().log_step(row, data)
        if (self.rank, self.incarnation, row["step"]) == (1, 1, FAILS_AT):
            logging.getLogger("DeepSpeed").warning("the loss scale is low")
            raise ValueError("a bug of a library")


def fails(config: dict[str, Job]) -> None:
    product.Worker = Fails  # type: ignore[misc]
    product.train_worker(config)


def pid_of_the_newest(folder: Path, rank: int) -> int:
    """Of that worker, by its log."""
    lines = [line.values["message"] for line in read_lines(folder, Wanted(f"rank-{rank}"))]
    return int([found[1] for line in lines if (found := re.search(r"pid (\d+), group", line))][-1])


@pytest.fixture(scope="module")
def folder(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: worker 1 failed in step 5, and was killed after step 25."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    killed: list[int] = []

    def watch(event: dict[str, Any]) -> None:
        if not killed and event.get("step", {}).get("step", 0) >= KILLED_AT:
            killed.append(pid_of_the_newest(folder, 1))
            os.kill(killed[0], signal.SIGKILL)

    recipe = load_recipe(tiny_recipe, PretrainRecipe, [f"run.folder={folder}"])
    assert pretrain(recipe, watch, function=fails).status == "finished"
    assert killed
    return folder


def said(folder: Path, **wanted: Any) -> list[Line]:
    return list(read_lines(folder, Wanted(**wanted)))


def test_the_exception_that_ended_a_worker_is_in_its_file_with_its_traceback(folder: Path) -> None:
    warned, failed, *lost = said(folder, who="rank-1", level="warning")
    assert (warned.values["where"], warned.values["message"]) == ("DeepSpeed", "the loss scale is low")
    assert failed.values["level"] == "error"
    assert failed.values["step"] == FAILS_AT
    assert failed.values["traceback"].strip().endswith("ValueError: a bug of a library")
    assert "in log_step" in failed.values["traceback"]
    assert lost[0].values["message"] == "the group before was lost: worker 1 failed: a bug of a library"


def test_of_a_killed_worker_its_successor_says_what_befell_it(folder: Path) -> None:
    lines = [line.values["message"] for line in said(folder, who="rank-1")]
    pids = [found[1] for line in lines if (found := re.search(r"pid (\d+), group", line))]
    assert len(pids) == 3
    [lost] = [line for line in lines if line.startswith("the group before was lost: worker 1 was lost")]
    assert f"pid {pids[1]}: its process ended" in lost
    at = lines.index(lost)
    assert re.fullmatch(r"goes on from step [1-9]0", lines[at + 1])
    begun = [line for line in lines if re.search("begins|goes on from", line)]
    assert begun[0] == "begins at step 0"
    assert len(begun) == 3


def test_the_driver_and_the_other_worker_have_their_own(folder: Path) -> None:
    driver = [line.values["message"] for line in said(folder, who="driver")]
    assert any(line.startswith("worker 1 failed: ") and "a bug of a library" in line for line in driver)
    assert any(line.startswith("worker 1 was lost") for line in driver)
    assert driver[-1] == "finished after step 40"
    saved = [line.values["message"].partition(",")[0] for line in said(folder, who="rank-0")]
    assert {"saved step 10", "saved step 20", "saved step 40"} <= set(saved)
    for line in said(folder):
        assert line.values["run"] == "small"
        assert line.values["rank"] == (None if line.who == "driver" else int(line.who[5:]))


def test_nothing_is_logged_for_a_step(folder: Path) -> None:
    assert len(said(folder)) < 60
