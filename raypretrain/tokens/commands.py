"""Training a tokenizer from files, without a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raypretrain.config import validate
from raypretrain.corpus.documents import check_columns, sample_documents
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.tokens.tokenizer import TokenizerConfig, train_tokenizer


def train_from_files(paths: list[str], to: Path, settings: dict[str, Any], text: str) -> dict[str, Any]:
    """Train a tokenizer on the text of ``paths`` and write it to ``to``.

    Args:
        settings: ``vocabulary``, ``kind``, ``sample``, as in a recipe's ``tokenizer``.
        text: the key or column that holds the text.

    Raises:
        RaypretrainError: a setting is wrong, no file matches, or the text does not support so many pieces.
    """
    here = Path.cwd()
    config = validate(settings, TokenizerConfig, folder=here, where="tokenizer train")
    sources = {"sources": [{"path": path, "text": text} for path in paths], "held_out": 0}
    corpus = validate(sources, CorpusConfig, folder=here, where="tokenizer train")
    manifest = build_manifest(corpus)
    check_columns(manifest, corpus)

    def texts() -> Iterator[str]:
        return (document.text for document in sample_documents(manifest, corpus, config.sample, seed=0))

    tokenizer = train_tokenizer(texts(), config, to, threads=os.cpu_count() or 1)
    size = tokens = 0
    for sampled in texts():
        size += len(sampled.encode())
        tokens += len(tokenizer.encode(sampled))
        if size > 1_000_000:
            break
    return {"path": str(to), "vocabulary": tokenizer.vocabulary, "bytes_per_token": size / max(1, tokens)}
