"""``.csv`` and ``.tsv``: tables with a row of names first, one column of which is the text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from raypretrain.corpus import records
from raypretrain.corpus.compression import Damaged
from raypretrain.corpus.format_base import NAME_THE_COLUMN, Format, Found
from raypretrain.corpus.lines import byte_of_line
from raypretrain.errors import InputError

_LARGEST_FIELD = 1 << 29  # characters


@dataclass(frozen=True)
class CommaTable(Format):
    """``.csv``, read from its beginning to its end, since a field in quotes may hold the end of a line.

    A position is the line at which the row begins, from 1.
    """

    name = "csv"
    suffixes = (".csv",)
    delimiter: ClassVar[str] = ","

    def texts(self, start: int, stop: int) -> Iterator[Found]:
        rows = self._rows()
        for line, names in rows:
            if isinstance(names, InputError):
                yield line, names
                return
            try:
                column = self._column(names)
            except InputError as error:
                yield line, error
                return
            yield from ((line, self._text(row, column, len(names))) for line, row in rows)

    def check(self, patient: bool = False) -> None:
        for _, names in self._rows():
            if isinstance(names, InputError):
                raise names
            self._column(names)
            return

    def place(self, position: int) -> str:
        return f"{self.url}:{position}"

    def position(self, line: int) -> int:
        if line < 1 or byte_of_line(self.chunks(), line) is None:
            raise InputError(f"there is no line {line}", where=self.url)
        found = 0
        for begin, _ in self._rows():
            if begin > line:
                break
            found = begin
        return found

    def _column(self, names: list[str]) -> int:
        if self.key not in names:
            there = ", ".join(f"'{name}'" for name in names[:20])
            raise InputError(f"has no column '{self.key}', only {there}", where=self.url, fix=NAME_THE_COLUMN)
        return names.index(self.key)

    def _text(self, row: list[str] | InputError, column: int, width: int) -> str | InputError:
        if isinstance(row, InputError):
            return row
        if len(row) != width:
            return InputError(f"the row has {len(row)} columns, the first one {width}")
        text = row[column]
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                byte = ord(text[error.start]) & 0xFF
                return InputError(f"is not UTF-8 (byte 0x{byte:02x})", fix="convert the file to UTF-8")
        return text

    def _rows(self) -> Iterator[tuple[int, list[str] | InputError]]:
        """The rows, names first, with the lines at which they begin; bytes that are no UTF-8 are surrogates."""
        csv.field_size_limit(_LARGEST_FIELD)
        reader = csv.reader(self._lines(), delimiter=self.delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, InputError(f"is not valid {self.name.upper()} ({error})", where=self.place(line))
            except Damaged as error:
                yield line, error
                return
            else:
                if row:
                    yield line, row

    def _lines(self) -> Iterator[str]:
        for offset, data in records.in_stream(self.chunks(), records.LINES):
            text = data.decode("utf-8", "surrogateescape") + "\n"
            yield from io.StringIO(text if offset else text.removeprefix("\ufeff"), newline="\n")


@dataclass(frozen=True)
class TabTable(CommaTable):
    """``.tsv``: as ``.csv``, quotes included, with tabs."""

    name = "tsv"
    suffixes = (".tsv",)
    delimiter = "\t"
