"""Saving in the background by two workers, in all tiers; what fails; and which checkpoint is found again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from crews import Run, colliding, flip, whole

from raypretrain.errors import RunError, StorageError
from raypretrain.training.checkpoint import (
    MANIFEST,
    checkpoint_folder,
    committed,
    problem_of,
    read_manifest,
    read_standing,
)
from raypretrain.training.events import read_events


def test_what_two_workers_save_is_committed_whole_and_the_last_ones_stay(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert run.train(35) == [None, None]
    assert run.finish() == [None, None]
    assert run.steps == [30, 20]
    for folder in committed(run.folder.checkpoints):
        assert problem_of(folder) is None
        names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert names == {MANIFEST, *read_manifest(folder)["files"]}
        assert len(names) == 4
        step = read_standing(folder).step
        saved = torch.load(folder / "engine" / "zero_pp_rank_1_optim.pt")["m"]
        assert torch.equal(saved, torch.full((20_000,), float(step + 1)))
    events = read_events(run.folder.events)
    assert [(row["event"], row["step"]) for row in events] == [("save", 10), ("save", 20), ("save", 30)]
    assert all(row["bytes"] > 150_000 and row["stall_seconds"] < 30 for row in events)
    assert run.together.notes == []


def test_multiples_and_the_best_stay_besides_the_last(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", keep=1, keep_every=30, keep_best=True)
    run.train(80, losses={10: 3.0, 20: 1.0, 40: 2.0, 50: 2.5, 80: 4.0})
    assert run.steps == [80, 60, 30, 20]


def test_one_failed_save_is_told_and_leaves_nothing_and_the_run_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.train(10)
    run.snapshot = colliding
    assert run.train(20) == [None, None]
    assert sorted(p.name for p in run.folder.checkpoints.iterdir()) == ["step-00000010"]
    assert len(run.together.notes) == 1
    assert "step 20 is not saved" in run.together.notes[0]
    assert [row["event"] for row in read_events(run.folder.events)] == ["save", "save-failed"]
    run.snapshot = whole
    assert run.train(30) == [None, None]
    assert run.finish() == [None, None]
    assert run.steps == [30, 10]


def test_as_many_failed_saves_in_a_row_as_the_recipe_says_end_the_run_for_all_workers(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", failures=3)
    run.train(10)
    run.snapshot = colliding
    assert run.train(30) == [None, None]
    run.snapshot = whole
    run.train(40)
    run.snapshot = colliding
    ends = run.train(70)
    assert all(isinstance(end, StorageError) for end in ends)
    assert {str(end).partition(":")[0] for end in ends} == {
        str(checkpoint_folder(run.folder.checkpoints, 70))
    }
    assert "3 times in a row" in str(ends[0])
    assert run.steps == [40, 10]


def test_the_last_save_of_a_run_must_not_fail(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.train(10)
    run.snapshot = colliding
    run.train(20)
    ends = run.finish()
    assert all(isinstance(end, StorageError) for end in ends)
    assert "the checkpoint cannot be written" in str(ends[0])


def test_the_newest_that_holds_is_found_and_the_damaged_ones_after_it_are_named_and_removed(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path / "run", keep=9)
    run.train(40)
    flip(checkpoint_folder(run.folder.checkpoints, 40) / "engine" / "zero_pp_rank_1_optim.pt")
    (checkpoint_folder(run.folder.checkpoints, 30) / "engine" / "model.pt").unlink()
    found = run.found()
    assert found is not None
    assert (found.tier, found.standing.step) == ("run", 20)
    assert run.together.notes == [
        "checkpoint step-00000040 is not used: engine/zero_pp_rank_1_optim.pt is damaged (its SHA-256 differs)",
        "checkpoint step-00000030 is not used: engine/model.pt is missing",
    ]
    assert run.steps == [20, 10]


def test_where_none_holds_the_run_is_refused_and_nothing_removed(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert run.found() is None
    run.train(20)
    for folder in committed(run.folder.checkpoints):
        flip(folder / "engine" / "model.pt")
    with pytest.raises(RunError, match="none of its checkpoints holds"):
        run.found()
    assert run.steps == [20, 10]


# ------------------------------------------------------------------------------------------- the fast tier


def fast(tmp_path: Path, **config: Any) -> Run:
    return Run(tmp_path / "run", fast={"every": 3, "folder": str(tmp_path / "node")}, **config)


def node(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "node").glob("run-*/step-*"))


def test_the_fast_tier_keeps_the_last_two_and_is_taken_where_it_is_newer(tmp_path: Path) -> None:
    run = fast(tmp_path)
    run.train(17)
    run.log(17)
    assert node(tmp_path) == ["step-00000012", "step-00000015"]
    found = run.found()
    assert found is not None
    assert (found.tier, found.standing.step) == ("fast", 15)
    assert sorted(p.name for p in (found.folder / "engine").iterdir()) == [
        "model.pt",
        "zero_pp_rank_0_optim.pt",
        "zero_pp_rank_1_optim.pt",
    ]
    assert run.steps == [10]


@pytest.mark.parametrize("victim", ["model.pt", "zero_pp_rank_0_optim.pt", "zero_pp_rank_1_optim.pt"])
def test_a_fast_one_that_is_damaged_on_one_node_is_taken_by_nobody(tmp_path: Path, victim: str) -> None:
    run = fast(tmp_path)
    run.train(17)
    run.log(17)
    (newest,) = (tmp_path / "node").glob("run-*/step-00000015")
    flip(newest / "engine" / victim)
    found = run.found()
    assert found is not None
    assert (found.tier, found.standing.step) == ("fast", 12)
    assert f"checkpoint step-00000015 of the fast tier is not used: engine/{victim}" in run.together.notes[0]
    assert node(tmp_path) == ["step-00000012"]


def test_a_worker_without_its_files_makes_all_take_the_run_s_folder(tmp_path: Path) -> None:
    run = fast(tmp_path)
    run.train(17)
    run.log(17)
    for path in (tmp_path / "node").glob("run-*/step-*/rank-00001.json"):
        path.unlink()
    found = run.found()
    assert found is not None
    assert (found.tier, found.standing.step) == ("run", 10)


def test_a_fast_one_of_another_run_in_the_same_place_is_not_taken(tmp_path: Path) -> None:
    run = fast(tmp_path)
    run.train(17)
    shutil.rmtree(tmp_path / "run")  # begun anew: its metrics have not come so far
    again = fast(tmp_path)
    assert again.found() is None
    assert node(tmp_path) == []


# --------------------------------------------------------------------------------------------- the copies


def test_what_is_committed_is_copied_and_found_where_the_run_s_folder_is_lost(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", copy_to=str(tmp_path / "copy"), keep=1, keep_every=20)
    run.log(35)
    assert run.train(35) == [None, None]
    assert run.together.notes == []
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == ["logs", "step-00000020", "step-00000030"]
    assert not list((tmp_path).rglob("rank-*"))
    kept = {p.name: p.read_bytes() for p in run.folder.checkpoints.rglob("step-00000030/**/*") if p.is_file()}
    shutil.rmtree(tmp_path / "run")
    again = Run(tmp_path / "run", copy_to=str(tmp_path / "copy"))
    found = again.found()
    assert found is not None
    assert (found.tier, found.standing.step) == ("copy", 30)
    assert {p.name: p.read_bytes() for p in found.folder.rglob("*") if p.is_file()} == kept
    assert problem_of(found.folder) is None
    assert len(again.folder.metrics.read_text().splitlines()) == 35


def test_a_damaged_copy_is_named_and_the_one_before_is_fetched(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", copy_to=str(tmp_path / "copy"))
    run.train(30)
    flip(tmp_path / "copy" / "step-00000030" / "engine" / "zero_pp_rank_1_optim.pt")
    shutil.rmtree(tmp_path / "run")
    again = Run(tmp_path / "run", copy_to=str(tmp_path / "copy"))
    found = again.found()
    assert found is not None
    assert (found.tier, found.standing.step) == ("copy", 20)
    assert any("step-00000030 of the copies is not used" in note for note in again.together.notes)
    assert again.steps == [20]


def test_one_that_is_damaged_here_is_fetched_from_its_copy(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", copy_to=str(tmp_path / "copy"))
    run.train(30)
    flip(checkpoint_folder(run.folder.checkpoints, 30) / "engine" / "model.pt")
    found = run.found()
    assert found is not None
    assert (found.tier, found.standing.step) == ("copy", 30)
    assert problem_of(found.folder) is None
    assert "step-00000030 is not used" in run.together.notes[0]
    assert run.steps == [30, 20]


def test_a_copy_that_cannot_be_written_is_told_and_is_no_failed_save(tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("a file where the folder should be")
    run = Run(tmp_path / "run", copy_to=str(tmp_path / "copy"), failures=1)
    assert run.train(20) == [None, None]
    assert run.steps == [20, 10]
    assert len(run.together.notes) == 2
    assert "step 10 is not copied" in run.together.notes[0]
    assert not list(tmp_path.rglob("rank-*"))
