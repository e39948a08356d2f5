"""What the tests of the corpus share: files of every compression, and reading all that a corpus holds."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import zstandard

from raypretrain.corpus.documents import BadRecord, Document, read_documents
from raypretrain.corpus.manifest import build_manifest
from raypretrain.corpus.sources import CorpusConfig, SourceConfig

COMPRESSIONS = ("", ".gz", ".zst", ".xz")


def packed(data: bytes, suffix: str) -> bytes:
    """``data`` as a file with this suffix holds it."""
    if suffix == ".gz":
        return gzip.compress(data, 6)
    if suffix == ".xz":
        return lzma.compress(data, preset=0)
    return zstandard.ZstdCompressor().compress(data) if suffix else data


def corpus(path: object, quarantine: bool = False, held_out: float = 0.0, **source: object) -> CorpusConfig:
    """A corpus of one source."""
    return CorpusConfig(
        sources=[SourceConfig(path=str(path), **source)],
        held_out=held_out,
        on_bad_input="quarantine" if quarantine else "error",
    )


def read(config: CorpusConfig, fragment_bytes: int = 1 << 20) -> tuple[list[Document], list[BadRecord]]:
    """All documents, and all records that were left out."""
    manifest = build_manifest(config, fragment_bytes)
    bad: list[BadRecord] = []
    fragments = [manifest.fragment(i) for i in range(len(manifest))]
    return [d for f in fragments for d in read_documents(manifest, f, config, bad)], bad


def texts(config: CorpusConfig, fragment_bytes: int = 1 << 20) -> list[str]:
    """The texts of all documents; nothing may be bad."""
    documents, bad = read(config, fragment_bytes)
    assert bad == []
    return [document.text for document in documents]


def json_lines(values: list[str], key: str = "text") -> bytes:
    """A line of JSON for each."""
    lines = (json.dumps({"id": 1, key: value}, ensure_ascii=False) for value in values)
    return "".join(line + "\n" for line in lines).encode()


def write(path: Path, data: bytes) -> Path:
    """``data`` compressed as the path's suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(data, path.suffix if path.suffix in COMPRESSIONS else ""))
    return path
