"""Held-out loss: of the right text, equal for any number of workers, and by bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from real_text import python_files, reviews

from raypretrain.corpus.clusters import Draw
from raypretrain.corpus.documents import BadRecord, Document, is_held_out, read_documents
from raypretrain.corpus.manifest import Fragment, Manifest, build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.tokens.objectives import IGNORED, Causal
from raypretrain.tokens.tokenizer import TokenizerConfig, train_tokenizer
from raypretrain.tokens.window import SequencesConfig, Windows
from raypretrain.training import evaluation
from raypretrain.training.evaluation import (
    HeldOut,
    Rows,
    Share,
    bits_per_byte,
    held_out_loss,
    held_out_sequences,
    share_of,
    starts_of,
)

SHARE = 0.3
CAUSAL = Causal(bos=1)
LENGTH = 16


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    folder = tmp_path_factory.mktemp("held-out")
    texts = reviews(60)
    for i in range(2):
        lines = [json.dumps({"text": text}) + "\n" for text in texts[i::2]]
        (folder / f"{i}.jsonl").write_text("".join(lines), encoding="utf-8")
    tokenizer = train_tokenizer(iter(texts), TokenizerConfig(vocabulary=400), folder / "t" / "t.model", 1)
    corpus = CorpusConfig(sources=[SourceConfig(path=f"{folder}/*.jsonl")], held_out=SHARE)
    sequences = SequencesConfig(length=LENGTH)
    return Windows(build_manifest(corpus, fragment_bytes=10_000), corpus, sequences, tokenizer, seed=1)


def without_held_out(windows: Windows) -> Windows:
    corpus = windows.corpus.model_copy(update={"held_out": 0.0})
    return Windows(windows.manifest, corpus, windows.sequences, windows.tokenizer, windows.seed)


def loss(part: Rows) -> torch.Tensor:
    """The mean of something that differs from target to target."""
    return torch.tensor(np.log(part.targets[part.targets != IGNORED].astype(np.float64) + 2).mean())


def over(workers: int, held_out: HeldOut, micro_batch: int) -> float:
    """The loss as ``workers`` find it together, each of them doing its rounds."""
    shares = [share_of(held_out, CAUSAL, rank, workers, micro_batch) for rank in range(workers)]
    assert len({len(share.batches) for share in shares}) == 1, "ZeRO 3 needs everyone in every round"
    sums: list[torch.Tensor] = []

    def keep(own: torch.Tensor) -> torch.Tensor:
        sums.append(own)
        return own + 1  # not divided by nothing, where a worker has no rows

    for share in shares:
        held_out_loss(share, loss, keep)
    assert float(sum(s[1] for s in sums)) == len(held_out.tokens) * (LENGTH - 1)
    mean, number = held_out_loss(shares[0], loss, lambda own: torch.stack(sums).sum(0))
    assert number == len(held_out.tokens) * (LENGTH - 1)
    return mean


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 16, 37])
@pytest.mark.parametrize("micro_batch", [1, 4, 5])
def test_any_number_of_workers_finds_the_mean_over_all_rows(rows: int, micro_batch: int) -> None:
    tokens = np.random.default_rng(rows).integers(0, 1000, (rows, LENGTH)).astype(np.int32)
    held_out = HeldOut(tokens, 1)
    wanted = float(np.log(tokens[:, 1:].astype(np.float64) + 2).mean())
    for workers in (1, 2, 3, 8):
        assert over(workers, held_out, micro_batch) == pytest.approx(wanted, rel=1e-12)


def test_no_row_is_evaluated_twice() -> None:
    tokens = np.arange(11 * LENGTH, dtype=np.int32).reshape(11, LENGTH)
    shares = [share_of(HeldOut(tokens, 1), CAUSAL, rank, 2, 4) for rank in range(2)]
    batches = [batch for share in shares for batch in share.batches]
    seen = [row for part in batches for row in part.ids[: int(part.weight) // (LENGTH - 1), 0]]
    assert sorted(seen) == tokens[:, 0].tolist()


def test_a_worker_without_rows_computes_and_counts_nothing() -> None:
    share = share_of(HeldOut(np.full((1, LENGTH), 5, np.int32), 1), CAUSAL, rank=1, world=2, micro_batch=4)
    assert [(part.ids.shape, part.weight) for part in share.batches] == [((1, LENGTH), 0.0)]


def test_held_out_sequences_hold_held_out_documents_alone(windows: Windows) -> None:
    tokenizer = windows.tokenizer
    held_out = held_out_sequences(windows, most=10**6)
    wanted = {t for t in reviews(60) if is_held_out(t, SHARE)}
    assert 5 < len(wanted) < 40
    flat = held_out.tokens.reshape(-1).tolist()
    found, current = [], []
    for token in flat:
        if token == tokenizer.eos:
            found.append(tokenizer.decode(current))
            current = []
        elif token != tokenizer.bos:
            current.append(token)
    assert set(found) <= wanted
    assert len(found) >= len(wanted) - 1  # the last one may be cut off


def test_where_documents_begin_is_known(windows: Windows) -> None:
    """Each begins with its mark; what goes on from the row before begins at the row's first column."""
    held_out = held_out_sequences(windows, most=10**6)
    starts, tokens = starts_of(held_out), held_out.tokens
    begins = starts == np.arange(LENGTH)
    assert (begins[:, 1:] == (tokens[:, 1:] == windows.tokenizer.bos)).all()
    assert begins[:, 0].all()
    assert begins[:, 1:].any()
    of_old = HeldOut(tokens, held_out.bytes)
    assert (starts_of(of_old) == 0).all()


def test_they_are_as_many_as_asked_for_and_the_same_each_time(windows: Windows) -> None:
    few = held_out_sequences(windows, most=7)
    assert few.tokens.shape == (7, LENGTH)
    assert few.tokens.dtype == np.int32
    np.testing.assert_array_equal(held_out_sequences(windows, most=7).tokens, few.tokens)
    np.testing.assert_array_equal(held_out_sequences(windows, most=20).tokens[:7], few.tokens)


def test_no_more_of_the_corpus_is_read_than_that_takes(
    windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []

    def counting(
        manifest: Manifest, fragment: Fragment, config: CorpusConfig, bad: list[BadRecord], draw: Draw
    ) -> Iterator[Document]:
        read.append(fragment)
        return read_documents(manifest, fragment, config, bad, draw)

    monkeypatch.setattr(evaluation, "read_documents", counting)
    assert len(windows.manifest) > 5
    held_out_sequences(windows, most=1)
    assert len(read) <= 2
    read.clear()
    held_out_sequences(windows, most=10**6)
    assert len(read) == len(set(read)) == len(windows.manifest)


def test_too_little_held_out_text_gives_fewer_and_none_gives_none(windows: Windows) -> None:
    everything = held_out_sequences(windows, most=10**6)
    assert 0 < len(everything.tokens) < 10**6
    nothing = held_out_sequences(without_held_out(windows), most=4)
    assert nothing.tokens.shape == (0, LENGTH)
    assert nothing.bytes == 0


def test_the_bytes_are_those_of_the_predicted_tokens(windows: Windows) -> None:
    held_out = held_out_sequences(windows, most=20)
    tokenizer = windows.tokenizer
    texts = [tokenizer.decode([token]) for row in held_out.tokens for token in row[1:].tolist()]
    assert held_out.bytes == sum(len(text.encode()) for text in texts)
    assert held_out.bytes < int(tokenizer.byte_lengths[held_out.tokens].sum())


def test_bits_per_byte_of_a_model_that_knows_nothing(windows: Windows) -> None:
    """Each of 256 equally likely bytes costs 8 bits, whatever the tokens are."""
    bytes_as_tokens = HeldOut(np.zeros((4, 9), np.int32), bytes=4 * 8)
    assert bits_per_byte(math.log(256), bytes_as_tokens, CAUSAL) == pytest.approx(8)
    two_bytes_a_token = HeldOut(np.zeros((4, 9), np.int32), bytes=2 * 4 * 8)
    assert bits_per_byte(math.log(256), two_bytes_a_token, CAUSAL) == pytest.approx(4)


def test_saved_and_loaded_it_is_the_same(windows: Windows, tmp_path: Path) -> None:
    for made in (held_out_sequences(windows, most=20), held_out_sequences(without_held_out(windows), most=4)):
        made.save(tmp_path / "held_out.parquet")
        loaded = HeldOut.load(tmp_path / "held_out.parquet")
        assert loaded.bytes == made.bytes
        assert len(loaded.tokens) == len(made.tokens)
        if len(made.tokens):
            np.testing.assert_array_equal(starts_of(loaded), starts_of(made))
            assert loaded.tokens.dtype == np.int32
            np.testing.assert_array_equal(loaded.tokens, made.tokens)


def test_of_several_sources_each_has_its_part(tmp_path: Path) -> None:
    """Of two, one prose and one source text: as many sequences of each, and none of both."""
    for name, texts in (("prose", reviews(60)), ("code", python_files(12))):
        lines = [json.dumps({"text": text[:20_000]}) + "\n" for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    paths = [SourceConfig(path=f"{tmp_path}/{name}.jsonl", name=name) for name in ("prose", "code")]
    corpus = CorpusConfig(sources=paths, held_out=0.3)
    config = TokenizerConfig(vocabulary=400)
    tokenizer = train_tokenizer(iter(reviews(60)), config, tmp_path / "t" / "t.model", 1)
    manifest = build_manifest(corpus, fragment_bytes=10_000)
    windows = Windows(manifest, corpus, SequencesConfig(length=LENGTH), tokenizer, seed=1)
    made = held_out_sequences(windows, most=21)
    assert made.sources is not None
    assert made.sources.tolist() == [0] * 11 + [1] * 10
    assert sum(made.bytes_of) == made.bytes
    made.save(tmp_path / "held_out.parquet")
    loaded = HeldOut.load(tmp_path / "held_out.parquet").parts()
    assert [len(part.tokens) for part in loaded.values()] == [11, 10]
    words = [tokenizer.decode(part.tokens[0].tolist()) for part in loaded.values()]
    assert any(words[0][:30] in text for text in reviews(60))
    assert any(words[1][:30] in text for text in python_files(12))
    assert [part.bytes for part in loaded.values()] == list(made.bytes_of)
    none = HeldOut(made.tokens[:11], made.bytes_of[0], np.zeros(11, np.int32), (made.bytes_of[0], 0))
    assert list(none.parts()) == [0]


def test_an_empty_share_is_never_made_of_rows() -> None:
    assert share_of(HeldOut(np.empty((0, 0), np.int32), 0), CAUSAL, 0, 2, 4) == Share([])
