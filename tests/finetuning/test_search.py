"""A real search under Ray Tune, on a cluster of two CPUs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from interrupted import INTERRUPTED, ON_A_CLUSTER
from ray._private import state
from real_text import reviews

from raypretrain.config import save_recipe
from raypretrain.errors import ClusterError, RunError
from raypretrain.finetuning.finetune import finetune
from raypretrain.finetuning.search import search

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def test_a_search_survives_a_trial_that_dies_and_is_not_repeated(recipe, tmp_path, capfd):
    space = {"way": {"grid": ["full", "head"]}, "learning_rate": {"grid": [3e-3, 1e30]}}
    space["init"] = {"grid": ["base"]}
    wanted = recipe(search={"space": space}, adapt={"clip": 1e30})
    events = []
    found = search(wanted, events.append)
    # 4 cells, but where only the head is solved for, the learning rates are the same trial.
    assert [row["status"] for row in found.rows] == ["finished", "failed", "finished"]
    assert found.rows[1]["adapt.learning_rate"] == 1e30
    assert "the loss is" in found.rows[1]["error"]
    assert events[0] == {"event": "plan", "trials": 3, "done": 0}
    ends = [event for event in events if event["event"] == "trial"]
    assert sorted(event["status"] for event in ends) == ["failed", "finished", "finished"]
    best = found.best["mood"]
    assert best["validation_accuracy"] == max(row.get("validation_accuracy", 0) for row in found.rows)
    assert (Path(best["model"]) / "model.safetensors").exists()
    table = pq.read_table(found.paths["table"]).to_pylist()
    assert [row["trial"] for row in table] == [row["trial"] for row in found.rows]
    assert json.loads(Path(found.paths["results"]).read_text())["best"]["mood"]["trial"] == best["trial"]
    kept = list((tmp_path / "run" / "trials").glob("*/trained.safetensors"))
    assert [path.parent.name for path in kept] == [best["trial"]]
    assert not list((tmp_path / "run").glob(".tune-*"))
    assert capfd.readouterr().out == ""

    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "trials").glob("*/result.json")}
    events.clear()
    again = search(wanted, events.append)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert events[0] == {"event": "plan", "trials": 3, "done": 2}  # what failed is tried again
    assert again.best["mood"]["trial"] == best["trial"]

    # In this process, without Ray, the same trial gives the same numbers.
    full = found.rows[0]
    alone = finetune(recipe(adapt={"learning_rate": 3e-3, "clip": 1e30}, run={"folder": str(tmp_path / "b")}))
    assert alone["tasks"]["mood"]["trial"] == full["trial"]
    assert alone["tasks"]["mood"]["test_loss"] == pytest.approx(full["test_loss"], rel=1e-4)


def test_asha_stops_bad_trials_but_never_a_whole_way_or_initialisation(recipe):
    rates = {"grid": [3e-3, 1e-9, 2e-9, 3e-9]}
    space = {"init": {"grid": ["base", "scratch"]}, "learning_rate": rates}
    adapt = {"epochs": 3, "warm_head": False}
    found = search(recipe(adapt=adapt, search={"space": space, "scheduler": "asha"}))
    stopped = [row for row in found.rows if row["status"] == "stopped"]
    assert stopped
    assert all("test_accuracy" not in row for row in stopped)
    assert {row["adapt.init"] for row in found.rows if row["status"] == "finished"} == {"base", "scratch"}
    assert {row["init"] for row in found.comparison} == {"base", "scratch"}


def test_the_median_rule_stops_what_is_worse_than_most(recipe):
    rates = {"grid": [3e-3, 2e-3, 4e-3, 1e-9, 2e-9]}
    adapt = {"epochs": 4, "learning_rate": rates, "warm_head": False}
    found = search(recipe(adapt=adapt, search={"scheduler": "median", "concurrency": 1}))
    stopped = {row["adapt.learning_rate"] for row in found.rows if row["status"] == "stopped"}
    assert stopped
    assert stopped <= {1e-9, 2e-9}


def test_a_search_that_learns_goes_on_with_what_it_had_and_ends_where_no_more_is_to_try(recipe, tmp_path):
    adapt = {"way": "head", "ridge": {"log_uniform": [1e-4, 1e4]}, "pooling": {"grid": ["mean", "last"]}}
    few = recipe(
        adapt={"way": "head", "pooling": {"choice": ["mean", "last"]}},
        search={"searcher": "tpe", "trials": 6},
        run={"folder": str(tmp_path / "few")},
    )
    assert len(search(few).rows) == 2  # there are no more
    first = recipe(adapt=adapt, search={"searcher": "tpe", "trials": 8, "metric": "validation_loss"})
    events: list[dict[str, Any]] = []
    found = search(first, events.append)
    assert events[0] == {"event": "plan", "trials": 16, "done": 0}
    assert len(found.rows) == 16
    assert {row["status"] for row in found.rows} == {"finished"}
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "trials").glob("*/result.json")}
    more = recipe(adapt=adapt, search={"searcher": "tpe", "trials": 20, "metric": "validation_loss"})
    events.clear()
    again = search(more, events.append)
    assert events[0] == {"event": "plan", "trials": 40, "done": 16}
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert len(again.rows) == 40
    assert len({row["adapt.ridge"] for row in again.rows}) == 40


def test_a_base_with_its_text_is_shared_by_trials_that_replay_and_forget(recipe, base, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in reviews(150)), encoding="utf-8")
    text = {"path": str(path), "held_out": 0.2, "sequences": 16, "length": 48}
    adapt = {"way": {"grid": ["full", "lora"]}, "replay": {"grid": [0, 0.25]}, "learning_rate": 3e-3}
    tracked = {"track": ["tensorboard"]}
    found = search(recipe(base={"path": str(base), "text": text}, adapt=adapt, search=tracked))
    events = list((tmp_path / "run" / "tensorboard").glob("*/events.*"))
    assert {path.parent.name for path in events} == {row["trial"] for row in found.rows}
    assert len(found.rows) == 4
    assert all("forgetting" in row for row in found.rows)
    assert found.tasks["mood"]["rival"]["accuracy"] > 0.5
    page = Path(found.paths["report"]).read_text(encoding="utf-8")
    assert found.best["mood"]["trial"] in page


def test_a_search_in_which_all_trials_fail_says_so_and_keeps_the_table(recipe, tmp_path):
    with pytest.raises(RunError, match=r"1 of 1 trials of task 'mood' failed.*the first: the loss is"):
        search(recipe(adapt={"learning_rate": 1e30, "clip": 1e30}))
    assert [row["status"] for row in _rows(tmp_path)] == ["failed"]


def test_the_credentials_of_the_driver_are_not_in_its_trials_runtime_env(recipe, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-all-to-see")
    search(recipe())
    actors = state.state._connect_and_get_accessor().get_actor_table(None, None)
    trials = [record for record in actors if b"ImplicitFunc" in record]
    assert trials
    assert not any(b"not-for-all-to-see" in record for record in actors)


def test_trials_larger_than_the_cluster_are_refused(recipe):
    with pytest.raises(
        ClusterError, match="a trial wants 64 CPUs and 0 GPUs, and the largest node has 2 and 0"
    ):
        search(recipe(compute={"cpus_per_trial": 64}))


@pytest.mark.parametrize(  # Ctrl-C, and what a cluster stops a job with
    "how", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM]
)
def test_who_is_stopped_keeps_what_is_finished_and_the_same_command_goes_on(how, recipe, tmp_path):
    space = {"epochs": {"grid": [1, 100_000]}}
    wanted = recipe(search={"space": space, "concurrency": 1})
    save_recipe(wanted, tmp_path / "recipe.yaml")
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "recipe.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen: list[str] = []
    while seen.count("epoch None\n") < 2:  # the first trial's only epoch, and one of the second
        seen.append(process.stdout.readline())
        assert seen[-1], process.communicate()[1]
    assert "trial finished\n" in seen
    process.send_signal(how)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert [row["status"] for row in _rows(tmp_path)] == ["finished", "missing"]
    assert not list((tmp_path / "run").glob(".tune-*"))
    shorter = recipe(search={"space": {"epochs": {"grid": [1, 2]}}})
    events = []
    assert len(search(shorter, events.append).rows) == 2
    assert events[0] == {"event": "plan", "trials": 2, "done": 1}


def test_after_the_death_of_the_driver_the_same_command_goes_on(recipe, tmp_path):
    space = {"epochs": {"grid": [1, 100_000]}}
    save_recipe(recipe(search={"space": space, "concurrency": 1}), tmp_path / "recipe.yaml")
    address = ray.get_runtime_context().gcs_address  # so that nothing of Ray's outlives the driver
    command = [sys.executable, "-c", ON_A_CLUSTER, str(tmp_path / "recipe.yaml"), address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    list(iter(process.stdout.readline, "trial finished\n"))
    with pytest.raises(RunError, match="another process is carrying out this run"):
        search(recipe(search={"space": space}))
    process.kill()
    process.wait(timeout=30)
    assert list((tmp_path / "run").glob(".tune-*"))
    events: list[dict[str, Any]] = []
    found = search(recipe(search={"space": {"epochs": {"grid": [1, 2]}}}), events.append)
    assert events[0] == {"event": "plan", "trials": 2, "done": 1}
    assert {row["status"] for row in found.rows} == {"finished"}
    assert not list((tmp_path / "run").glob(".tune-*"))


def _rows(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
