"""Rows 18 and 19: ends of lines inside a text; nothing, too little, and one document of 200 MB."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fault_table import Account
from reading import corpus as corpus_of
from reading import read
from runs import write_recipe
from test_changed_corpus import start

from raypretrain.errors import RaypretrainError

pytestmark = pytest.mark.faults

ODD = [
    "one line\u2028still the same\u2029and the same\x85again",
    "carriage\r\nreturn and\ra lonely one",
    "\ufeffa mark at the start",
    "form\x0cfeed, vertical\x0btab, \x1c\x1d\x1e",
    "a nul \x00 within",
]


@pytest.mark.row(18, "odd ends of lines inside the text")
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("escaped", [True, False])
def test_only_a_newline_ends_a_line(
    tmp_path: Path, account: Account, name: str, end: str, escaped: bool
) -> None:
    account(how="U+2028, CRLF, byte-order marks, NUL", lost="nothing: the writer's documents")
    writes = [json.dumps({"text": text}, ensure_ascii=escaped) for text in ODD]
    data = ("\ufeff" + "".join(line + end for line in writes)).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    for fragment_bytes in (1, 50, 1 << 20):
        documents, bad = read(corpus_of(tmp_path), fragment_bytes)
        assert [document.text for document in documents] == ODD
        assert not bad


@pytest.mark.row(18, "odd ends of lines inside the text")
def test_they_come_out_of_the_tokens_as_they_went_in(corpus: Path, tmp_path: Path) -> None:
    shards = Path(shutil.copytree(corpus, tmp_path / "shards"))
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in ODD)
    (shards / "shard-9.jsonl").write_text(lines, encoding="utf-8", newline="")
    windows = start(shards, tmp_path, "corpus.held_out=0").windows
    tokenizer = windows.tokenizer
    found: list[str] = []
    for w in range(windows.plan.windows_of_an_epoch):
        for part in windows.parts(w):
            stream = part.sequences.tokens.flatten().tolist()
            text = tokenizer.decode(
                [token for token in stream if token not in (tokenizer.bos, tokenizer.eos)]
            )
            found += [odd for odd in ODD if odd in text]
    assert sorted(set(found)) == sorted(ODD)


@pytest.mark.row(19, "an empty shard")
def test_an_empty_shard_changes_no_sequence(corpus: Path, tmp_path: Path, account: Account) -> None:
    account(how="a shard of 0 bytes, one of empty lines", lost="nothing")
    shards = Path(shutil.copytree(corpus, tmp_path / "shards"))
    whole, _ = read(corpus_of(shards))
    (shards / "shard-9.jsonl").touch()
    (shards / "shard-8.jsonl").write_text("\n\n")
    with_empty, bad = read(corpus_of(shards))
    assert [d.text for d in with_empty] == [d.text for d in whole]
    assert not bad
    assert start(shards, tmp_path).windows.fills(100)


@pytest.mark.row(19, "a corpus smaller than one batch")
def test_a_corpus_smaller_than_one_batch_is_refused(corpus: Path, tmp_path: Path, account: Account) -> None:
    account(how="a batch of 100,000 sequences", lost="refused before Ray starts")
    with pytest.raises(
        RaypretrainError, match=r"is smaller than one batch \(100000 sequences of 64"
    ) as error:
        start(corpus, tmp_path, "training.global_batch=100000")
    assert "\n" not in str(error.value)


HUGE = 200_000_000
READER = """
import json, resource, sys, time
from raypretrain.config import load_recipe
from raypretrain.training.prepare import prepare
from raypretrain.training.recipe import PretrainRecipe
from raypretrain.training.runfolder import RunFolder
recipe = load_recipe(sys.argv[1], PretrainRecipe, sys.argv[2:])
folder = RunFolder(recipe.run.folder)
folder.open(recipe)
windows = prepare(recipe, folder, lambda line: None).windows
tokens = longest = 0
for w in range(windows.plan.windows_of_an_epoch):
    for part in windows.parts(w):
        tokens += part.sequences.tokens.size
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"tokens": tokens, "peak": peak, "windows": windows.plan.windows_of_an_epoch}))
"""


@pytest.mark.row(19, "one document of 200 MB")
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_document_of_200_megabytes_is_read_in_bounded_memory(
    corpus: Path, reviews: list[dict[str, str]], tmp_path: Path, account: Account
) -> None:
    shards = Path(shutil.copytree(corpus, tmp_path / "shards"))
    text = " ".join(review["text"] for review in reviews)
    with (shards / "shard-9.jsonl").open("w", encoding="utf-8") as file:
        file.write(json.dumps({"text": (text * (HUGE // len(text) + 1))[:HUGE]}, ensure_ascii=False) + "\n")
    recipe = write_recipe(tmp_path, shards)
    settings = [f"run.folder={tmp_path / 'run'}", "corpus.held_out=0"]
    command = [sys.executable, "-c", READER, str(recipe), *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    account(how=f"peak memory of its reader {said['peak'] / 1e9:.1f} GB", lost="nothing")
    assert said["tokens"] > HUGE / 5
    assert said["peak"] < 15 * HUGE
