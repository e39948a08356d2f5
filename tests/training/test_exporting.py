"""A run's figures as they are exported: the same as ``status`` says, at little cost, whatever happens to the files."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from raypretrain.training import exporting
from raypretrain.training.events import Events
from raypretrain.training.exporting import FIGURES, Figures, exported
from raypretrain.training.goodput import account_of
from raypretrain.training.metrics import StepLog
from raypretrain.training.status import status_of

NOW = 2_000_000_000.0


def row(step: int, **values: Any) -> dict[str, Any]:
    return {
        "step": step, "loss": 5.0 - step / 100, "grad_norm": 1.5, "tokens": 1000 * step, "step_seconds": 2.0,
        "data_wait_seconds": 0.5, "tokens_per_second": 500.0, "time": NOW + 10 + 2 * step, **values,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has done 20 steps, and saved the tenth; its driver began at NOW."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("{}")
    events = Events(folder / "events.jsonl")
    events.append("start", time=NOW, resumed=False, steps=100, sizes={"workers": 2})
    events.append("group", time=NOW + 10, step=0, world=2, incarnation=1, spans={})
    log = StepLog(folder / "metrics.jsonl", 0)
    for step in range(1, 21):
        log.append(row(step))
    log.close()
    evaluation = {"step": 20, "held_out_loss": 4.5, "held_out_bits_per_byte": 1.5, "seconds": 1.0}
    (folder / "evaluations.jsonl").write_text(json.dumps(evaluation) + "\n")
    return folder


def checkpoint(run: Path, step: int, at: float) -> None:
    manifest = run / "checkpoints" / f"step-{step:08d}" / "MANIFEST.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    os.utime(manifest, (at, at))


def test_they_are_those_of_status(run: Path) -> None:
    checkpoint(run, 10, NOW + 30)
    found, status = Figures(run, NOW).look(NOW + 60), status_of(run, NOW + 60)
    assert found.keys() == FIGURES.keys()
    assert (found["step"], found["loss"], found["restarts"]) == (20, pytest.approx(4.8), 0)
    assert found["grad_norm"] == 1.5
    assert found["tokens_per_second"] == pytest.approx(status["tokens_per_second"])
    assert found["data_wait_share"] == pytest.approx(status["data_wait_share"])
    assert found["held_out_loss"] == status["held_out"]["loss"]
    assert found["checkpoint_age_seconds"] == status["checkpoint"]["age_seconds"] == 30
    assert found["step_age_seconds"] == status["last_step_seconds_ago"] == 10
    assert found["goodput"] == pytest.approx(20 * 1.5 / 60)


def test_goodput_is_that_of_the_account_after_a_restart_too(run: Path) -> None:
    figures = Figures(run, NOW)
    figures.look(NOW + 60)
    events = Events(run / "events.jsonl")
    events.append("lost", time=NOW + 52, reason="worker 1 was lost", ranks=[1], step=20, incarnation=1)
    again = {"steps": 10, "last": 20, "seconds": 20.0, "until": NOW + 50}
    events.append("group", time=NOW + 60, step=10, world=2, incarnation=2, spans={}, repeated=again)
    log = StepLog(run / "metrics.jsonl", 10)  # as worker 0 does: what comes again is cut off
    for step in range(11, 31):
        log.append(row(step, time=NOW + 60 + 2 * (step - 10)))
    found = figures.look(NOW + 101)
    assert (found["step"], found["restarts"]) == (30, 1)
    assert found["goodput"] == pytest.approx(account_of(run, NOW + 101).goodput)


def test_each_look_reads_what_is_new_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    loads = json.loads
    monkeypatch.setattr(exporting.json, "loads", lambda line: read.append(line) or loads(line))
    figures = Figures(run, NOW)
    figures.look(NOW + 60)
    assert len(read) == 20 + 1 + 2
    read.clear()
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row(21)) + "\n" + json.dumps(row(22))[:20])
    assert figures.look(NOW + 61)["step"] == 21
    assert len(read) == 1
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row(22))[20:] + "\n")
    assert figures.look(NOW + 62)["step"] == 22


def test_before_the_first_step_the_ages_count_from_the_driver_s_begin(tmp_path: Path) -> None:
    assert Figures(tmp_path, NOW).look(NOW + 7) == {
        "step_age_seconds": 7, "checkpoint_age_seconds": 7, "restarts": 0,
    }  # fmt: skip


def test_a_run_that_goes_on_after_a_day_is_not_a_day_behind(run: Path) -> None:
    checkpoint(run, 10, NOW + 30)
    found = Figures(run, NOW + 86400).look(NOW + 86405)
    assert (found["step_age_seconds"], found["checkpoint_age_seconds"]) == (5, 5)


def test_what_is_no_number_is_left_out(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row(21, loss=None, grad_norm=None)) + "\n")
    found = Figures(run, NOW).look(NOW + 60)
    assert found["step"] == 21
    assert not {"loss", "grad_norm"} & found.keys()


def test_figures_that_cannot_be_read_harm_nobody_and_are_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with caplog.at_level(logging.WARNING), exported(tmp_path, every=0.01):
        time.sleep(0.2)
    assert [record.getMessage() for record in caplog.records] == ["the figures are not exported"]
