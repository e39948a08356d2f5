"""A run's folder: what may be there before the first step, and that nothing of somebody else's is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypretrain.config import load_recipe
from raypretrain.errors import RunError
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder


@pytest.fixture
def recipe(tmp_path: Path) -> PretrainRecipe:
    path = tmp_path / "tiny.yaml"
    path.write_text("corpus: {sources: [{path: data/*.jsonl}]}\n", encoding="utf-8")
    return load_recipe(path, PretrainRecipe, [])


def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.path.mkdir()
    return made


@pytest.mark.parametrize("foreign", ["thesis.tex", "corpus/shard-0.jsonl"])
def test_a_folder_with_somebodys_files_is_refused_and_left_as_it_is(
    tmp_path: Path, recipe: PretrainRecipe, foreign: str
) -> None:
    run = folder(tmp_path)
    (run.path / foreign).parent.mkdir(exist_ok=True)
    (run.path / foreign).write_text("years of work", encoding="utf-8")
    run.recipe.write_text("corpus: {sources: [{path: corpus/*}]}\n", encoding="utf-8")
    with pytest.raises(RunError, match=f"holds something else \\('{foreign}'\\)"):
        run.open(recipe)
    assert (run.path / foreign).read_text(encoding="utf-8") == "years of work"
    assert run.recipe.read_text(encoding="utf-8") == "corpus: {sources: [{path: corpus/*}]}\n"


def test_what_a_failed_start_made_is_made_anew(tmp_path: Path, recipe: PretrainRecipe) -> None:
    run = folder(tmp_path)
    assert run.open(recipe) is False
    run.manifest.write_bytes(b"of a corpus that was too small")
    assert run.open(recipe) is False
    assert not run.manifest.exists()
    assert run.read_recipe() == recipe


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.lock(), pytest.raises(RunError, match="another process"), RunFolder(run.path).lock():
        pass
    with run.lock():
        assert (run.path / ".lock").exists()


def test_what_a_start_that_hung_left_behind_is_nobody_elses(tmp_path: Path, recipe: PretrainRecipe) -> None:
    run = folder(tmp_path)
    run.stacks.mkdir()
    run.events.write_text("{}\n", encoding="utf-8")
    assert run.open(recipe) is False
