"""``.parquet``: a column of text, read by row groups, a few rows at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from raypretrain import storage
from raypretrain.corpus.columns import named, strings, text_column
from raypretrain.corpus.compression import Damaged
from raypretrain.corpus.format_base import Format, Found
from raypretrain.corpus.ranges import RangeFile

_ROWS = 1024
_BATCH = 8 << 20  # bytes of text that become strings at once
_WHOLE = 32 << 20  # bytes of a row group; of a larger one, the column is read bit by bit
_READ = 4 << 20
_MOST_FOOTERS = 64

_lock = threading.Lock()
_footers: dict[tuple[str, int, str], tuple[pq.FileMetaData, pa.Schema]] = {}


@dataclass(frozen=True)
class ParquetFormat(Format):
    """``.parquet``. A fragment is a range of row groups, a position the row in the file, from 0."""

    name = "parquet"
    suffixes = (".parquet",)
    compressible = False
    reads_to_cut = True

    def fragments(self, fragment_bytes: int) -> list[tuple[int, int, int]]:
        meta, schema = self._footer()
        text_column(schema, self.key, self.url)
        found, start, size = [], 0, 0
        for i in range(meta.num_row_groups):
            size += self._text_bytes(meta.row_group(i))
            if size >= fragment_bytes or i == meta.num_row_groups - 1:
                found.append((start, i + 1, size))
                start, size = i + 1, 0
        return found

    def texts(self, start: int, stop: int) -> Iterator[Found]:
        try:
            meta, schema = self._footer()
        except Damaged as error:
            yield 0, error
            return
        way = text_column(schema, self.key, self.url)
        row = sum(meta.row_group(i).num_rows for i in range(start))
        with self._ranges() as file:
            for group in range(start, stop):
                yield from self._group(file, group, row, way)
                row += meta.row_group(group).num_rows

    def check(self, patient: bool = False) -> None:
        text_column(self._footer()[1], self.key, self.url)

    def _group(self, file: BinaryIO, group: int, row: int, way: list[str]) -> Iterator[Found]:
        """The rows of a row group, the first of which is ``row``; damage ends it, but no other one."""
        meta = self._footer()[0]
        info = meta.row_group(group)
        rows, read = self._rows_at_once(info), _READ if info.total_byte_size > _WHOLE else 0
        try:
            with named(self.url):
                parquet = pq.ParquetFile(
                    file, metadata=meta, buffer_size=read, pre_buffer=False, page_checksum_verification=True
                )
                for batch in parquet.iter_batches(rows, [group], [".".join(way)], use_threads=False):
                    for text in strings(batch, way, self.key):
                        yield row, text
                        row += 1
        except Damaged as error:
            yield row, error

    def _rows_at_once(self, group: Any) -> int:
        average = self._text_bytes(group) / max(1, group.num_rows)
        return int(max(1, min(_ROWS, _BATCH / max(1, average))))

    def _text_bytes(self, group: Any) -> int:
        columns = [group.column(i) for i in range(group.num_columns)]
        sizes = [c.total_uncompressed_size for c in columns if c.path_in_schema == self.key]
        return int(sizes[0] if sizes else group.total_byte_size)

    def _footer(self) -> tuple[pq.FileMetaData, pa.Schema]:
        """What the end of the file says of it; kept for its next fragment."""
        key = (self.url, self.size, self.tag)
        found = _footers.pop(key, None)
        if found is None:
            with self._ranges() as file, named(self.url):
                parquet = pq.ParquetFile(file)
                found = parquet.metadata, parquet.schema_arrow
        with _lock:
            if self.tag:
                _footers[key] = found
            while len(_footers) > _MOST_FOOTERS:
                _footers.pop(next(iter(_footers)))
        return found

    def _ranges(self) -> BinaryIO:
        if storage.is_remote(self.url):
            return cast(BinaryIO, RangeFile(self.url, self.options, self.size, self.tag or None))
        return self.open()
