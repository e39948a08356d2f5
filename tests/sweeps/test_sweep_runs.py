"""A real search over pretraining: trials end early, a killed one goes on, and the best is continued."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from runs import RECIPE, metrics

from raypretrain.config import load_recipe
from raypretrain.errors import RunError
from raypretrain.sweeps.recipe import SweepRecipe
from raypretrain.sweeps.sweep import SweepResult, sweep
from raypretrain.training.runfolder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOKENS = 20 * 12 * 64  # 20 steps of a trial
OVERRIDES = (
    "training.steps=40",
    "training.learning_rate={grid: [3e-3, 1e-3, 2e-3, 1e-6]}",
    "training.evaluation.every=4",
    "training.schedule={kind: wsd, warmup: 0.1, decay: 0.25}",
    "compute.workers=1",
    "compute.standby=false",
    f"search.tokens={TOKENS}",
)


def search(folder: Path, corpus: Path, *overrides: str, tell: Any = print) -> SweepResult:
    path = folder / "search.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RECIPE.format(corpus=corpus, steps=40), encoding="utf-8")
    given = [f"run.folder={folder / 'run'}", *OVERRIDES, *overrides]
    return sweep(load_recipe(path, SweepRecipe, given), tell)


def without_seconds(result: SweepResult) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in result.rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def interrupted(cluster: str, corpus: Path, folder: Path) -> SweepResult:
    """Ctrl-C in the middle of the second trial."""
    pressed: list[str] = []

    def press(event: dict[str, Any]) -> None:
        if event.get("event") == "step" and event["trial"].startswith("001") and not pressed:
            pressed.append(event["trial"])
            os.kill(os.getpid(), signal.SIGINT)

    return search(folder, corpus, tell=press)


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    return []


@pytest.fixture(scope="module")
def found(interrupted: SweepResult, corpus: Path, folder: Path, events: list[dict[str, Any]]) -> SweepResult:
    """The same command again."""
    return search(folder, corpus, tell=events.append)


def test_an_interrupted_search_has_its_table_and_goes_on_in_mid_trial(
    interrupted: SweepResult, found: SweepResult, events: list[dict[str, Any]]
) -> None:
    assert (interrupted.signal, interrupted.outcome) == (signal.SIGINT, None)
    assert [row["status"] for row in interrupted.rows] == ["finished", "missing"]
    assert found.rows[0] == interrupted.rows[0]
    steps = [event["step"] for event in events if event.get("event") == "step"]
    ended = [event["trial"] for event in events if event.get("event") == "trial"]
    assert steps
    assert ended == [row["trial"] for row in found.rows[1:]]


def test_the_poor_one_ends_early_and_the_best_wins(found: SweepResult) -> None:
    statuses = [row["status"] for row in found.rows]
    assert statuses == ["finished", "finished", "finished", "stopped"]
    losses = [row["held_out_loss"] for row in found.rows]
    assert [row["tokens"] for row in found.rows[:3]] == [TOKENS] * 3
    assert found.rows[3]["tokens"] < TOKENS
    assert found.best
    assert found.best["held_out_loss"] == min(losses[:3])
    table = pq.read_table(found.paths["table"]).to_pylist()
    assert [row["training.learning_rate"] for row in table] == [3e-3, 1e-3, 2e-3, 1e-6]


def test_only_the_best_keeps_its_weights(found: SweepResult) -> None:
    kept = [path.parent.name for path in found.run.parent.glob("trials/*/checkpoints")]
    assert found.best
    assert kept == [found.best["trial"]]


def test_the_best_goes_on_from_where_its_rate_would_fall(found: SweepResult) -> None:
    assert found.outcome
    assert (found.outcome.status, found.outcome.step) == ("finished", 40)
    parent = json.loads((found.run / "parent.json").read_text())
    assert (parent["step"], parent["takes"]) == (15, "everything")
    assert found.best
    rates = [row["learning_rate"] for row in metrics(found.run)]
    peak = found.best["training.learning_rate"]
    # Two steps of warm-up, as in the trial; constant; and a fall over a quarter of the whole.
    assert rates[:2] == pytest.approx([peak / 2, peak])
    assert rates[2:30] == pytest.approx([peak] * 28)
    assert rates[30:] == sorted(rates[30:], reverse=True)
    trial = metrics(found.run.parent / "trials" / found.best["trial"])
    assert [row["loss"] for row in trial[:15]] == [row["loss"] for row in metrics(found.run)[:15]]


def test_the_same_command_again_runs_nothing(found: SweepResult, corpus: Path, folder: Path) -> None:
    again: list[dict[str, Any]] = []
    same = search(folder, corpus, tell=again.append)
    assert not [event for event in again if event.get("event") in ("step", "trial")]
    assert same.rows == found.rows


def test_a_trial_that_was_not_written_down_is_not_run_again(
    found: SweepResult, corpus: Path, folder: Path
) -> None:
    trial = found.run.parent / "trials" / found.rows[1]["trial"]
    assert RunFolder(trial).read_result()
    (trial / "ended.json").unlink()  # as if the search had been killed before it wrote that down
    again: list[dict[str, Any]] = []
    same = search(folder, corpus, tell=again.append)
    assert not [event for event in again if event.get("event") == "step"]
    assert {event["trial"] for event in again if event.get("event") == "trial"} == {found.rows[1]["trial"]}
    assert without_seconds(same) == without_seconds(found)


@pytest.mark.long
def test_one_that_nobody_interrupted_comes_to_the_same(
    found: SweepResult, corpus: Path, tmp_path: Path
) -> None:
    whole = search(tmp_path, corpus)
    assert without_seconds(whole) == without_seconds(found)
    logs = [metrics(result.run) for result in (whole, found)]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]


def test_trials_that_all_fail_end_it_with_the_first_reason(
    cluster: str, corpus: Path, tmp_path: Path
) -> None:
    overrides = ("training.learning_rate={grid: [1e-3]}", "corpus.sources.0.path=nowhere/*.jsonl")
    with pytest.raises(RunError, match=r"none of 1 trials was finished; the first: .*nowhere"):
        search(tmp_path, corpus, *overrides)
    rows = pq.read_table(tmp_path / "run" / "results.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["failed"]
