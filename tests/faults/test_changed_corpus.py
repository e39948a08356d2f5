"""A run goes on only with the corpus that it was started on."""

from __future__ import annotations

import os
import shutil
from itertools import islice
from pathlib import Path

import pytest
from runs import write_recipe

from raypretrain.config import load_recipe
from raypretrain.errors import RaypretrainError, RunError
from raypretrain.training.prepare import Prepared, prepare
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder


@pytest.fixture
def shards(corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(corpus, tmp_path / "shards"))


def start(shards: Path, tmp_path: Path, *overrides: str) -> Prepared:
    recipe = load_recipe(
        write_recipe(tmp_path, shards), PretrainRecipe, [f"run.folder={tmp_path / 'run'}", *overrides]
    )
    folder = RunFolder(recipe.run.folder)
    folder.open(recipe)
    folder.metrics.touch()  # as if it had trained
    return prepare(recipe, folder, lambda line: None)


@pytest.mark.row(16, "files added or removed before a resume")
def test_files_that_were_added_or_removed_are_named_with_the_ways_to_go_on(
    shards: Path, tmp_path: Path
) -> None:
    start(shards, tmp_path)
    start(shards, tmp_path)  # nothing has changed: nothing is said
    shutil.copy(shards / "shard-0.jsonl", shards / "shard-9.jsonl")
    (shards / "shard-2.jsonl").unlink()
    with pytest.raises(RunError) as error:
        start(shards, tmp_path)
    line = str(error.value)
    assert "the corpus is not the one that the run was started on" in line
    assert "shard-9.jsonl" in line
    assert "shard-2.jsonl" in line
    assert "run.folder" in line
    assert "corpus.on_change=keep" in line


@pytest.mark.row(16, "files added or removed before a resume")
def test_with_keep_the_files_of_the_start_are_read_and_no_others(shards: Path, tmp_path: Path) -> None:
    before = start(shards, tmp_path).windows
    shutil.copy(shards / "shard-0.jsonl", shards / "shard-9.jsonl")
    after = start(shards, tmp_path, "corpus.on_change=keep").windows
    for w in islice(before.windows_from(0), 5):
        for one, other in zip(before.parts(w), after.parts(w), strict=True):
            assert (one.sequences.tokens == other.sequences.tokens).all()


@pytest.mark.row(15, "a shard swapped under its name")
def test_a_shard_replaced_by_one_of_the_same_size_is_refused_by_name(shards: Path, tmp_path: Path) -> None:
    windows = start(shards, tmp_path).windows
    path = shards / "shard-1.jsonl"
    text, status = path.read_bytes(), path.stat()
    path.write_bytes(text.replace(b"film", b"FILM"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    with pytest.raises(RunError, match=r"changed.*shard-1\.jsonl"):
        start(shards, tmp_path)
    with pytest.raises(RaypretrainError, match=r"shard-1\.jsonl: has changed since the corpus was listed"):
        _ = [list(windows.parts(w)) for w in islice(windows.windows_from(0), 20)]
