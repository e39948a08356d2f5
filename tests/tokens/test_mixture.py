"""Mixtures: the weights are shares of the tokens, however the sources are written."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import zstandard
from real_text import reviews

from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.tokens.mixture import densities, is_weighted
from raypretrain.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from raypretrain.tokens.window import SequencesConfig, Windows

WEIGHTS = [1.0, 2.0, 5.0]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(iter(reviews(400)), TokenizerConfig(vocabulary=2000), path, 1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusConfig:
    """The same kind of text three ways: plain, in JSON with as much again around it, and compressed code-like lines."""
    folder = tmp_path_factory.mktemp("mixture")
    texts = reviews(3000)
    for name in ("plain", "markup", "packed"):
        (folder / name).mkdir()
    for i in range(60):
        own = texts[i::60]
        lines = "\n".join(text.replace("\n", " ") for text in own)
        (folder / "plain" / f"{i}.txt").write_text(lines, encoding="utf-8")
        rows = [json.dumps({"text": text[:300], "meta": "x" * 400}) for text in own]
        (folder / "markup" / f"{i}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        numbers = [json.dumps({"text": f"x = {text[:30]!r}; y = {len(text) * 7919}\n" * 4}) for text in own]
        data = zstandard.compress("\n".join(numbers).encode())
        (folder / "packed" / f"{i}.jsonl.zst").write_bytes(data)
    sources = [
        SourceConfig(path=str(folder / name), name=name, weight=weight, documents="line")
        for name, weight in zip(("plain", "markup", "packed"), WEIGHTS, strict=True)
    ]
    return CorpusConfig(sources=sources)


@pytest.mark.slow
def test_the_share_drawn_agrees_with_the_weights_within_a_percent_over_a_thousand_windows(
    corpus: CorpusConfig, tokenizer: Tokenizer
) -> None:
    manifest = build_manifest(corpus, fragment_bytes=5000)
    measured = densities(manifest, corpus, tokenizer, seed=1)
    assert max(measured) > 3 * min(measured)  # by bytes alone the shares would be far off
    sequences = SequencesConfig(length=64, window=40_000)
    windows = Windows(manifest, corpus, sequences, tokenizer, 1, measured)
    drawn = np.zeros(3)
    for w in islice(windows.windows_from(0), 1000):
        for part in windows.parts(w):
            drawn += part.sequences.sources.sum(axis=0)
    np.testing.assert_allclose(drawn / drawn.sum(), np.array(WEIGHTS) / sum(WEIGHTS), rtol=0.01)


@pytest.mark.slow
def test_the_measure_is_the_same_each_time(corpus: CorpusConfig, tokenizer: Tokenizer) -> None:
    manifest = build_manifest(corpus, fragment_bytes=5000)
    assert densities(manifest, corpus, tokenizer, seed=1) == densities(manifest, corpus, tokenizer, seed=1)


def test_one_source_or_none_with_a_weight_needs_no_measure(tmp_path: Path) -> None:
    plain, weighted = SourceConfig(path=str(tmp_path)), SourceConfig(path=str(tmp_path), weight=2)
    assert not is_weighted(CorpusConfig(sources=[plain, plain]))
    assert not is_weighted(CorpusConfig(sources=[weighted]))
    assert is_weighted(CorpusConfig(sources=[plain, weighted]))
