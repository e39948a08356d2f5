"""One file of a tokenized copy: a Parquet file whose rows, and row groups, are parts of windows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypretrain.corpus.ranges import PlacedFile
from raypretrain.tokens.dealing import Part
from raypretrain.tokens.stream import from_table, to_table

_NARROW = 1 << 16


@dataclass(frozen=True)
class CopyFile:
    """A file of a copy.

    Args:
        name: within the copy.
        size: its bytes.
        sha256: of the whole file, in hex.
        footer: bytes of the Parquet footer at its end.
        footer_sha256: of these; pages have checksums of their own.
        windows: the first and the last of each run of windows, of which it has parts.
        parts, sequences, tokens, bad_records: how many it has.
    """

    name: str
    size: int
    sha256: str
    footer: int
    footer_sha256: str
    windows: list[tuple[int, int]]
    parts: int
    sequences: int
    tokens: int
    bad_records: int


class FileOfParts:
    """A file of a copy while it is made, in memory."""

    def __init__(self, number: int, vocabulary: int) -> None:
        self._name, self._vocabulary = f"windows-{number:05d}.parquet", vocabulary
        self._sink = pa.BufferOutputStream()
        self._writer: pq.ParquetWriter | None = None
        self._windows: list[tuple[int, int]] = []
        self._parts = self._sequences = self._tokens = self._bad_records = 0

    @property
    def size(self) -> int:
        """Its bytes by now."""
        return int(self._sink.tell())

    def add(self, part: Part) -> None:
        """Write a part, a row group of its own."""
        table = _narrowed(to_table(replace(part, storage={})), self._vocabulary)
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._sink,
                table.schema,
                compression="zstd",
                use_dictionary=False,
                write_statistics=["window", "part", "rows"],
                write_page_checksum=True,
            )
        self._writer.write_table(table)
        last = self._windows[-1] if self._windows else (0, -2)
        if part.window == last[1] + 1:
            self._windows[-1] = (last[0], part.window)
        elif part.window != last[1]:
            self._windows.append((part.window, part.window))
        self._parts += 1
        self._sequences += len(part.sequences)
        self._tokens += int(part.sequences.filled.sum())
        self._bad_records += len(part.bad)

    def finish(self) -> tuple[bytes, CopyFile]:
        """Its content, and what to remember of it."""
        assert self._writer is not None
        self._writer.close()
        content = self._sink.getvalue().to_pybytes()
        footer = 8 + int.from_bytes(content[-8:-4], "little")
        about = CopyFile(
            name=self._name,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            footer=footer,
            footer_sha256=hashlib.sha256(content[-footer:]).hexdigest(),
            windows=self._windows,
            parts=self._parts,
            sequences=self._sequences,
            tokens=self._tokens,
            bad_records=self._bad_records,
        )
        return content, about


def read_part(data: bytes, group: int, footer: Footer, size: int, vocabulary: int) -> Part:
    """A part out of the bytes of its row group.

    Args:
        data: the bytes that :meth:`Footer.span` names.
        size: of the whole file.

    Raises:
        ValueError: they are damaged.
    """
    start, _ = footer.span(group)
    try:
        file = pa.PythonFile(_Slice(data, start, size), mode="r")
        parquet = pq.ParquetFile(file, metadata=footer.metadata, page_checksum_verification=True)
        table = parquet.read_row_group(group, use_threads=False)
        return from_table(_widened(table, vocabulary))[0]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from None


class Footer:
    """What a file's footer says: which row group has which part."""

    def __init__(self, data: bytes) -> None:
        metadata = self.metadata = pq.read_metadata(pa.BufferReader(data))
        self.groups: dict[int, list[tuple[int, int]]] = {}
        for group in range(metadata.num_row_groups):
            window, part = (metadata.row_group(group).column(c).statistics.min for c in (0, 1))
            self.groups.setdefault(window, []).append((part, group))

    def span(self, group: int) -> tuple[int, int]:
        """The bytes of the file that a row group takes."""
        info = self.metadata.row_group(group)
        columns = [info.column(i) for i in range(info.num_columns)]
        start = min(c.data_page_offset for c in columns)
        return start, max(c.data_page_offset + c.total_compressed_size for c in columns)


class _Slice(PlacedFile):
    """The bytes of a file from ``start`` on, as the file of ``size`` bytes that they are part of."""

    def __init__(self, data: bytes, start: int, size: int) -> None:
        super().__init__(size)
        self._data, self._start = data, start

    def between(self, start: int, stop: int) -> bytes:
        if start < self._start:
            raise ValueError("asks for another row group")
        return self._data[start - self._start : stop - self._start]


def _narrowed(table: pa.Table, vocabulary: int) -> pa.Table:
    """A small vocabulary's tokens in two bytes each: a tenth less on the disk."""
    return _recast(table, np.int32, np.uint16) if vocabulary <= _NARROW else table


def _widened(table: pa.Table, vocabulary: int) -> pa.Table:
    return _recast(table, np.uint16, np.int32) if vocabulary <= _NARROW else table


def _recast(table: pa.Table, before: Any, after: Any) -> pa.Table:
    data = np.frombuffer(table["tokens"][0].as_buffer(), before).astype(after)
    column = pa.array([data.tobytes()], pa.large_binary())
    return table.set_column(table.schema.get_field_index("tokens"), "tokens", column)
