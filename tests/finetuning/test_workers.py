"""Trials of several workers under Ray Tune, on a cluster of two CPUs."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from raypretrain.errors import ClusterError
from raypretrain.finetuning.search import search

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_a_search_on_two_workers_a_trial_finds_what_it_finds_on_one(recipe, tmp_path):
    adapt = {"way": {"grid": ["full", "head"]}, "learning_rate": 3e-3}
    rows: list[list[dict[str, Any]]] = []
    for workers in (1, 2):
        folder = {"folder": str(tmp_path / str(workers))}
        compute = {"cpus_per_trial": 2, "workers_per_trial": workers, "zero": 2}
        rows.append(search(recipe(adapt=adapt, compute=compute, run=folder)).rows)
    assert [row["trial"] for row in rows[0]] == [row["trial"] for row in rows[1]]
    for alone, shared in zip(*rows, strict=True):
        assert shared["status"] == "finished"
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
        assert shared["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-4)
        assert shared["cpu_hours"] > 0
    assert _files(tmp_path / "1") == _files(tmp_path / "2")


def test_a_trial_that_loses_a_worker_fails_and_the_others_go_on(recipe):
    adapt = {"epochs": {"grid": [500, 2]}, "warm_head": False}
    wanted = recipe(adapt=adapt, compute={"workers_per_trial": 2, "cpus_per_trial": 2})
    killed: list[str] = []

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and not killed and event["epoch"] > 2:
            killed.append(event["trial"])
            os.kill(_workers()[-1].pid, signal.SIGKILL)

    rows = search(wanted, tell).rows
    assert [row["status"] for row in rows] == ["failed", "finished"]
    assert re.fullmatch(r"worker [01] of the trial's 2 \(from 0\) was lost; .*", rows[0]["error"])
    _no_worker_is_left()


def test_a_scheduler_ends_all_workers_of_a_trial(recipe):
    # The second does harm, so that its loss is the larger one.
    adapt = {"learning_rate": {"grid": [1e-9, 3e-2]}, "epochs": 3, "warm_head": False}
    compute = {"workers_per_trial": 2, "cpus_per_trial": 2}
    by = {"scheduler": "asha", "concurrency": 1, "metric": "validation_loss"}
    found = search(recipe(adapt=adapt, compute=compute, search=by))
    assert [row["status"] for row in found.rows] == ["finished", "stopped"]
    _no_worker_is_left()


@pytest.mark.long
def test_trials_of_half_a_cpu_run_four_at_once_on_two(recipe):
    adapt = {"seed": {"grid": [0, 1, 2, 3, 4]}, "epochs": 30}
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            begun.setdefault(event["trial"], time.time())
        elif event["event"] == "trial":
            ended[event["trial"]] = time.time()

    search(recipe(adapt=adapt, compute={"cpus_per_trial": 0.5}), tell)
    most = max(sum(begun[t] <= at < ended[t] for t in begun) for at in begun.values())
    assert most == 4


def test_workers_larger_than_the_cluster_are_refused(recipe):
    compute = {"workers_per_trial": 4, "cpus_per_trial": 4}
    with pytest.raises(
        ClusterError,
        match="a trial wants 4 workers of 1 CPUs and 0 GPUs each, and 1 node of 2 CPUs have room for 2",
    ):
        search(recipe(compute=compute))


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in (folder / "trials").rglob("*"))


def _workers() -> list[psutil.Process]:
    """The processes of trials' workers that are there, as Ray names them."""
    return [
        p for p in psutil.process_iter(["cmdline"]) if "ray::TrialWorker" in " ".join(p.info["cmdline"] or [])
    ]


def _no_worker_is_left() -> None:
    """Ray ends an actor soon after it was told to, not at once."""
    until = time.monotonic() + 20
    while _workers():
        assert time.monotonic() < until, _workers()
        time.sleep(0.1)
