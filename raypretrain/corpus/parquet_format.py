"""``.parquet``: a column of text, read by row groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypretrain.corpus.format_base import NAME_THE_COLUMN, Format
from raypretrain.errors import InputError, RaypretrainError

_ROWS = 1024


@dataclass(frozen=True)
class ParquetFormat(Format):
    """``.parquet``. A fragment is a range of row groups, a position the row in the file."""

    def fragments(self, fragment_bytes: int) -> list[tuple[int, int, int]]:
        with self._file() as file:
            meta = self._open(file).metadata
        found, start, size = [], 0, 0
        for i in range(meta.num_row_groups):
            size += self._text_bytes(meta.row_group(i))
            if size >= fragment_bytes or i == meta.num_row_groups - 1:
                found.append((start, i + 1, size))
                start, size = i + 1, 0
        return found

    def texts(self, start: int, stop: int) -> Iterator[tuple[int, str]]:
        with self._file() as file:
            parquet = self._open(file)
            self._check_column(parquet)
            row = sum(parquet.metadata.row_group(i).num_rows for i in range(start))
            for batch in self._batches(parquet, start, stop):
                for text in self._strings(row, batch.column(0)):
                    yield row, text
                    row += 1

    def check(self) -> None:
        with self._file() as file:
            self._check_column(self._open(file))

    def _text_bytes(self, group: Any) -> int:
        columns = [group.column(i) for i in range(group.num_columns)]
        sizes = [c.total_uncompressed_size for c in columns if c.path_in_schema == self.key]
        return int(sizes[0] if sizes else group.total_byte_size)

    def _open(self, file: Any) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(file)
        except RaypretrainError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _batches(self, parquet: pq.ParquetFile, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        try:
            groups = list(range(start, stop))
            yield from parquet.iter_batches(_ROWS, row_groups=groups, columns=[self.key], use_threads=False)
        except RaypretrainError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _strings(self, row: int, column: pa.Array) -> Iterator[str]:
        if column.null_count:
            empty = next(i for i, value in enumerate(column) if not value.is_valid)
            raise InputError(f"'{self.key}' is null, not text", where=self._row(row + empty))
        try:
            yield from column.to_pylist()
        except UnicodeDecodeError:
            for i, value in enumerate(column):
                try:
                    value.as_py()
                except UnicodeDecodeError:
                    raise InputError(f"'{self.key}' is not UTF-8", where=self._row(row + i)) from None

    def _check_column(self, parquet: pq.ParquetFile) -> None:
        schema = parquet.schema_arrow
        if self.key not in schema.names:
            there = ", ".join(f"'{name}'" for name in schema.names[:20]) or "none"
            raise InputError(f"has no column '{self.key}', only {there}", where=self.url, fix=NAME_THE_COLUMN)
        kind = schema.field(self.key).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (
            pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)
        ):
            raise InputError(
                f"the column '{self.key}' is {kind}, not text", where=self.url, fix=NAME_THE_COLUMN
            )

    def _damaged(self, error: Exception) -> InputError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return InputError(f"is damaged ({reason})", where=self.url, fix="copy or write the file again")

    def _row(self, row: int) -> str:
        return f"{self.url}, row {row}"
