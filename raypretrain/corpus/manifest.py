"""The manifest: every file of the corpus, cut into fragments that can be read by themselves.

It is the ground that the order of the data stands on: made once at the start of a run, saved with it, and
told apart by its fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypretrain import storage
from raypretrain.corpus.clusters import Clusters, read_tables
from raypretrain.corpus.compression import Damaged
from raypretrain.corpus.format_base import Format
from raypretrain.corpus.formats import class_of, open_format
from raypretrain.corpus.listing import ManifestFile, differences, list_corpus
from raypretrain.corpus.sources import CorpusConfig
from raypretrain.errors import RunError

_FOOTERS_AT_ONCE = 16

Cut = tuple[int, int, int]
Footers = Callable[[Callable[[int], list[Cut]], list[int]], list[list[Cut]]]


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
        clusters: of each source that names clusters their fingerprint.
        tables: these clusters, without which its documents cannot be read; they are not saved.
    """

    files: list[ManifestFile]
    file: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    bytes: np.ndarray
    clusters: dict[int, str] = field(default_factory=dict, kw_only=True)
    tables: dict[int, Clusters] = field(default_factory=dict, kw_only=True, repr=False)

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
        options = source.storage_options
        return open_format(entry.url, entry.size, entry.format, source.text, options, entry.tag)

    def compare(self, now: Manifest | list[ManifestFile]) -> list[str]:
        """What differs between these files and a later listing of the corpus; nothing where it is as it was."""
        return differences(self.files, now.files if isinstance(now, Manifest) else now)

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
        if self.clusters:
            digest.update(_as_json(self.clusters))
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write it as Parquet, a row for each fragment."""
        sink = pa.BufferOutputStream()
        table = self._table()
        if self.clusters:
            table = table.replace_schema_metadata({_CLUSTERS: _as_json(self.clusters)})
        pq.write_table(table, sink, compression="zstd")
        storage.write_atomic(path, sink.getvalue().to_pybytes())

    @classmethod
    def load(cls, path: str | Path, config: CorpusConfig | None = None) -> Manifest:
        """Read what :meth:`save` wrote.

        Args:
            config: of the corpus, for its documents to be read.

        Raises:
            RunError: it is not there, or is no manifest; or a source's clusters are others now.
            InputError: these cannot be read.
        """
        try:
            table = pq.ParquetFile(path, read_dictionary=_WORDS).read(columns=_SCHEMA.names)
            saved = json.loads((table.schema.metadata or {}).get(_CLUSTERS, b"{}"))
            numbers = {n: table[n].cast(_SCHEMA.field(n).type).to_numpy() for n in _NUMBERS}
            firsts = np.flatnonzero(np.diff(numbers["file"], prepend=-1))
            rows = table.select(_FILES).take(pa.array(firsts)).to_pylist()
        except (OSError, KeyError, pa.ArrowException) as error:
            raise RunError(f"cannot be read as a manifest ({error})", where=str(path)) from None
        clusters = {int(source): fingerprint for source, fingerprint in saved.items()}
        made = cls([ManifestFile(**row) for row in rows], *(numbers[n] for n in _NUMBERS), clusters=clusters)
        return made if config is None else made._with_tables(config)

    def _with_tables(self, config: CorpusConfig) -> Manifest:
        tables = read_tables(config)
        for source, table in tables.items():
            if table.fingerprint != self.clusters.get(source):
                raise RunError(
                    "holds other clusters than when the run was started",
                    where=config.sources[source].clusters,
                    fix="put the file back, or choose another run.folder",
                )
        return replace(self, tables=tables)

    def _table(self) -> pa.Table:
        place = pa.array(self.file)
        columns: dict[str, pa.Array] = {}
        for name in _FILES:
            values = pa.array([getattr(file, name) for file in self.files], _SCHEMA.field(name).type)
            words = name in _WORDS  # the text of a file is kept once, not with each of its fragments
            columns[name] = pa.DictionaryArray.from_arrays(place, values) if words else values.take(place)
        for name in _NUMBERS:
            columns[name] = pa.array(getattr(self, name))
        return pa.table(columns)

    def _names(self) -> list[str]:
        """Each file's path below the folder that all files of its source share."""
        parts = [file.url.split("/") for file in self.files]
        folders: dict[int, list[list[str]]] = {}
        for file, path in zip(self.files, parts, strict=True):
            folders.setdefault(file.source, []).append(path[:-1])
        shared = {source: _shared(min(paths), max(paths)) for source, paths in folders.items()}
        return ["/".join(path[shared[file.source] :]) for file, path in zip(self.files, parts, strict=True)]


def _as_json(clusters: dict[int, str]) -> bytes:
    return json.dumps(clusters, sort_keys=True).encode()


def _shared(one: list[str], other: list[str]) -> int:
    """How many leading parts are the same."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


_FILES = ["url", "size", "tag", "source", "format"]
_NUMBERS = ["file", "start", "stop", "bytes"]
_WORDS = ["url", "tag", "format"]
_CLUSTERS = b"clusters"
_SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("size", pa.int64()),
        ("tag", pa.string()),
        ("source", pa.int32()),
        ("format", pa.string()),
        ("file", pa.int32()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("bytes", pa.int64()),
    ]
)


def build_manifest(
    config: CorpusConfig, fragment_bytes: int = 1 << 20, footers: Footers | None = None
) -> Manifest:
    """List the files of every source and cut them into fragments of about ``fragment_bytes``.

    Reads no text: only the footers of Parquet files are opened, many at a time.

    Args:
        footers: maps a function over the numbers of the files that must be opened, in order, and returns what
            it gave for each; by default in threads.

    Raises:
        InputError: no file matches, all are empty, a suffix is not known, a file of clusters cannot be used, or a
            Parquet file is damaged (unless bad input is put into quarantine) or lacks the text's column.
        StorageError: a source cannot be listed.
    """
    files, tables = list_corpus(config), read_tables(config)
    empty = Manifest(files, *(np.zeros(0, dtype=np.int64) for _ in range(4)))
    cut = partial(_cut, empty, config, fragment_bytes)
    to_open = [i for i, file in enumerate(files) if class_of(file.format).reads_to_cut]
    opened = dict(zip(to_open, (footers or _in_threads)(cut, to_open), strict=True))
    numbers, counts = array("q"), []
    for i in range(len(files)):
        fragments = opened.pop(i) if i in opened else cut(i)
        counts.append(len(fragments))
        for fragment in fragments:
            numbers.extend(fragment)
    columns = np.frombuffer(numbers, dtype=np.int64).reshape(-1, 3)
    return Manifest(
        files=files,
        file=np.repeat(np.arange(len(files), dtype=np.int32), counts),
        start=columns[:, 0].copy(),
        stop=columns[:, 1].copy(),
        bytes=columns[:, 2].copy(),
        clusters={source: table.fingerprint for source, table in tables.items()},
        tables=tables,
    )


def _cut(manifest: Manifest, config: CorpusConfig, fragment_bytes: int, file: int) -> list[Cut]:
    """The fragments of a file, at least one: ``(start, stop, bytes)``."""
    source = manifest.open(file, config)
    try:
        return source.fragments(fragment_bytes) or [(0, 0, 0)]
    except Damaged:
        if config.on_bad_input == "error":
            raise
        return [(0, 0, source.size)]  # reading it says what is wrong


def _in_threads(cut: Callable[[int], list[Cut]], files: list[int]) -> list[list[Cut]]:
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
        return list(pool.map(cut, files))
