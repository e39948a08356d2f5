"""The command line on bad input, full disks and folders that are none: one line, status 2, and before Ray starts."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from command import Command
from small_disk import mounted

from raypretrain import storage
from raypretrain.errors import StorageError
from raypretrain.tokens.tokenizer import TokenizerConfig, train_tokenizer
from raypretrain.training.runfolder import RunFolder

pytestmark = pytest.mark.usefixtures("elsewhere")


# -------------------------------------------------------------------------------------------------------- input


def test_no_file_matches(command: Command, recipe: Path, tmp_path: Path) -> None:
    said = command.fails("pretrain", recipe, "--dry-run", "--set", "corpus.sources.0.path=no/*.jsonl")
    assert said.startswith(f"{tmp_path}/no/*.jsonl: no file matches; check corpus.sources")


def test_a_key_that_is_not_in_the_lines_is_named_beside_those_that_are(
    command: Command, recipe: Path, corpus: Path
) -> None:
    said = command.fails("pretrain", recipe, "--dry-run", "--set", "corpus.sources.0.text=body")
    assert f"{corpus}/shard-0.jsonl" in said
    assert "body" in said
    assert "text" in said


def test_a_column_that_is_not_in_the_file_is_named_beside_those_that_are(
    command: Command, recipe: Path, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"content": ["a"], "label": [1]}), tmp_path / "a.parquet")
    said = command.fails("pretrain", recipe, "--dry-run", "--set", "corpus.sources.0.path=a.parquet")
    assert f"{tmp_path}/a.parquet" in said
    for part in ("'text'", "content", "label"):
        assert part in said


def pack(data: bytes, suffix: str) -> bytes:
    return gzip.compress(data) if suffix == ".gz" else zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut off", "damaged"])
def test_a_corrupt_compressed_file_is_named(
    command: Command, recipe: Path, corpus: Path, tmp_path: Path, suffix: str, damage: str, no_ray: None
) -> None:
    data = bytearray(pack((corpus / "shard-1.jsonl").read_bytes(), suffix))
    if damage == "cut off":
        del data[-500:]
    else:
        data[len(data) // 2 : len(data) // 2 + 300] = b"\xff" * 300
    bad = tmp_path / f"shard-1.jsonl{suffix}"
    bad.write_bytes(data)
    for arguments in (
        ["pretrain", recipe, "--set", f"corpus.sources.0.path={bad}"],
        ["tokenizer", "train", bad, "--to", tmp_path / "t.model", "--vocabulary", "400"],
    ):
        assert command.fails(*arguments).startswith(f"{bad}: ")


@pytest.mark.row(19, "a corpus smaller than one batch")
def test_a_corpus_smaller_than_one_batch_is_refused_before_ray_starts(
    command: Command, recipe: Path, no_ray: None
) -> None:
    said = command.fails("pretrain", recipe, "--set", "training.global_batch=100K")
    assert said.startswith("corpus.sources: the corpus (")
    assert "is smaller than one batch (100000 sequences of 64 tokens)" in said
    assert "training.global_batch" in said


def test_what_was_wrong_with_the_first_start_may_be_mended_in_the_same_folder(
    command: Command, recipe: Path, no_ray: None
) -> None:
    """A start that failed before anything was trained binds nobody: the next error is not about the folder."""
    for batch in ("100K", "200K"):
        said = command.fails("pretrain", recipe, "--set", f"training.global_batch={batch}")
        assert "is smaller than one batch" in said


def test_a_corpus_to_which_text_was_added_after_a_failed_start_is_read_again(
    command: Command, recipe: Path, corpus: Path, tmp_path: Path, no_ray: None
) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copy(corpus / "shard-0.jsonl", tmp_path / "mine")
    overrides = ("--set", "corpus.sources.0.path=mine/*.jsonl", "--set", "training.global_batch=100K")
    first = command.fails("pretrain", recipe, *overrides)
    shutil.copy(corpus / "shard-1.jsonl", tmp_path / "mine")
    second = command.fails("pretrain", recipe, *overrides)
    sizes = [int(re.findall(r"\(([\d,]+) bytes\)", said)[0].replace(",", "")) for said in (first, second)]
    assert sizes[1] > sizes[0] * 1.5


def test_more_pieces_than_the_text_supports_says_how_many_it_does(
    command: Command, recipe: Path, tmp_path: Path, no_ray: None
) -> None:
    (tmp_path / "few.txt").write_text("a few words of text, and no more. " * 3, encoding="utf-8")
    for arguments in (
        ["tokenizer", "train", tmp_path / "few.txt", "--to", tmp_path / "t.model", "--vocabulary", "32K"],
        [
            "pretrain", recipe, "--set", "corpus.sources.0.path=few.txt", "--set", "corpus.held_out=0",
            "--set", "tokenizer.vocabulary=32000",
        ],
    ):  # fmt: skip
        said = command.fails(*arguments)
        assert said.startswith("tokenizer.vocabulary: 32000 pieces are more than the text supports")
        most = int(re.findall(r"set it to (\d+) or less", said)[0])
        assert 262 < most < 400


# ------------------------------------------------------------------------------------------------------ folders


@pytest.mark.parametrize("place", ["file/run", "/proc/self/run"])
def test_a_run_folder_that_cannot_be_written_to_is_named(
    command: Command, recipe: Path, tmp_path: Path, place: str, no_ray: None
) -> None:
    """Root writes everywhere, but below a file and in /proc."""
    (tmp_path / "file").touch()
    said = command.fails("pretrain", recipe, "--set", f"run.folder={place}")
    assert said.startswith(str(tmp_path / "file") if place == "file/run" else "/proc/")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, where mounting one is permitted."""
    with mounted(tmp_path / "disk", "1m") as disk:
        yield disk


def test_a_disk_that_is_too_small_says_what_is_there_and_what_is_needed(small_disk: Path) -> None:
    storage.check_writable(small_disk / "run", need_bytes=500_000)
    with pytest.raises(StorageError) as caught:
        storage.check_writable(small_disk / "run", need_bytes=20_000_000)
    said = str(caught.value)
    assert said.startswith(f"{small_disk}/run: not enough space: 1.05 MB free, 20 MB needed")
    with pytest.raises(StorageError, match="no space left"):
        storage.write_atomic(small_disk / "large", b"\1" * 3_000_000)
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_is_no_run_is_not_exported(command: Command, tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        said = command.fails("export", folder, "--to", tmp_path / "model")
        assert said == f"{folder}: is no run: it has no recipe.yaml; give the folder of a run"
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("holds", [None, "nothing", "weights", "config"])
def test_a_folder_that_is_no_model_does_not_write(
    command: Command, tmp_path: Path, holds: str | None
) -> None:
    model = tmp_path / "model"
    if holds is not None:
        model.mkdir()
    if holds == "weights":
        (model / "model.safetensors").write_bytes(b"x")
    if holds == "config":
        (model / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert str(model) in command.fails("sample", model)


def test_a_tokenizer_that_an_earlier_start_left_is_refused_where_it_has_no_marks(
    command: Command, recipe: Path, tmp_path: Path, reviews: list[dict[str, str]], no_ray: None
) -> None:
    folder = RunFolder(tmp_path / "run")
    texts = (review["text"] for review in reviews)
    train_tokenizer(texts, TokenizerConfig(vocabulary=400), folder.tokenizer, 1)
    line = command.fails("pretrain", recipe, "--set", "sequences.infill.rate=0.5")
    assert line.startswith(
        "sequences.infill: the tokenizer has no tokens that mark prefix, suffix and middle"
    )
