"""``raypretrain corpus …``: what is printed, and what is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import Command

pytestmark = pytest.mark.usefixtures("elsewhere")


# ----------------------------------------------------------------------------------------------------- inspect


def test_inspect_says_what_is_there_without_ray_and_writes_nothing(
    command: Command, recipe: Path, tmp_path: Path, no_ray: None
) -> None:
    before = sorted(tmp_path.iterdir())
    status, out, error = command.run("corpus", "inspect", recipe, "--sample", "200K")
    assert status == 0, error
    assert out.startswith("4 files of ")
    for words in (
        "from the sample",
        "bytes a token",
        "exact copies in the sample",
        "tokens of a document",
        "█",
    ):
        assert words in out
    assert sum(line.startswith("source-0: ") for line in out.splitlines()) == 3
    assert all(len(line) <= 160 for line in out.splitlines() if line.startswith("source-0: "))
    assert sorted(tmp_path.iterdir()) == before


def test_inspect_as_json_is_one_object_and_all_is_exact_where_all_was_read(
    command: Command, recipe: Path, reviews: list[dict[str, str]]
) -> None:
    status, out, _ = command.run("corpus", "inspect", recipe, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["exact"]
    assert found["documents"] == len(reviews)
    assert found["text_bytes"] == sum(len(review["text"].encode()) for review in reviews)
    assert found["training_tokens"] == 5 * 12 * 64
    assert found["tokenizer"]["vocabulary"] == 400


def test_inspect_lists_bad_records_instead_of_ending_at_the_first(
    command: Command, recipe: Path, corpus: Path, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(corpus, tmp_path / "shards"))
    with (shards / "shard-3.jsonl").open("a") as file:
        file.write('{"text": 3}\n[]\n')
    override = f"corpus.sources.0.path={shards}/*.jsonl"
    status, out, _ = command.run("corpus", "inspect", recipe, "--set", override)
    assert status == 0
    assert f"bad record: {shards}/shard-3.jsonl:251: 'text' is a number, not text" in out
    assert f"bad record: {shards}/shard-3.jsonl:252: is not a JSON object" in out
    assert "warning: bad records in the sample: 2; a run would end at the first one" in out


def test_inspect_shows_no_control_characters_of_the_text(
    command: Command, recipe: Path, tmp_path: Path
) -> None:
    text = "\x1b[31mred \x9b0m and plain " * 30
    (tmp_path / "x.jsonl").write_text((json.dumps({"text": text}) + "\n") * 50, encoding="utf-8")
    status, out, error = command.run(
        "corpus",
        "inspect",
        recipe,
        "--set",
        "corpus.sources.0.path=x.jsonl",
        "--set",
        "tokenizer={kind: bytes}",
    )
    assert status == 0, error
    assert "\x1b" not in out
    assert "\x9b" not in out
    assert "[31mred" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "corpus.sources.0.path=no/*.jsonl"], "no file matches"),
        (["--sample", "much"], "--sample: 'much' is not a count; write e.g. 4096, 64K, 5M or 1.5B"),
        (["--sample", "0"], "--sample: '0' is not at least 1"),
        (["--set", "corpus.sources=[]", "--set", "corpus.tokenized=x"], "names no text to inspect"),
        (["--set", "tokenizer.path=no.model"], "no.model: there is no such tokenizer"),
    ],
)
def test_what_inspect_refuses(command: Command, recipe: Path, arguments: list[str], said: str) -> None:
    assert said in command.fails("corpus", "inspect", recipe, *arguments)


# ---------------------------------------------------------------------------------------------------- tokenize


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "copy", "--set", "corpus.sources.0.path=no/*.jsonl"], "no file matches"),
        (["--to", "copy", "--steps", "-3"], "--steps: '-3' is not a count"),
        (["--to", "copy", "--set", "corpus.tokenized=x"], "the recipe reads a copy"),
        (["--to", "tiny.yaml"], "holds something else"),
        ([], "Missing option '--to'"),
    ],
)
def test_what_tokenize_refuses(
    command: Command, recipe: Path, arguments: list[str], said: str, no_ray: None
) -> None:
    assert said in command.fails("corpus", "tokenize", recipe, *arguments)


def test_a_run_from_no_copy_is_refused_before_it_starts(command: Command, recipe: Path, no_ray: None) -> None:
    said = command.fails("pretrain", recipe, "--set", "corpus.tokenized=nowhere")
    assert "nowhere: is no tokenized copy: it has no TOKENIZED.json" in said


@pytest.mark.ray
def test_tokenize_says_what_it_wrote_and_keeps_what_is_there(
    command: Command, recipe: Path, cluster: str, tmp_path: Path
) -> None:
    status, out, error = command.run("corpus", "tokenize", recipe, "--to", "copy", "--json")
    assert status == 0, error
    result = json.loads(out)
    assert result["url"] == "copy"
    assert result["sequences"] >= 5 * 12
    assert result["bytes"] == sum(path.stat().st_size for path in Path("copy").glob("windows-*"))
    assert "sequence 60/60" in error
    status, out, _ = command.run("corpus", "tokenize", recipe, "--to", "copy")
    assert status == 0
    assert out.startswith("copy: 1 files, ")
    status, out, _ = command.run("pretrain", recipe, "--set", "corpus.tokenized=copy", "--dry-run")
    assert status == 0
    assert "4 files" in out
