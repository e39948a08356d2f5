"""``raypretrain checkpoints RUN``: what there is, and what is wrong with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import RECIPE, Command
from crews import Run, flip

from raypretrain.config import load_recipe, to_yaml
from raypretrain.training.checkpoint import MANIFEST, checkpoint_folder
from raypretrain.training.recipe import PretrainRecipe


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with checkpoints in all tiers: 20 and 30 in the folder and copied, 27 and 36 on the node."""
    tiers = {"copy_to": str(tmp_path / "copy"), "fast": {"every": 9, "folder": str(tmp_path / "node")}}
    made = Run(tmp_path / "run", **tiers)
    made.train(36, losses={30: 2.5})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(data=tmp_path))
    overrides = [
        f"run.folder={tmp_path / 'run'}",
        f"training.checkpoint.copy_to={tmp_path / 'copy'}",
        "training.checkpoint.fast.every=9",
        f"training.checkpoint.fast.folder={tmp_path / 'node'}",
    ]
    made.folder.recipe.write_text(to_yaml(load_recipe(recipe, PretrainRecipe, overrides)))
    return made


def listed(command: Command, run: Run, *options: str) -> list[tuple[str, int, str, str | None]]:
    status, out, error = command.run("checkpoints", run.folder.path, "--json", *options)
    assert (status, error) == (0, "")
    return [(row["tier"], row["step"], row["state"], row["problem"]) for row in json.loads(out)]


def test_every_tier_is_listed_the_newest_first(command: Command, run: Run) -> None:
    expected = [("fast", 36), ("copy", 30), ("run", 30), ("fast", 27), ("copy", 20), ("run", 20)]
    assert listed(command, run) == [(tier, step, "committed", None) for tier, step in expected]
    assert listed(command, run, "--verify") == [(tier, step, "whole", None) for tier, step in expected]
    _, out, _ = command.run("checkpoints", run.folder.path, "--json")
    assert [row["held_out_loss"] for row in json.loads(out) if row["tier"] != "fast"] == [
        2.5,
        2.5,
        None,
        None,
    ]
    assert all(0 <= row["age_seconds"] < 600 and row["bytes"] > 100_000 for row in json.loads(out))


def test_damage_is_named_with_its_file(command: Command, run: Run, tmp_path: Path) -> None:
    checkpoints = run.folder.checkpoints
    flip(checkpoint_folder(checkpoints, 30) / "engine" / "model.pt")
    (checkpoint_folder(tmp_path / "copy", 30) / "engine" / "zero_pp_rank_1_optim.pt").unlink()
    (checkpoint_folder(checkpoints, 20) / MANIFEST).unlink()
    # A flipped bit is not seen without reading.
    assert ("run", 30, "committed", None) in listed(command, run)
    found = listed(command, run, "--verify")
    assert ("run", 30, "damaged", "engine/model.pt is damaged (its SHA-256 differs)") in found
    assert ("copy", 30, "damaged", "engine/zero_pp_rank_1_optim.pt is missing") in found
    assert ("run", 20, "not committed", None) in found
    status, out, _ = command.run("checkpoints", run.folder.path, "--verify")
    assert status == 0
    assert "damaged: engine/model.pt is damaged" in " ".join(out.split())


def test_a_run_without_checkpoints_and_what_is_no_run(command: Command, run: Run, tmp_path: Path) -> None:
    for folder in ("copy", "node", "run/checkpoints"):
        shutil.rmtree(tmp_path / folder)
    assert "no checkpoint yet" in command.run("checkpoints", run.folder.path)[1]
    status, _, error = command.run("checkpoints", tmp_path / "nowhere")
    assert status == 2
    assert "is no run" in error
