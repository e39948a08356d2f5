"""What masked.py gives to ours and to the peer: the same text by the same tokenizer, with and without padding."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from masked import Batch, packed_batches, padded_batches, prepare

from raypretrain.tokens.tokenizer import Tokenizer

LENGTH, ROWS, HIDDEN = 64, 4, 0.15

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("masked")


@pytest.fixture(scope="module")
def texts(folder: Path) -> list[str]:
    return prepare(folder, vocabulary=800, sample=100_000)[:60]


def _hidden(batches: list[Batch], name: str) -> float:
    """The share of the real tokens that are to be predicted."""
    return sum(int((b.values[name] != -100).sum()) for b in batches) / sum(b.real for b in batches)


def test_packed_rows_have_no_padding(texts, folder):
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    documents = tokenizer.encode_batch(texts)
    batches = packed_batches(documents, tokenizer, LENGTH, ROWS, alone=True)
    assert {batch.real for batch in batches} == {ROWS * LENGTH}
    marked = sum(len(ids) + 2 for ids in documents)
    assert len(batches) == marked // LENGTH // ROWS
    assert _hidden(batches, "targets") == pytest.approx(HIDDEN, rel=0.05)
    assert any(int(batch.values["starts"].max()) > 0 for batch in batches)


def test_padded_rows_are_one_document_each_by_the_same_tokenizer(texts, folder):
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    batches = padded_batches(texts, folder, LENGTH, ROWS)
    assert len(batches) == len(texts) // ROWS
    assert _hidden(batches, "labels") == pytest.approx(HIDDEN, rel=0.15)
    for number, batch in enumerate(batches):
        lengths = batch.values["attention_mask"].sum(dim=1).tolist()
        documents = [[tokenizer.bos, *tokenizer.encode(text)] for text in texts[number * ROWS :][:ROWS]]
        assert lengths == [min(len(ids), LENGTH) for ids in documents]
        assert batch.real == sum(lengths)
        for row, ids in enumerate(documents):
            known = batch.values["labels"][row][: lengths[row]] == -100
            given = batch.values["input_ids"][row][: lengths[row]]
            assert [t for t, k in zip(given.tolist(), known, strict=True) if k] == [
                t for t, k in zip(ids, known, strict=False) if k
            ]
