"""A window: training documents only, all of them, the same each time."""

from __future__ import annotations

import json
import pickle
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_text import reviews

from raypretrain.corpus.documents import is_held_out
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.tokens import window
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.window import SequencesConfig, Windows

HELD_OUT = 0.2
LENGTH = 8  # short, so that a window's tail is less than a document
Ids = tuple[int, ...]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(dict.fromkeys(reviews(200)))  # one of them is there twice


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(iter(texts), TokenizerConfig(vocabulary=512), path, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for i in range(3):
        lines = [json.dumps({"text": text}) + "\n" for text in texts[i::3]]
        (folder / f"{i}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def windows(folder: Path, tokenizer: Tokenizer) -> Windows:
    return made(folder, tokenizer)


def made(folder: Path, tokenizer: Tokenizer, *, seed: int = 5, **sequences: Any) -> Windows:
    corpus = CorpusConfig(sources=[SourceConfig(path=str(folder))], held_out=HELD_OUT)
    config = SequencesConfig(**{"length": LENGTH, "window": 50_000, **sequences})
    manifest = build_manifest(corpus, fragment_bytes=6000)
    return Windows(manifest, corpus, config, tokenizer, seed)


def read(windows: Windows, w: int) -> np.ndarray:
    """The sequences of a window of one part."""
    (part,) = windows.parts(w)
    return part.sequences.tokens


def epoch(windows: Windows) -> list[np.ndarray]:
    return [read(windows, w) for w in range(windows.plan.windows_of_an_epoch)]


def documents(rows: np.ndarray, tokenizer: Tokenizer) -> tuple[list[Ids], Ids]:
    """The whole documents of a window, and the beginning of the one that its end cut off."""
    whole: list[Ids] = []
    current: list[int] = []
    for token in rows.reshape(-1).tolist():
        if token == tokenizer.bos:
            assert not current, "a document begins inside another"
            current = [token]
        elif token == tokenizer.eos:
            whole.append(tuple(current[1:]))
            current = []
        else:
            current.append(token)
    return whole, tuple(current[1:])


def split(texts: list[str], tokenizer: Tokenizer) -> tuple[set[Ids], set[Ids]]:
    """The training and the held-out documents, as ids."""
    held_out = {tuple(tokenizer.encode(t)) for t in texts if is_held_out(t, HELD_OUT)}
    training = {tuple(tokenizer.encode(t)) for t in texts if not is_held_out(t, HELD_OUT)}
    assert len(held_out) > 20
    assert not held_out & training
    return training, held_out


def test_no_held_out_document_is_in_any_window(
    windows: Windows, texts: list[str], tokenizer: Tokenizer
) -> None:
    training, held_out = split(texts, tokenizer)
    assert windows.plan.windows_of_an_epoch >= 5
    for rows in epoch(windows):
        whole, begun = documents(rows, tokenizer)
        assert not held_out & set(whole)
        assert set(whole) <= training
        assert not begun or any(ids[: len(begun)] == begun for ids in training)


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_training_document_is_in_an_epoch(
    folder: Path, texts: list[str], tokenizer: Tokenizer, shuffle: bool
) -> None:
    training, _ = split(texts, tokenizer)
    found = [documents(rows, tokenizer) for rows in epoch(made(folder, tokenizer, shuffle=shuffle))]
    missing = training - {ids for whole, _ in found for ids in whole}
    # Only a window's last document can be incomplete, by fewer than LENGTH tokens.
    ends = [begun for _, begun in found if begun]
    for ids in missing:
        assert any(ids[: len(end)] == end and len(ids) - len(end) < LENGTH for end in ends)


def test_an_epoch_holds_no_document_twice_and_the_next_has_another_order(
    folder: Path, texts: list[str], tokenizer: Tokenizer
) -> None:
    training, _ = split(texts, tokenizer)
    whole_corpus = made(folder, tokenizer, window=10**9)
    assert whole_corpus.plan.windows_of_an_epoch == 1
    orders = []
    for w in range(2):
        whole, _ = documents(read(whole_corpus, w), tokenizer)
        assert max(Counter(whole).values()) == 1
        assert len(training) - 1 <= len(whole) <= len(training)
        orders.append(whole)
    assert orders[0] != orders[1]


def test_the_documents_of_a_window_are_shuffled_unless_told_not_to(
    folder: Path, tokenizer: Tokenizer
) -> None:
    plain, _ = documents(read(made(folder, tokenizer, shuffle=False), 0), tokenizer)
    mixed, _ = documents(read(made(folder, tokenizer), 0), tokenizer)
    assert plain != mixed
    assert len(set(plain) & set(mixed)) >= len(plain) - 2  # the same ones but for what the end cut off


def test_the_same_window_is_the_same_each_time_and_after_pickling(
    windows: Windows, folder: Path, tokenizer: Tokenizer
) -> None:
    first = read(windows, 3)
    copy = pickle.loads(pickle.dumps(windows))
    assert first.dtype == np.int32
    assert first.shape[1] == LENGTH
    for other in (windows, copy, made(folder, tokenizer)):
        np.testing.assert_array_equal(read(other, 3), first)
    np.testing.assert_array_equal(read(copy, 0), read(windows, 0))


def test_another_seed_gives_other_windows(folder: Path, windows: Windows, tokenizer: Tokenizer) -> None:
    other = read(made(folder, tokenizer, seed=6), 0)
    assert other.shape != read(windows, 0).shape or (other != read(windows, 0)).any()


def test_whether_the_corpus_fills_a_batch_is_exact(windows: Windows) -> None:
    rows = sum(len(rows) for rows in epoch(windows))
    assert windows.fills(rows)
    assert not windows.fills(rows + 1)
    assert windows.fills(1)


def test_bad_records_come_in_the_order_of_the_fragments_though_these_are_read_ahead(
    tmp_path: Path, texts: list[str], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in range(3):
        # Bad ones first, so that a fragment meets them before its first document.
        lines = [line for t in texts[i::3] for line in ("no JSON\n", "{}\n", json.dumps({"text": t}) + "\n")]
        (folder / f"{i}.jsonl").write_text("".join(lines), encoding="utf-8")
    windows = made(folder, tokenizer)
    windows.corpus = windows.corpus.model_copy(update={"on_bad_input": "quarantine"})
    assert len(windows.plan.window(0)) > 5
    ahead = [(packed.documents, packed.bad) for packed in windows.packed(0)]
    monkeypatch.setattr("raypretrain.storage.read_ahead", lambda fragments, depth: map(iter, fragments))
    assert [(packed.documents, packed.bad) for packed in windows.packed(0)] == ahead
    assert sum(len(bad) for _, bad in ahead) > 50


def test_a_window_that_was_begun_is_read_while_another_is_made_and_is_the_same(
    folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [read(made(folder, tokenizer), w) for w in range(3)]
    windows, asked = made(folder, tokenizer), []
    plain = window.read_documents

    def counted(manifest: Any, fragment: Any, *rest: Any) -> Any:
        asked.append(fragment)
        yield from plain(manifest, fragment, *rest)

    monkeypatch.setattr(window, "read_documents", counted)
    windows.begin(1)
    deadline = time.monotonic() + 10
    while len(asked) < 3:
        assert time.monotonic() < deadline, "nothing was asked for"
        time.sleep(0.01)
    np.testing.assert_array_equal(read(windows, 0), wanted[0])
    np.testing.assert_array_equal(read(windows, 1), wanted[1])
    assert len(asked) == len(windows.plan.window(0)) + len(windows.plan.window(1)), "something was read twice"
    windows.begin(2)
    again = pickle.loads(pickle.dumps(windows))  # threads do not travel
    np.testing.assert_array_equal(read(again, 2), wanted[2])
