"""The manifest: every file of the corpus, cut into fragments that can be read by themselves.

It is the ground that the order of the data stands on: made once at the start of a run, saved with it, and
told apart by its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypretrain import storage
from raypretrain.corpus.format_base import Format
from raypretrain.corpus.formats import KNOWN_SUFFIXES, format_of, open_format
from raypretrain.corpus.sources import CorpusConfig, SourceConfig
from raypretrain.errors import InputError, RunError

_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class ManifestFile:
    """A file of the corpus: where, how many bytes, its tag when it was listed, its source and format."""

    url: str
    size: int
    tag: str
    source: int
    format: str


@dataclass(frozen=True)
class Fragment:
    """A part of a file that can be read by itself.

    Bytes ``[start, stop)`` of a plain file of lines (it owns what begins there), row groups ``[start,
    stop)`` of a Parquet file, or ``(0, 0)`` for the whole of a file that cannot be cut. ``bytes`` is about
    how much text it holds.
    """

    file: int
    start: int
    stop: int
    bytes: int


@dataclass(frozen=True, eq=False)
class Manifest:
    """The files and their fragments, in order: by source, then by URL, then by place in the file.

    Args:
        files: every file that holds anything.
        file: int32 [fragments], the index of the fragment's file; never falling.
        start: int64 [fragments], see :class:`Fragment`.
        stop: int64 [fragments].
        bytes: int64 [fragments], about how much text it holds.
    """

    files: list[ManifestFile]
    file: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.file)

    @cached_property
    def source(self) -> np.ndarray:
        """int32 [fragments]: the index of the fragment's source."""
        sources = np.array([file.source for file in self.files], dtype=np.int32)
        return sources[self.file]

    def fragment(self, index: int) -> Fragment:
        """Fragment number ``index``."""
        return Fragment(
            int(self.file[index]), int(self.start[index]), int(self.stop[index]), int(self.bytes[index])
        )

    def open(self, file: int, config: CorpusConfig) -> Format:
        """File number ``file`` as what reads it."""
        entry = self.files[file]
        source = config.sources[entry.source]
        return open_format(entry.url, entry.size, entry.format, source.text, source.storage_options)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides which text comes in which order.

        Two copies of one corpus in different folders have the same: names count from the folder that all
        files of a source share, and neither the times of local files nor the names of buckets count.
        """
        digest = hashlib.sha256()
        for name, file in zip(self._names(), self.files, strict=True):
            digest.update(json.dumps([file.source, name, file.size, file.format]).encode())
        for values in (self.file, self.start, self.stop, self.bytes):
            digest.update(np.ascontiguousarray(values, dtype="<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write it as Parquet, a row for each fragment."""
        sink = pa.BufferOutputStream()
        pq.write_table(self._table(), sink, compression="zstd")
        storage.write_atomic(path, sink.getvalue().to_pybytes())

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """Read what :meth:`save` wrote.

        Raises:
            RunError: it is not there, or is no manifest.
        """
        try:
            table = pq.read_table(path, schema=_SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise RunError(f"cannot be read as a manifest ({error})", where=str(path)) from None
        numbers = {n: table[n].to_numpy() for n in ("file", "start", "stop", "bytes")}
        _, firsts = np.unique(numbers["file"], return_index=True)
        rows = table.select(["url", "size", "tag", "source", "format"]).take(pa.array(firsts)).to_pylist()
        return cls(files=[ManifestFile(**row) for row in rows], **numbers)

    def _table(self) -> pa.Table:
        files = pa.Table.from_pylist([vars(file) for file in self.files], schema=_SCHEMA_OF_FILES)
        table = files.take(pa.array(self.file))
        for name in ("file", "start", "stop", "bytes"):
            table = table.append_column(name, pa.array(getattr(self, name)))
        return table.cast(_SCHEMA)

    def _names(self) -> list[str]:
        """Each file's path below the folder that all files of its source share."""
        parts = [file.url.split("/") for file in self.files]
        folders: dict[int, list[list[str]]] = {}
        for file, path in zip(self.files, parts, strict=True):
            folders.setdefault(file.source, []).append(path[:-1])
        shared = {source: _shared(min(paths), max(paths)) for source, paths in folders.items()}
        return ["/".join(path[shared[file.source] :]) for file, path in zip(self.files, parts, strict=True)]


def _shared(one: list[str], other: list[str]) -> int:
    """How many leading parts are the same."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


_SCHEMA_OF_FILES = pa.schema(
    {"url": pa.string(), "size": pa.int64(), "tag": pa.string(), "source": pa.int32(), "format": pa.string()}
)
_SCHEMA = pa.schema(
    [
        *_SCHEMA_OF_FILES,
        ("file", pa.int32()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("bytes", pa.int64()),
    ]
)


def build_manifest(config: CorpusConfig, fragment_bytes: int = 1 << 20) -> Manifest:
    """List the files of every source and cut them into fragments of about ``fragment_bytes``.

    Reads no text: only the footers of Parquet files are opened, many at a time.

    Raises:
        InputError: no file matches, all are empty, a suffix is not known, or a Parquet file is damaged.
        StorageError: a source cannot be listed.
    """
    files = [file for index, source in enumerate(config.sources) for file in _files_of(index, source)]
    empty = Manifest(files, *(np.zeros(0, dtype=np.int64) for _ in range(4)))
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        cut = list(pool.map(lambda i: empty.open(i, config).fragments(fragment_bytes), range(len(files))))
    kept = [i for i, fragments in enumerate(cut) if fragments]
    if not kept:
        raise InputError("all of its files are empty", where=config.sources[0].path)
    counts = [len(cut[i]) for i in kept]
    columns = np.array([fragment for i in kept for fragment in cut[i]], dtype=np.int64)
    return Manifest(
        files=[files[i] for i in kept],
        file=np.repeat(np.arange(len(kept), dtype=np.int32), counts),
        start=columns[:, 0].copy(),
        stop=columns[:, 1].copy(),
        bytes=columns[:, 2].copy(),
    )


def _files_of(index: int, source: SourceConfig) -> list[ManifestFile]:
    listed = storage.list_files(source.path, source.storage_options)
    if not listed:
        raise InputError("no file matches", where=source.path, fix="check corpus.sources, a path or a glob")
    files = []
    for info in listed:
        name = format_of(info.url, source.documents)
        if name is None:
            known = ", ".join(KNOWN_SUFFIXES)
            raise InputError(
                f"its suffix is not known (known: {known})",
                where=info.url,
                fix="name the files by a glob, e.g. *.jsonl",
            )
        if info.size:
            files.append(ManifestFile(info.url, info.size, info.tag, index, name))
    return files
