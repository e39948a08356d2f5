"""Tokenized copies of a recipe's corpus: made whole, in pieces and longer, and refused where they are another's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import write_recipe

from raypretrain.config import load_recipe
from raypretrain.errors import InputError, RaypretrainError, RecipeError, RunError
from raypretrain.tokens.cursor import Cursor
from raypretrain.tokens.dealing import Part
from raypretrain.tokens.tokenized import BEGUN, FINISHED, read_copy
from raypretrain.tokens.window import Windows
from raypretrain.training import tokenizing
from raypretrain.training.dryrun import dry_run
from raypretrain.training.prepare import Prepared, prepare, read_windows
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder
from raypretrain.training.tokenizing import tokenize

SMALL = 20_000  # bytes of a file
STEPS = 200  # five windows


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same windows, made in this process."""

    def parts(windows: Windows, cursor: Cursor, window_bytes: int) -> Iterator[Part]:
        for w in windows.windows_from(cursor.window):
            yield from windows.parts(w, cursor.part if w == cursor.window else 0)

    monkeypatch.setattr(tokenizing, "all_parts", parts)
    monkeypatch.setattr(tokenizing, "connect", lambda address: None)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), corpus, STEPS)


def recipe(path: Path, *overrides: str) -> PretrainRecipe:
    return load_recipe(path, PretrainRecipe, [f"run.folder={path.parent / 'run'}", *overrides])


def make(
    path: Path, to: Path, *overrides: str, steps: int | None = None, watch: Any = None
) -> dict[str, Any]:
    return tokenize(recipe(path, *overrides), str(to), watch or (lambda event: None), steps, file_bytes=SMALL)


@pytest.fixture
def copy(path: Path, tmp_path: Path) -> Path:
    make(path, tmp_path / "copy")
    return tmp_path / "copy"


def prepared(path: Path, folder: Path, *overrides: str) -> Prepared:
    run = RunFolder(folder)
    loaded = recipe(path, *overrides)
    run.open(loaded)
    return prepare(loaded, run, lambda line: None)


def contents(folder: Path) -> dict[str, bytes]:
    """Of the files of windows."""
    return {p.name: p.read_bytes() for p in folder.glob("windows-*")}


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RaypretrainError) as caught:
        dry_run(recipe(path, *overrides))
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- how it is made


def test_a_run_from_a_copy_is_prepared_as_from_text(path: Path, copy: Path, tmp_path: Path) -> None:
    text = prepared(path, tmp_path / "a")
    read = prepared(path, tmp_path / "b", f"corpus.tokenized={copy}", "corpus.sources=[]")
    assert read.windows.tokenizer.fingerprint == text.windows.tokenizer.fingerprint
    assert read.windows.manifest.fingerprint == text.windows.manifest.fingerprint
    assert read.held_out.bytes == text.held_out.bytes
    assert (read.held_out.tokens == text.held_out.tokens).all()
    for w in text.windows.windows_from(0):
        found, made = list(read.windows.parts(w)), list(text.windows.parts(w))
        assert [p.sequences.tokens.tobytes() for p in found] == [p.sequences.tokens.tobytes() for p in made]
        if w == 3:
            break


def test_it_has_as_many_windows_as_the_steps_need(path: Path, tmp_path: Path) -> None:
    result = make(path, tmp_path / "copy", steps=10)
    assert result["steps"] >= 10
    assert result["complete"]
    found = read_copy(str(tmp_path / "copy"), None)
    assert found is not None
    assert found.sequences - found.files[-1].sequences < 10 * 12 <= found.sequences


def test_the_same_command_again_changes_nothing(path: Path, copy: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in copy.iterdir()}
    result = make(path, copy)
    assert result["kept"] == result["files"] > 2
    assert {p.name: p.stat().st_mtime_ns for p in copy.iterdir()} == before


def test_an_interrupted_copy_is_no_copy_and_goes_on_where_it_stopped(
    path: Path, copy: Path, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"

    def stop(event: dict[str, Any]) -> None:
        if event.get("sequences", 0) > 1500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(path, stopped, watch=stop)
    assert not (stopped / FINISHED).exists()
    assert "is no tokenized copy" in refusal(path, f"corpus.tokenized={stopped}")
    there = {p.name: p.stat().st_mtime_ns for p in stopped.glob("windows-*")}
    assert there
    result = make(path, stopped)
    assert result["kept"] == len(there)
    assert {name: (stopped / name).stat().st_mtime_ns for name in there} == there
    assert contents(stopped) == contents(copy)


def test_a_copy_can_be_made_longer(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    make(path, folder, steps=5)
    before = contents(folder)
    assert "the run needs 2,400" in refusal(path, f"corpus.tokenized={folder}")
    result = make(path, folder)
    assert result["kept"] == len(before)
    assert {name: (folder / name).read_bytes() for name in before} == before
    windows = prepared(path, tmp_path / "run", f"corpus.tokenized={folder}").windows
    text = read_windows(recipe(path), RunFolder(tmp_path / "run"))
    rows = [p.sequences.tokens.tobytes() for w in windows.windows_from(0) for p in windows.parts(w)]
    numbers = zip(windows.windows_from(0), text.windows_from(0), strict=False)
    assert rows == [
        p.sequences.tokens.tobytes() for w, same in numbers for p in text.parts(same) if w == same
    ]


def test_a_corpus_that_is_used_up_is_copied_as_far_as_it_goes(path: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def watch(event: dict[str, Any]) -> None:
        said.append(event.get("say", ""))

    once = "corpus.sources.0.epochs=0.1"
    result = make(path, tmp_path / "copy", once, watch=watch)
    assert not result["complete"]
    assert result["steps"] < STEPS
    assert said[-1].startswith(f"note: the corpus is used up after {result['steps']:,} of 200 steps")
    prepared(path, tmp_path / "run", once, f"corpus.tokenized={tmp_path / 'copy'}", "training.steps=5")


def test_a_begun_run_lends_its_listing_and_tokenizer(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepared(path, folder, f"run.folder={folder}")
    (folder / "metrics.jsonl").write_text("")
    marked = json.dumps({"a mark": 1})
    (folder / "corpus" / "tokenizer_config.json").write_text(marked)
    said: list[str] = []
    make(path, tmp_path / "a", f"run.folder={folder}", watch=lambda e: said.append(e.get("say", "")))
    assert f"with the listing and the tokenizer of {folder}" in said
    assert (tmp_path / "a" / "tokenizer_config.json").read_text() == marked
    make(path, tmp_path / "b", f"run.folder={folder}", "run.seed=4")
    assert not (tmp_path / "b" / "tokenizer_config.json").exists()


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.seed=4", "run.seed: 3 → 4"),
        ("corpus.held_out=0.1", "corpus.held_out: 0.05 → 0.1"),
        ("tokenizer.vocabulary=600", "tokenizer.vocabulary: 512 → 600"),
        ("tokenizer.sample=200K", "tokenizer.sample: 300000 → 200000"),
        ("tokenizer={kind: bytes}", "tokenizer: bpe, 512 pieces → bytes"),
        ("sequences.length=32", "sequences.length: 64 → 32"),
        ("sequences.packing=best-fit", "sequences.packing: concatenate → best-fit"),
        ("sequences.shuffle=false", "sequences.shuffle: True → False"),
        ("corpus.sources.0.weight=2", "corpus.sources.0.weight: None → 2.0"),
        ("corpus.sources.0.text=body", "corpus.sources.0.text: text → body"),
        ("training.evaluation.sequences=17", "training.evaluation.sequences: 16 → 17"),
    ],
)
def test_a_copy_of_another_recipe_is_refused_with_the_keys(
    path: Path, copy: Path, tmp_path: Path, override: str, said: str
) -> None:
    line = refusal(path, f"corpus.tokenized={copy}", override)
    assert line.startswith(f"{copy}: the copy was made with other settings ({said})")
    with pytest.raises(RunError, match="the copy was made with other settings"):
        make(path, copy, override)
    with pytest.raises(RunError, match="the copy was made with other settings"):
        prepared(path, tmp_path / "run", f"corpus.tokenized={copy}", override)


def test_what_does_not_change_the_rows_may_differ(path: Path, copy: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.model"
    shutil.copy(copy / "tokenizer.model", tokenizer)
    free = [
        "training.global_batch=6",
        "training.learning_rate=1e-4",
        "model.width=64",
        "corpus.sources.0.name=x",
    ]
    free += [f"tokenizer={{path: {tokenizer}}}", "corpus.sources.0.path=elsewhere/*.jsonl"]
    found = dry_run(recipe(path, f"corpus.tokenized={copy}", *free))
    assert found["corpus"]["files"] == 4
    assert found["training"]["steps"] == STEPS


def test_other_windows_than_the_text_has_now_are_not_mixed(path: Path, tmp_path: Path) -> None:
    shards = Path(
        shutil.copytree(recipe(path).corpus.sources[0].path.rpartition("/")[0], tmp_path / "shards")
    )
    own = f"corpus.sources.0.path={shards}/*.jsonl"
    make(path, tmp_path / "copy", own, steps=5)
    with (shards / "shard-0.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(RunError, match="the corpus is not the one that the copy was begun with: 1 changed"):
        make(path, tmp_path / "copy", own)


def test_a_damaged_copy_is_refused_before_it_is_trained_on(path: Path, copy: Path, tmp_path: Path) -> None:
    held_out = copy / "held_out.parquet"
    data = bytearray(held_out.read_bytes())
    data[len(data) // 2] ^= 1
    held_out.write_bytes(data)
    with pytest.raises(InputError, match=f"{held_out}: is not the file that was written"):
        prepared(path, tmp_path / "run", f"corpus.tokenized={copy}")


def test_a_run_does_not_go_on_with_the_copy_of_another_corpus(path: Path, copy: Path, tmp_path: Path) -> None:
    shards = Path(
        shutil.copytree(recipe(path).corpus.sources[0].path.rpartition("/")[0], tmp_path / "shards")
    )
    (shards / "shard-0.jsonl").unlink()
    make(path, tmp_path / "other", f"corpus.sources.0.path={shards}/*.jsonl")
    prepared(path, tmp_path / "run", f"corpus.tokenized={copy}")
    with pytest.raises(RunError, match="the copy is of another corpus or tokenizer"):
        prepare(
            recipe(path, f"corpus.tokenized={tmp_path / 'other'}"),
            RunFolder(tmp_path / "run"),
            lambda line: None,
        )


def test_a_copy_with_bad_records_left_out_needs_quarantine(path: Path, tmp_path: Path) -> None:
    shards = Path(
        shutil.copytree(recipe(path).corpus.sources[0].path.rpartition("/")[0], tmp_path / "shards")
    )
    (shards / "shard-2.jsonl").write_bytes(b"[]\n" + (shards / "shard-2.jsonl").read_bytes())
    own, patient = f"corpus.sources.0.path={shards}/*.jsonl", "corpus.on_bad_input=quarantine"
    make(path, tmp_path / "copy", own, patient, steps=420)  # more than an epoch
    tokenized = f"corpus.tokenized={tmp_path / 'copy'}"
    assert "corpus.on_bad_input: quarantine → error" in refusal(path, own, tokenized)
    windows = prepared(path, tmp_path / "run", own, patient, tokenized).windows
    bad = [record for w in windows.windows_from(0) for part in windows.parts(w) for record in part.bad]
    assert {record.where for record in bad} == {f"{shards}/shard-2.jsonl:1"}


def test_a_place_that_holds_something_else_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("do not lose")
    with pytest.raises(RunError, match=r"full: holds something else \('thesis.txt'\)"):
        make(path, tmp_path / "full")


def test_a_recipe_that_reads_a_copy_is_not_copied(path: Path, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the recipe reads a copy"):
        make(path, tmp_path / "again", f"corpus.tokenized={copy}")


def test_a_recipe_must_name_text_or_a_copy(path: Path) -> None:
    with pytest.raises(RecipeError, match="corpus: names no text"):
        recipe(path, "corpus.sources=[]")


def test_a_run_without_sources_cannot_be_traced_and_says_why(path: Path, copy: Path, tmp_path: Path) -> None:
    overrides = [f"corpus.tokenized={copy}", "corpus.sources=[]"]
    prepared(path, tmp_path / "run", *overrides)
    with pytest.raises(RunError, match=r"leave corpus\.sources in the recipe"):
        read_windows(recipe(path, *overrides), RunFolder(tmp_path / "run"))


def test_what_is_begun_is_described_as_well_as_what_is_finished(copy: Path) -> None:
    assert read_copy(str(copy), None, BEGUN) == read_copy(str(copy), None)
