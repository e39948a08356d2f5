"""Checkpoints: whole and verified, or not used; and why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypretrain.errors import RunError
from raypretrain.tokens.cursor import Cursor
from raypretrain.training.checkpoint import (
    MANIFEST,
    Standing,
    checkpoint_folder,
    clear,
    commit,
    committed,
    hash_files,
    newest_verified,
    problem_of,
    prune,
    read_standing,
)

STATES = "engine/zero_pp_rank_0_mp_rank_00_optim_states.pt"


def standing(step: int) -> Standing:
    return Standing(
        step=step,
        cursor=Cursor(window=3, index=step * 7),
        tokens=step * 768,
        world_size=2,
        zero=1,
        recipe="r" * 64,
        tokenizer="t" * 64,
        corpus="c" * 64,
    )


def save(checkpoints: Path, step: int, workers: int = 2) -> Path:
    """A checkpoint as two workers write it."""
    folder = checkpoint_folder(checkpoints, step)
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "mp_rank_00_model_states.pt").write_bytes(bytes([step]) * 5000)
    (folder / STATES).write_bytes(bytes(range(256)) * 20)
    (folder / "engine" / "empty").touch()
    files: dict[str, dict[str, object]] = {}
    for part in range(workers):
        files |= hash_files(folder, part, workers)
    commit(folder, standing(step), files)
    return folder


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def test_a_committed_checkpoint_verifies_and_says_where_the_run_stood(checkpoints: Path) -> None:
    folder = save(checkpoints, 10)
    assert folder.name == "step-00000010"
    assert problem_of(folder) is None
    assert read_standing(folder) == standing(10)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_the_workers_together_hash_every_file_once(checkpoints: Path, workers: int) -> None:
    folder = save(checkpoints, 10)
    parts = [hash_files(folder, part, workers) for part in range(workers)]
    names = [name for part in parts for name in part]
    assert sorted(names) == [
        "engine/empty",
        "engine/mp_rank_00_model_states.pt",
        STATES,
    ]


def test_without_its_manifest_a_folder_is_no_checkpoint(checkpoints: Path) -> None:
    folder = save(checkpoints, 10)
    (folder / MANIFEST).unlink()
    assert committed(checkpoints) == []
    assert problem_of(folder) is not None
    assert newest_verified(checkpoints, print) is None


@pytest.mark.parametrize("at", [0, 2560, 5119])
@pytest.mark.parametrize("bit", [1, 128])
def test_one_flipped_bit_is_found_and_the_file_named(checkpoints: Path, at: int, bit: int) -> None:
    folder = save(checkpoints, 10)
    flip(folder / STATES, at, bit)
    assert problem_of(folder) == f"{STATES} is damaged (its SHA-256 differs)"


def test_a_file_cut_short_is_named_with_both_sizes(checkpoints: Path) -> None:
    folder = save(checkpoints, 10)
    (folder / STATES).write_bytes((folder / STATES).read_bytes()[:-1])
    assert problem_of(folder) == f"{STATES} has 5119 bytes instead of 5120"
    (folder / STATES).write_bytes(b"")
    assert problem_of(folder) == f"{STATES} has 0 bytes instead of 5120"


def test_a_missing_file_is_named(checkpoints: Path) -> None:
    folder = save(checkpoints, 10)
    (folder / STATES).unlink()
    assert problem_of(folder) == f"{STATES} is missing"
    shutil.rmtree(folder / "engine")
    assert "is missing" in str(problem_of(folder))


@pytest.mark.parametrize("kept", [0, 1, 40, -30, -2])
def test_a_torn_manifest_is_named(checkpoints: Path, kept: int) -> None:
    folder = save(checkpoints, 10)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[:kept])
    assert str(problem_of(folder)).startswith("the manifest ")
    with pytest.raises(RunError, match=r"step-00000010/MANIFEST\.json: the manifest "):
        read_standing(folder)


@pytest.mark.parametrize("text", ["[]", "7", "null", "{}", '{"format": 99, "files": {}}', '{"format": 1}'])
def test_a_manifest_that_is_json_but_none_of_ours_is_named(checkpoints: Path, text: str) -> None:
    folder = save(checkpoints, 10)
    (folder / MANIFEST).write_text(text)
    assert str(problem_of(folder)).startswith("the manifest ")


@pytest.mark.parametrize("key", ["step", "cursor", "world_size", "recipe", "files"])
def test_a_manifest_that_lacks_a_key_is_named(checkpoints: Path, key: str) -> None:
    folder = save(checkpoints, 10)
    values = json.loads((folder / MANIFEST).read_text())
    del values[key]
    (folder / MANIFEST).write_text(json.dumps(values))
    assert str(problem_of(folder)).startswith("the manifest ")


def flips_of_the_manifest(folder: Path) -> Iterator[str]:
    """The manifest with one bit flipped, again and again; yields what the damaged text is."""
    path = folder / MANIFEST
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in (1, 2, 4, 16):
            path.write_bytes(whole)
            flip(path, at, bit)
            yield path.read_text(encoding="utf-8", errors="replace")


@pytest.mark.slow
def test_a_bit_flipped_in_the_manifest_never_crashes_the_check(checkpoints: Path) -> None:
    folder = save(checkpoints, 10)
    for _ in flips_of_the_manifest(folder):
        problem_of(folder)


@pytest.mark.slow
def test_a_bit_flipped_in_the_manifest_is_found_wherever_it_is(checkpoints: Path) -> None:
    """Even where it makes another step, or another place in the data, out of the right one."""
    folder = save(checkpoints, 10)
    unnoticed = [text for text in flips_of_the_manifest(folder) if problem_of(folder) is None]
    assert not unnoticed


def test_the_newest_that_holds_is_taken_and_each_newer_one_reported(checkpoints: Path) -> None:
    folders = [save(checkpoints, step) for step in (5, 10, 15, 20)]
    assert newest_verified(checkpoints, pytest.fail) == folders[3]
    (folders[3] / STATES).unlink()
    flip(folders[2] / STATES, 100)
    said: list[str] = []
    assert newest_verified(checkpoints, said.append) == folders[1]
    assert said == [
        f"checkpoint step-00000020 is not used: {STATES} is missing",
        f"checkpoint step-00000015 is not used: {STATES} is damaged (its SHA-256 differs)",
    ]


def test_none_may_hold_and_none_may_be_there(checkpoints: Path) -> None:
    assert newest_verified(checkpoints, pytest.fail) is None
    checkpoints.mkdir()
    assert newest_verified(checkpoints, pytest.fail) is None
    (save(checkpoints, 5) / STATES).unlink()
    said: list[str] = []
    assert newest_verified(checkpoints, said.append) is None
    assert len(said) == 1


def test_steps_are_ordered_by_number_beyond_eight_digits_of_zeros(checkpoints: Path) -> None:
    for step in (900, 1000, 99_999, 100_000):
        save_step = checkpoint_folder(checkpoints, step)
        (save_step / "engine").mkdir(parents=True)
        commit(save_step, standing(step), {})
    assert [read_standing(f).step for f in committed(checkpoints)] == [100_000, 99_999, 1000, 900]


def test_pruning_keeps_the_newest_and_clears_what_was_never_committed_before_them(checkpoints: Path) -> None:
    for step in (5, 10, 15, 20):
        save(checkpoints, step)
    for step in (7, 19, 25):
        (save(checkpoints, step) / MANIFEST).unlink()
    prune(checkpoints, keep=2)
    # step-25 may be one that is being written.
    assert sorted(p.name for p in checkpoints.iterdir()) == [
        "step-00000015",
        "step-00000020",
        "step-00000025",
    ]
    assert [problem_of(folder) for folder in committed(checkpoints)] == [None, None]
    prune(checkpoints, keep=5)
    assert len(committed(checkpoints)) == 2


def test_pruning_never_removes_an_uncommitted_folder_while_nothing_is_committed(checkpoints: Path) -> None:
    (save(checkpoints, 5) / MANIFEST).unlink()
    prune(checkpoints, keep=1)
    assert [p.name for p in checkpoints.iterdir()] == ["step-00000005"]


def test_clearing_removes_what_an_interrupted_save_left(checkpoints: Path) -> None:
    folder = save(checkpoints, 10)
    clear(folder)
    assert not folder.exists()
    clear(folder)
